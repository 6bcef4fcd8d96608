"""The small agent: labelled rows, regression, value, loss by hand, and that it learns what there is to learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score

from helpers.base.sharing import Share
from helpers.base.storage import CourseError
from helpers.eagle.agent import (
    AgentSettings,
    LabelledRows,
    OptionPolicy,
    OptionValue,
    drawn_starts,
    features_of,
    fit_offline,
    label_rows,
    loss_of_episodes,
    of_the_others,
    own_episodes,
    reinforce,
)
from helpers.eagle.emission import gains
from helpers.eagle.steering import FEATURES, Options, State
from helpers.eagle.trajectories import play

N = len(FEATURES)
STOP, LEFT = FEATURES.index("stop"), FEATURES.index("left")
SMALL = AgentSettings(iterations=2, episodes=4, group=2, second=0.0)


def options(n_states: int = 3, n_aims: int = 4, left: float = 0.5, seed: int = 0) -> np.ndarray:
    """Random features of some states, the last option is STOP."""
    features = np.random.default_rng(seed).normal(size=(n_states, n_aims + 1, N))
    features[:, -1], features[:, :-1, STOP], features[:, -1, STOP] = 0, 0, 1
    features[..., LEFT] = left
    return features


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


@pytest.fixture(scope="module")
def rows() -> LabelledRows:
    return label_rows(fake_task(), task_starts(8), promising=4, random=6, deeper=2)


def test_labelled_rows_are_steps_with_what_they_gained(rows):
    assert len(rows.gain) == len(rows.states) == 8 * (10 + 2 * 5) and rows.valid.all()
    assert [state.step for state in rows.states] == [0] * 80 + [1] * 80
    assert [state.start for state in rows.states] == [task_starts(8)[n] for n in rows.start]
    left = rows.features[:, LEFT]
    assert (left[:80] == 1).all() and left[80:] == pytest.approx(2 / 3)
    assert np.bincount(rows.start).tolist() == [20] * 8
    assert not rows.features[:80, FEATURES.index("gained_rating")].any()
    assert rows.features[80:, FEATURES.index("gained_rating")].any()


def test_a_label_is_the_gain_of_that_very_step():
    task, starts = fake_task(), task_starts(2)
    rows = label_rows(task, starts, promising=2, random=1, deeper=1)
    asked = task.rewrite.backend.asked
    answers = [task.rewrite([text], [said], [seed]).texts[0] for text, said, seed in list(asked)]
    for row, (text, _, _) in enumerate(list(asked)[: len(rows.gain)]):
        start = starts[rows.start[row]]
        for number, space in enumerate(task.spaces):
            before, after = gains(space, [start], [[text, answers[row]]]).total[0]
            assert rows.gain[row, number] == pytest.approx(after - before)


def test_half_of_the_first_rows_promise_most(rows):
    task, start = fake_task(), task_starts(8)[0]
    promised = task.table(State(start, start.text)).features[:, :2].sum(axis=1)
    best = np.sort(promised)[::-1][:4]
    np.testing.assert_allclose(rows.features[:4, :2].sum(axis=1), best)  # no two of these aims are alike
    assert (rows.features[4:10, :2].sum(axis=1) < best.min()).all()


def test_rows_are_drawn_again_by_their_starts(rows):
    drawn = rows.resampled(1)
    assert len(drawn.gain) == len(rows.gain) and set(drawn.start) < set(rows.start)
    known = {tuple(row) for row in rows.features}
    assert all(tuple(row) in known for row in drawn.features)
    for start in set(drawn.start):
        assert (drawn.start == start).sum() % 20 == 0  # all rows of a start, once or several times
    assert [state.start for state in drawn.states] == [task_starts(8)[n] for n in drawn.start]
    assert (rows.resampled(1).gain == drawn.gain).all() and (rows.resampled(2).start != drawn.start).any()


def drawn_rows(n: int, start: np.ndarray, valid: np.ndarray | None = None) -> LabelledRows:
    """Rows with random features, without gains, states and aims."""
    features = np.random.default_rng(0).normal(size=(n, N))
    features[:, STOP] = 0
    usable = np.ones(n, dtype=bool) if valid is None else valid
    return LabelledRows(features, np.zeros((n, 2)), start, usable, [], np.zeros(n, dtype=int))


def test_the_regression_finds_a_linear_law_and_takes_unusable_rows_for_what_they_gained():
    rows = drawn_rows(400, np.arange(400) // 40, np.arange(400) % 10 > 0)
    gain = rows.features @ np.random.default_rng(1).normal(size=N) + 0.3
    found = fit_offline(rows, gain).values(tensor(rows.features)).detach().numpy()
    np.testing.assert_allclose(found, gain, atol=0.02)
    less = fit_offline(rows, np.where(rows.valid, gain, gain - 5)).values(tensor(rows.features)).detach().numpy()
    assert less.mean() == pytest.approx(gain.mean() - 0.5, abs=0.05)


@pytest.mark.parametrize("copies", [1, 3])
def test_the_penalty_is_chosen_on_starts_that_are_left_out_with_all_their_copies(copies):
    start = np.repeat(np.arange(6), 20)
    rows = drawn_rows(120, start)
    # What a start gains is its own and shows in its features: rows of it tell of each other, and of no other start.
    rows.features[:, 1:STOP] = np.random.default_rng(2).normal(size=(6, STOP - 1))[start]
    gain = np.random.default_rng(3).normal(size=6)[start] + 0.1 * np.random.default_rng(4).normal(size=120)
    again = np.tile(np.arange(120), copies)
    many = rows._replace(features=rows.features[again], start=start[again], valid=rows.valid[again])
    penalties = np.array([0.1, 10.0, 1000.0, 1e5])
    z = (many.features - many.features.mean(axis=0)) / np.where((s := many.features.std(axis=0)) > 1e-9, s, 1)
    by_starts, by_rows = (
        [-cross_val_score(Ridge(p), z, gain[again], groups=groups, cv=LeaveOneGroupOut(),
                          scoring="neg_mean_squared_error").mean() for p in penalties]
        for groups in (many.start, np.arange(len(again)))
    )  # fmt: skip
    assert np.argmin(by_rows) < np.argmin(by_starts)
    chosen = fit_offline(many, gain[again], penalties=penalties).linear.weight.detach().numpy()
    best = fit_offline(many, gain[again], penalties=[penalties[np.argmin(by_starts)]]).linear.weight.detach().numpy()
    np.testing.assert_allclose(chosen, best)


def test_rows_of_one_start_cannot_be_left_out(rows):
    own = rows.start == 0
    with pytest.raises(ValueError, match="fewer than 2 unique groups"):
        fit_offline(rows._replace(features=rows.features[own], start=rows.start[own]), rows.gain[own, 0])


def seen(step: int = 1) -> tuple[list[State], list[Options]]:
    """Three states at a step, with random features of four aims and STOP."""
    states = [State(start, start.text, step) for start in task_starts(3)]
    return states, [Options(np.arange(4), features) for features in options(left=1 - step / 3)]


def test_a_new_policy_is_even_and_stop_is_worth_nothing_before_training(rows):
    assert OptionPolicy().log_probs(*seen()).exp().detach().numpy() == pytest.approx(0.2)
    fitted = fit_offline(rows, rows.gain[:, 0])
    values = fitted.values(tensor(options()))
    assert (values[:, -1] == 0).all() and (values[:, :-1] != 0).all()
    states, some = seen()
    expected = torch.softmax(fitted.values(features_of(some)) / 0.01, dim=-1)
    torch.testing.assert_close(fitted.log_probs(states, some).exp(), expected)


def test_no_episode_stops_before_its_first_step():
    probability = OptionPolicy().log_probs(*seen(step=0)).exp().detach().numpy()
    assert (probability[:, -1] == 0).all() and probability[:, :-1] == pytest.approx(0.25)


def test_the_value_starts_as_what_the_policy_expects(rows):
    policy = fit_offline(rows, rows.gain[:, 0])
    states, some = seen()
    expected = (policy.log_probs(states, some).exp() * policy.values(features_of(some))).sum(-1)
    torch.testing.assert_close(OptionValue(policy)(states, some), expected)


def test_the_value_corrects_what_a_frozen_policy_expects_by_the_mean_of_the_aims(rows):
    policy = fit_offline(rows, rows.gain[:, 0])
    value, (states, some) = OptionValue(policy), seen()
    assert not any(weight.requires_grad for weight in value.expected.parameters())
    before = value(states, some)
    torch.nn.init.ones_(value.network[2].weight)
    aims = ((features_of(some) - policy.center) / policy.spread)[:, :4].mean(dim=1)  # STOP is none of them
    torch.testing.assert_close(value(states, some) - before, value.network(aims)[:, 0])


def episodes_of(task, policy, n: int = 8):
    return play(task, task_starts(n), "optimistic", policy, range(n))


def test_the_loss_against_sums_by_hand(rows):
    task, policy = fake_task(), fit_offline(rows, rows.gain[:, 0])
    played = episodes_of(task, policy)
    value, reference, settings = (
        OptionValue(policy),
        OptionPolicy(),
        AgentSettings(kl=0.3, entropy=0.1, gae_lambda=1.0, group=2, second=0.0),
    )
    loss, facts = loss_of_episodes(policy, value, reference, played, settings)
    utility, rows_ = played.gained[0], []
    for step in range(3):
        for episode in range(8):
            if not played.running[step, episode]:
                continue
            here = [played.states[step][episode]], [played.options[step][episode]]
            log_p, even = (one.log_probs(*here)[0].detach().numpy() for one in (policy, reference))
            to_come = utility[-1, episode] - utility[step, episode]
            error = to_come - float(value(*here).detach())
            other = episode + 1 if episode % 2 == 0 else episode - 1
            there = float(value([played.states[0][other]], [played.options[0][other]]).detach())
            advantage = error - (utility[-1, other] - there)
            rows_.append((advantage, log_p[played.chosen[step, episode]], (np.exp(log_p) * (log_p - even)).sum(),
                          -(np.exp(log_p) * log_p).sum(), error**2))  # fmt: skip
    advantage, taken, kl, entropy, error = np.array(rows_).T
    scaled = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-4)
    assert facts == pytest.approx({"kl": kl.mean(), "entropy": entropy.mean(), "value_loss": error.mean(),
                                   "gain": utility[-1].mean()}, rel=1e-3)  # fmt: skip
    assert float(loss.detach()) == pytest.approx(
        -(scaled * taken).mean() + 0.3 * kl.mean() - 0.1 * entropy.mean() + error.mean(), rel=1e-3, abs=1e-4
    )


def test_the_second_encoder_has_its_weight_in_the_reward(rows):
    played = episodes_of(fake_task(), None)
    played = played._replace(gained=np.stack([played.gained[0], 5 + played.gained[0] * 3]))
    policy = OptionPolicy()
    _, facts = loss_of_episodes(policy, OptionValue(policy), policy, played, AgentSettings(second=0.25, group=2))
    expected = (0.75 * played.gained[0, -1] + 0.25 * played.gained[1, -1]).mean()
    assert facts["gain"] == pytest.approx(expected, rel=1e-5)


def test_what_comes_after_a_stop_has_no_part_in_the_loss():
    task, policy = fake_task(), OptionPolicy(temperature=1.0)
    played = play(task, task_starts(8) * 4, "uniform", policy, range(32))
    assert not played.running.all()
    cut = [
        [o._replace(features=o.features if going else o.features + 7) for o, going in zip(some, row, strict=True)]
        for some, row in zip(played.options, played.running, strict=True)
    ]
    losses = [
        float(loss_of_episodes(policy, OptionValue(policy), policy, p, SMALL)[0].detach())
        for p in (played, played._replace(options=cut))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_is_the_same_for_the_same_seed_and_moves_the_policy(rows):
    curves = []
    for seed in (0, 0, 1):
        policy = fit_offline(rows, rows.gain[:, 0])
        before = {name: weight.clone() for name, weight in policy.named_parameters()}
        value = OptionValue(policy)
        curves += reinforce(fake_task(), [policy], [value], "uniform", task_starts(8), SMALL, seeds=[seed])
        assert any(not torch.equal(before[name], weight) for name, weight in policy.named_parameters())
    assert curves[0] == curves[1] != curves[2]
    assert [row["iteration"] for row in curves[0]] == [0, 1] and curves[0][0]["kl"] == pytest.approx(0, abs=1e-6)


def test_policies_that_train_side_by_side_do_not_see_each_other(rows):
    alone, together = [], [fit_offline(rows, rows.gain[:, 0]) for _ in range(2)]
    curves = reinforce(
        fake_task(), together, list(map(OptionValue, together)), "uniform", task_starts(8), SMALL, seeds=[3, 5]
    )
    for seed in (3, 5):
        alone.append(fit_offline(rows, rows.gain[:, 0]))
        (curve,) = reinforce(
            fake_task(), [alone[-1]], [OptionValue(alone[-1])], "uniform", task_starts(8), SMALL, seeds=[seed]
        )
        assert curve == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in curves[len(alone) - 1]]
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_heavy_penalty_holds_a_policy_to_its_reference():
    far = {}
    for kl in (0.0, 100.0):
        policy, settings = OptionPolicy(temperature=1.0), replace(SMALL, iterations=8, learning_rate=2e-2, kl=kl)
        (curve,) = reinforce(fake_task(), [policy], [OptionValue(policy)], "uniform", task_starts(8), settings)
        far[kl] = curve[-1]["kl"]
    assert far[100.0] < 0.05 * far[0.0]


def test_the_value_learns_what_is_to_come():
    policy, played = OptionPolicy(), episodes_of(fake_task(), None, 16)
    value, losses = OptionValue(policy), []
    optimiser = torch.optim.Adam([weight for weight in value.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(60):
        loss, facts = loss_of_episodes(policy, value, policy, played, SMALL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(facts["value_loss"])
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_that_diverges_is_stopped():
    policy, settings = OptionPolicy(), replace(SMALL, learning_rate=float("inf"))
    with pytest.raises(CourseError, match="not finite in iteration 1: lower the learning rate"):
        reinforce(fake_task(), [policy], [OptionValue(policy)], "uniform", task_starts(4), settings)


class Two(Share):
    """The share of the first of two processes."""

    processes = 2

    def part(self, numbers):
        return numbers[::2]


def test_a_process_plays_whole_groups_of_its_own():
    assert own_episodes(AgentSettings(episodes=12, group=3), Two()) == [0, 1, 2, 6, 7, 8]
    assert own_episodes(AgentSettings(episodes=6, group=3), Share()) == list(range(6))
    with pytest.raises(ValueError, match=r"^2 processes cannot share 3 groups of 2 episodes evenly: .* multiple of 4"):
        own_episodes(AgentSettings(episodes=6, group=2), Two())


def test_starts_are_drawn_in_groups_and_without_repeats_while_there_are_others():
    starts, settings = task_starts(5), AgentSettings(episodes=10, group=2)
    drawn, seeds = drawn_starts(starts, settings, 0, 0)
    assert drawn[::2] == drawn[1::2] and len(set(drawn)) == 5 and len(set(seeds)) == 10
    many, _ = drawn_starts(starts, AgentSettings(episodes=12, group=1), 0, 0)
    assert {many.count(start) for start in starts} <= {2, 3}
    assert drawn_starts(starts, settings, 0, 0) != drawn_starts(starts, settings, 0, 1)
    assert drawn_starts(starts, settings, 0, 1) != drawn_starts(starts, settings, 1, 1)
    for episodes, group in ((10, 3), (1, 1)):
        with pytest.raises(ValueError, match=f"{episodes} episodes in groups of {group}"):
            AgentSettings(episodes=episodes, group=group)


def test_the_others_of_a_group_are_those_of_the_same_start():
    surprise = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert of_the_others(surprise, 3).tolist() == [4.0, 3.5, 1.5, 1.5, 1.5, 0.0]
    assert of_the_others(surprise, 1).tolist() == [0.0] * 6


@pytest.mark.slow
def test_supervision_and_rewards_each_help(rows):
    task, starts = fake_task(), task_starts(16)
    settings = replace(SMALL, iterations=25, episodes=16, learning_rate=2e-2, kl=0.0)
    fitted = fit_offline(rows, rows.gain[:, 0])
    trained = OptionPolicy()
    reinforce(task, [trained], [OptionValue(trained)], "uniform", starts, settings)
    gain = {}
    for name, policy in (("even", None), ("supervised", fitted), ("trained", trained)):
        played = play(task, starts * 5, "uniform", policy, range(100, 180))
        gain[name] = played.gained[0, -1].mean()
    assert gain["supervised"] > gain["even"] + 0.2 and gain["trained"] > gain["even"] + 0.2
