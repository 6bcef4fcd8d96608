"""Training: estimators against definitions, gradients against finite differences, runs that are killed and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_world import DIM, encode, fake_starts, fake_world
from fakes import TrueEffects, best_action, expansion, same_weights, small_agent, wanted
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers.base.storage import CourseError
from helpers.eagle.design import leverages
from helpers.eagle.effects import fit_effects
from helpers.eagle.environment import Episodes, Observation
from helpers.eagle.policy import frozen_copy
from helpers.eagle.training import (
    Agent,
    Settings,
    advantages_of,
    draw_starts,
    fit_reference,
    gae,
    group_advantages,
    kl_of,
    loss_of,
    reference_targets,
    train,
)

SHORT = Settings(iterations=5, episodes=8)


def run(settings: Settings = SHORT, seed: int = 0, agent=None, **options):
    """An agent trained in the fake world, its reference and its learning curve."""
    world = fake_world(horizon=2)
    agent = agent or small_agent(world)
    reference = frozen_copy(agent.policy)
    curve = train(world, agent, reference, fake_starts(12), settings, seed=seed, **options)
    return agent, reference, curve


# Estimators --------------------------------------------------------------------------------------------------------


def naive_gae(rewards, values, gae_lambda: float):
    horizon, n = rewards.shape
    advantages = np.zeros((horizon, n))
    for t in range(horizon):
        for later in range(t, horizon):
            following = values[later + 1] if later + 1 < horizon else 0.0
            advantages[t] += gae_lambda ** (later - t) * (rewards[later] + following - values[later])
    return advantages


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


@hypothesis_settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), horizon=st.integers(1, 6), n=st.integers(1, 4), gae_lambda=st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_surprises(seed, horizon, n, gae_lambda):
    rewards, values = numbers(seed, horizon, n), numbers(seed + 1, horizon, n)
    expected = naive_gae(rewards.numpy(), values.numpy(), gae_lambda)
    np.testing.assert_allclose(gae(rewards, values, gae_lambda), expected, atol=1e-9)


def test_limits_of_gae():
    rewards, values = numbers(0, 5, 3), numbers(1, 5, 3)
    following = torch.cat([values[1:], torch.zeros(1, 3)])
    torch.testing.assert_close(gae(rewards, values, 0.0), rewards + following - values)
    torch.testing.assert_close(gae(rewards, values, 1.0), rewards.flip(0).cumsum(0).flip(0) - values)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_a_reward_at_the_end_and_rewards_on_the_way_give_the_same_advantages(gae_lambda):
    episodes, to_come = bandit(np.zeros((3, 7), dtype=int), numbers(2, 4, 7).numpy()), numbers(3, 3, 7)
    utility = torch.as_tensor(episodes.utility)
    at_the_end = torch.zeros(3, 7).double()
    at_the_end[-1] = utility[-1]
    expected = gae(at_the_end, utility[:-1] + to_come, gae_lambda)  # V of the whole return: what is there + to come
    torch.testing.assert_close(advantages_of(episodes, to_come, Settings(gae_lambda=gae_lambda)), expected)


def test_groups_are_compared_within_themselves():
    gain = numbers(4, 12).float()
    advantages = group_advantages(gain, 4).reshape(3, 4)
    torch.testing.assert_close(advantages.mean(1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(advantages.std(1), torch.ones(3), atol=1e-3, rtol=0)
    easier = gain + torch.tensor([0.0, 5.0, -2.0]).repeat_interleave(4)  # starts of other difficulty
    torch.testing.assert_close(group_advantages(easier, 4).reshape(3, 4), advantages, atol=1e-4, rtol=0)
    assert (group_advantages(torch.full((4,), 2.5), 2) == 0).all()
    episodes = bandit(np.zeros((2, 12), dtype=int), np.stack([np.zeros(12), np.zeros(12), gain.numpy()]))
    for step in advantages_of(episodes, torch.zeros(2, 12), Settings(episodes=12, group=4)):
        torch.testing.assert_close(step, advantages.reshape(-1))


def test_kl_is_exact():
    p, q = (numbers(seed, 2, 3, 5).log_softmax(-1) for seed in (5, 6))
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in (p, q)))
    torch.testing.assert_close(kl_of(p, q), expected)
    torch.testing.assert_close(kl_of(p, p), torch.zeros(2, 3).double())
    impossible = torch.tensor([0.0, -1e4])  # both give the second action no probability
    assert kl_of(impossible, impossible) == 0


# The loss: a bandit whose policy is a table of logits --------------------------------------------------------------


class Table(torch.nn.Module):
    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, seen: Observation):
        return self.logits.log_softmax(0).expand(len(seen.texts), -1)


class Nothing(torch.nn.Module):
    def forward(self, seen: Observation):
        return torch.zeros(len(seen.texts))


def bandit(actions, utility) -> Episodes:
    horizon, n = np.shape(actions)
    texts = [[""] * n] * (horizon + 1)
    z = np.zeros((horizon + 1, n, DIM))
    return Episodes(fake_starts(n), texts, z, np.asarray(actions), np.asarray(utility), [[""] * n] * horizon)


LOGITS, PAYS = np.array([0.5, -0.3, 0.1, 0.9]), np.array([1.0, 3.0, -1.0, 0.5])


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def slope(function, at, h: float = 1e-5):
    """Gradient by central differences."""
    return np.array([(function(at + h * e) - function(at - h * e)) / (2 * h) for e in np.eye(len(at))])


def gradient(reference, settings: Settings, n: int = 40_000) -> tuple[np.ndarray, float]:
    """Gradient of the loss in the logits over many draws, and the spread that advantages were divided by."""
    actions = np.random.default_rng(7).choice(4, size=(1, n), p=softmax(LOGITS))
    episodes = bandit(actions, np.stack([np.zeros(n), PAYS[actions[0]]]))
    agent = Agent(Table(LOGITS), Nothing())
    loss_of(agent, reference, episodes, settings)[0].backward()
    return agent.policy.logits.grad.numpy(), PAYS[actions[0]].std()


def test_the_gradient_is_that_of_the_expected_pay():
    found, spread = gradient(Table(LOGITS), Settings(kl=0.0))
    expected = -slope(lambda logits: softmax(logits) @ PAYS, LOGITS) / spread
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.abs(expected).max() > 10 * 0.02  # the tolerance tells something


def test_the_gradient_of_the_penalty_is_that_of_the_kl():
    other = np.array([-1.0, 0.5, 0.0, 0.2])
    without, _ = gradient(Table(other), Settings(kl=0.0))
    found, _ = gradient(Table(other), Settings(kl=2.0))
    expected = slope(lambda logits: softmax(logits) @ np.log(softmax(logits) / softmax(other)), LOGITS)
    np.testing.assert_allclose(found - without, 2 * expected, atol=1e-4)


def test_the_value_learns_what_is_to_come():
    world = fake_world(horizon=2)
    episodes = bandit(np.zeros((2, 3), dtype=int), [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [4.0, 1.0, 3.0]])
    agent = small_agent(world)
    loss, facts = loss_of(agent, frozen_copy(agent.policy), episodes, Settings())
    assert facts["value_loss"] == pytest.approx(np.mean(np.square([3, -1, 0, 2, -1, 1])))
    assert facts["loss"] == pytest.approx(loss.item())
    assert facts["kl"] == pytest.approx(0, abs=1e-6) and facts["entropy"] == pytest.approx(np.log(4))


# The reference -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
def test_optimistic_targets_are_the_k_best_actions_alike(k):
    """By hand: sort each start's actions by the mean utility of their tries, and share the weight among the first k."""
    seen = expansion(8)
    targets = reference_targets("optimistic", seen, TrueEffects(fake_world()), k)
    for row, utility in zip(targets, seen.utility, strict=True):
        best = sorted(range(4), key=lambda action: -utility[action].mean())[:k]
        assert sorted(np.flatnonzero(row)) == sorted(best)
        np.testing.assert_allclose(row[best], 1 / min(k, 4))


