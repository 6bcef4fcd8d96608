"""Behavioural embeddings: weighted alternating least squares on ratings.

Hu, Koren, Volinsky 2008 ("Collaborative filtering for implicit feedback datasets") give every user-item pair a
weight, also the pairs without a rating; Zhou et al. 2008 scale the ridge penalty by the number of ratings. We
use both on what user and item biases leave unexplained:

    min  sum_{u,i} w_ui (e_ui - p_u . q_i)^2  +  lambda (sum_u n_u |p_u|^2 + sum_i n_i |q_i|^2)

where e_ui is the rating minus mean and biases and w_ui = 1 if u rated i; otherwise e_ui = 0 and w_ui = w_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

DAMPING = 5.0  # of biases: acts like that many extra ratings at the mean


@dataclass(frozen=True)
class Factorization:
    """A fitted model: predicted rating = mean + user_bias + item_bias + <user_factors, item_factors>, in stars.

    Attributes:
        mean: mean rating.
        user_bias: Float[user]; item_bias: Float[item].
        user_factors: Float[user rank]; item_factors: Float[item rank], on principal axes (see `principal_axes`).
    """

    mean: float
    user_bias: Float[np.ndarray, " user"]
    item_bias: Float[np.ndarray, " item"]
    user_factors: Float[np.ndarray, "user rank"]
    item_factors: Float[np.ndarray, "item rank"]

    @property
    def item_embeddings(self) -> Float[np.ndarray, "item dim"]:
        """z of every item: its factors, then its bias (dim = rank + 1)."""
        return np.column_stack([self.item_factors, self.item_bias])

    @property
    def user_embeddings(self) -> Float[np.ndarray, "user dim"]:
        """z of every user: factors, then 1, so that <z_user, z_item> is all of a rating that the item decides."""
        return np.column_stack([self.user_factors, np.ones(len(self.user_factors))])

    @property
    def user_level(self) -> Float[np.ndarray, " user"]:
        """The part of a rating that no item changes: mean + user bias, in stars."""
        return self.mean + self.user_bias

    def predict(self, users: Int[np.ndarray, " n"], items: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Predicted ratings of pairs, in stars, not clipped."""
        interaction = (self.user_embeddings[users] * self.item_embeddings[items]).sum(axis=1)
        return self.user_level[users] + interaction


def fit_biases(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    n_users: int,
    n_items: int,
    damping: float = DAMPING,
    n_sweeps: int = 10,
) -> tuple[float, Float[np.ndarray, " user"], Float[np.ndarray, " item"]]:
    """Mean, user biases and item biases; `damping` acts like that many extra ratings at the mean."""
    mean = float(np.mean(ratings))
    user_count = np.bincount(users, minlength=n_users) + damping
    item_count = np.bincount(items, minlength=n_items) + damping
    user_bias, item_bias = np.zeros(n_users), np.zeros(n_items)
    for _ in range(n_sweeps):
        item_bias = np.bincount(items, ratings - mean - user_bias[users], n_items) / item_count
        user_bias = np.bincount(users, ratings - mean - item_bias[items], n_users) / user_count
    return mean, user_bias, item_bias


def solve_rows(
    residuals: sp.csr_array, factors: Float[np.ndarray, "col rank"], regularisation: float, unobserved: float
) -> Float[np.ndarray, "row rank"]:
    """Half a sweep: the best factors of every row, given the factors of the columns.

    The Gram matrices of all rows come from one sparse product, rows x columns times columns x rank^2.
    """
    rank = factors.shape[1]
    observed = residuals.copy()
    observed.data = np.ones_like(observed.data)
    outer = (factors[:, :, None] * factors[:, None, :]).reshape(-1, rank * rank)
    gram = (1 - unobserved) * (observed @ outer).reshape(-1, rank, rank) + unobserved * factors.T @ factors
    counts = np.diff(residuals.indptr).clip(min=1)
    gram += regularisation * counts[:, None, None] * np.eye(rank)
    return np.linalg.solve(gram, (residuals @ factors)[..., None])[..., 0]


