"""A domain: items with text, users, and the ratings that tie them together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from helpers.domains.ideas import MAX_START_WORDS, ascii_line, catalogue_genres, idea_of, opening
from helpers.domains.wording import MOVIES, Wording


@dataclass(frozen=True)
class Domain:
    """Items, users and ratings: all that the course needs to know of a domain.

    Users and items are numbered 0, 1, 2, ... and the numbers index every matrix in the course.

    Attributes:
        name: short name, such as `movies`.
        items: one row per item, in order: `title`, `year` (float, NaN if unknown), `genres` (list of str),
            `plot_text` (str, empty if none) and `plot_source` (str, empty if none).
        n_users: number of users.
        ratings: one row per rating: `user`, `item` (int) and `rating` (float, in stars).
        wording: the words for its items.
    """

    name: str
    items: pd.DataFrame
    n_users: int
    ratings: pd.DataFrame
    wording: Wording = MOVIES

    @property
    def n_items(self) -> int:
        return len(self.items)

    @cached_property
    def has_text(self) -> Bool[np.ndarray, " item"]:
        """True for the items that have a plot."""
        return (self.items["plot_text"] != "").to_numpy()

    @cached_property
    def text_items(self) -> Int[np.ndarray, " text_item"]:
        """Numbers of the items that have a plot, in order."""
        return np.flatnonzero(self.has_text)

    @cached_property
    def n_ratings(self) -> Int[np.ndarray, " item"]:
        """Number of ratings of each item."""
        return np.bincount(self.ratings["item"], minlength=self.n_items)

    @cached_property
    def triplets(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Users, items and stars of all ratings, as arrays."""
        return tuple(self.ratings[column].to_numpy() for column in ("user", "item", "rating"))

    def texts(self, view: str = "genres_plot") -> list[str]:
        """The text of every item that has a plot, in the order of `text_items`.

        Args:
            view: `plot` (the plot alone), `genres_plot` (a first line with the genres, then the plot),
                `title_genres_plot` (title and year stand in the first line as well) or `idea` (genres and the opening
                of the plot, the form in which items are edited).

        Raises:
            ValueError: unknown view.
        """
        return [item_text(row, view, self.wording) for row in self.items[self.has_text].itertuples()]

    def __post_init__(self) -> None:
        in_range = self.ratings["item"].between(0, self.n_items - 1).all()
        if not in_range or not self.ratings["user"].between(0, self.n_users - 1).all():
            raise ValueError("a rating names a user or an item that does not exist: number both from 0")
        if not np.isfinite(self.ratings["rating"]).all():
            raise ValueError("a rating is not a finite number: drop such rows first")
        if self.items[["plot_text", "plot_source"]].isna().any(axis=None):
            raise ValueError("a plot or its source is missing: write an empty string where an item has none")


def item_text(row, view: str, wording: Wording = MOVIES) -> str:
    """Text of one item (a row with `title`, `year`, `genres` and `plot_text`) in one of the views of `Domain.texts`."""
    genres = wording.line(row.genres)
    year = "" if np.isnan(row.year) else f" ({int(row.year)})"
    if view == "plot":
        return row.plot_text
    if view == "genres_plot":
        return f"{genres}\n{row.plot_text}"
    if view == "title_genres_plot":
        return f"{row.title}{year}. {genres}\n{row.plot_text}"
    if view == "idea":
        cut = " ".join(ascii_line(row.plot_text).split()[:MAX_START_WORDS])  # where the first sentence is longer
        return idea_of(catalogue_genres(",".join(row.genres), wording), opening(row.plot_text) or cut, wording)
    raise ValueError(f"unknown view {view!r}: choose 'plot', 'genres_plot', 'title_genres_plot' or 'idea'")