def test_uniform_targets_and_an_unknown_kind():
    effects = TrueEffects(fake_world())
    np.testing.assert_array_equal(reference_targets("uniform", expansion(3), effects), np.full((3, 4), 0.25))
    with pytest.raises(ValueError, match="unknown kind 'best': choose one of uniform, optimistic, goptimal"):
        reference_targets("best", expansion(3), effects)


def test_design_targets_are_the_optimal_designs_of_the_expected_moves():
    seen, random = expansion(6), np.random.default_rng(0)
    moves = random.normal(size=(4, 1, DIM)) + 0.1 * random.normal(size=(6, 4, 1, DIM))
    seen = seen._replace(z=seen.origin[:, None, None] + moves)
    effects = fit_effects(fake_world(), seen)
    targets = reference_targets("goptimal", seen, effects)
    for row, z, start in zip(targets, seen.origin, seen.starts, strict=True):
        move = effects.displacement(z, start.user)
        assert row.sum() == pytest.approx(1) and leverages(move, row).max() <= 3 * 1.01  # n = 3 dimensions
    assert targets.max() > 0.3  # not the even weights


def test_each_step_of_the_reference_draws_its_batch_anew():
    seen, batches = expansion(8), []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.zeros(4))

        def forward(self, observation):
            batches.append(tuple(observation.z[:, 0]))
            return self.scores.log_softmax(0).expand(len(observation.users), -1)

    fit_reference(Watched(), seen, wanted(8), steps=10, batch=3)
    assert all(len(set(batch)) == 3 for batch in batches)
    assert len({tuple(sorted(batch)) for batch in batches}) > 5


