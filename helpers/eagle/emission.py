"""What a method returns, and what that is worth by encoders that it did and did not see.

Every method returns a list of the texts that it visited, call by call. A separate rule, the same for all methods of a
table, says which of them count:

- *unselected*: the mean of what the method itself emits (`Visited.emitted`);
- *selected*: the best of the first n visited, by an encoder that chooses. The chooser overrates its own choice, the
  more so the more texts it chooses from; the judge shows by how much (`selection_curve`).

All gains are over the start's own text, whose item does not count among existing items. A neutral rewrite ("say the
same in other words") gains what *any* rewrite gains: subtract it before a gain is called an effect of steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from helpers.eagle.rewriting import Start
from helpers.eagle.utility import NOVELTY_WEIGHT, ContentGap
from helpers.embedding.judges import Encoders
from helpers.embedding.space import EmbeddingSpace


@dataclass(frozen=True)
class Visited:
    """The texts that a method visited, for each start in the order of its calls.

    Attributes:
        texts: as many for each start; where an answer was unusable, the text that was to be rewritten.
        emitted: which of them the method itself emits. (Those of a search descend from texts of high utility.)
        planned: whether the first texts would have been different with fewer calls.
    """

    texts: list[list[str]]
    emitted: Bool[np.ndarray, "start call"]
    planned: bool = False

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.texts[0]) if self.texts else 0)
        if self.emitted.shape != shape or {len(row) for row in self.texts} != {shape[1]}:
            raise ValueError(f"texts of shape {shape}, emitted {self.emitted.shape}: give as many to each start")
        if not self.emitted.any(axis=1).all():
            raise ValueError("nothing is emitted for a start: mark at least one of its texts")


class Gains(NamedTuple):
    """Gains of texts over their starts, in stars: of the predicted rating, and of lambda * novelty."""

    rating: Float[np.ndarray, "start call"]
    novelty: Float[np.ndarray, "start call"]

    @property
    def total(self) -> Float[np.ndarray, "start call"]:
        return self.rating + self.novelty


def gains(space: EmbeddingSpace, starts: Sequence[Start], texts: Sequence[Sequence[str]]) -> Gains:
    """What texts gain over their starts by one encoder, in stars.

    Raises:
        ValueError: not one list of texts for each start, lists of different lengths, or a start from no item.
    """
    if len(starts) != len(texts):
        raise ValueError(f"{len(texts)} lists of texts for {len(starts)} starts: give one to each")
    if len({len(some) for some in texts}) != 1:
        raise ValueError("lists of texts of different lengths, or none: give as many texts to each start")
    wanted = [text for start, some in zip(starts, texts, strict=True) for text in (start.text, *some)]
    place = {text: number for number, text in enumerate(dict.fromkeys(wanted))}  # many texts are visited twice
    z = space.encoder(list(place))[[place[text] for text in wanted]]
    gaps = [gap_of_start(space, start) for start in starts]
    rows = [over_the_first(gap, part) for gap, part in zip(gaps, np.split(z, len(starts)), strict=True)]
    return Gains(*map(np.stack, zip(*rows, strict=True)))


def over_the_first(gap: ContentGap, z: Float[np.ndarray, "text dim"]) -> Float[np.ndarray, "part other"]:
    """Gains of the other texts over the first, in stars: predicted rating, and lambda * novelty."""
    found = gap(z)
    parts = np.stack([found.rating, gap.novelty_weight * found.novelty])
    return parts[:, 1:] - parts[:, :1]


def gap_of_start(space: EmbeddingSpace, start: Start, novelty_weight: float = NOVELTY_WEIGHT) -> ContentGap:
    """The utility of texts made from a start, for its user: its own item does not count among existing items.

    Raises:
        ValueError: the start is not made from an item with text.
    """
    (places,) = np.nonzero(space.domain.text_items == start.item)
    if not len(places):
        raise ValueError(f"item {start.item} has no text: start from one of domain.text_items")
    return ContentGap.of_user(space, start.user, without=int(places[0]), novelty_weight=novelty_weight)


def gains_by_all(encoders: Encoders, starts: Sequence[Start], visited: Visited) -> dict[str, Gains]:
    """`gains` by each encoder, under its name."""
    return {name: gains(space, starts, visited.texts) for name, space in encoders._asdict().items()}


# Rules of emission -------------------------------------------------------------------------------------------------

Values = Float[np.ndarray, "start call"]


def unselected(values: Values, emitted: Bool[np.ndarray, "start call"]) -> Float[np.ndarray, " start"]:
    """Mean of what the method itself emits."""
    return np.average(values, axis=1, weights=emitted)


def selected(values: Values, chosen_by: Values, calls: int) -> Float[np.ndarray, " start"]:
    """The value of the text that `chosen_by` puts highest among the first `calls`; the first of equals.

    Raises:
        ValueError: there are fewer calls.
    """
    if not 1 <= calls <= values.shape[1]:
        raise ValueError(f"the best of {calls} among {values.shape[1]} texts: choose from 1 to as many as there are")
    best = chosen_by[:, :calls].argmax(axis=1)
    return values[np.arange(len(values)), best]


def selection_curve(values: Values, chosen_by: Values, max_calls: int | None = None) -> Float[np.ndarray, "start n"]:
    """`selected` for 1 to `max_calls` calls: the gain from choosing among more texts, by this measure."""
    longest = values.shape[1] if max_calls is None else max_calls
    return np.stack([selected(values, chosen_by, calls) for calls in range(1, longest + 1)], axis=1)
