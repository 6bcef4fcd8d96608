"""Does it work? Scores of emitted texts, their uncertainty, a weak judge, and the paper's table beside ours.

The agent is trained on U, and the search methods choose by U: both can find texts that please the encoder and
nobody else. So every text is also scored by an encoder that no method has seen (`held_out_*`), and by measures
that have nothing to do with U: is it fluent, does it repeat itself, is it the start again?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from helpers.eagle.baselines import Outcome
from helpers.eagle.environment import World
from helpers.eagle.rewriting import Rewriter, Start
from helpers.embedding.profiles import Profile
from helpers.embedding.space import EmbeddingSpace
from helpers.language.generation import Backend, Prompt
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


# The paper's table beside ours -------------------------------------------------------------------------------------


class PaperRow(NamedTuple):
    """A row of a table of the paper: U(z) and its printed error, shares of preferences, distance; NaN if not given."""

    utility: float
    error: float
    user: float
    rater: float
    distance: float


PAPER_TABLE_2: dict[str, PaperRow] = {
    "ELM": PaperRow(0.57, np.nan, 0.31, 0.37, 0.52),
    "reference, uniform": PaperRow(0.49, 0.02, 0.59, 0.62, 0.44),
    "reference, optimistic": PaperRow(0.58, 0.02, 0.62, 0.60, 0.34),
    "reference, G-optimal": PaperRow(0.51, 0.02, 0.51, 0.67, 0.45),
    "EAGLE, uniform": PaperRow(0.65, 0.03, 0.69, 0.64, 0.43),
    "EAGLE, optimistic": PaperRow(0.69, 0.04, 0.71, 0.69, 0.25),
    "EAGLE, G-optimal": PaperRow(0.74, 0.03, 0.76, 0.74, 0.47),
}
"""Tennenholtz et al., "Embedding-Aligned Language Models", NeurIPS 2024 (arXiv 2406.00024), table 2."""

PAPER_TABLE_8: dict[str, PaperRow] = {
    "reference, G-optimal": PaperRow(0.45, np.nan, 0.33, np.nan, 0.30),
    "EAGLE, tree search": PaperRow(0.69, np.nan, 0.64, np.nan, 0.34),
}
"""The same paper's table 8, on Amazon's products, where a language model stands in for the users."""


def beside_paper(
    ours: Mapping[str, float],
    reference: str = "reference, G-optimal",
    measure: str = "utility",
    table: Mapping[str, PaperRow] = PAPER_TABLE_2,
) -> pd.DataFrame:
    """A row per row of a table of the paper: its value, ours, and each relative to the reference row.

    Only the relative columns can be compared, and these with care: the paper gives neither the scale of U nor its
    settings, and U in stars has no true zero, so the same improvement looks smaller here.

    Rows of ours that the paper has not come last.

    Args:
        ours: mean of the measure for rows under the paper's names, or others.
        measure: a column of the paper's table (`PaperRow`).

    Raises:
        ValueError: the reference is not among our rows or the paper's.
    """
    paper = {name: getattr(row, measure) for name, row in table.items()}
    if reference not in paper or reference not in ours:
        raise ValueError(f"no row {reference!r}: our rows and the paper's must both have the reference")
    both = pd.DataFrame({"paper": pd.Series(paper), "ours": pd.Series(ours, dtype=float)})
    both = both.reindex([*paper, *(name for name in ours if name not in paper)])
    return both.assign(**{f"{side}, relative": both[side] / both[side][reference] - 1 for side in ("paper", "ours")})


# A language model as judge -----------------------------------------------------------------------------------------

JUDGE_SYSTEM = "You know what viewers like. You compare two movies and answer with A or B only."


def judge_prompt(profile: Profile, first: str, second: str) -> Prompt:
    """The chat that asks which of two ideas a viewer prefers; the answer ` A` or ` B` follows."""
    task = f"The viewer: {profile}\n\nMovie A\n{first}\n\nMovie B\n{second}\n\nWhich movie does this viewer prefer?"
    return (("system", JUDGE_SYSTEM), ("user", task), ("assistant", "The viewer prefers movie"))


class Judgement(NamedTuple):
    """What the judge says of a pair: one value each from `judge_pair`, arrays from `judge_pairs`.

    Attributes:
        preference: log-odds in nats for the first text, mean of both orders; positive prefers it.
        position_bias: log-odds for whichever text is shown as A, mean of both orders.
        flipped: the judge chose the same letter in both orders, so that the order decided.
    """

    preference: float | Float[np.ndarray, " pair"]
    position_bias: float | Float[np.ndarray, " pair"]
    flipped: bool | Bool[np.ndarray, " pair"]

    @property
    def win_rate(self) -> float:
        """Share of pairs in which the first text is preferred; ties count half."""
        return float((np.sign(self.preference) / 2 + 0.5).mean())


def judge_pair(backend: Backend, profile: Profile, text_a: str, text_b: str) -> Judgement:
    """Which text does a viewer of this profile prefer, by the log-likelihood of ` A` against ` B` in both orders.

    A weak judge: a model of 135M parameters mostly prefers a letter, whatever stands behind it. Report the share
    of flipped pairs and the position bias with every win rate; the paper asked 124 people.
    """
    shown_first = _log_odds(backend, judge_prompt(profile, text_a, text_b))
    shown_second = -_log_odds(backend, judge_prompt(profile, text_b, text_a))
    preference, bias = (shown_first + shown_second) / 2, (shown_first - shown_second) / 2
    return Judgement(preference, bias, shown_first * shown_second < 0)


def _log_odds(backend: Backend, prompt: Prompt) -> float:
    """Log-odds of A over B."""
    a, b = backend.score(prompt, [" A", " B"])
    return float(a - b)


def judge_pairs(
    backend: Backend, profiles: Sequence[Profile], texts_a: Sequence[str], texts_b: Sequence[str]
) -> Judgement:
    """`judge_pair` for each pair, as arrays.

    Raises:
        ValueError: no pair, or not one profile and two texts for each.
    """
    if not len(profiles) == len(texts_a) == len(texts_b) > 0:
        raise ValueError(f"{len(profiles)} profiles, {len(texts_a)} and {len(texts_b)} texts: give one of each a pair")
    judged = [judge_pair(backend, *pair) for pair in zip(profiles, texts_a, texts_b, strict=True)]
    return Judgement(*(np.array(column) for column in zip(*judged, strict=True)))