@pytest.mark.parametrize("batch", [None, 4])
def test_the_reference_comes_to_its_targets(batch):
    policy, seen = small_agent(fake_world()).policy, expansion(8)
    losses = fit_reference(policy, seen, wanted(8), batch=batch, learning_rate=3e-2)
    assert losses[0] > 0.3 and np.mean(losses[-20:]) < 0.02
    users = np.array([start.user for start in seen.starts])
    p = policy(Observation([""] * 8, seen.origin, users, 0)).exp().detach().numpy()
    np.testing.assert_allclose(p, wanted(8), atol=0.1)


def test_frozen_weights_stay_and_the_seed_decides():
    policies = [small_agent(fake_world()).policy for _ in range(2)]
    losses = []
    for policy in policies:
        policy.bias.requires_grad_(False)
        losses.append(fit_reference(policy, expansion(8), wanted(8), steps=5, batch=3, seed=1))
        assert (policy.bias == 0).all()
    assert losses[0] == losses[1] and same_weights(*policies)


@pytest.mark.parametrize(
    "targets", [wanted(7), wanted(8) * 2, wanted(8) - [1, -1, 0, 0], np.full((8, 4), np.nan)], ids=range(4)
)
def test_bad_targets_are_refused(targets):
    with pytest.raises(ValueError, match="one row per start"):
        fit_reference(small_agent(fake_world()).policy, expansion(8), targets)


def test_a_reference_that_diverges_is_stopped():
    with pytest.raises(CourseError, match="not finite in step 1 of the reference policy: lower the learning rate"):
        fit_reference(small_agent(fake_world()).policy, expansion(8), wanted(8), learning_rate=float("inf"))


# The loop ----------------------------------------------------------------------------------------------------------

LONG = Settings(iterations=20, episodes=24, learning_rate=3e-2, value_learning_rate=3e-2)


def share_of_best(agent: Agent) -> float:
    """Probability of each user's best action, averaged over the users' starts."""
    starts = fake_starts(12)
    users = [start.user for start in starts]
    seen = Observation([s.text for s in starts], encode([s.text for s in starts]), np.array(users), 0)
    p = agent.policy(seen).exp().detach().numpy()
    return float(np.mean([row[best_action(agent.policy.world, user)] for row, user in zip(p, users, strict=True)]))


