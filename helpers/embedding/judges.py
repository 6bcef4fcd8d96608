"""Encoders that share as little as possible: one gives the reward, a second helps to choose, the third judges.

A search finds what its own encoder overrates. Whoever scores the found texts must not share the error, so the judge has
other targets (a factorisation of the other half of every user's ratings), other features (words, without any neural
network) and, like the others, has never seen the items that are reported on.

A judge must also give a rephrased text the same value. Hidden states predict unseen films as well as words do, but move
much further when a text is only rephrased; so words judge, and hidden states help to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import train_test_split

from helpers.domains.domain import Domain
from helpers.embedding.features import other_model_features, term_features
from helpers.embedding.space import EmbeddingSpace, build_space

VIEW = "idea"  # the form of the texts that are judged


class Encoders(NamedTuple):
    """Three embedding spaces of one domain, each with its own axes.

    Attributes:
        paid: MiniLM features; its utility is the reward of agents and what searches choose by.
        second: hidden states of a model that does not write, fitted on the same ratings as `paid`: what both like is
            less often a mistake of one.
        judge: words alone (TF-IDF), fitted on the other half of the ratings; chooses nothing.
    """

    paid: EmbeddingSpace
    second: EmbeddingSpace
    judge: EmbeddingSpace


def halves(domain: Domain, seed: int = 0) -> tuple[Domain, Domain]:
    """The domain twice, each with one half of every user's ratings, drawn at random.

    Raises:
        ValueError: a user has fewer than two ratings.
    """
    users = domain.triplets[0]
    if np.bincount(users, minlength=domain.n_users).min() < 2:
        raise ValueError("a user has fewer than two ratings: leave such users out")
    parts = train_test_split(np.arange(len(users)), test_size=0.5, stratify=users, random_state=seed)
    first, second = (replace(domain, ratings=domain.ratings.iloc[np.sort(rows)]) for rows in parts)
    return first, second


def independent_encoders(
    domain: Domain, left_out: Sequence[int] | Int[np.ndarray, " item"] = (), seed: int = 0
) -> Encoders:
    """The three spaces. Neither texts nor ratings of items that are `left_out` take part in fitting anything."""
    known = replace(domain, ratings=domain.ratings[~domain.ratings["item"].isin(left_out)])
    own, other = halves(known, seed)
    texts = [text for text, item in zip(domain.texts(VIEW), domain.text_items, strict=True) if item not in left_out]
    words = term_features(texts)
    paid = build_space(own, view=VIEW, left_out=left_out)
    second = build_space(own, view=VIEW, left_out=left_out, featurise=other_model_features, model=paid.model)
    judge = build_space(other, view=VIEW, left_out=left_out, featurise=words)
    return Encoders(paid, second, judge)


class EncoderAgreement(NamedTuple):
    """How well one encoder's predictions agree with another's, over items that neither has seen.

    Attributes:
        correlation: over the items, mean over users.
        slope: stars of the judge per star of the paid encoder, by least squares within users. Real items earn so much
            of their paid advantage with the judge; texts that a search has picked by the paid encoder earn less.
    """

    correlation: float
    slope: float


def encoder_agreement(
    paid: Float[np.ndarray, "user text_item"], judge: Float[np.ndarray, "user text_item"]
) -> EncoderAgreement:
    """The agreement of two tables of predicted preferences (`cross_validate(...).scores`).

    Raises:
        ValueError: a table of another shape, or a user for whom all items are equal.
    """
    if paid.shape != judge.shape:
        raise ValueError(f"tables of shape {paid.shape} and {judge.shape}: give the same users and items")
    a, b = (table - table.mean(axis=1, keepdims=True) for table in (paid, judge))
    lengths = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    if not lengths.all():
        raise ValueError("a user's predictions are all equal: leave such users out")
    return EncoderAgreement(float(((a * b).sum(axis=1) / lengths).mean()), float((a * b).sum() / (a * a).sum()))
