"""Tables of the comparison: every method under the same rule, over the neutral rewrite, with intervals.

A row of values is one start, a seed is one training run (or one stream of answers, where nothing is trained). Intervals
resample both, movies with all their users; differences between methods are taken start by start before that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from helpers.base.intervals import Interval, clustered_interval, crossed_interval
from helpers.eagle.emission import Gains, Visited, gains_by_all, selected, selection_curve, unselected
from helpers.eagle.rewriting import Start
from helpers.embedding.judges import Encoders

Part = Literal["total", "rating", "novelty"]
Chooser = Literal["paid", "both"]


@dataclass(frozen=True)
class Measured:
    """The texts of one method, by every encoder.

    Attributes:
        gains: of every text over its start, for each seed, under the encoder's name.
        emitted: which texts the method hands out by itself, for each seed.
        planned: whether it would have made its first calls differently with fewer of them.
    """

    starts: tuple[Start, ...]
    gains: dict[str, list[Gains]]
    emitted: list[Bool[np.ndarray, "start call"]]
    planned: bool = False

    @property
    def items(self) -> list[int]:
        """The item that each start is made from: the clusters that an interval resamples."""
        return [start.item for start in self.starts]

    def values(
        self, encoder: str = "judge", part: Part = "total", calls: int | None = None, chooser: Chooser = "both"
    ) -> Float[np.ndarray, "seed start"]:
        """Gains in stars by one encoder: of what is emitted, or of the best of the first `calls` by a chooser."""
        found = [getattr(some, part) for some in self.gains[encoder]]
        if calls is not None and self.planned and calls != found[0].shape[1]:
            raise ValueError(f"a search of {found[0].shape[1]} calls is none of {calls}: run it with so many")
        if calls is None:
            return np.stack([unselected(*pair) for pair in zip(found, self.emitted, strict=True)])
        choosers = self._choosers(chooser)
        return np.stack([selected(values, by, calls) for values, by in zip(found, choosers, strict=True)])

    def curve(self, encoder: str, chooser: Chooser = "paid") -> Float[np.ndarray, "seed start n"]:
        """`values` for 1, 2, 3... calls: how much of the chooser's gains this encoder confirms."""
        found = [some.total for some in self.gains[encoder]]
        return np.stack([selection_curve(*pair) for pair in zip(found, self._choosers(chooser), strict=True)])

    def _choosers(self, chooser: Chooser) -> list[Float[np.ndarray, "start call"]]:
        names = ("paid",) if chooser == "paid" else ("paid", "second")
        return [sum(some.total for some in of_seed) for of_seed in zip(*(self.gains[n] for n in names), strict=True)]


def measured(encoders: Encoders, starts: Sequence[Start], visited: Sequence[Visited]) -> Measured:
    """Gains of a method's texts by every encoder; one `Visited` for each seed."""
    return measured_each(encoders, starts, {"": visited})[""]


def measured_each(
    encoders: Encoders, starts: Sequence[Start], visited: Mapping[str, Sequence[Visited]]
) -> dict[str, Measured]:
    """`measured` for several methods by name; a text that several of them visited is encoded once."""
    runs = [run for of_method in visited.values() for run in of_method]
    texts = [[text for run in runs for text in run.texts[row]] for row in range(len(starts))]
    together = Visited(texts, np.hstack([run.emitted for run in runs]))
    ends = np.cumsum([run.emitted.shape[1] for run in runs])[:-1]
    by_run = {
        name: [Gains(*parts) for parts in zip(*(np.split(part, ends, axis=1) for part in found), strict=True)]
        for name, found in gains_by_all(encoders, starts, together).items()
    }
    methods, first = {}, 0
    for name, of_method in visited.items():
        own = slice(first, first := first + len(of_method))
        by_encoder = {encoder: found[own] for encoder, found in by_run.items()}
        emitted = [run.emitted for run in of_method]
        methods[name] = Measured(tuple(starts), by_encoder, emitted, of_method[0].planned)
    return methods


def mean_interval(values: Float[np.ndarray, "seed start"], items: Sequence[int]) -> Interval:
    """Mean and interval over seeds and items, or over items alone where there is one seed."""
    return crossed_interval(values, items) if len(values) > 1 else clustered_interval(values[0], items)


def paired(
    one: Float[np.ndarray, "seed start"], other: Float[np.ndarray, "other_seed start"]
) -> Float[np.ndarray, "common_seeds start"]:
    """Differences start by start and seed by seed, over the first seeds, which both have.

    A method with one seed, where nothing is trained, is compared with every seed of the other.
    """
    common = min(len(one), len(other))
    return one - other if common == 1 else one[:common] - other[:common]


def gain_difference(one: Measured, other: Measured, **options) -> Interval:
    """How much more one method gains than another (options as for `Measured.values`)."""
    return mean_interval(paired(one.values(**options), other.values(**options)), one.items)


GAIN_COLUMNS: dict[str, tuple[str, Part]] = {
    "paid": ("paid", "total"),
    "rating": ("paid", "rating"),
    "novelty": ("paid", "novelty"),
    "second": ("second", "total"),
    "judged": ("judge", "total"),
    "judged rating": ("judge", "rating"),
}
"""Columns of a table: which encoder says so, and which part of the utility."""


def gain_table(
    methods: dict[str, Measured], calls: int | None = None, chooser: Chooser = "both", over: str | None = "neutral"
) -> pd.DataFrame:
    """One row for each method, one interval for each of `GAIN_COLUMNS`, all under one rule.

    Args:
        over: the method whose gains are subtracted, start by start; None for gains over the start.
    """

    def interval(method: Measured, encoder: str, part: Part) -> Interval:
        values = method.values(encoder, part, calls, chooser)
        if over is not None:
            values = paired(values, methods[over].values(encoder, part, calls, chooser))
        return mean_interval(values, method.items)

    rows = {
        name: {column: interval(method, *of_column) for column, of_column in GAIN_COLUMNS.items()}
        for name, method in methods.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


# What it costs -----------------------------------------------------------------------------------------------------


def calls_to_reach(curve: Float[np.ndarray, " n"], gain: float) -> int:
    """The number of calls from which a search keeps a mean gain or more (`curve[0]` is that of one call).

    One more than were measured if it does not stay there, which is a lower bound; `break_even` of it is an upper one.
    """
    (short,) = np.nonzero(curve < gain)
    return int(short[-1]) + 2 if len(short) else 1


def break_even(training_calls: int, calls: int, rival_calls: int) -> float:
    """The number of starts after which training has paid, if a rival needs `rival_calls` per start for the same gain.

    Infinite if the rival needs no more calls per start.
    """
    if rival_calls <= calls:
        return float("inf")
    return training_calls / (rival_calls - calls)
