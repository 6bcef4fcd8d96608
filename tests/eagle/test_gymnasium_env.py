"""The task as Gymnasium sees it, and as the course's own loop plays it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from fake_steering import blind_judge, fake_task, task_starts
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.eagle.gymnasium_env import SteeringEnv
from helpers.eagle.steering import FEATURES, State, Steering, weighted
from helpers.eagle.trajectories import StatePolicy, play

STARTS = task_starts(6)


def episode(env: SteeringEnv, actions, **reset) -> list[tuple]:
    """Observation, reward, whether it is over, and info, of the reset and of every step."""
    observation, info = env.reset(**reset)
    seen = [(observation, 0.0, False, info)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        seen.append((observation, reward, terminated, info))
    return seen


class Fixed(StatePolicy):
    """Takes the options of a list, one in each step."""

    def __init__(self, actions) -> None:
        super().__init__()
        self.actions = actions

    def scores(self, states, options):
        scores = torch.full((len(states), len(options[0].features)), -100.0)
        for row, state in enumerate(states):
            scores[row, self.actions[state.step]] = 100.0
        return scores


def four_aims(**options) -> Steering:
    """The task on the small map, with four aims in every state."""
    return replace(fake_task(**options), k=4)


@pytest.mark.parametrize("bad", [0.0, 1.0])
def test_gymnasium_finds_nothing_to_complain_about(bad):
    gymnasium.register("Steering-test-v0", entry_point=lambda: SteeringEnv(four_aims(bad=bad), STARTS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*unconventional shape")  # advice for pictures
            check_env(gymnasium.make("Steering-test-v0").unwrapped, skip_render_check=True)
    finally:
        del gymnasium.registry["Steering-test-v0"]


@settings(max_examples=20, deadline=None)
@given(
    actions=st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(lambda some: some[0] < 4),
    seed=st.integers(0, 2**31),
    row=st.integers(0, 5),
    bad=st.sampled_from([0.0, 0.4]),
)
def test_it_plays_as_the_course_does(actions, seed, row, bad):
    task, start = four_aims(bad=bad), STARTS[row]
    short = next((n for n, action in enumerate(actions) if action == 4), 3)
    env = SteeringEnv(task, STARTS, "uniform", second=0.25)
    seen = episode(env, actions[: short + 1], seed=seed, options={"start": start})
    played = play(task, [start], "uniform", Fixed(actions), [0], [seed])
    texts = [info["text"] for *_, info in seen]
    assert texts == played.texts[0][: len(texts)]
    np.testing.assert_allclose(
        np.cumsum([reward for _, reward, *_ in seen]), weighted(played.gained, 0.25)[: len(seen), 0], atol=1e-9
    )
    for (observation, *_), options in zip(seen[:-1], played.options, strict=False):
        np.testing.assert_array_equal(observation, options[0].features.astype(np.float32))
    assert [over for *_, over, _ in seen] == [False] * (len(seen) - 1) + [True]


def test_stop_costs_no_call_and_adds_nothing():
    task = four_aims()
    env = SteeringEnv(task, STARTS)
    seen = episode(env, [0, 4], seed=1)
    asked = len(task.rewrite.backend.asked)
    assert asked == 1
    assert seen[2][1] == 0.0 and seen[2][2] and seen[2][3]["text"] == seen[1][3]["text"]
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    assert not env.over


def test_what_is_seen_and_told():
    task = four_aims()
    env = SteeringEnv(task, STARTS)
    observation, info = env.reset(seed=3)
    (start,) = [start for start in STARTS if (start.user, start.item) == (info["user"], info["item"])]
    assert info["text"] == start.text and info["gained"] == 0.0 and info["problem"] == ""
    options = task.options(State(start, start.text), "optimistic")
    assert info["instructions"] == task.said(options.aims)
    observation, reward, *_, info = env.step(2)
    assert observation.shape == (5, len(FEATURES)) and observation[-1, FEATURES.index("stop")] == 1
    assert observation[:, FEATURES.index("left")] == pytest.approx(1 - 1 / task.horizon)
    gained = task.gained(start, [info["text"]])[:, 0]
    assert reward == pytest.approx(gained.mean()) == pytest.approx(info["gained"])


def test_an_unusable_answer_is_told_and_earns_nothing():
    seen = episode(SteeringEnv(four_aims(bad=1.0), STARTS), [0, 1, 2], seed=0)
    assert all(info["problem"] for *_, info in seen[1:])
    assert {info["text"] for *_, info in seen} == {seen[0][3]["text"]}
    assert [reward for _, reward, *_ in seen] == [0.0] * 4


def test_seeds_decide_start_and_rewrites():
    env = SteeringEnv(four_aims(), STARTS)
    one, again, other = (episode(env, [0, 1, 2], seed=seed) for seed in (5, 5, 6))
    assert [info for *_, info in one] == [info for *_, info in again]
    assert [info["text"] for *_, info in one] != [info["text"] for *_, info in other]
    users = {env.reset()[1]["item"] for _ in range(40)}
    assert len(users) == len(STARTS)


def test_the_judge_is_never_asked():
    episode(SteeringEnv(blind_judge(four_aims()), STARTS), [0, 1, 2], seed=0)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no starts"):
        SteeringEnv(fake_task(), [])
    with pytest.raises(ValueError, match="21 of 20 aims"):
        SteeringEnv(replace(fake_task(), k=21), STARTS)
    env = SteeringEnv(four_aims(), STARTS)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    for action in (-1, 5):
        with pytest.raises(ValueError, match="no option"):
            env.step(action)
