"""Scores of emitted texts, without a language model."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from fake_world import FakeBackend, encode, fake_starts, fake_world

from helpers.eagle import evaluation
from helpers.eagle.baselines import Outcome, only_if_better, random_actions
from helpers.eagle.evaluation import score, with_rewriter
from helpers.eagle.rewriting import Rewriter
from helpers.eagle.utility import ContentGap
from helpers.embedding.encoder import Encoder
from helpers.embedding.space import EmbeddingSpace
from helpers.language.models import LoadedModel
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
