"""Episodes of editing in a small world without a model, and a few steps with the real one."""

from __future__ import annotations

import numpy as np
import pytest
from fake_world import ACTIONS, DIM, encode, fake_starts, fake_world, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.domains.domain import Domain
from helpers.eagle.actions import BANK
from helpers.eagle.environment import World, expand, run_episodes, step_texts
from helpers.eagle.rewriting import Rewriter, read_answer, seed_of, start_items, start_of
from helpers.embedding.space import build_space
from helpers.language.generation import local_backend


def at_random(observation, generators):
    return np.array([generator.integers(len(ACTIONS)) for generator in generators])


def always(action: int):
    return lambda observation, generators: np.full(len(generators), action)


def test_an_episode_is_a_chain_of_rewrites():
    world, starts = fake_world(), fake_starts(5)
    episodes = run_episodes(world, starts, at_random, range(5))
    assert episodes.z.shape == (4, 5, DIM) and episodes.actions.shape == (3, 5) and episodes.utility.shape == (4, 5)
    assert episodes.texts[0] == [start.text for start in starts] and episodes.calls == 15
    assert world.rewrite.backend.batches == [5, 5, 5]  # one call a step
    for step, actions in enumerate(episodes.actions):
        for i, action in enumerate(actions):
            instruction = world.instructions(starts[i].user)[action]
            [answer] = world.rewrite([episodes.texts[step][i]], [instruction], [seed_of(i, step)]).texts
            assert episodes.texts[step + 1][i] == answer


def test_utility_is_that_of_the_user_of_each_episode():
    world, starts = fake_world(), fake_starts(6)
    episodes = run_episodes(world, starts, at_random, range(6))
    np.testing.assert_array_equal(episodes.z, [encode(texts) for texts in episodes.texts])
    expected = [[world.gap(s.user)(z).total[0] for s, z in zip(starts, now, strict=True)] for now in episodes.z]
    np.testing.assert_allclose(episodes.utility, expected)
    np.testing.assert_allclose(episodes.gain, episodes.utility[3] - episodes.utility[0])
    parts = world.utility(episodes.z[1], [s.user for s in starts])
    np.testing.assert_allclose(parts.total, parts.rating + 0.5 * parts.novelty)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
    seeds=st.lists(st.integers(0, 2**31), min_size=8, max_size=8),
)
def test_an_episode_is_the_same_whatever_runs_beside_it(rows, seeds):
    world, starts = fake_world(bad=0.2), fake_starts(8)
    everything = run_episodes(world, starts, at_random, seeds)
    some = run_episodes(world, [starts[i] for i in rows], at_random, [seeds[i] for i in rows])
    assert some.texts == [[texts[i] for i in rows] for texts in everything.texts]
    assert some.problems == [[problems[i] for i in rows] for problems in everything.problems]
    np.testing.assert_array_equal(some.actions, everything.actions[:, rows])
    np.testing.assert_allclose(some.utility, everything.utility[:, rows])


def test_other_seeds_give_other_episodes():
    world, start = fake_world(), fake_starts(1)
    texts = {run_episodes(world, start, always(0), [seed]).texts[-1][0] for seed in range(6)}
    assert len(texts) == 6
    choices = run_episodes(world, start * 20, at_random, range(20)).actions
    assert set(choices[0]) == {0, 1, 2, 3}
    steps = np.diff(run_episodes(world, start, always(0), [0]).z[:, 0], axis=0)
    assert len(np.unique(steps.round(3), axis=0)) == 3  # each step has a seed of its own


def test_broken_answers_neither_stop_a_run_nor_pay():
    episodes = run_episodes(fake_world(bad=0.5), fake_starts(20), at_random, range(20))
    broken = np.array(episodes.problems) != ""
    assert 0.2 < broken.mean() < 0.8
    np.testing.assert_array_equal(broken, (np.diff(episodes.z, axis=0) == 0).all(axis=2))
    np.testing.assert_array_equal(np.diff(episodes.utility, axis=0)[broken], 0)
    all_broken = run_episodes(fake_world(bad=1.0), fake_starts(2), at_random, [0, 1])
    assert all_broken.texts == [all_broken.texts[0]] * 4 and (all_broken.gain == 0).all()


def test_what_a_policy_sees():
    seen = []

    def choose(observation, generators):
        seen.append(observation)
        return np.zeros(len(generators), dtype=int)

    starts = fake_starts(3)
    episodes = run_episodes(fake_world(), starts, choose, range(3))
    for step, observation in enumerate(seen):
        again = episodes.observation(step)
        assert observation.texts == again.texts and observation.step == again.step == step
        assert observation.users.tolist() == again.users.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(observation.z, again.z)


