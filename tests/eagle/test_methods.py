"""Methods of the comparison: as many calls as agreed, what is emitted, and that a search looks where it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_steering import LABELS, fake_task, task_starts

from helpers.eagle import methods
from helpers.eagle.agent import OptionPolicy, fit_offline, label_rows
from helpers.eagle.aims import Aim
from helpers.eagle.emission import Visited
from helpers.eagle.steering import State
from helpers.eagle.trajectories import StatePolicy

POLICY = OptionPolicy(temperature=1.0)
METHODS = {
    "random_aims": methods.random_aims,
    "promising": methods.promising,
    "borrowed": lambda *a: methods.promising(*a, kind="borrowed"),
    "reference": lambda *a: methods.followed(*a, None, "goptimal"),
    "agent": lambda *a: methods.followed(*a, POLICY, "optimistic"),
    "guided": lambda *a: methods.guided(*a, POLICY),
}


def fitted() -> OptionPolicy:
    rows = label_rows(fake_task(), task_starts(8), promising=4, random=6, deeper=2)
    return fit_offline(rows, rows.gain[:, 0])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("calls", [8, 12])
def test_every_method_visits_as_many_texts_as_it_may_make_calls(name, calls):
    task, starts = fake_task(borrowed=20), task_starts(5)
    found = METHODS[name](task, starts, calls, 0)
    assert isinstance(found, Visited) and [len(texts) for texts in found.texts] == [calls] * 5
    asked = len(task.rewrite.backend.asked)
    assert calls * 5 <= asked <= calls * 5 + (20 if name in ("reference", "agent") else 0)  # an episode that is cut off


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_the_same_again_and_something_else_with_another_seed(name):
    starts = task_starts(4)
    first, again, other = (METHODS[name](fake_task(borrowed=20), starts, 8, seed).texts for seed in (0, 0, 1))
    assert first == again != other


def said(task) -> list[str]:
    return [instruction for _, instruction, _ in task.rewrite.backend.asked]


def test_the_promising_aims_are_those_of_highest_promise():
    task, start = fake_task(), task_starts(3)[2]
    methods.promising(task, [start], 4, 0)
    features = task.table(State(start, start.text)).features
    best = task.aims[features[:, :2].sum(axis=1).argmax()]
    assert said(task)[0] == best.instruction(task.rewrite.wording)
    assert len(set(said(task))) == 4


def test_few_calls_are_the_first_ones_of_many():
    aims = tuple(Aim((LABELS[i % 5],), f"story {i}", (i % 20,)) for i in range(60))  # each label twelve times
    task = replace(fake_task(), aims=aims)
    asked = {calls: methods.promising(task, task_starts(2), calls, 0).texts for calls in (5, 10, 19, 60)}
    assert len(set(said(task))) == 60
    for calls, texts in asked.items():
        assert texts == [of_start[:calls] for of_start in asked[60]]


def test_a_method_keeps_to_the_kind_of_aims_that_it_is_asked_for():
    for kind, first in (("named", "Move it"), ("borrowed", "Borrow")):
        for method in (methods.promising, methods.random_aims):
            task = fake_task(borrowed=20)
            method(task, task_starts(2), 4, 0, kind=kind)
            assert {text.startswith(first) for text in said(task)} == {True}


def test_an_episode_is_emitted_at_its_end():
    found = methods.followed(fake_task(horizon=4), task_starts(3), 8, 0, None, "uniform")
    assert found.emitted.tolist() == [[False, False, False, True] * 2] * 3
    with pytest.raises(ValueError, match="2 calls for episodes of up to 4 steps"):
        methods.followed(fake_task(horizon=4), task_starts(3), 2, 0, None, "uniform")
    cut = methods.followed(fake_task(horizon=3), task_starts(3), 8, 0, None, "uniform")
    assert cut.emitted.tolist() == [[False, False, True, False, False, True, False, False]] * 3


def test_policies_that_are_followed_side_by_side_do_not_see_each_other():
    policies = [OptionPolicy(temperature=1.0), fitted()]
    both = methods.followed_each(fake_task(), task_starts(4), 8, [1, 2], policies, "optimistic")
    for seed, policy, found in zip((1, 2), policies, both, strict=True):
        alone = methods.followed(fake_task(), task_starts(4), 8, seed, policy, "optimistic")
        assert alone.texts == found.texts and (alone.emitted == found.emitted).all()


class StopsAtOnce(StatePolicy):
    """Ends the episodes of some starts after one step, and never those of the others."""

    def __init__(self, hasty):
        super().__init__()
        self.hasty = hasty

    def scores(self, states, options):
        found = torch.zeros(len(states), len(options[0].features))
        found[:, -1] = torch.tensor([50.0 if state.start in self.hasty else -50.0 for state in states])
        return found


def test_a_start_whose_calls_are_spent_makes_no_more_and_sees_nothing_of_the_others():
    starts = task_starts(4)
    policies = [StopsAtOnce(starts[:1]), StopsAtOnce(starts[2:])]
    task = fake_task(horizon=4)
    both = methods.followed_each(task, starts, 8, [1, 2], policies, "optimistic")
    assert len(task.rewrite.backend.asked) <= 8 * 4 * 2 + 3 * 3  # the last episode of a hasty start may be cut off
    for seed, policy, found in zip((1, 2), policies, both, strict=True):
        for number, start in enumerate(starts):
            alone = methods.followed(fake_task(horizon=4), [start], 8, seed, policy, "optimistic")
            assert alone.texts[0] == found.texts[number]
            assert alone.emitted[0].tolist() == found.emitted[number].tolist()
            hasty = [True, True] + [False] * 6
            assert alone.emitted[0].tolist() == (hasty if start in policy.hasty else [False, False, False, True] * 2)


def test_a_guided_search_asks_for_what_its_policy_values_most():
    task, start = fake_task(), task_starts(4)[3]
    policy = fitted()
    methods.guided(task, [start], 8, 0, policy, rounds=2, second=0.0)
    state = State(start, start.text)
    worth = methods.worth(task, policy, state, task.table(state))
    assert said(task)[0] == task.aims[worth.argmax()].instruction(task.rewrite.wording)
    asked = task.rewrite.backend.asked
    assert {text for text, *_ in asked[:4]} == {start.text}
    assert any(text != start.text for text, *_ in asked[4:])
    assert len({(text, instruction) for text, instruction, _ in asked}) == 8


def test_a_guided_search_emits_its_last_round():
    found = methods.guided(fake_task(), task_starts(3), 9, 0, POLICY, rounds=2)
    assert found.emitted.tolist() == [[False] * 5 + [True] * 4] * 3 and found.planned


def test_a_guided_search_works_on_the_better_of_its_results():
    task, starts = fake_task(), task_starts(6)
    found = methods.guided(task, starts, 12, 0, OptionPolicy(), rounds=2, second=0.0)
    asked = task.rewrite.backend.asked[36:]
    for number, start in enumerate(starts):
        paid = dict(zip(found.texts[number][:6], task.gained(start, found.texts[number][:6])[0], strict=True))
        parents = [text for text, *_ in asked[6 * number : 6 * number + 6]]
        gained = {**paid, start.text: 0.0}
        assert np.mean([gained[text] for text in parents]) > np.mean(list(gained.values()))
        assert max(paid, key=paid.get) in parents or max(paid.values()) < 0


def test_short_episodes_are_not_emitted_more_often_than_they_are_played():
    short = OptionPolicy(temperature=10.0)  # stops now and then
    found = methods.followed(fake_task(), task_starts(12), 12, 0, short, "uniform")
    assert found.emitted.sum(axis=1).tolist() == [4] * 12 and not found.emitted[:, -1].all()


def test_the_second_encoder_has_its_say_in_a_search():
    task, starts = fake_task(), task_starts(8)
    texts = {
        second: methods.guided(fake_task(), starts, 12, 0, None, rounds=2, second=second).texts for second in (0.0, 1.0)
    }
    best = {second: [max(task.gained(s, some)[0]) for s, some in zip(starts, texts[second], strict=True)]
            for second in texts}  # fmt: skip
    assert texts[0.0] != texts[1.0] and np.mean(best[0.0]) > np.mean(best[1.0])
    alone, both = (methods.promising(task, starts, 5, 0, both=both).texts for both in (False, True))
    assert alone != both


def test_a_search_without_a_policy_follows_the_promise():
    task, start = fake_task(), task_starts(4)[3]
    methods.guided(task, [start], 8, 0, None, rounds=2, second=0.0)
    promised = task.table(State(start, start.text)).features[:, :4].sum(axis=1)
    assert said(task)[0] == task.aims[promised.argmax()].instruction(task.rewrite.wording)
    with pytest.raises(ValueError, match="1 calls in 5 rounds"):
        methods.guided(task, [start], 1, 0, None)


def test_a_guided_search_is_no_deeper_than_an_episode():
    task = fake_task(horizon=1)
    methods.guided(task, task_starts(2), 9, 0, POLICY, rounds=3)
    assert {text for text, *_ in task.rewrite.backend.asked} == {start.text for start in task_starts(2)}


def test_searches_side_by_side_are_those_one_after_the_other():
    policies, starts = [fitted(), OptionPolicy(), None], task_starts(4)
    alone = [methods.guided(fake_task(), starts, 10, 3, policy).texts for policy in policies]
    together = methods.guided_each(fake_task(), starts, 10, 3, policies)
    assert [found.texts for found in together] == alone and alone[0] != alone[2]