@pytest.mark.parametrize("group", [0, 4])
def test_training_finds_what_pays(group):
    agent, reference, curve = run(replace(LONG, group=group))
    gains = np.array([row["gain"] for row in curve])
    before, after = gains[:6], gains[-6:]
    assert after.mean() - before.mean() > 4 * np.sqrt(before.var() / 6 + after.var() / 6)
    assert share_of_best(agent) > 0.6 > 0.26 > share_of_best(Agent(reference, agent.value))
    assert curve[-1]["kl"] > 0.1 and curve[-1]["entropy"] < 1.2


def test_a_heavy_penalty_holds_the_agent_to_its_reference():
    agent, _, curve = run(replace(LONG, kl=100.0, iterations=10))
    # The first step of Adam has a fixed size, and there the penalty's gradient is still 0.
    assert max(row["kl"] for row in curve) < 0.03 and share_of_best(agent) < 0.35


def test_the_value_network_learns():
    _, _, curve = run(replace(LONG, kl=100.0))  # with a policy that stays, what is to come stays as well
    losses = [row["value_loss"] for row in curve]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_curve_tells_what_happened():
    rows = []
    _, _, curve = run(on_iteration=rows.append)
    assert curve == rows and [row["iteration"] for row in curve] == list(range(5))
    assert set(curve[0]) == {"iteration", "gain", "loss", "kl", "entropy", "value_loss", "invalid", "utility"}
    world = fake_world(horizon=2, bad=1.0)
    agent = small_agent(world)
    broken = train(world, agent, frozen_copy(agent.policy), fake_starts(12), SHORT)
    assert all(row["invalid"] == 1 and row["gain"] == 0 for row in broken)


def test_an_agent_paid_for_the_work_of_others_finds_nothing():
    played = []

    def true(episodes: Episodes) -> np.ndarray:
        played.append(episodes)
        return episodes.utility

    agent, _, curve = run(LONG)
    same, _, kept = run(LONG, reward=true)
    assert kept == curve and same_weights(agent, same) and len(played) == len(curve)
    np.testing.assert_allclose([row["gain"] for row in curve], [episodes.gain.mean() for episodes in played])
    other, _, shuffled = run(LONG, reward=lambda episodes: np.roll(episodes.utility, 1, axis=1))
    assert share_of_best(other) < 0.45 < share_of_best(agent) - 0.15
    assert shuffled[0]["gain"] == curve[0]["gain"]  # the curve tells what was earned, not what was paid


def test_the_seed_decides():
    first, second, other = run(seed=3), run(seed=3), run(seed=4)
    assert first[2] == second[2] != other[2] and same_weights(first[0], second[0])


def test_starts_are_drawn_anew_and_in_groups():
    starts = fake_starts(6)
    batch, seeds = draw_starts(starts, Settings(episodes=8, group=4), 0, 0)
    assert batch[:4] == [batch[0]] * 4 and batch[4:] == [batch[4]] * 4 and batch[0] != batch[4]
    assert len(set(seeds)) == 8
    assert draw_starts(starts, Settings(episodes=8, group=4), 0, 0) == (batch, seeds)
    assert draw_starts(starts, Settings(episodes=8, group=4), 0, 1) != (batch, seeds)
    assert len(set(draw_starts(starts, Settings(episodes=6), 0, 0)[0])) == 6  # each once while there are enough
    assert len(draw_starts(starts, Settings(episodes=20), 0, 0)[0]) == 20


@pytest.mark.parametrize("group", [0, 2])
def test_every_iteration_and_every_run_draws_starts_and_seeds_of_its_own(group):
    settings, starts = Settings(episodes=8, group=group), fake_starts(12)
    draws = [draw_starts(starts, settings, seed, iteration) for seed in range(3) for iteration in range(10)]
    assert len({tuple(start.item for start in batch) for batch, _ in draws}) == 30
    seeds = [number for _, numbers in draws for number in numbers]
    assert len(set(seeds)) == len(seeds)  # else two episodes of a run would be one, counted twice


@pytest.mark.parametrize("numbers", [{"episodes": 1}, {"group": 1}, {"group": 5}, {"group": -2}])
def test_bad_groups_are_refused(numbers):
    with pytest.raises(ValueError, match="two or more episodes, whole groups of 2 or more"):
        Settings(**numbers)