def test_starts_and_seeds_must_match():
    for starts, seeds in [(fake_starts(2), [0]), ([], [])]:
        with pytest.raises(ValueError, match="give one seed to each"):
            run_episodes(fake_world(), starts, at_random, seeds)


@pytest.mark.parametrize("actions", [[0, 4], [-1, 0], [0.0, 1.0], [0], [[0, 1]], 0, [True, False], ["a", "b"]])
def test_bad_actions_are_refused(actions, unchecked):
    texts = [start.text for start in fake_starts(2)]
    with pytest.raises(ValueError, match="each of 2 episodes an integer from 0 to 3"):
        step_texts(fake_world(), texts, [0, 1], actions, [0, 1])


def test_personalised_instructions_differ_between_users():
    world = fake_world()
    first, second = world.instructions(0), world.instructions(1)
    assert first[1] == "Make it a Drama movie." and second[1] == "Make it a Western movie."
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    assert world.instructions(0) is first  # computed once


def test_things_are_computed_once_per_world_and_key():
    world, made = fake_world(), []
    for _ in range(2):
        assert world.once("key", lambda: made.append(1) or 7) == 7
    assert made == [1] and fake_world().once("key", lambda: 8) == 8


# Expansions ------------------------------------------------------------------------------------------------------


def test_an_expansion_tries_every_action_on_every_start():
    world, starts = fake_world(), fake_starts(3)
    expansion = expand(world, starts, n_samples=2, seed=5)
    assert expansion.z.shape == (3, 4, 2, DIM) and expansion.utility.shape == expansion.valid.shape == (3, 4, 2)
    assert world.rewrite.backend.batches == [24] and expansion.valid.all()
    for s, start in enumerate(starts):
        np.testing.assert_array_equal(expansion.origin[s], encode([start.text])[0])
        for a, instruction in enumerate(world.instructions(start.user)):
            texts = world.rewrite(
                [start.text] * 2, [instruction] * 2, [seed_of(5, "expand", m) for m in range(2)]
            ).texts
            np.testing.assert_array_equal(expansion.z[s, a], encode(texts))
            np.testing.assert_allclose(expansion.utility[s, a], world.gap(start.user)(encode(texts)).total)


def test_displacements_are_means_over_samples():
    world, starts = fake_world(noise=0.0), fake_starts(4)
    expansion = expand(world, starts, n_samples=2)
    np.testing.assert_allclose(expansion.mean, expansion.z.mean(axis=2))
    walks = np.array([[walk(instruction) for instruction in world.instructions(start.user)] for start in starts])
    np.testing.assert_allclose(expansion.displacement, walks, atol=1e-3)


def test_an_unusable_answer_goes_nowhere():
    expansion = expand(fake_world(bad=0.5), fake_starts(5), n_samples=3)
    stayed = (expansion.z == expansion.origin[:, None, None]).all(axis=-1)
    np.testing.assert_array_equal(stayed, ~expansion.valid)
    assert 0.2 < stayed.mean() < 0.8


# The real world --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_few_steps_with_the_real_model(movies: Domain):
    world = World(build_space(movies), BANK, Rewriter(local_backend()), horizon=2)
    starts = [start_of(movies, item, user) for item, user in zip(start_items(movies)[:2], [0, 5], strict=True)]
    episodes = run_episodes(world, starts, lambda _, generators: np.array([3, 60]), [0, 1])
    assert ((episodes.utility > 1) & (episodes.utility < 7)).all()
    problems = np.array(episodes.problems)
    assert (problems != "").sum() <= 2, problems
    for before, after, trouble in zip(episodes.texts, episodes.texts[1:], problems, strict=False):
        for old, new, problem in zip(before, after, trouble, strict=True):
            assert new == old if problem else read_answer(new) == (new, "")
    assert (episodes.z[2] != episodes.z[0]).any()


def test_utilities_stand_in_the_order_of_their_users():
    world = fake_world()
    z, users = world.space.items[[0, 1, 2, 0, 1]] + 0.1, [1, 0, 1, 2, 0]
    parts = world.utility(z, users)
    for row, user in enumerate(users):
        alone = world.gap(user)(z[row])
        assert [part[row] for part in parts] == pytest.approx([part[0] for part in alone])
    with pytest.raises(ValueError, match="one user to each"):
        world.utility(z, users[:2])
