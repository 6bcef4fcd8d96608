"""Episodes with a STOP: what a step does, what it costs, and that episodes do not depend on their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts

from helpers.eagle.emission import gains
from helpers.eagle.steering import FEATURES, State
from helpers.eagle.trajectories import StatePolicy, Trajectories, play


class Fixed(StatePolicy):
    """Chooses by a rule for the weights of aims and STOP at a step."""

    def __init__(self, weights) -> None:
        super().__init__()
        self.weights = weights

    def scores(self, states, options) -> torch.Tensor:
        rows = [[*[self.weights(state.step)[0]] * len(o.aims), self.weights(state.step)[1]]
                for state, o in zip(states, options, strict=True)]  # fmt: skip
        return torch.tensor(rows, dtype=torch.float32).log()


EVENLY = Fixed(lambda step: (1.0, 1.0))
STOPS_AFTER_ONE = Fixed(lambda step: (0.0, 1.0) if step else (1.0, 0.0))


class First(StatePolicy):
    """Always the first aim."""

    def scores(self, states, options) -> torch.Tensor:
        return torch.eye(len(options[0].features))[:1].repeat(len(states), 1).log()


def played(policy=EVENLY, n: int = 12, task=None) -> Trajectories:
    return play(task or fake_task(), task_starts(n), "uniform", policy, range(n))


def test_shapes_and_starts():
    found = played(None)
    assert found.chosen.shape == (3, 12) and found.gained.shape == (2, 4, 12)
    assert found.options[2][7].features.shape == (11, len(FEATURES))
    assert all(state == State(start, start.text) for state, start in zip(found.states[0], found.starts, strict=True))
    assert [state.text for state in found.states[2]] == [texts[2] for texts in found.texts]
    assert all(len(state.asked) == state.step == 2 for state in found.states[2])
    assert [len(texts) for texts in found.texts] == [4] * 12
    assert [texts[0] for texts in found.texts] == [start.text for start in found.starts]
    assert found.running.all() and found.calls.tolist() == [3] * 12 and not found.gained[:, 0].any()


def test_gains_are_those_of_the_texts():
    task = fake_task()
    found = played(None, task=task)
    texts = [row[1:] for row in found.texts]
    for number, space in enumerate(task.spaces):
        np.testing.assert_allclose(found.gained[number, 1:].T, gains(space, found.starts, texts).total, atol=1e-9)


def test_a_stopped_episode_costs_nothing_and_keeps_its_text():
    task = fake_task()
    found = played(STOPS_AFTER_ONE, task=task)
    assert found.calls.tolist() == [1] * 12 and len(task.rewrite.backend.asked) == 12
    assert found.running.tolist() == [[True] * 12, [True] * 12, [False] * 12]
    assert all(texts[1] == texts[2] == texts[3] != texts[0] for texts in found.texts)
    assert (found.chosen[1] == 10).all()


def test_an_episode_does_not_depend_on_its_neighbours():
    all_of_them, alone = played(), play(fake_task(), task_starts(12)[4:5], "uniform", EVENLY, [4])
    assert alone.texts[0] == all_of_them.texts[4] and alone.calls[0] == all_of_them.calls[4]


def test_options_are_drawn_as_often_as_their_probability_says():
    found = played(Fixed(lambda step: (0.5, 5.0)), n=20)
    assert 0.2 < (found.chosen[1] == 10).mean() < 0.8  # half of the weight on STOP
    assert len(set(found.chosen[0].tolist())) > 3


def test_in_the_same_world_the_same_question_has_the_same_answer():
    for worlds, expected in (([0, 1] * 3, 2), (range(6), 6), (None, 6)):
        found = play(fake_task(horizon=1), task_starts(1) * 6, "optimistic", First(), range(6), worlds)
        assert len({texts[-1] for texts in found.texts}) == expected


def test_unusable_answers_leave_the_text_and_cost_their_call():
    found = played(None, task=fake_task(bad=1.0))
    assert {len(set(texts)) for texts in found.texts} == {1}
    assert found.calls.tolist() == [3] * 12  # an answer that cannot be used has its price
    assert {len(set(texts)) for texts in played(None).texts} == {4}


def test_no_policy_can_stop_before_the_first_step():
    found = played(Fixed(lambda step: (1e-6, 1.0)))
    assert found.calls.tolist() == [1] * 12


def test_one_seed_for_each_start():
    with pytest.raises(ValueError, match="2 starts and 1 seeds"):
        play(fake_task(), task_starts(2), "uniform", EVENLY, [0])
