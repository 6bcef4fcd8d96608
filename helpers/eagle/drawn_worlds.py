"""A world of drawings with a ground truth for every part of a gain: known stars, and distances that users see.

The reward is the utility of `utility.py`, from pixels. Its true counterpart has the same formula. In place of the
encoder's embedding each poster has one coordinate per user, what this user would say of it:

    t(x) = (stars of user 1, ..., stars of user m) / sqrt(m)

so that the distance between two posters is the root mean square difference of their stars. Novelty by an encoder is
then compared with novelty that users can see, and predicted stars with true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from helpers.domains.drawings import Drawings, Poster, draw, latent, make_drawings
from helpers.eagle.utility import ContentGap
from helpers.embedding.encoder import Features, Head, fit_encoder, fit_ridge
from helpers.embedding.factorization import fit_als
from helpers.embedding.images import pixel_features
from helpers.embedding.space import EmbeddingSpace

WORLD_RANK = 4  # factors of a world's ratings: its users differ along as many directions
UTILITY_PARTS = ("rating, predicted", "novelty, predicted", "rating, true", "novelty, true")


@dataclass(frozen=True)
class DrawnWorld:
    """Drawings, and the embedding space that was fitted to their ratings and pixels."""

    drawings: Drawings
    space: EmbeddingSpace
    _kept: dict[Poster, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def embed(self, posters: Sequence[Poster]) -> Float[np.ndarray, "poster dim"]:
        """E of each poster's picture; every poster is drawn once."""
        if new := [poster for poster in dict.fromkeys(posters) if poster not in self._kept]:
            self._kept.update(zip(new, self.space.encoder([draw(poster) for poster in new]), strict=True))
        return np.stack([self._kept[poster] for poster in posters])

    def seen(self, posters: Sequence[Poster]) -> Float[np.ndarray, "poster user"]:
        """t of each poster: what every user would say of it, beyond the user's level."""
        weights = self.drawings.taste.weights
        return latent(posters) @ weights.T / np.sqrt(len(weights))

    def gap(self, user: int, item: int, **options) -> ContentGap:
        """The predicted utility of posters made from an item (options as for `ContentGap.of_user`)."""
        return ContentGap.of_user(self.space, int(user), without=int(item), **options)

    def true_gap(self, user: int, item: int) -> ContentGap:
        """The true one: call it with `seen(posters)`."""
        n_users, level = self.drawings.domain.n_users, float(self.drawings.taste.level[user])
        own = np.sqrt(n_users) * np.eye(n_users)[user]
        return ContentGap(self.seen(self.drawings.posters), own, level, without=int(item))

    def paid(self, user: int, item: int, **options) -> Callable[[Sequence[Poster]], Float[np.ndarray, " poster"]]:
        """The reward of a search: the predicted utility of posters."""
        gap = self.gap(user, item, **options)
        return lambda posters: gap(self.embed(posters)).total

    def parts(self, user: int, item: int, posters: Sequence[Poster]) -> Float[np.ndarray, "poster 4"]:
        """Both parts of the utility in stars, as predicted and as they are (`UTILITY_PARTS`)."""
        gap, true = self.gap(user, item), self.true_gap(user, item)
        found = gap(self.embed(posters)), true(self.seen(posters))
        columns = [(parts.rating, gap.novelty_weight * parts.novelty) for parts in found]
        return np.column_stack([column for pair in columns for column in pair])


def make_world(
    seed: int,
    *,
    featurise: Callable[[Sequence[np.ndarray]], Features] = pixel_features,
    head: Head = fit_ridge,
    **sizes: int,
) -> DrawnWorld:
    """Posters and users drawn at random (sizes as for `make_drawings`), and all that is fitted to them."""
    drawings = make_drawings(seed=seed, **sizes)
    domain, pictures = drawings.domain, [draw(poster) for poster in drawings.posters]
    model = fit_als(*domain.triplets, domain.n_users, domain.n_items, rank=WORLD_RANK, seed=seed)
    encoder = fit_encoder(pictures, model.item_embeddings, domain.n_ratings, featurise=featurise, head=head)
    return DrawnWorld(drawings, EmbeddingSpace(domain, model, encoder, encoder(pictures)))
