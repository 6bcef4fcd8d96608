"""Scores, intervals, the judge and the paper's table, without a language model."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from fake_world import PROFILES, FakeBackend, encode, fake_starts, fake_world

from helpers.eagle import evaluation
from helpers.eagle.baselines import Outcome, only_if_better, random_actions
from helpers.eagle.evaluation import (
    PAPER_TABLE_2,
    PAPER_TABLE_8,
    beside_paper,
    judge_pair,
    judge_pairs,
    judge_prompt,
    score,
    with_rewriter,
)
from helpers.eagle.rewriting import Rewriter
from helpers.eagle.utility import ContentGap
from helpers.embedding.encoder import Encoder
from helpers.embedding.space import EmbeddingSpace
from helpers.language.models import LoadedModel
from helpers.language.prompts import Backend
from helpers.language.texts import repetition

LM = LoadedModel(None, None)  # never asked: the fake perplexity stands in its place

# Scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> list:
    """Stands in for the perplexity of a language model: the length of the text; keeps what was asked."""
    calls = []

    def fake(lm, texts, given):
        calls.append((lm, list(texts), list(given)))
        return np.array([float(len(text)) for text in texts])

    monkeypatch.setattr(evaluation, "perplexity", fake)
    return calls


def opposite(world) -> EmbeddingSpace:
    """A second encoder of the same space that sees everything mirrored."""
    space = world.space
    return EmbeddingSpace(space.domain, space.model, Encoder(encode, lambda z: -z), -space.items)


def scored(n: int = 4, budget: int = 6):
    world, starts = fake_world(), fake_starts(n)
    outcome = random_actions(world, starts, budget, 0)
    return world, starts, outcome


def by_hand(space, starts, texts, part: str = "total") -> np.ndarray:
    """Utility (or a part of it) of each candidate, one by one."""
    return np.array(
        [
            [getattr(ContentGap.of_user(space, start.user)(space.encoder([text])), part)[0] for text in candidates]
            for start, candidates in zip(starts, texts, strict=True)
        ]
    )


def test_scores_are_means_over_candidates(asked):
    world, starts, outcome = scored()
    replaced = [[starts[0].text, outcome.texts[0][1]], *outcome.texts[1:]]
    outcome = Outcome(replaced, np.array([encode(t) for t in replaced]), by_hand(world.space, starts, replaced), 6)
    held_out, own = opposite(world), [[start.text] for start in starts]
    scores = score(world, held_out, starts, outcome, LM)
    assert all(getattr(scores, field.name).shape == (4,) for field in fields(scores))
    for prefix, space in (("", world.space), ("held_out_", held_out)):
        after, before = by_hand(space, starts, outcome.texts).mean(axis=1), by_hand(space, starts, own)[:, 0]
        np.testing.assert_allclose(getattr(scores, f"{prefix}utility"), after)
        np.testing.assert_allclose(getattr(scores, f"{prefix}gain"), after - before, atol=1e-12)
    np.testing.assert_allclose(scores.utility, outcome.utility.mean(axis=1))
    for part in ("rating", "novelty"):
        np.testing.assert_allclose(getattr(scores, part), by_hand(world.space, starts, outcome.texts, part).mean(1))
    distance = [
        np.linalg.norm(encode(t) - encode([s.text]), axis=1).mean() for s, t in zip(starts, replaced, strict=True)
    ]
    np.testing.assert_allclose(scores.distance, distance)
    np.testing.assert_array_equal(scores.identical, [0.5, 0, 0, 0])
    np.testing.assert_allclose(scores.repetition, [np.mean([repetition(t) for t in texts]) for texts in replaced])


def test_the_held_out_encoder_is_another_one(asked):
    world, starts, outcome = scored()
    scores = score(world, opposite(world), starts, outcome, LM)
    assert not np.allclose(scores.gain, scores.held_out_gain)
    again = score(world, world.space, starts, outcome, LM)
    np.testing.assert_allclose(again.gain, again.held_out_gain)


def test_perplexity_is_that_of_the_plot_given_its_genres(asked):
    world, starts, outcome = scored(n=2)
    scores = score(world, world.space, starts, outcome, LM)
    ((lm, texts, given),) = asked
    assert lm is LM and set(given) == {"Genres: Drama, Sci-Fi.\n"}
    assert [a + b for a, b in zip(given, texts, strict=True)] == [t for own in outcome.texts for t in own]
    np.testing.assert_allclose(scores.perplexity, np.reshape([len(t) for t in texts], (2, 2)).mean(axis=1))


def test_the_start_itself_gains_nothing(asked):
    world, starts, _ = scored()
    texts = [[start.text] for start in starts]
    z = np.array([encode(own) for own in texts])
    scores = score(world, opposite(world), starts, Outcome(texts, z, by_hand(world.space, starts, texts), 0), LM)
    for name in ("gain", "held_out_gain", "distance"):
        np.testing.assert_allclose(getattr(scores, name), 0, atol=1e-12)
    np.testing.assert_array_equal(scores.identical, 1)


def test_only_if_better_never_loses(asked):
    world, starts, outcome = scored(n=8)
    kept = score(world, opposite(world), starts, only_if_better(world, starts, outcome), LM)
    assert (kept.gain >= 0).all() and 0 < kept.identical.mean() < 1


def test_an_outcome_of_other_starts_is_refused(asked):
    world, starts, outcome = scored()
    with pytest.raises(ValueError, match="4 outcomes for 3 starts"):
        score(world, world.space, starts[:3], outcome, LM)


def test_another_environment_shares_the_space():
    world = fake_world()
    world.gap(0)
    backend = FakeBackend(noise=5.0)
    other = with_rewriter(world, Rewriter(backend))
    assert other.space is world.space and other.actions is world.actions and other.horizon == world.horizon
    assert other.rewrite.backend is backend and other._cache == {} and world._cache
    assert type(other) is type(world)
    random_actions(other, fake_starts(2), 3, 0)
    assert sum(backend.batches) == 6 and not world.rewrite.backend.batches


def test_the_papers_numbers():
    """Table 2 as printed; the bar that its authors' agent sets."""
    assert [row.utility for row in PAPER_TABLE_2.values()] == [0.57, 0.49, 0.58, 0.51, 0.65, 0.69, 0.74]
    assert [row.user for row in PAPER_TABLE_2.values()] == [0.31, 0.59, 0.62, 0.51, 0.69, 0.71, 0.76]
    assert [row.rater for row in PAPER_TABLE_2.values()] == [0.37, 0.62, 0.60, 0.67, 0.64, 0.69, 0.74]
    assert [row.distance for row in PAPER_TABLE_2.values()] == [0.52, 0.44, 0.34, 0.45, 0.43, 0.25, 0.47]
    errors = [row.error for row in PAPER_TABLE_2.values()]
    assert math.isnan(errors[0]) and errors[1:] == [0.02, 0.02, 0.02, 0.03, 0.04, 0.03]
    assert next(iter(PAPER_TABLE_2)) == "ELM" and list(PAPER_TABLE_2)[-1] == "EAGLE, G-optimal"


