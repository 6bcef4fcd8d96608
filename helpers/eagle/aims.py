"""Aimed actions: instructions that say in words where a text should go in the embedding space. Ours, not the paper's.

A template such as "Add a villain" moves a text somewhere. An aim names the labels and the theme of existing items, so
its direction is known before the language model is called: from where the text is, some way towards those items,

    z + reach * (target - z),

with a reach that is fitted on training starts. Items with the same words share one aim, and its target is their mean:
two instructions that read the same are one action.

A second kind of aim shows one existing item and asks to borrow from it. It leads further, but it invites copying: an
answer that repeats the item cannot be used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from helpers.domains.domain import Domain
from helpers.domains.ideas import catalogue_genres
from helpers.domains.wording import Wording
from helpers.eagle.rewriting import start_items, start_of
from helpers.eagle.utility import ContentGap, UtilityParts
from helpers.embedding.profiles import in_words, theme_matrix

NAMED = 2  # labels that an instruction names

Kind = Literal["named", "borrowed"]
KINDS: tuple[Kind, ...] = ("named", "borrowed")


@dataclass(frozen=True)
class Aim:
    """Where to go, in words: `labels` and a `theme`, or an `idea` to borrow from.

    Attributes:
        items: positions, among the items with text, of those that have both; of the one item that is the idea.
    """

    labels: tuple[str, ...]
    theme: str
    items: tuple[int, ...]
    idea: str = ""

    @property
    def kind(self) -> Kind:
        """The kind: it names a region in words, or borrows from an item."""
        return "borrowed" if self.idea else "named"

    def instruction(self, wording: Wording) -> str:
        """The instruction for the language model."""
        if self.idea:
            return f"Borrow from this idea: {' '.join(self.idea.splitlines())}"
        return f"Move it towards {in_words(self.labels)}, and towards {wording.drawn_to} {self.theme}."


def aims_of(domain: Domain, left_out: Sequence[int] | Int[np.ndarray, " item"] = ()) -> tuple[Aim, ...]:
    """Every pair of labels and theme that some item has, in alphabetical order.

    An item's labels are its first two, in either order, and its theme is the one that fits its plot best.

    Args:
        left_out: numbers of items that are not used as aims, such as those that a method is tested on.
    """
    found: dict[tuple[tuple[str, ...], str], list[int]] = defaultdict(list)
    for position, (item, labels, theme) in enumerate(zip(domain.text_items, *_words(domain), strict=True)):
        if labels and item not in left_out:
            found[tuple(sorted(labels[:NAMED])), theme].append(position)
    return tuple(Aim(*words, tuple(items)) for words, items in sorted(found.items()))


def borrowing_aims(domain: Domain, left_out: Sequence[int] | Int[np.ndarray, " item"] = ()) -> tuple[Aim, ...]:
    """One aim for each item that could be a start, in the items' order (`left_out` as for `aims_of`)."""
    usable = set(start_items(domain)) - set(left_out)
    return tuple(
        Aim(tuple(sorted(labels[:NAMED])), theme, (position,), start_of(domain, item, user=-1).text)
        for position, (item, labels, theme) in enumerate(zip(domain.text_items, *_words(domain), strict=True))
        if item in usable
    )


def _words(domain: Domain) -> tuple[list[list[str]], list[str]]:
    """Labels of the catalogue, and the theme that fits the plot best, of every item with text."""
    themes = theme_matrix(domain.texts("plot"), n_themes=1, wording=domain.wording).argmax(axis=1)
    genres = [",".join(domain.items["genres"].iloc[item]) for item in domain.text_items]
    return [catalogue_genres(line, domain.wording) for line in genres], [domain.wording.themes[i] for i in themes]


def targets(aims: Sequence[Aim], items: Float[np.ndarray, "text_item dim"]) -> Float[np.ndarray, "aim dim"]:
    """The mean embedding of each aim's items, by any encoder."""
    return np.array([items[list(aim.items)].mean(axis=0) for aim in aims])


def landing(
    z: Float[np.ndarray, " dim"], targets: Float[np.ndarray, "aim dim"], reach: float | Float[np.ndarray, " aim"]
) -> Float[np.ndarray, "aim dim"]:
    """The point to which each aim is expected to bring a text at z; one reach for all aims, or one for each."""
    return z + np.reshape(reach, (-1, 1)) * (targets - z)


def promise(
    gap: ContentGap,
    z: Float[np.ndarray, " dim"],
    targets: Float[np.ndarray, "aim dim"],
    reach: float | Float[np.ndarray, " aim"],
) -> UtilityParts:
    """The utility that each aim promises a user beyond that of a text at z, in stars; no call of the language model."""
    there, here = gap(landing(z, targets, reach)), gap(z)
    return UtilityParts(*(after - before for after, before in zip(there, here, strict=True)))


def fit_reach(
    before: Float[np.ndarray, "text dim"],
    after: Float[np.ndarray, "text dim"],
    targets: Float[np.ndarray, "text dim"],
) -> float:
    """The share of the way to their targets that texts went: least squares over all texts, one number for all aims.

    Raises:
        ValueError: every text was on its target from the start.
    """
    ways = targets - before
    if not ways.any():
        raise ValueError("every text is on its target: give texts that have some way to go")
    return float(((after - before) * ways).sum() / (ways * ways).sum())


def most_promising(
    promised: Float[np.ndarray, " aim"], aims: Sequence[Aim], k: int, alike: int = 2
) -> Int[np.ndarray, " chosen"]:
    """The k aims of highest promise, of which at most `alike` name the same labels, and as many the same theme.

    Aims that promise most often have nearly the same words, and asking the same thing ten times is a search over noise.
    An aim whose promise is not finite, such as one that was tried already, is never among them.

    Raises:
        ValueError: the aims are too few, or too much alike, for k.
    """
    chosen = _extended([], promised, aims, k, alike)
    if len(chosen) < k:
        raise ValueError(f"{len(chosen)} aims that differ enough, {k} wanted: allow more that are alike")
    return np.array(chosen, dtype=int)


def in_order_of_promise(promised: Float[np.ndarray, " aim"], aims: Sequence[Aim], k: int) -> Int[np.ndarray, " chosen"]:
    """`most_promising` for any k: where aims of which two are alike do not suffice, three may be, and so on.

    With a smaller k these are the first ones of the same order, so a run with many calls shows what few would give.

    Raises:
        ValueError: there are fewer than k aims.
    """
    chosen: list[int] = []
    for alike in range(2, k + 2):
        if len(chosen) < k:
            chosen = _extended(chosen, promised, aims, k, alike)
    if len(chosen) < k:
        raise ValueError(f"{len(chosen)} aims to choose from, {k} wanted: ask for fewer")
    return np.array(chosen, dtype=int)


def _extended(
    chosen: Sequence[int], promised: Float[np.ndarray, " aim"], aims: Sequence[Aim], k: int, alike: int
) -> list[int]:
    """Up to k aims: those chosen before, and the best others of which not too many are alike."""
    chosen = list(chosen)
    for index in np.argsort(-promised, kind="stable"):
        aim = aims[index]
        same_labels, same_theme = (
            sum(getattr(aims[other], name) == getattr(aim, name) for other in chosen) for name in ("labels", "theme")
        )
        fits = index not in chosen and max(same_labels, same_theme) < alike
        if len(chosen) < k and fits and np.isfinite(promised[index]):
            chosen.append(int(index))
    return chosen
