"""The environment as Gymnasium sees it: one at a time, many at once, and as the course's own loop plays it."""

from __future__ import annotations

import warnings
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
from fake_world import ACTIONS, FakeWorld, fake_starts, fake_world, place
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.eagle.environment import run_episodes
from helpers.eagle.gymnasium_env import MAX_LENGTH, EagleEnv, EagleVectorEnv
from helpers.eagle.rewriting import Start

STARTS = fake_starts(6)


def play(env: EagleEnv, actions, **reset) -> list[tuple]:
    """Observation, reward, whether it is over, and info, of the reset and of every step."""
    observation, info = env.reset(**reset)
    seen = [(observation, 0.0, False, info)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        seen.append((observation, reward, terminated, info))
    return seen


@pytest.mark.parametrize("reward", ["terminal", "dense"])
@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_gymnasium_finds_nothing_to_complain_about(reward, bad):
    def make(**options):
        return EagleEnv(fake_world(bad=bad), STARTS, reward=reward, **options)

    gymnasium.register("Eagle-test-v0", entry_point=make)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gymnasium.make("Eagle-test-v0", render_mode="ansi").unwrapped)
    finally:
        del gymnasium.registry["Eagle-test-v0"]


@settings(max_examples=20, deadline=None)
@given(
    actions=st.lists(st.integers(0, len(ACTIONS) - 1), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
    row=st.integers(0, 5),
    bad=st.sampled_from([0.0, 0.4]),
)
def test_it_plays_as_run_episodes_does(actions, seed, row, bad):
    world, start = fake_world(bad=bad), STARTS[row]
    episode = run_episodes(world, [start], lambda observation, _: np.array([actions[observation.step]]), [seed])
    for kind in ("terminal", "dense"):
        seen = play(EagleEnv(world, STARTS, reward=kind), actions, seed=seed, options={"start": start})
        observations, rewards, over, infos = zip(*seen, strict=True)
        assert [o["text"] for o in observations] == [texts[0] for texts in episode.texts]
        assert [info["utility"] for info in infos] == pytest.approx(episode.utility[:, 0])
        assert [info["problem"] for info in infos] == ["", *(problems[0] for problems in episode.problems)]
        assert [info["invalid"] for info in infos] == np.cumsum([0, *(bool(p[0]) for p in episode.problems)]).tolist()
        instructions = [world.instructions(start.user)[action] for action in actions]
        assert [info["instruction"] for info in infos] == ["", *instructions]
        assert over == (False, False, False, True)
        assert [o["step"] for o in observations] == [0, 1, 2, 3]
        final, first = episode.utility[-1, 0], episode.utility[0, 0]
        assert sum(rewards) == pytest.approx(final if kind == "terminal" else final - first)
        assert kind == "dense" or rewards[:3] == (0, 0, 0)


def test_what_the_agent_sees():
    env = EagleEnv(fake_world(), STARTS)
    seen = play(env, [0, 1, 2], seed=0, options={"start": STARTS[1]})
    for observation, _, _, info in seen:
        assert observation in env.observation_space
        z = observation["embedding"].astype(float)
        rating, novelty = info["rating"], info["novelty"]
        assert rating == pytest.approx(env.world.gap(1)(z).rating[0], abs=1e-5)
        assert info["utility"] == pytest.approx(rating + 0.5 * novelty)
        np.testing.assert_allclose(observation["user"], env.world.user_embeddings([1])[0], rtol=1e-6)
        assert observation["profile"] == "Likes Western and War. Cares little for Comedy."
        assert (info["user"], info["item"]) == (1, 1)
    assert len({id(observation["user"]) for observation, *_ in seen}) == 4


def test_the_same_seed_gives_the_same_run_of_episodes():
    def run(seed):
        env = EagleEnv(fake_world(), STARTS)
        return [play(env, [0, 1, 2], seed=seed), play(env, [0, 1, 2]), play(env, [0, 1, 2])]

    assert data_equivalence(run(3), run(3), exact=True)
    assert not data_equivalence(run(3), run(4))
    again = run(3)
    assert not data_equivalence(again[1], again[2])


def test_starts_are_drawn_from_the_list():
    env = EagleEnv(fake_world(), STARTS)
    items = [env.reset(seed=0)[1]["item"], *(env.reset()[1]["item"] for _ in range(59))]
    assert set(items) == set(range(6)) and max(np.bincount(items)) < 25
    elsewhere = Start(place([1, 2, 3]), 2)
    observation, info = env.reset(options={"start": elsewhere})
    assert observation["text"] == elsewhere.text and (info["user"], info["item"]) == (2, -1)


def test_an_accent_in_a_profile_is_shown_in_plain_letters(monkeypatch):
    monkeypatch.setattr(FakeWorld, "profile", lambda self, user: "Likes cafés. " * 200)
    env = EagleEnv(fake_world(), STARTS)
    observation, _ = env.reset()
    assert observation in env.observation_space and observation["profile"].startswith("Likes cafes. Likes")


def test_rendering():
    env = EagleEnv(fake_world(bad=0.5), STARTS, render_mode="ansi")
    with pytest.raises(ResetNeeded, match="call reset"):
        env.render()
    seen = play(env, [0, 1, 2], seed=1, options={"start": STARTS[1]})
    observation, _, _, info = seen[-1]
    lines = env.render().split("\n")
    assert lines[0] == f"step 3 of 3, U = {info['utility']:.2f} stars"
    expected = [
        f"{step}. {info['instruction']}" + (f" [{info['problem']}]" if info["problem"] else "")
        for step, (*_, info) in enumerate(seen)
        if step
    ]
    assert lines[1:4] == expected and any("[no plot]" in line for line in expected)
    assert "\n".join(lines[4:]) == observation["text"]
    assert EagleEnv(fake_world(), STARTS).render() is None


def test_an_episode_ends():
    env = EagleEnv(fake_world(), STARTS)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(0)
    play(env, [0, 0, 0])
    with pytest.raises(ResetNeeded, match="after the last"):
        env.step(0)
    env.reset()
    env.step(0)


@pytest.mark.parametrize("action", [-1, 4, 0.5, None])
def test_unknown_actions_are_refused_and_change_nothing(action, unchecked):
    env = EagleEnv(fake_world(), STARTS)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="an integer from 0 to 3"):
        env.step(action)
    assert data_equivalence(env.observation(), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward": "sparse"}, "choose one of terminal, dense"),
        ({"render_mode": "human"}, "choose 'ansi' or None"),
        ({"starts": []}, "give at least one"),
        ({"starts": [Start("", 0)]}, "1 to 1000 ASCII"),
        ({"starts": [Start("Genres: War.\nUn café.", 0)]}, "ASCII characters"),
        ({"starts": [Start("a" * (MAX_LENGTH + 1), 0)]}, "1 to 1000"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        EagleEnv(**({"world": fake_world(), "starts": STARTS} | change))
    with pytest.raises(ValueError, match=words):
        EagleVectorEnv(**({"world": fake_world(), "starts": STARTS, "num_envs": 2} | change))


def test_a_bad_start_is_refused_by_reset():
    with pytest.raises(ValueError, match="ASCII characters"):
        EagleEnv(fake_world(), STARTS).reset(options={"start": Start("é", 0)})


# Many at once ----------------------------------------------------------------------------------------------------


def pair(n: int, **options) -> tuple[EagleVectorEnv, SyncVectorEnv]:
    """A vector environment, and Gymnasium's own of the same single ones."""
    world = options.pop("world", None) or fake_world(bad=0.3)
    single = fake_world(bad=0.3)
    return EagleVectorEnv(world, STARTS, n, **options), SyncVectorEnv([lambda: EagleEnv(single, STARTS, **options)] * n)


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 5), seed=st.integers(0, 1000), reward=st.sampled_from(["terminal", "dense"]), data=st.data())
def test_many_at_once_are_the_same_as_one_by_one(n, seed, reward, data):
    vector, singles = pair(n, reward=reward)
    assert vector.observation_space == singles.observation_space and vector.action_space == singles.action_space
    assert data_equivalence(vector.reset(seed=seed), singles.reset(seed=seed), exact=True)
    ended = 0
    for _ in range(9):  # two episodes and a bit: the resets between them as well
        actions = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
        result, expected = vector.step(actions), singles.step(actions)
        assert data_equivalence(result, expected, exact=True)
        assert result[0] in vector.observation_space
        ended += result[2].all()
    assert ended == 2
    assert data_equivalence(vector.reset(), singles.reset(), exact=True)