def principal_axes(
    user_factors: Float[np.ndarray, "user rank"], item_factors: Float[np.ndarray, "item rank"]
) -> tuple[Float[np.ndarray, "user rank"], Float[np.ndarray, "item rank"]]:
    """The same products on the axes of their singular value decomposition, strongest first.

    Any invertible matrix may stand between p and q without changing a prediction; this choice makes the axes
    mean something and gives users and items the same length. The largest entry of an item axis is positive.
    """
    user_basis, user_upper = np.linalg.qr(user_factors)
    item_basis, item_upper = np.linalg.qr(item_factors)
    left, strength, right = np.linalg.svd(user_upper @ item_upper.T)
    users = user_basis @ left * np.sqrt(strength)
    items = item_basis @ right.T * np.sqrt(strength)
    sign = np.sign(items[np.abs(items).argmax(axis=0), np.arange(items.shape[1])])
    return users * sign, items * sign


def refuse_unfit(
    users: np.ndarray, items: np.ndarray, ratings: np.ndarray, n_users: int, n_items: int, rank: int
) -> None:
    """Refuse what cannot be factorised.

    Raises:
        ValueError: no ratings, a rating that is not finite, two ratings of one user for one item, a user or an item
            out of range, or a rank that is below 1 or above the number of users or items.
    """
    if len(ratings) == 0 or not np.isfinite(ratings).all():
        raise ValueError("a factorisation needs at least one rating, and finite ratings")
    for name, numbers, count in (("user", users, n_users), ("item", items, n_items)):
        if not 0 <= numbers.min() <= numbers.max() < count:
            raise ValueError(f"a rating names {name} {numbers.min()} or {numbers.max()}: number them 0 to {count - 1}")
    pairs = users.astype(np.int64) * n_items + items
    pairs.sort()
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("a user rated an item twice: keep one of the two ratings")
    if not 1 <= rank <= min(n_users, n_items):
        raise ValueError(f"rank {rank} must lie between 1 and the number of users ({n_users}) and items ({n_items})")


def fit_als(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    n_users: int,
    n_items: int,
    *,
    rank: int = 16,
    regularisation: float = 0.1,
    unobserved: float = 0.05,
    n_sweeps: int = 12,
    seed: int = 0,
) -> Factorization:
    """Fit biases, then factors by weighted alternating least squares on what the biases leave.

    Args:
        users, items, ratings: one entry per observed rating.
        regularisation: lambda; unobserved: w_0, the weight of a pair without a rating (0 ignores such pairs).

    Raises:
        ValueError: as `refuse_unfit`.
    """
    refuse_unfit(users, items, ratings, n_users, n_items, rank)
    mean, user_bias, item_bias = fit_biases(users, items, ratings, n_users, n_items)
    left_over = ratings - mean - user_bias[users] - item_bias[items]
    by_user = sp.csr_array((left_over, (users, items)), shape=(n_users, n_items))
    by_item = by_user.T.tocsr()
    item_factors = 0.1 * np.random.default_rng(seed).normal(size=(n_items, rank))
    for _ in range(n_sweeps):
        user_factors = solve_rows(by_user, item_factors, regularisation, unobserved)
        item_factors = solve_rows(by_item, user_factors, regularisation, unobserved)
    return Factorization(mean, user_bias, item_bias, *principal_axes(user_factors, item_factors))


def fold_in_items(
    model: Factorization,
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    *,
    regularisation: float = 0.1,
    unobserved: float = 0.05,
) -> Float[np.ndarray, "item dim"]:
    """Embeddings of new items from their ratings, with the users of a fitted model held fixed.

    Half a sweep as in `fit_als`, but on principal axes, where the penalty pulls a little less: an item of the
    training ratings comes back about a tenth longer. Items without a rating get zeros.
    """
    n_items = len(model.item_bias)
    left_over = ratings - model.user_level[users]
    bias = np.bincount(items, left_over, n_items) / (np.bincount(items, minlength=n_items) + DAMPING)
    residuals = sp.csr_array((left_over - bias[items], (items, users)), shape=(n_items, len(model.user_bias)))
    return np.column_stack([solve_rows(residuals, model.user_factors, regularisation, unobserved), bias])


def split_ratings(
    n: int, seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"], Int[np.ndarray, " test"]]:
    """Random train, validation and test positions of `n` ratings."""
    order = np.random.default_rng(seed).permutation(n)
    n_test, n_validation = int(n * test), int(n * validation)
    return order[n_test + n_validation :], order[n_test : n_test + n_validation], order[:n_test]


def rmse(predicted: Float[np.ndarray, " n"], actual: Float[np.ndarray, " n"], lowest: float = 1.0) -> float:
    """Root mean squared error in stars, predictions clipped to the scale of `lowest` (0.5 in MovieLens-25M) to 5."""
    return float(np.sqrt(np.mean((np.clip(predicted, lowest, 5) - actual) ** 2)))
