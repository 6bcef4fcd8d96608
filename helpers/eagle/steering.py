"""What an agent can do with a text, and what it knows of each option before it calls the language model.

An option is an aim (`aims.py`) or STOP. The embedding space predicts where an aim will bring the text, so a state needs
no call to list its options with their promise: the change of predicted rating and of novelty, by the paid and by a
second encoder. A policy that reads these numbers can judge aims that it has never tried.

An agent sees k = 10 of the aims, its support, and chooses among them and STOP. How the ten are found is what the three
reference policies differ in (Tennenholtz et al. 2024, section 4): at random, by highest promise, or as a G-optimal
design over the landing points, which are known here, so that the design costs no call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from helpers.domains.ideas import catalogue_genres
from helpers.eagle.aims import KINDS, Aim, Kind, fit_reach, landing, most_promising, promise, targets
from helpers.eagle.design import optimal_design, prepare, round_design
from helpers.eagle.emission import gap_of_start, over_the_first
from helpers.eagle.rewriting import Rewriter, Rewrites, Start, copies, seed_of
from helpers.eagle.utility import NOVELTY_WEIGHT, ContentGap
from helpers.embedding.judges import Encoders
from helpers.embedding.profiles import Profile, ProfileWriter
from helpers.embedding.space import EmbeddingSpace

SUPPORT = 10  # aims that an agent chooses among
Support = Literal["uniform", "optimistic", "goptimal"]

Integers = Sequence[int] | Int[np.ndarray, " _"]
"""Whole numbers, such as the places of aims, in a list, a range or an array."""

FEATURES = (
    "rating", "novelty", "second_rating", "second_novelty", "distance", "second_distance", "items", "labels", "shared",
    "borrowed", "gained_rating", "gained_novelty", "second_gained", "asked", "left", "stop",
)  # fmt: skip
"""What is known of an option: promised gains in stars, distances in those of neighbouring items, log2 of the number of
items behind an aim, labels that it names, those that the text has already, whether it borrows, gains so far in stars,
whether it was asked for before, the share of steps left, and whether it is STOP, of which everything but the last two
is 0."""


class State(NamedTuple):
    """A running episode: its start, the present text, the step, and the aims that were asked for."""

    start: Start
    text: str
    step: int = 0
    asked: tuple[int, ...] = ()

    def after(self, text: str, aim: int) -> State:
        """The state after an aim was asked for and gave this text."""
        return State(self.start, text, self.step + 1, (*self.asked, int(aim)))


class Table(NamedTuple):
    """All aims in one state.

    Attributes:
        ways: vector from the text to the point where each aim should bring it, by the paid encoder.
        features: as named in `FEATURES`; those for time and memory of the episode are still 0.
        gained: utility over the start so far, in stars, by the paid and by the second encoder.
    """

    ways: Float[np.ndarray, "aim dim"]
    features: Float[np.ndarray, "aim feature"]
    gained: Float[np.ndarray, " encoder"]


class Options(NamedTuple):
    """What a policy chooses among in a state: some aims, and STOP as the last row of `features`."""

    aims: Int[np.ndarray, " k"]
    features: Float[np.ndarray, "option feature"]


@dataclass(frozen=True)
class Steering:
    """The task: what stays the same over all episodes.

    Attributes:
        encoders: `paid` and `second` are used, `judge` is not.
        reach: how far a text goes towards its target, by the paid and by the second encoder, for each of `KINDS`.
        horizon: steps of an episode that does not stop before.
        k: aims that an agent chooses among; novelty_weight: lambda, in stars.
    """

    encoders: Encoders
    aims: tuple[Aim, ...]
    reach: Float[np.ndarray, "encoder kind"]
    rewrite: Rewriter
    horizon: int = 3
    k: int = SUPPORT
    novelty_weight: float = NOVELTY_WEIGHT
    _kept: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def spaces(self) -> tuple[EmbeddingSpace, EmbeddingSpace]:
        """The two embedding spaces that an agent may see."""
        return self.encoders.paid, self.encoders.second

    @cached_property
    def targets(self) -> list[Float[np.ndarray, "aim dim"]]:
        """Target points of the aims in each of the two spaces."""
        return [targets(self.aims, space.items) for space in self.spaces]

    @cached_property
    def _profiles(self) -> ProfileWriter:
        return ProfileWriter(self.encoders.paid.domain)

    def profile(self, user: int) -> Profile:
        """What the user likes, in words."""
        return self._profiles(user)

    def said(self, aims: Integers) -> list[str]:
        """The instructions for some aims."""
        return [self.aims[aim].instruction(self.rewrite.wording) for aim in aims]

    def of_kind(self, kind: Kind) -> Steering:
        """The same task with aims of one kind alone."""
        return replace(self, aims=tuple(aim for aim in self.aims if aim.kind == kind))

    @cached_property
    def _reaches(self) -> Float[np.ndarray, "encoder aim"]:
        """How far a text goes towards each aim, by each of the two encoders."""
        return self.reach[:, [KINDS.index(aim.kind) for aim in self.aims]]

    def follow(self, texts: Sequence[str], aims: Integers, seeds: Sequence[int]) -> Rewrites:
        """Rewrite each text towards an aim; an answer that copies the idea it should borrow from cannot be used."""
        found = self.rewrite(texts, self.said(aims), seeds)
        copied = [copies(text, self.aims[aim].idea) for text, aim in zip(found.texts, aims, strict=True)]
        problems = [
            problem or ("copies the idea" if is_copy else "")
            for problem, is_copy in zip(found.problems, copied, strict=True)
        ]
        return Rewrites(
            [old if is_copy else new for old, new, is_copy in zip(texts, found.texts, copied, strict=True)], problems
        )

    def gaps(self, start: Start) -> list[ContentGap]:
        """Utility of texts made from a start, by each of the two spaces."""
        key = "gaps", start.user, start.item
        if key not in self._kept:
            self._kept[key] = [gap_of_start(space, start, self.novelty_weight) for space in self.spaces]
        return self._kept[key]

    def embedded(self, texts: Sequence[str]) -> list[Float[np.ndarray, "text dim"]]:
        """Texts in each of the two spaces; every text is encoded once."""
        kept = self._kept.setdefault("z", {})
        if new := [text for text in dict.fromkeys(texts) if text not in kept]:
            kept |= dict(zip(new, zip(*(space.encoder(new) for space in self.spaces), strict=True), strict=True))
        return [np.stack(rows) for rows in zip(*(kept[text] for text in texts), strict=True)]

    def gained(self, start: Start, texts: Sequence[str]) -> Float[np.ndarray, "encoder text"]:
        """Utility of texts over that of their start's own text, in stars, by the paid and by the second encoder."""
        return self.gained_parts(start, texts).sum(axis=1)

    def gained_parts(self, start: Start, texts: Sequence[str]) -> Float[np.ndarray, "encoder part text"]:
        """The same in its two parts: of the predicted rating, and of lambda * novelty."""
        z = self.embedded([start.text, *texts])
        return np.stack([over_the_first(gap, rows) for gap, rows in zip(self.gaps(start), z, strict=True)])

    def table(self, state: State) -> Table:
        """What is known of every aim in a state."""
        gaps, here = self.gaps(state.start), self.embedded([state.text])
        known: dict[str, np.ndarray] = {}
        for prefix, gap, z, there, reach in zip(("", "second_"), gaps, here, self.targets, self._reaches, strict=True):
            parts = promise(gap, z[0], there, reach)
            known[f"{prefix}rating"], known[f"{prefix}novelty"] = parts.rating, gap.novelty_weight * parts.novelty
            known[f"{prefix}distance"] = np.linalg.norm(there - z, axis=1) / gap.typical_distance
        own = set(catalogue_genres(state.text.partition("\n")[0].partition(":")[2], self.rewrite.wording))
        known["items"] = np.log2([len(aim.items) for aim in self.aims])
        known["labels"] = np.array([len(aim.labels) for aim in self.aims])
        known["shared"] = np.array([len(own & set(aim.labels)) for aim in self.aims])
        known["borrowed"] = np.array([aim.kind == "borrowed" for aim in self.aims])
        gained = self.gained_parts(state.start, [state.text])[..., 0]
        known["gained_rating"], known["gained_novelty"] = gained[0]
        known["second_gained"] = gained[1].sum()
        features = np.zeros((len(self.aims), len(FEATURES)))
        for name, column in known.items():
            features[:, FEATURES.index(name)] = column
        ways = landing(here[0][0], self.targets[0], self._reaches[0]) - here[0]
        return Table(ways, features, gained.sum(axis=1))

    def options(self, state: State, support: Support, k: int | None = None) -> Options:
        """The k aims that a support offers in a state, and STOP; by default as many as the task says.

        Raises:
            ValueError: there are fewer aims, or no such support.
        """
        k = self.k if k is None else k
        if k > len(self.aims):
            raise ValueError(f"{k} of {len(self.aims)} aims: choose among no more than there are")
        key = "options", support, k, state.start, state.text
        if key not in self._kept:
            table = self.table(state)
            chosen = supported(support, table, self.aims, k, seed_of("support", *state.start, state.text))
            self._kept[key] = chosen, table.features[chosen]
        aims, features = self._kept[key]
        return Options(aims, self.in_time(state, aims, features))

    def in_time(
        self, state: State, aims: Int[np.ndarray, " k"], features: Float[np.ndarray, "k feature"]
    ) -> Float[np.ndarray, "option feature"]:
        """Features of some aims with the episode's memory and time, and STOP as the last row."""
        rows = np.vstack([features, np.zeros(features.shape[1])])
        rows[:-1, FEATURES.index("asked")] = np.isin(aims, state.asked)
        rows[:, FEATURES.index("left")] = 1 - state.step / self.horizon
        rows[-1, FEATURES.index("stop")] = 1.0
        return rows


