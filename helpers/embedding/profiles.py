"""User profiles in words: what a user likes and dislikes, without a title or a rating in it.

Tennenholtz et al. 2024 let a large language model write profiles from rated movies. A 135M model invents
tastes, so here they are counted: genres and themes that go with a user's high or low ratings. A movie's
themes are those of a fixed list (`Wording.themes`) whose MiniLM embedding is nearest to its plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from helpers.domains.domain import Domain
from helpers.domains.wording import MOVIES, Wording
from helpers.embedding.features import sentence_features

SHRINKAGE = 5.0  # imaginary neutral ratings added to each genre or theme before it counts as a taste
THEMES_PER_MOVIE = 3


@dataclass(frozen=True)
class Profile:
    """A user's tastes: genres and themes, strongest first."""

    likes: tuple[str, ...]
    dislikes: tuple[str, ...]
    themes: tuple[str, ...]
    wording: Wording = MOVIES

    def __str__(self) -> str:
        sentences = [
            f"Likes {in_words(self.likes)}." if self.likes else "",
            f"Is drawn to {self.wording.drawn_to} {'; '.join(self.themes)}." if self.themes else "",
            f"Cares little for {in_words(self.dislikes)}." if self.dislikes else "",
        ]
        return " ".join(filter(None, sentences)) or "Has no marked taste."

    def as_item(self) -> str:
        """The profile in the form of a `genres_plot` text: an item that the user should like."""
        themes = "; ".join(self.themes or ("people",))
        return f"{self.wording.line(self.likes)}\n{self.wording.theme.format(themes)}"


def in_words(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


@dataclass(frozen=True)
class ProfileWriter:
    """Writes profiles from a domain's ratings; prepares genres and themes once for all users."""

    domain: Domain
    ratings: pd.DataFrame | None = None  # default: all ratings of the domain

    @cached_property
    def _liking(self) -> pd.DataFrame:
        """Ratings with `liking`: stars above what user and item usually get."""
        ratings = self.domain.ratings if self.ratings is None else self.ratings
        item_mean = ratings.groupby("item")["rating"].transform("mean")
        surprise = ratings["rating"] - item_mean
        return ratings.assign(liking=surprise - surprise.groupby(ratings["user"]).transform("mean"))

    @cached_property
    def _genres(self) -> tuple[np.ndarray, Float[np.ndarray, "item genre"]]:
        lists = self.domain.items["genres"]
        names = np.array(sorted({genre for genres in lists for genre in genres}))
        return names, np.array([np.isin(names, genres) for genres in lists], dtype=float)

    @cached_property
    def _themes(self) -> Float[np.ndarray, "item theme"]:
        """Themes of every item; an item without a plot has none."""
        wording = self.domain.wording
        table = np.zeros((self.domain.n_items, len(wording.themes)))
        table[self.domain.text_items] = theme_matrix(self.domain.texts("plot"), wording=wording)
        return table

    def __call__(self, user: int) -> Profile:
        """The profile of one user.

        Raises:
            ValueError: the user has no rating.
        """
        rows = self._liking[self._liking["user"] == user]
        if rows.empty:
            raise ValueError(f"user {user} has no ratings: choose one of 0 to {self.domain.n_users - 1}")
        genre_names, genre_of = self._genres
        genres = shrunken_mean(rows["liking"].to_numpy(), genre_of[rows["item"]])
        themes = shrunken_mean(rows["liking"].to_numpy(), self._themes[rows["item"]])
        return Profile(
            likes=strongest(genre_names, genres, 3),
            dislikes=strongest(genre_names, -genres, 2),
            themes=strongest(np.array(self.domain.wording.themes), themes, 3),
            wording=self.domain.wording,
        )


def shrunken_mean(
    liking: Float[np.ndarray, " rating"], present: Float[np.ndarray, "rating feature"]
) -> Float[np.ndarray, " feature"]:
    """Mean liking of the movies with each feature, pulled to 0 by `SHRINKAGE` imaginary ratings."""
    return liking @ present / (present.sum(axis=0) + SHRINKAGE)


def strongest(names: np.ndarray, strength: np.ndarray, k: int) -> tuple[str, ...]:
    """The names of the k largest positive strengths, largest first."""
    order = np.argsort(-strength, kind="stable")[:k]
    return tuple(str(names[i]) for i in order if strength[i] > 0)


def theme_matrix(
    plots: Sequence[str], n_themes: int = THEMES_PER_MOVIE, wording: Wording = MOVIES
) -> Float[np.ndarray, "plot theme"]:
    """1 where a theme is among the `n_themes` that fit a plot best, by MiniLM cosine, else 0.

    Cosines are standardised per theme first: some themes are near every plot and would be given to all.
    """
    cosine = sentence_features(plots) @ sentence_features([wording.theme.format(t) for t in wording.themes]).T
    fit = (cosine - cosine.mean(axis=0)) / cosine.std(axis=0)
    ranks = np.argsort(np.argsort(-fit, axis=1), axis=1)
    return (ranks < n_themes).astype(float)


def profile_percentiles(
    z_profiles: Float[np.ndarray, "profile dim"],
    owners: Sequence[int] | Int[np.ndarray, " profile"],
    user_factors: Float[np.ndarray, "user dim"],
) -> Float[np.ndarray, " profile"]:
    """How well each profile fits its own user: the share of other users whose direction fits it worse.

    Directions are compared by cosine after removing the mean user; 0.5 is chance, 1 is perfect.
    """
    centred = user_factors - user_factors.mean(axis=0)
    cosine = z_profiles @ (centred / np.linalg.norm(centred, axis=1, keepdims=True)).T
    own = cosine[np.arange(len(owners)), owners]
    return (cosine < own[:, None]).sum(axis=1) / (len(user_factors) - 1)
