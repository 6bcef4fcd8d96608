"""Baselines in a small world without a model: equal calls, and outputs that are what they claim to be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_world import DIM, FakeBackend, encode, fake_starts, fake_world, place

from helpers.domains.domain import Domain
from helpers.domains.wording import CLOTHES
from helpers.eagle import baselines
from helpers.eagle.baselines import METHODS, Outcome, follow, follow_each, only_if_better, pick_best
from helpers.eagle.effects import Effects
from helpers.eagle.environment import run_episodes
from helpers.eagle.rewriting import Rewriter, read_answer, seed_of

BUDGET = 12  # four episodes of three steps
N_CANDIDATES = {"random": 4, "elm_like": BUDGET}
SEARCHES = ("greedy", "tree", "opro")


class WritingBackend(FakeBackend):
    """Answers all kinds of prompts: a free idea lies near the mean of the places that its prompt shows."""

    def __init__(self, noise: float = 0.3, bad: float = 0.0) -> None:
        super().__init__(noise, bad)
        self.asked: list = []

    def answer(self, prompt, seed: int) -> str:
        self.asked.append(prompt)
        task = prompt[-2][1]
        if "Instruction:" in task:
            return super().answer(prompt, seed)
        random = np.random.default_rng(seed)
        if random.random() < self.bad:
            return " Drama.\nI cannot."
        z = encode([task]).reshape(-1, DIM).mean(axis=0) + self.noise * random.normal(size=DIM)
        return place(z).removeprefix("Genres:")


def writing_world(bad: float = 0.0, noise: float = 0.3):
    """The small world with a domain whose items have the places of its map as plots."""
    world = fake_world(horizon=3)
    plots = [place(z).split("\n")[1] for z in world.space.items]
    rows = [("film", 2000.0, ["Drama"], plot, "tmdb") for plot in plots]
    items = pd.DataFrame(rows, columns=["title", "year", "genres", "plot_text", "plot_source"])
    ratings = pd.DataFrame({"user": [0], "item": [0], "rating": [3.0]})
    space = replace(world.space, domain=Domain("map", items, 4, ratings))
    return replace(world, space=space, rewrite=Rewriter(WritingBackend(noise, bad)), _cache={})


def utility_of(world, starts, texts: list[list[str]]) -> np.ndarray:
    return np.array([world.gap(s.user)(encode(own)).total for s, own in zip(starts, texts, strict=True)])


def start_utility(world, starts) -> np.ndarray:
    return utility_of(world, starts, [[start.text] for start in starts])


def same(one: Outcome, other: Outcome) -> bool:
    return one.texts == other.texts and np.allclose(one.z, other.z) and np.allclose(one.utility, other.utility)


# What holds for every method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", [3, BUDGET])
def test_every_method_costs_the_same_calls(name, budget):
    world, starts = writing_world(), fake_starts(5)
    outcome = METHODS[name](world, starts, budget, 0)
    assert outcome.calls == budget
    assert sum(world.rewrite.backend.batches) == budget * len(starts)


@pytest.mark.parametrize("name", METHODS)
def test_starts_run_side_by_side(name):
    world, starts = writing_world(), fake_starts(5)
    METHODS[name](world, starts, BUDGET, 0)
    assert len(world.rewrite.backend.batches) == (1 if name in ("greedy", "elm_like") else world.horizon)


@pytest.mark.parametrize("name", METHODS)
def test_shapes_and_utilities_belong_to_the_texts(name):
    world, starts = writing_world(), fake_starts(5)
    outcome, n = METHODS[name](world, starts, BUDGET, 0), N_CANDIDATES.get(name, 1)
    assert [len(candidates) for candidates in outcome.texts] == [n] * 5
    assert outcome.z.shape == (5, n, DIM) and outcome.utility.shape == (5, n)
    np.testing.assert_allclose(outcome.z, [encode(candidates) for candidates in outcome.texts])
    np.testing.assert_allclose(outcome.utility, utility_of(world, starts, outcome.texts))


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides_and_nothing_else(name):
    starts, state = fake_starts(4), np.random.get_state()[1].copy()  # noqa: NPY002
    first = METHODS[name](writing_world(), starts, BUDGET, 7)
    assert same(first, METHODS[name](writing_world(), starts, BUDGET, 7))
    assert first.texts != METHODS[name](writing_world(), starts, BUDGET, 8).texts
    alone = METHODS[name](writing_world(), starts[2:3], BUDGET, 7)
    assert alone.texts[0] == first.texts[2]  # not what runs beside it
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", [0, -3, 10, 2])
def test_budgets_that_cannot_be_equal_are_refused(name, budget):
    world = writing_world()
    with pytest.raises(ValueError, match="positive multiple of the horizon, 3"):
        METHODS[name](world, fake_starts(2), budget, 0)
    assert not world.rewrite.backend.batches


@pytest.mark.parametrize("name", METHODS)
def test_no_starts_are_refused(name):
    with pytest.raises(ValueError, match="at least one"):
        METHODS[name](writing_world(), [], BUDGET, 0)


@pytest.mark.parametrize("name", METHODS)
def test_unusable_answers_cost_calls_and_stop_nothing(name):
    world, starts = writing_world(bad=0.5), fake_starts(6)
    outcome = METHODS[name](world, starts, BUDGET, 0)
    assert sum(world.rewrite.backend.batches) == BUDGET * 6 and outcome.calls == BUDGET
    assert all(text.startswith("Genres: ") for candidates in outcome.texts for text in candidates)
    assert np.isfinite(outcome.utility).all()


@pytest.mark.parametrize("name", METHODS)
def test_when_every_answer_is_unusable_the_start_is_left(name):
    world, starts = writing_world(bad=1.0), fake_starts(3)
    outcome = METHODS[name](world, starts, BUDGET, 0)
    assert all(set(texts) == {start.text} for texts, start in zip(outcome.texts, starts, strict=True))
    assert outcome.calls == BUDGET and sum(world.rewrite.backend.batches) == BUDGET * 3


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_never_emits_the_start_when_it_found_anything_else(name):
    world, starts = writing_world(noise=1.0), fake_starts(40)
    outcome, before = METHODS[name](world, starts, 3, 0), start_utility(world, starts)
    assert all(texts != [start.text] for texts, start in zip(outcome.texts, starts, strict=True))
    assert (outcome.utility < before).any()  # here the start would have been the better choice


# Following -------------------------------------------------------------------------------------------------------


def test_policies_in_one_batch_emit_what_they_emit_alone():
    world, starts = fake_world(horizon=3), fake_starts(3)

    def always(action):
        return lambda seen, generators: np.full(len(generators), action)

    def at_random(seen, generators):
        return np.array([generator.integers(len(world.actions)) for generator in generators])

    policies = [always(0), at_random, always(1)]
    together = follow_each(world, starts, policies, 6, seed=3)
    alone = [follow(world, starts, policy, 6, seed=3) for policy in policies]
    assert [outcome.texts for outcome in together] == [outcome.texts for outcome in alone]
    assert len({str(outcome.texts) for outcome in together}) == 3
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.z, other.z)
        np.testing.assert_array_equal(one.utility, other.utility)
        assert one.calls == other.calls == 6


def test_follow_emits_the_ends_of_its_episodes():
    world, starts = writing_world(), fake_starts(3)

    def choose(observation, generators):
        return np.array([(observation.step + user) % 4 for user in observation.users])

    outcome = follow(world, starts, choose, 6, seed=3)
    for number, start in enumerate(starts):
        seeds = [seed_of(3, "follow", *start, i) for i in range(2)]
        episodes = run_episodes(world, [start, start], choose, seeds)
        assert outcome.texts[number] == episodes.texts[-1]
        np.testing.assert_allclose(outcome.utility[number], episodes.utility[-1])
    assert outcome.texts[0][0] != outcome.texts[0][1]


def test_random_actions_use_all_of_them():
    world = writing_world()
    METHODS["random"](world, fake_starts(8), BUDGET, 0)
    instructions = [prompt[-2][1].partition("Instruction: ")[2] for prompt in world.rewrite.backend.asked]
    generic = {action.template for action in world.actions if not action.personalised}
    counts = pd.Series(
        [instruction if instruction in generic else "personal" for instruction in instructions]
    ).value_counts(normalize=True)
    assert len(counts) == 4 and counts.between(0.12, 0.4).all()


def test_best_of_n_takes_the_best_of_the_same_episodes():
    starts = fake_starts(6)
    random = METHODS["random"](writing_world(), starts, BUDGET, 0)
    best = METHODS["best_of_n"](writing_world(), starts, BUDGET, 0)
    assert same(best, pick_best(random))
    np.testing.assert_allclose(best.utility[:, 0], random.utility.max(axis=1))
    assert (best.utility[:, 0] > random.utility.mean(axis=1)).all()
    assert all(one[0] in many for one, many in zip(best.texts, random.texts, strict=True))


# Searching -------------------------------------------------------------------------------------------------------


def answers_of(world) -> list[tuple[str, str, str]]:
    """(state, instruction) of every rewrite asked for, in order."""
    return [prompt[-2][1].partition("\n\nInstruction: ")[::2] for prompt in world.rewrite.backend.asked]


def test_greedy_takes_one_step_with_different_actions():
    world, starts = writing_world(), fake_starts(3)
    outcome = METHODS["greedy"](world, starts, 3, 0)
    asked = answers_of(world)
    for number, start in enumerate(starts):
        own = asked[3 * number : 3 * number + 3]
        assert {text for text, _ in own} == {start.text}
        assert len({instruction for _, instruction in own}) == 3
        seeds = [seed_of(0, "search", *start, 0, i) for i in range(3)]
        texts = writing_world().rewrite([start.text] * 3, [instruction for _, instruction in own], seeds).texts
        assert outcome.utility[number, 0] == pytest.approx(world.gap(start.user)(encode(texts)).total.max())


def test_more_rewrites_than_actions_use_each_once_before_any_twice():
    actions = baselines._different(fake_world(), [""] * 10, 0, seed=0)
    assert sorted(actions[:4]) == sorted(actions[4:8]) == [0, 1, 2, 3] and len(set(actions[8:])) == 2
    many = fake_world(actions=fake_world().actions * 25)
    assert len({tuple(baselines._different(many, [""] * 15, 0, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_tree_expands_its_best_leaves_and_keeps_the_best_of_all_depths(width):
    world, start, per_depth = writing_world(noise=1.0), fake_starts(1)[0], 4
    outcome = baselines.tree(world, [start], 12, 0, width=width)
    asked, parents, seen = answers_of(world), [start.text], {}
    for level in range(3):
        states, instructions = zip(*asked[level * per_depth : (level + 1) * per_depth], strict=True)
        assert list(states) == [parents[i % len(parents)] for i in range(per_depth)]
        seeds = [seed_of(0, "search", *start, level, i) for i in range(per_depth)]
        children = writing_world(noise=1.0).rewrite(states, instructions, seeds).texts
        utility = dict(zip(children, world.gap(start.user)(encode(children)).total, strict=True))
        parents = sorted(utility, key=utility.get, reverse=True)[:width]
        seen |= utility
    assert outcome.texts == [[max(seen, key=seen.get)]]


class Moves(Effects):
    """Expected displacements that every text and user share."""

    def __init__(self, table) -> None:
        object.__setattr__(self, "table", np.asarray(table, dtype=float))  # of a frozen class

    def displacement(self, z, user: int) -> np.ndarray:
        return self.table


def test_a_tree_draws_from_the_design_on_each_text():
    """Two actions do next to nothing: a G-optimal design has no use for them."""
    world, starts = writing_world(), fake_starts(6)
    moves = Moves([[1, 0, 0], [1e-3, 0, 0], [0, 1, 0], [0, 1e-3, 0]])
    outcome = baselines.tree(world, starts, 12, 0, effects=moves)
    asked = answers_of(world)
    instructions = [world.instructions(start.user) for start in starts for _ in range(4)]
    drawn = [instructions[i % 24].index(instruction) for i, (_, instruction) in enumerate(asked)]
    assert set(drawn) == {0, 2}
    assert same(outcome, baselines.tree(writing_world(), starts, 12, 0, effects=moves))
    assert not same(outcome, baselines.tree(writing_world(), starts, 12, 1, effects=moves))


def test_a_design_with_enough_actions_gives_none_twice_to_one_text():
    world = fake_world()
    moves = Moves(np.eye(4)[:, :3] + 0.1)
    for seed in range(20):
        actions = baselines._designed(world, ["Genres: Drama.\nThe x1.0 y1.0 z1.0 house."] * 3, 0, seed, moves)
        assert len(set(actions)) == 3


def test_leaves_are_the_texts_of_the_last_depth():
    world, starts = writing_world(noise=1.0), fake_starts(12)
    outcome = baselines.tree(world, starts, 12, 0, leaves=True)
    asked = answers_of(world)
    for number, ((text,), start) in enumerate(zip(outcome.texts, starts, strict=True)):
        rows = slice(2 * 48 + number * 4, 2 * 48 + number * 4 + 4)
        states, instructions = zip(*asked[rows], strict=True)
        seeds = [seed_of(0, "search", *start, 2, i) for i in range(4)]
        assert text in writing_world(noise=1.0).rewrite(states, instructions, seeds).texts
    assert not same(outcome, baselines.tree(writing_world(noise=1.0), starts, 12, 0))


@pytest.mark.parametrize("method", [baselines.opro, baselines.elm_like])
def test_methods_with_words_of_their_own_are_for_movies(method):
    world = writing_world()
    clothes = replace(world, rewrite=replace(world.rewrite, wording=CLOTHES), _cache={})
    with pytest.raises(ValueError, match="asks for movies in its own words: use tree"):
        method(clothes, fake_starts(1), BUDGET, 0)


def test_the_best_leaf_may_stand_at_any_depth():
    """Instructions that lead away from what the user likes: the first step is the least bad."""
    world, starts = writing_world(noise=1.0), fake_starts(24)
    outcome, depths = baselines.tree(world, starts, 12, 0), []
    asked = [state for state, _ in answers_of(world)]
    for number, ((text,), start) in enumerate(zip(outcome.texts, starts, strict=True)):
        states = [set(asked[level * 96 + number * 4 : level * 96 + number * 4 + 4]) for level in range(3)]
        assert states[0] == {start.text}
        depths.append(next((level for level in (1, 2) if text in states[level]), 3))
    assert set(depths) > {3}


def test_opro_shows_the_best_ideas_so_far_with_their_scores():
    world, start = writing_world(), fake_starts(1)[0]
    outcome = baselines.opro(world, [start], BUDGET, 0, shown=2)
    utility = {start.text: float(start_utility(world, [start])[0, 0])}
    asked = world.rewrite.backend.asked
    for number in range(3):
        prompts = asked[4 * number : 4 * number + 4]
        best = sorted(utility, key=utility.get, reverse=True)[:2]
        expected = baselines.opro_prompt(world.profile(start.user), {text: utility[text] for text in best})
        assert set(prompts) == {expected}
        seeds = [seed_of(seed_of(0, "opro", number), *start, i) for i in range(4)]
        texts = [read_answer(WritingBackend(0.3).answer(expected, seed))[0] for seed in seeds]
        utility |= dict(zip(texts, world.gap(start.user)(encode(texts)).total.tolist(), strict=True))
    del utility[start.text]
    assert outcome.texts == [[max(utility, key=utility.get)]]


def test_the_opro_prompt_reads_as_it_should():
    profile = fake_world().profile(1)
    (_, system), *_, (_, task), prefill = baselines.opro_prompt(profile, {"best\none": 4.0, "worst\none": 1.0})
    assert "higher" in system and prefill == ("assistant", "Genres:")
    assert str(profile) in task and task.index("worst\none\nScore: 20") < task.index("best\none\nScore: 80")


@pytest.mark.parametrize("answer", [baselines.OPRO_EXAMPLE[2], baselines.BLEND_EXAMPLE[1]])
def test_worked_examples_are_in_the_form_that_is_asked_for(answer):
    assert read_answer(answer.removeprefix("Genres:")) == (answer, "")


# The optimum in the embedding space --------------------------------------------------------------------------------


def test_the_optimum_is_reachable_and_better():
    world = writing_world()
    for start in fake_starts(24):
        z, target = encode([start.text])[0], baselines.optimum(world, start)
        ways = world.space.items - z
        lengths = np.linalg.norm(ways, axis=1)
        assert np.linalg.norm(target - z) <= np.median(lengths) * (1 + 1e-6)
        cosines = ways @ (target - z) / lengths / np.linalg.norm(target - z)
        assert cosines.max() == pytest.approx(1)  # on a segment to an item
        points = [z + step / 10 * way for way in ways for step in range(1, 11)]
        reachable = np.array([p for p in points if np.linalg.norm(p - z) <= np.median(lengths) * (1 + 1e-9)])
        assert world.gap(start.user)(target).total[0] == pytest.approx(world.gap(start.user)(reachable).total.max())


def test_the_optimum_may_be_an_item_at_just_the_median_distance(unchecked):
    start = fake_starts(1)[0]
    z = encode([start.text])[0]
    way = np.eye(z.size)[0]
    space = replace(writing_world().space, items=z + np.array([[0.1], [0.2], [0.3], [0.7], [0.8]]) * way)
    world = SimpleNamespace(space=space, gap=lambda user: lambda points: SimpleNamespace(total=points @ way))
    np.testing.assert_allclose(baselines.optimum(world, start), z + 0.3 * way)


def test_the_nearest_items_are_shown_but_not_the_starts_own():
    world, start = writing_world(), fake_starts(6)[5]
    z = world.space.items[5]
    order = np.argsort(np.linalg.norm(world.space.items - z, axis=1))
    assert order[0] == 5  # its own item is nearest
    shown = baselines.neighbours(world, start, z)
    np.testing.assert_allclose(encode(shown), world.space.items[order[1:4]], atol=1e-3)


def test_items_without_a_usable_plot_are_not_shown():
    world, start = writing_world(), fake_starts(1)[0]
    world.space.domain.items.loc[[3, 4, 5], "plot_text"] = ""
    world.space.domain.items.loc[[6, 7], "plot_text"] = "Too short."
    space = replace(world.space, items=world.space.items[world.space.domain.text_items])
    world = replace(world, space=space, _cache={})
    full = writing_world().space.items
    usable = np.setdiff1d(np.arange(20), [3, 4, 5, 6, 7, start.item])
    for z in full:
        order = usable[np.argsort(np.linalg.norm(full[usable] - z, axis=1))]
        np.testing.assert_allclose(encode(baselines.neighbours(world, start, z)), full[order[:3]], atol=1e-3)


def test_elm_emits_all_its_ideas_and_pick_best_the_best():
    world, starts = writing_world(), fake_starts(3)
    outcome = METHODS["elm_like"](world, starts, BUDGET, 0)
    for number, start in enumerate(starts):
        prompt = baselines.blend_prompt(baselines.neighbours(world, start, baselines.optimum(world, start)))
        assert set(world.rewrite.backend.asked[BUDGET * number : BUDGET * (number + 1)]) == {prompt}
        assert len(set(outcome.texts[number])) == BUDGET
    assert pick_best(outcome).calls == BUDGET


# Only if better ----------------------------------------------------------------------------------------------------


def test_only_if_better_keeps_what_is_better_and_else_the_start():
    world, starts = writing_world(), fake_starts(8)
    outcome, before = METHODS["random"](world, starts, BUDGET, 0), start_utility(world, starts)
    kept, better = only_if_better(world, starts, outcome), outcome.utility > before
    assert 0 < better.sum() < better.size and kept.calls == BUDGET
    np.testing.assert_allclose(kept.utility, np.maximum(outcome.utility, before))
    np.testing.assert_allclose(kept.z, [encode(texts) for texts in kept.texts])
    texts = np.array(kept.texts)
    assert (texts[better] == np.array(outcome.texts)[better]).all()
    assert all(set(row[~good]) <= {start.text} for row, good, start in zip(texts, better, starts, strict=True))