def shares(n: int, parts: int) -> list[int]:
    """n as a sum of whole numbers, one per part, that differ by at most 1, the larger ones first."""
    return [n // parts + (part < n % parts) for part in range(parts)]


def weighted(gained: Float[np.ndarray, "encoder ..."], second: float) -> Float[np.ndarray, "..."]:
    """Gains by the paid and the second encoder in one number, with weight `second` for the second one."""
    return (1 - second) * gained[0] + second * gained[1]


def supported(support: Support, table: Table, aims: Sequence[Aim], k: int, seed: int) -> Int[np.ndarray, " k"]:
    """k aims of a state: at random, those of highest promise that differ, or a G-optimal design over their ways.

    Raises:
        ValueError: no such support, or k aims are too many.
    """
    if support == "uniform":
        return np.sort(np.random.default_rng(seed).choice(len(aims), k, replace=False))
    if support == "optimistic":
        return np.sort(most_promising(table.features[:, :2].sum(axis=1), aims, k))
    if support == "goptimal":
        n = min(k, int(np.linalg.matrix_rank(table.ways)))  # k aims span k directions at most
        z = prepare(table.ways, form="displacement", origin=np.zeros(table.ways.shape[1]), n_components=n)
        return round_design(z, optimal_design(z), k, method="exchange")
    raise ValueError(f"unknown support {support!r}: choose uniform, optimistic or goptimal")


def with_reach(task: Steering, starts: Sequence[Start], n: int = 4, seed: int = 0) -> Steering:
    """The same task with `reach` fitted by each encoder: n random aims of each kind are tried on every start.

    Raises:
        ValueError: of some kind no answer could be used.
    """
    reach = np.array(task.reach, dtype=float)
    for column, kind in enumerate(KINDS):
        own = [number for number, aim in enumerate(task.aims) if aim.kind == kind]
        if own:
            reach[:, column] = _reach_of(task, own, starts, n, seed_of(seed, "reach", kind))
    return replace(task, reach=reach)


def _reach_of(
    task: Steering, own: Sequence[int], starts: Sequence[Start], n: int, seed: int
) -> Float[np.ndarray, " encoder"]:
    """How far texts go towards some of the aims, by each of the two encoders."""
    aims = np.concatenate([np.random.default_rng(seed_of(seed, *s)).choice(own, n, replace=False) for s in starts])
    before = [start.text for start in starts for _ in range(n)]
    rewrites = task.follow(before, aims, [seed_of(seed, aim) for aim in aims])
    here, there, usable = task.embedded(before), task.embedded(rewrites.texts), rewrites.valid
    if not usable.any():
        raise ValueError("no answer could be used: another model, or more tries, are needed to fit the reach")
    triples = zip(here, there, task.targets, strict=True)
    return np.array([fit_reach(z[usable], after[usable], goals[aims][usable]) for z, after, goals in triples])
