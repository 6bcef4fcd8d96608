"""The whole embedding side in one call: domain, factorisation, encoder, and the embeddings of all items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from helpers.domains.domain import Domain
from helpers.embedding.encoder import Encoder, Features, Head, fit_encoder, fit_ridge
from helpers.embedding.factorization import Factorization, fit_als
from helpers.embedding.features import sentence_features
from helpers.embedding.neighbours import Neighbours


@dataclass(frozen=True)
class EmbeddingSpace:
    """What notebooks 03 and later build on.

    Attributes:
        model: factorisation of all ratings; encoder: E, fitted on all items with text.
        items: Float[text_item dim], E of every item with text, in the order of `domain.text_items`.
    """

    domain: Domain
    model: Factorization
    encoder: Encoder
    items: Float[np.ndarray, "text_item dim"]

    @cached_property
    def neighbours(self) -> Neighbours:
        """The index of `items`, built once for all users."""
        return Neighbours(self.items)


def build_space(
    domain: Domain,
    *,
    featurise: Callable[[Sequence[str]], Features] = sentence_features,
    head: Head = fit_ridge,
    model: Factorization | None = None,
    view: str = "genres_plot",
    left_out: Sequence[int] | Int[np.ndarray, " item"] = (),
) -> EmbeddingSpace:
    """Fit everything on a domain: half a second, once the text features are in the cache.

    Titles would help to predict ratings of known films, but a film that does not exist yet has no known title, so the
    encoder reads genres and plot.

    Args:
        featurise: text features; another kind gives an independent encoder of the same space.
        model: a factorisation to share between two encoders; fitted when not given.
        view: of the items' texts (`Domain.texts`); an encoder judges well only texts of the form that it was fitted on.
        left_out: items whose texts take no part in fitting the encoder; they are embedded like all others.

    Raises:
        ValueError: every item is left out.
    """
    model = model or fit_als(*domain.triplets, domain.n_users, domain.n_items)
    texts, rows = domain.texts(view), np.flatnonzero(~np.isin(domain.text_items, left_out))
    if not len(rows):
        raise ValueError("every item is left out: the encoder needs some to learn from")
    known = domain.text_items[rows]
    learnt = [texts[row] for row in rows]
    encoder = fit_encoder(learnt, model.item_embeddings[known], domain.n_ratings[known], featurise=featurise, head=head)
    return EmbeddingSpace(domain, model, encoder, encoder(texts))