def test_options_and_lists_of_seeds_hold_as_for_gymnasiums_own():
    vector, singles = pair(3, render_mode="ansi")
    kwargs = {"seed": [7, None, 9], "options": {"start": STARTS[4]}}
    result, expected = vector.reset(**deepcopy(kwargs)), singles.reset(**deepcopy(kwargs))
    assert result[0]["text"] == (STARTS[4].text,) * 3
    assert data_equivalence(result, expected, exact=True)
    vector.step(np.array([0, 1, 2]))
    singles.step(np.array([0, 1, 2]))
    assert vector.render()[::2] == singles.render()[::2]  # the one between had no seed


def test_one_batch_a_step():
    world = fake_world()
    vector, _ = pair(5, world=world)
    vector.reset(seed=0)
    for _ in range(4):
        vector.step(np.zeros(5, dtype=int))
    assert world.rewrite.backend.batches == [5, 5, 5]  # the fourth step was a reset


def test_the_autoreset_mode_is_declared():
    vector, singles = pair(2)
    assert vector.metadata == singles.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}
    assert "autoreset_mode" not in EagleEnv.metadata


def test_gymnasiums_wrappers_work():
    vector = gymnasium.wrappers.vector.RecordEpisodeStatistics(pair(3, reward="dense")[0])
    _, before = vector.reset(seed=0)
    for _ in range(3):
        _, _, _, _, infos = vector.step(vector.action_space.sample())
    np.testing.assert_allclose(infos["episode"]["r"], infos["utility"] - before["utility"], atol=1e-9)
    vector.close()


def test_misuse_of_the_vector_is_refused(unchecked):
    with pytest.raises(ValueError, match="give at least 1"):
        EagleVectorEnv(fake_world(), STARTS, 0)
    vector, _ = pair(2)
    with pytest.raises(ResetNeeded, match="call reset"):
        vector.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="3 seeds for 2 environments"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset them together"):
        vector.reset(options={"reset_mask": np.array([True, False])})
    vector.reset()
    for actions in (np.array([0, 4]), np.array([0]), np.array([0.0, 1.0])):
        with pytest.raises(ValueError, match="each of 2 episodes an integer"):
            vector.step(actions)
