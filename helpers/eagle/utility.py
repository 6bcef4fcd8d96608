"""Utility and content gap: what would a user like that does not exist yet?

Tennenholtz et al. 2024, section 5: U(z; D) = <z_user, z> + lambda * sum of distances to the 3 nearest items.
The paper does not say how the two terms are scaled. Ours, so that lambda means something:

    U(z) = predicted rating in stars + lambda * (sum of distances to the k nearest items) / d_D

where d_D is the mean of that sum over the existing items (each without itself). A text as far from the items as
films usually are from one another thus earns lambda stars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from helpers.embedding.neighbours import Neighbours
from helpers.embedding.space import EmbeddingSpace

NOVELTY_WEIGHT = 0.5  # lambda, in stars


class UtilityParts(NamedTuple):
    """Utility of each text and its two terms: `total` = `rating` + lambda * `novelty`, the first two in stars."""

    total: Float[np.ndarray, " text"]
    rating: Float[np.ndarray, " text"]
    novelty: Float[np.ndarray, " text"]


@dataclass(frozen=True)
class ContentGap:
    """The utility of new texts for one user, given the items that exist.

    Attributes:
        items: Float[item dim], what exists, encoded by the same encoder as the new texts, so that a copy has
            distance 0. Behavioural embeddings spread wider than encoded texts (a regression shrinks), and the
            distance between the two would measure the encoder's error instead of novelty.
        user: Float[dim], the user's embedding; user_level: mean plus user bias, in stars.
        novelty_weight: lambda in stars; n_neighbors: k.
        neighbours: the index of `items`, to share between users; made when not given.
        without: position of an item that does not count as existing: the one that a text was made from. Otherwise
            merely moving away from it would earn novelty, whatever the text has become.
    """

    items: Float[np.ndarray, "item dim"]
    user: Float[np.ndarray, " dim"]
    user_level: float
    novelty_weight: float = NOVELTY_WEIGHT
    n_neighbors: int = 3
    neighbours: Neighbours | None = field(default=None, repr=False, compare=False)
    without: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.items, self.user, self.user_level, self.novelty_weight)
        if not all(np.isfinite(value).all() for value in numbers):
            raise ValueError("an embedding or a setting is not finite: fit the factorisation or the encoder again")
        if self.items.ndim != 2 or self.items.shape[1:] != self.user.shape:
            raise ValueError(f"items have shape {self.items.shape}, the user {self.user.shape}: dims must agree")
        if not 1 <= self.n_neighbors < len(self.items) - (self.without is not None):
            raise ValueError(f"k = {self.n_neighbors} is below 1, or {len(self.items)} items are too few for it")
        if self.without is not None and not 0 <= self.without < len(self.items):
            raise ValueError(f"no item {self.without}: leave out one of 0 to {len(self.items) - 1}")
        if self.neighbours is not None and self.neighbours.points is not self.items:
            raise ValueError("the index is of other items: give Neighbours(items), or leave it out")

    @classmethod
    def of_user(cls, space: EmbeddingSpace, user: int, **options) -> ContentGap:
        """The gap of one user of an embedding space (options: `novelty_weight`, `n_neighbors`, `without`)."""
        model = space.model
        own = (model.user_embeddings[user], float(model.user_level[user]))
        return cls(space.items, *own, neighbours=space.neighbours, **options)

    @cached_property
    def _index(self) -> Neighbours:
        return self.neighbours or Neighbours(self.items)

    @cached_property
    def typical_distance(self) -> float:
        """d_D: mean over existing items of the summed distance to their k nearest other items.

        Copies of an item (18 films are listed twice) would count as distance 0; that is what "no gap" means.
        """
        typical = self._index.typical_distance(self.n_neighbors)
        if typical == 0:
            raise ValueError("all items have the same embedding: the encoder is constant")
        return typical

    def __call__(self, z: Float[np.ndarray, "*text dim"]) -> UtilityParts:
        """Utility and its parts for embeddings of texts, or for one embedding.

        Raises:
            ValueError: z is empty, not finite or has another dimension than the items.
        """
        z = np.atleast_2d(z)
        if len(z) == 0 or z.shape[1] != len(self.user) or not np.isfinite(z).all():
            raise ValueError(f"expected finite embeddings of shape (n, {len(self.user)}), got {z.shape}")
        rating = self.user_level + z @ self.user
        novelty = self._distances(z).sum(axis=1) / self.typical_distance
        return UtilityParts(rating + self.novelty_weight * novelty, rating, novelty)

    def _distances(self, z: Float[np.ndarray, "text dim"]) -> Float[np.ndarray, "text k"]:
        """Distances to the k nearest items that count."""
        if self.without is None:
            return self._index(z, self.n_neighbors)[0]
        distances, found = self._index(z, self.n_neighbors + 1)
        left_out = found == self.without
        left_out[~left_out.any(axis=1), -1] = True  # not among the k + 1 nearest: the farthest of them is too many
        return distances[~left_out].reshape(len(z), self.n_neighbors)

    def of_items(self) -> UtilityParts:
        """Utility of the existing items, each compared with the others and not with itself."""
        rating = self.user_level + self.items @ self.user
        novelty = self._index.among_themselves(self.n_neighbors).sum(axis=1) / self.typical_distance
        return UtilityParts(rating + self.novelty_weight * novelty, rating, novelty)

    def nearest(self, z: Float[np.ndarray, " dim"], k: int = 3) -> np.ndarray:
        """Positions of the k items nearest to one embedding, nearest first."""
        return self._index(np.atleast_2d(z), k)[1][0]


def best_in_reach(
    gap: ContentGap, z: Float[np.ndarray, " dim"], items: Float[np.ndarray, "item dim"], n_fractions: int = 10
) -> Float[np.ndarray, " dim"]:
    """The point of highest utility that can be reached from z within the region of the items.

    U grows without bound away from the items, so its optimum needs a region, which the paper does not give. Ours: the
    segments from z to every item (they lie in the convex hull), as far as the median distance from z to the items.
    Best of `n_fractions` points on each.
    """
    ways = items - z
    reach = np.median(np.linalg.norm(ways, axis=1))
    points = np.concatenate([z + fraction * ways for fraction in np.linspace(0, 1, n_fractions + 1)[1:]])
    points = points[np.linalg.norm(points - z, axis=1) <= reach * (1 + 1e-9)]
    return points[gap(points).total.argmax()]
