"""Is it still a fluent text, and a new one? Measures that do not depend on utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from helpers.eagle.rewriting import Start
from helpers.language.likelihood import perplexity
from helpers.language.models import LoadedModel
from helpers.language.texts import copied_share, repetition


class Fluency(NamedTuple):
    """One row per text.

    Attributes:
        perplexity: of the plot, given the line of genres.
        repeated: share of three-word sequences that occurred before in the same plot.
        copied: largest share of them that stands in the plot of one known item.
        unchanged: whether it is the start's own text.
    """

    perplexity: Float[np.ndarray, " text"]
    repeated: Float[np.ndarray, " text"]
    copied: Float[np.ndarray, " text"]
    unchanged: Bool[np.ndarray, " text"]


def fluency(lm: LoadedModel, starts: Sequence[Start], texts: Sequence[str], known: Sequence[str]) -> Fluency:
    """Fluency and novelty of texts made from starts, one text each.

    Args:
        known: the items that exist, in the form of the texts; what a start was made from counts among them as well.

    Raises:
        ValueError: no text, or not one for each start.
    """
    if not len(starts) == len(texts) > 0:
        raise ValueError(f"{len(starts)} starts and {len(texts)} texts: give one or more, and one to each start")
    genres, _, plots = zip(*(text.partition("\n") for text in texts), strict=True)
    others = [idea.partition("\n")[2] for idea in known]
    return Fluency(
        perplexity(lm, plots, [f"{line}\n" for line in genres]),
        np.array([repetition(plot) for plot in plots]),
        np.array([max((copied_share(plot, other) for other in others), default=0.0) for plot in plots]),
        np.array([text == start.text for text, start in zip(texts, starts, strict=True)]),
    )
