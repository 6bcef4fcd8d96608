"""Rivals: as many calls as agreed, what is emitted, and that each searches as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_steering import fake_task, task_starts
from fake_world import PROFILES, encode

from helpers.domains.wording import CLOTHES, MOVIES, PRODUCTS
from helpers.eagle import idea_prompts, rewriting, rivals
from helpers.eagle.actions import instantiate
from helpers.eagle.banks import BANK, CATEGORIES, CLOTHING_BANK, Action
from helpers.eagle.emission import Visited
from helpers.eagle.rewriting import Start
from helpers.eagle.utility import ContentGap, best_in_reach

RIVALS = {
    "neutral": rivals.neutral,
    "templates": rivals.templates,
    "random_edits": rivals.random_edits,
    "neutral_edits": rivals.neutral_edits,
    "tree": rivals.tree_search,
    "proposed": rivals.proposed,
    "opro": rivals.opro_search,
    "elm_like": rivals.elm_search,
}
EDITS = {name: rivals_ for name, rivals_ in RIVALS.items() if name not in ("opro", "elm_like")}


@pytest.fixture(autouse=True)
def small_map(monkeypatch):
    """The small map has no genres to start from."""
    texts = fake_task().encoders.paid.domain.items["plot_text"]
    monkeypatch.setattr(rewriting, "start_of", lambda domain, item, user: Start(texts[item], user, int(item)))
    monkeypatch.setattr(rivals, "propose", lambda backend, category, texts, n, **_: proposals_of(category, n))


def proposals_of(category: str, n: int) -> list[Action]:
    """n proposals, of which the last one is no instruction."""
    words = ["tea", "rain", "a horse", "a letter", "a storm"][: n - 1]
    return [
        *(Action(f"Add {word} to the {category}.", category, False) for word in words),
        Action("Tea", category, False),
    ]


class Writes:
    """In place of `generate`: the n-th answer of a call is the n-th place on a line."""

    def __init__(self, monkeypatch) -> None:
        self.prompts = []
        monkeypatch.setattr(idea_prompts, "generate", self)

    def __call__(self, backend, prompts, sampling, seeds, memo, progress) -> list[str]:
        self.prompts += prompts
        assert len(set(seeds)) == len(prompts)
        return [
            f" Drama.\nThe old house stands at x{n / 10:.3f} y0.100 z0.200 on the map." for n in range(len(prompts))
        ]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("calls", [8, 12])
def test_every_rival_visits_as_many_texts_as_it_may_make_calls(name, calls, monkeypatch):
    writes, task, starts = Writes(monkeypatch), fake_task(borrowed=20), task_starts(5)
    found = RIVALS[name](task, starts, calls, 0)
    assert isinstance(found, Visited) and [len(texts) for texts in found.texts] == [calls] * 5
    asked = len(task.rewrite.backend.asked) + len(writes.prompts)
    assert asked == (45 if name.endswith("_edits") and calls == 8 else calls * 5)  # an episode is played to its end


@pytest.mark.parametrize("name", EDITS)
def test_a_rival_does_the_same_again_and_something_else_with_another_seed(name):
    first, again, other = (RIVALS[name](fake_task(), task_starts(4), 8, seed).texts for seed in (0, 0, 1))
    assert first == again != other


def said(task) -> list[str]:
    return [instruction for _, instruction, _ in task.rewrite.backend.asked]


def dressed(task):
    """The task with the words of clothes."""
    return replace(task, rewrite=replace(task.rewrite, wording=CLOTHES))


def test_every_domain_has_its_own_words():
    for rival, known in (
        (rivals.neutral, set(rivals.NEUTRAL_FOR_ITEMS)),
        (rivals.neutral_edits, set(rivals.NEUTRAL_FOR_ITEMS)),
        (rivals.templates, {text for profile in PROFILES for text in instantiate(CLOTHING_BANK, profile)}),
    ):
        task = dressed(fake_task())
        rival(task, task_starts(4), 8, 0)
        assert set(said(task)) <= known, rival.__name__
    assert not any("story" in text for text in rivals.NEUTRAL_FOR_ITEMS)
    assert rivals.neutral_for(MOVIES) == rivals.NEUTRAL and rivals.bank_for(MOVIES) == BANK
    with pytest.raises(ValueError, match="no bank of instructions for texts that open with 'Kind'"):
        rivals.bank_for(PRODUCTS)


def test_the_control_only_rephrases():
    task, starts = fake_task(), task_starts(2)
    assert rivals.neutral(task, starts, 8, 0).emitted.all()
    assert set(said(task)) == set(rivals.NEUTRAL)
    assert {text for text, *_ in task.rewrite.backend.asked} == {start.text for start in starts}


def test_the_control_of_several_steps_only_rephrases_again_and_again():
    task = fake_task(horizon=3)
    found = rivals.neutral_edits(task, task_starts(2), 6, 0)
    assert set(said(task)) == set(rivals.NEUTRAL) and found.emitted.tolist() == [[False, False, True] * 2] * 2
    assert found.texts[0][0] in {text for text, *_ in task.rewrite.backend.asked}
    assert rivals.neutral_edits(task, task_starts(2), 3, 0).emitted.tolist() == [[False, False, True]] * 2
    with pytest.raises(ValueError, match="2 calls for episodes of 3 steps"):
        rivals.neutral_edits(task, task_starts(2), 2, 0)


def test_nothing_is_made_up_when_there_are_too_few():
    with pytest.raises(ValueError, match="101 different instructions from a bank of 100"):
        rivals.templates(fake_task(), task_starts(1), 101)
    with pytest.raises(ValueError, match="one instruction or more"):
        rivals.once(fake_task(), task_starts(2), [["Add tea."], []], 0)


def test_templates_of_a_bank_that_is_given():
    task, bank = fake_task(), BANK[3:9]
    rivals.templates(task, task_starts(2), 6, bank=bank)
    possible = {text for profile in PROFILES for text in instantiate(bank, profile)}
    assert set(said(task)) <= possible and len(set(said(task))) >= 6
    with pytest.raises(ValueError, match="7 different instructions from a bank of 6"):
        rivals.templates(task, task_starts(2), 7, bank=bank)


def test_templates_are_different_ones_of_the_bank():
    task, starts = fake_task(), task_starts(3)
    rivals.templates(task, starts, 12, 0)
    bare = {action.template for action in BANK if not action.personalised}
    for row in range(3):
        some = said(task)[12 * row : 12 * row + 12]
        assert len(set(some)) == 12 and 2 <= len(set(some) & bare) <= 10  # half of the bank is personal


def test_random_episodes_are_emitted_at_their_ends():
    task = fake_task(horizon=3)
    found = rivals.random_edits(task, task_starts(2), 8, 0)
    assert found.emitted.tolist() == [[False, False, True, False, False, True, False, False]] * 2
    asked = task.rewrite.backend.asked
    assert [text for text, *_ in asked[6:12]] == [row[i] for row in found.texts for i in (0, 3, 6)]


def test_a_tree_goes_on_from_its_best_texts():
    task, start = fake_task(), task_starts(1)[0]
    found = rivals.tree_search(task, [start], 8, 0)
    both = task.gained(start, found.texts[0][:4]).sum(axis=0)
    best = [found.texts[0][i] for i in np.argsort(-both)[:2]]
    assert [text for text, *_ in task.rewrite.backend.asked[4:]] == [best[0], best[1]] * 2
    assert found.emitted.tolist() == [[False] * 4 + [True] * 4]
    odd = rivals.tree_search(fake_task(), [start], 11)
    assert len(odd.texts[0]) == 11 and odd.emitted.tolist() == [[False] * 6 + [True] * 5]


def test_a_tree_that_prunes_nothing_is_refused():
    with pytest.raises(ValueError, match="ask for 8 calls or more"):
        rivals.tree_search(fake_task(), task_starts(1), 6)


def test_without_ideas_there_is_nothing_to_blend(monkeypatch):
    Writes(monkeypatch)
    with pytest.raises(ValueError, match=r"no ideas to show: give it those of aims\.borrowing_aims"):
        rivals.elm_search(fake_task(), task_starts(1), 3, 0)


def test_proposals_are_filtered_and_used_in_turn(monkeypatch):
    task, starts = fake_task(), task_starts(2)
    kept, share = rivals.proposals(task, starts, tries=4)
    assert share == 0.75 and [len(some) for some in kept] == [3 * len(CATEGORIES)] * 2
    rivals.proposed(task, starts, 17, 0, tries=4)
    assert said(task)[:17] == [*kept[0], *kept[0][:2]]
    monkeypatch.setattr(rivals, "propose", lambda *_, **__: [Action("Tea", "plot", False)])
    assert rivals.proposals(task, starts, tries=1) == ([[rivals.NEUTRAL[0]]] * 2, 0.0)


def test_opro_shows_the_best_so_far_with_their_scores(monkeypatch):
    writes, task, start = Writes(monkeypatch), fake_task(), task_starts(1)[0]
    found = rivals.opro_search(task, [start], 10, 0)
    assert start.text in writes.prompts[0][-2][1] and writes.prompts[0][-2][1].count("Score:") == 1
    own = task.gaps(start)[0](encode([start.text])).total[0]
    utility = own + task.gained(start, found.texts[0][:5]).sum(axis=0) / 2
    best = found.texts[0][utility.argmax()]
    shown = writes.prompts[5][-2][1]
    assert shown.count("Score:") == 3 and f"{best}\nScore: {20 * utility.max():.0f}" in shown
    assert found.emitted.tolist() == [[False] * 5 + [True] * 5]


def test_the_best_point_in_reach_is_no_farther_than_half_of_the_items():
    random = np.random.default_rng(0)
    gap = ContentGap(random.normal(size=(9, 3)), random.normal(size=3), 3.5)
    for z in random.normal(size=(20, 3)):
        goal, lengths = best_in_reach(gap, z, gap.items), np.linalg.norm(gap.items - z, axis=1)
        assert np.linalg.norm(goal - z) <= np.median(lengths) * (1 + 1e-6)
        near = z + np.linspace(0.1, 1, 10)[:, None, None] * (gap.items - z)
        inside = near[np.linalg.norm(near - z, axis=-1) <= np.median(lengths)]
        assert gap(goal).total[0] == pytest.approx(gap(inside).total.max())


def test_elm_shows_the_items_nearest_to_the_optimum_and_not_its_own(monkeypatch):
    writes, task, start = Writes(monkeypatch), fake_task(borrowed=20), task_starts(4)[3]
    found = rivals.elm_search(task, [start], 3, 0)
    assert set(found.texts[0]) == {start.text}  # the plots of the map have nearly the same words: copies
    gap, space = task.gaps(start)[0], task.encoders.paid
    goal = best_in_reach(gap, encode([start.text])[0], space.items)
    order = np.argsort(np.linalg.norm(space.items - goal, axis=1))
    texts = space.domain.items["plot_text"].to_numpy()[space.domain.text_items]
    expected = [texts[i] for i in order if space.domain.text_items[i] != start.item][:3]
    assert {prompt[-2][1] for prompt in writes.prompts} == {"\n\n".join(expected)}