@pytest.mark.parametrize("numbers", [{"episodes": 3, "group": 0}, {"episodes": 2}, {"episodes": 4, "group": 2}])
def test_any_number_of_episodes_from_two_and_any_whole_groups_are_good(numbers):
    assert Settings(**numbers).episodes == numbers["episodes"]


def test_a_run_that_diverges_is_stopped():
    with pytest.raises(CourseError, match="not finite in iteration 1: lower the learning rate"):
        run(replace(SHORT, learning_rate=float("inf")))


# Checkpoints -------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_at(iteration: int):
    def on_iteration(row) -> None:
        if row["iteration"] == iteration:
            raise Stop

    return on_iteration


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize("last", [0, 3])
def test_a_stopped_run_ends_as_an_undisturbed_one(tmp_path, last, group):
    settings = replace(SHORT, group=group)
    whole, _, curve = run(settings)
    with pytest.raises(Stop):
        run(settings, checkpoint=tmp_path / "run", on_iteration=stop_at(last))
    rows = []
    again, _, continued = run(settings, checkpoint=tmp_path / "run", on_iteration=rows.append)
    assert len(rows) == 4 - last and continued == curve and same_weights(again, whole)
    finished, _, same = run(settings, checkpoint=tmp_path / "run", on_iteration=stop_at(4))  # nothing is left to do
    assert same == curve and same_weights(finished, whole)
    assert os.listdir(tmp_path) == ["run"]


KILLED = """
import os, signal, sys
sys.path[:0] = {folders!r}
from pathlib import Path
from test_training import run
run(checkpoint=Path({path!r}), on_iteration=lambda row: row["iteration"] == 2 and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    path = tmp_path / "run"
    script = KILLED.format(folders=[str(folder) for folder in Path(__file__).parents[:2]], path=str(path))
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=100)
    assert killed.returncode == -signal.SIGKILL and path.exists()
    whole, _, curve = run()
    again, _, continued = run(checkpoint=path)
    assert continued == curve and same_weights(again, whole)


def test_a_finished_run_can_go_on_for_longer(tmp_path):
    run(checkpoint=tmp_path / "run")
    longer = replace(SHORT, iterations=7)
    again, _, continued = run(longer, checkpoint=tmp_path / "run")
    whole, _, curve = run(longer)
    assert continued == curve and same_weights(again, whole)
    with pytest.raises(CourseError, match="has 7 iterations already"):
        run(checkpoint=tmp_path / "run")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run"
    for damage in (
        truncated,
        lambda path: path.write_text("not a checkpoint"),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"agent.policy.bias": torch.zeros(4)}, path),
        lambda path: save_file({"agent.policy.bias": torch.zeros(4)}, path, {"run": "{}", "curve": "["}),
    ):
        path.unlink(missing_ok=True)
        run(replace(SHORT, iterations=1), checkpoint=path)
        damage(path)
        agent = small_agent(fake_world(horizon=2))
        with pytest.raises(CourseError, match=r"cannot be read .*: delete run to start again") as caught:
            run(agent=agent, checkpoint=path)
        assert "\n" not in str(caught.value)
        assert same_weights(agent, small_agent(fake_world(horizon=2)))


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run"
    run(checkpoint=path)
    before = path.read_bytes()
    world = fake_world(horizon=2)
    wide = Agent(small_agent(world).policy, type(small_agent(world).value)(world, hidden=16))
    for options in ({"settings": replace(SHORT, kl=0.2)}, {"seed": 1}):
        with pytest.raises(CourseError, match="other settings, data or seed: delete run"):
            run(checkpoint=path, **options)
    agent = small_agent(world)
    with pytest.raises(CourseError, match="other settings, data or seed"):
        train(world, agent, agent.policy, fake_starts(11), SHORT, checkpoint=path)
    with pytest.raises(CourseError, match="a module of another form: delete run"):
        run(agent=wide, checkpoint=path)
    assert path.read_bytes() == before


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="could not save a checkpoint"):
        run(checkpoint=tmp_path / "file" / "run")
