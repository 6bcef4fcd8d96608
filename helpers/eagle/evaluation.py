"""Does it work? Scores of emitted texts.

The agent is trained on U, and the search methods choose by U: both can find texts that please the encoder and
nobody else. So every text is also scored by an encoder that no method has seen (`held_out_*`), and by measures
that have nothing to do with U: is it fluent, does it repeat itself, is it the start again?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from helpers.eagle.baselines import Outcome
from helpers.eagle.environment import World
from helpers.eagle.rewriting import Rewriter, Start
from helpers.embedding.space import EmbeddingSpace
from helpers.language.likelihood import perplexity
from helpers.language.models import LoadedModel
from helpers.language.texts import repetition

# Scores of texts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """One number per start and measure: the mean over the candidates that a method emitted for it.

    Attributes:
        utility, gain: U, and U minus that of the start, in stars.
        held_out_utility, held_out_gain: the same by the encoder that no method has seen. A gain without a held-out
            gain is reward hacking.
        rating: predicted rating of the user, in stars; a part of `utility`.
        novelty: distance to the nearest items, where 1 is what films usually have; the other part.
        distance: L2 distance to the start in z.
        perplexity: of the plot, given the line of genres.
        repetition: share of three-word sequences that occurred before in the same text.
        identical: share of candidates that are the start's own text.
    """

    utility: Float[np.ndarray, " item"]
    gain: Float[np.ndarray, " item"]
    held_out_utility: Float[np.ndarray, " item"]
    held_out_gain: Float[np.ndarray, " item"]
    rating: Float[np.ndarray, " item"]
    novelty: Float[np.ndarray, " item"]
    distance: Float[np.ndarray, " item"]
    perplexity: Float[np.ndarray, " item"]
    repetition: Float[np.ndarray, " item"]
    identical: Float[np.ndarray, " item"]


def score(
    world: World, held_out_space: EmbeddingSpace, starts: Sequence[Start], outcome: Outcome, lm: LoadedModel
) -> Scores:
    """Score what a method emitted for `starts`.

    Args:
        held_out_space: fitted on the same factorisation with other text features (`build_space(domain,
            featurise=hidden_state_features, model=space.model)`).
        lm: the language model whose perplexity counts.

    Raises:
        ValueError: an outcome of another number of starts.
    """
    if len(outcome.texts) != len(starts):
        raise ValueError(f"{len(outcome.texts)} outcomes for {len(starts)} starts: score it with its own starts")
    shape = (len(starts), len(outcome.texts[0]))
    rows = [start for start in starts for _ in range(shape[1])]
    texts = [text for candidates in outcome.texts for text in candidates]
    z, own = outcome.z.reshape(len(rows), -1), [start.text for start in starts]
    origin, parts = world.space.encoder(own), world.utility(z, [start.user for start in rows])
    before = world.utility(origin, [start.user for start in starts]).total
    held_out = replace(world, space=held_out_space, _cache={})
    held_out_after = held_out.utility(held_out_space.encoder(texts), [start.user for start in rows]).total
    held_out_before = held_out.utility(held_out_space.encoder(own), [start.user for start in starts]).total
    genres, _, plots = zip(*(text.partition("\n") for text in texts), strict=True)

    def per_item(values) -> Float[np.ndarray, " item"]:
        return np.asarray(values, dtype=float).reshape(shape).mean(axis=1)

    return Scores(
        utility=per_item(parts.total),
        gain=per_item(parts.total) - before,
        held_out_utility=per_item(held_out_after),
        held_out_gain=per_item(held_out_after) - held_out_before,
        rating=per_item(parts.rating),
        novelty=per_item(parts.novelty),
        distance=per_item(np.linalg.norm(z - np.repeat(origin, shape[1], axis=0), axis=1)),
        perplexity=per_item(perplexity(lm, plots, [f"{line}\n" for line in genres])),
        repetition=per_item([repetition(text) for text in texts]),
        identical=per_item([text == start.text for text, start in zip(texts, rows, strict=True)]),
    )


def with_rewriter(world: World, rewriter: Rewriter) -> World:
    """The same space and actions with another language model as environment (paper, table 3: transfer)."""
    return replace(world, rewrite=rewriter, _cache={})