def test_the_table_beside_the_paper():
    table = beside_paper({"reference, G-optimal": 4.0, "EAGLE, G-optimal": 5.0, "tree": 4.4})
    assert list(table.index) == [*PAPER_TABLE_2, "tree"]
    assert list(table) == ["paper", "ours", "paper, relative", "ours, relative"]
    agent = table.loc["EAGLE, G-optimal"]
    np.testing.assert_allclose(agent, [0.74, 5.0, 0.74 / 0.51 - 1, 0.25])
    assert agent["paper, relative"] >= 0.45 and 0.74 / table.loc["EAGLE, uniform", "paper"] - 1 >= 0.13
    assert table.loc["reference, G-optimal", ["paper, relative", "ours, relative"]].tolist() == [0, 0]
    assert np.isnan(table.loc["tree", "paper"]) and table.loc["tree", "ours, relative"] == pytest.approx(0.1)
    assert np.isnan(table.loc["ELM", "ours"])
    users = beside_paper({"ELM": 1.0}, reference="ELM", measure="user")
    assert users.loc["EAGLE, G-optimal", "paper, relative"] == pytest.approx(0.76 / 0.31 - 1)


def test_beside_the_table_on_products():
    table = beside_paper({"reference, G-optimal": 4.0, "EAGLE, tree search": 4.2}, table=PAPER_TABLE_8)
    assert list(table.index) == list(PAPER_TABLE_8)
    np.testing.assert_allclose(table.loc["EAGLE, tree search"], [0.69, 4.2, 0.69 / 0.45 - 1, 0.05])


@pytest.mark.parametrize(("ours", "reference"), [({"tree": 1.0}, "tree"), ({"tree": 1.0}, "ELM")])
def test_a_missing_reference_is_refused(ours, reference):
    with pytest.raises(ValueError, match="must both have the reference"):
        beside_paper(ours, reference)


# The judge -------------------------------------------------------------------------------------------------------


class FakeJudge(Backend):
    """Likes long texts, and the letter A by `bias` nats; keeps its prompts."""

    name = "judge"

    def __init__(self, bias: float = 0.0, taste: float = 1.0) -> None:
        self.bias, self.taste, self.prompts = bias, taste, []

    def score(self, prompt, continuations) -> np.ndarray:
        assert continuations == [" A", " B"]
        self.prompts.append(prompt)
        first, second = prompt[1][1].partition("Movie A\n")[2].partition("\n\nMovie B\n")[::2]
        second = second.partition("\n\nWhich")[0]
        return np.array([-3.0 + self.bias + self.taste * (len(first) - len(second)), -3.0])


@pytest.mark.parametrize(
    ("bias", "preference", "flipped"),
    [(0.0, 2.0, False), (1.5, 2.0, False), (2.0, 2.0, False), (5.0, 2.0, True), (-5.0, 2.0, True)],
)
def test_both_orders_cancel_the_bias_for_a_letter(bias, preference, flipped):
    found = judge_pair(FakeJudge(bias), PROFILES[0], "long text", "a text!")
    assert found == (pytest.approx(preference), pytest.approx(bias), flipped)
    swapped = judge_pair(FakeJudge(bias), PROFILES[0], "a text!", "long text")
    assert swapped == (pytest.approx(-preference), pytest.approx(bias), flipped)


def test_the_judge_is_asked_in_both_orders_and_knows_the_viewer():
    backend = FakeJudge()
    judge_pair(backend, PROFILES[1], "one", "two")
    assert backend.prompts == [judge_prompt(PROFILES[1], "one", "two"), judge_prompt(PROFILES[1], "two", "one")]
    assert str(PROFILES[1]) in backend.prompts[0][1][1] and backend.prompts[0][-1][0] == "assistant"


def test_win_and_flip_rates_over_pairs():
    texts = [("long text", "short"), ("x", "longer"), ("same", "size"), ("longer by far, this", "x")]
    left, right = zip(*texts, strict=True)
    found = judge_pairs(FakeJudge(bias=4.5), [PROFILES[0]] * 4, left, right)
    np.testing.assert_allclose(found.preference, [4, -5, 0, 18])
    np.testing.assert_allclose(found.position_bias, 4.5)
    assert found.flipped.tolist() == [True, False, True, False]
    assert found.win_rate == 2.5 / 4
    assert judge_pair(FakeJudge(), PROFILES[0], "long text", "short").win_rate == 1


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_pairs_that_do_not_match_are_refused(sizes):
    profiles, left, right = ([PROFILES[0]] * sizes[0], ["x"] * sizes[1], ["y"] * sizes[2])
    with pytest.raises(ValueError, match="one of each a pair"):
        judge_pairs(FakeJudge(), profiles, left, right)
