"""The exercises of the notebooks: reference, seeded cases, hint, and wrong answers that a check must reject."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from helpers.classroom.check import Exercise
from helpers.embedding.evaluation import ndcg


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


# --- 00 --------------------------------------------------------------------------------------------------


def cosine_of(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def nearest_row(query, matrix):
    return int((matrix / np.linalg.norm(matrix, axis=1, keepdims=True) @ query).argmax())


# --- 01 --------------------------------------------------------------------------------------------------


def predict_rating(mean, user_bias, item_bias, p, q):
    return mean + user_bias + item_bias + p @ q


def solve_user(factors, residuals, regularisation):
    n, rank = factors.shape
    return np.linalg.solve(factors.T @ factors + regularisation * n * np.eye(rank), factors.T @ residuals)


# --- 02 --------------------------------------------------------------------------------------------------


def ridge_weights(features, targets, weights, penalty):
    weighted = features * weights[:, None]
    gram = weighted.T @ features + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, weighted.T @ targets)


def _ranked_stars(seed: int) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).integers(1, 6, size=15).astype(float), 5 + seed


def fold_of_plots(plots, n_folds):
    _, number = np.unique(plots, return_inverse=True)
    return number % n_folds


# --- 03 --------------------------------------------------------------------------------------------------


def novelty(z, items, k):
    distances = np.linalg.norm(z[:, None] - items[None], axis=2)
    return np.sort(distances, axis=1)[:, :k].sum(axis=1)


def utility(z, items, user, level, novelty_weight, k):
    itself, _ = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()
    return level + z @ user + novelty_weight * novelty(z, items, k) / itself.sum(axis=1).mean()


def _gap_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    return _normal(seed, 4, 5), _normal(seed, 20, 5), 3


EXERCISES = {
    "00.1": Exercise(
        "the cosine",
        cosine_of,
        cases=lambda seed: (_normal(seed, 6), _normal(seed + 50, 6)),
        hint="inner product, divided by the product of the two lengths",
        wrong=(
            lambda a, b: a @ b,
            lambda a, b: a @ b / np.linalg.norm(a),
            lambda a, b: a @ b / (np.linalg.norm(a) + np.linalg.norm(b)),
            lambda a, b: np.linalg.norm(a - b),
            lambda a, b: 1 - cosine_of(a, b),
            lambda a, b: a * b / (np.linalg.norm(a) * np.linalg.norm(b)),
        ),
    ),
    "00.2": Exercise(
        "the nearest text",
        nearest_row,
        # Rows of very different lengths: the inner product alone would choose a long one.
        cases=lambda seed: (_normal(seed, 4), _normal(seed, 40, 4) * np.geomspace(1, 100, 40)[:, None]),
        hint="divide each row by its length, multiply by the query, take the argmax",
        wrong=(
            lambda q, m: int((m @ q).argmax()),
            lambda q, m: int((m / np.linalg.norm(m, axis=1, keepdims=True) @ q).argmin()),
            lambda q, m: int(np.linalg.norm(m - q, axis=1).argmin()),
            lambda q, m: int((m / np.linalg.norm(m, axis=0) @ q).argmax()),
            lambda q, m: float((m @ q).max()),
        ),
    ),
    "01.1": Exercise(
        "one predicted rating",
        predict_rating,
        cases=lambda seed: (3.5, *_normal(seed, 2), _normal(seed, 4), _normal(seed + 50, 4)),
        hint="four terms are added; the last is an inner product",
        wrong=(
            lambda m, u, i, p, q: m + p @ q,
            lambda m, u, i, p, q: m + u + p @ q,
            lambda m, u, i, p, q: m + u - i + p @ q,
            lambda m, u, i, p, q: m + u + i + p * q,
            lambda m, u, i, p, q: u + i + p @ q,
        ),
    ),
    "01.2": Exercise(
        "one user's factors",
        solve_user,
        cases=lambda seed: (_normal(seed, 9, 3), _normal(seed, 9), 0.1),
        hint="a ridge regression of the residuals on the factors of the rated movies, penalty lambda times n",
        wrong=(
            lambda f, r, lam: np.linalg.lstsq(f, r, rcond=None)[0],
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * np.eye(f.shape[1]), f.T @ r),
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * len(f), f.T @ r),
            lambda f, r, lam: f.T @ r,
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * f.shape[1] * np.eye(f.shape[1]), f.T @ r),
        ),
    ),
    "02.1": Exercise(
        "weighted ridge regression",
        ridge_weights,
        cases=lambda seed: (_normal(seed, 12, 5), _normal(seed, 12, 2), _normal(seed, 12) ** 2, 0.5 + seed),
        hint="solve (X'SX + penalty I) W = X'SY, with S the diagonal matrix of weights",
        wrong=(
            lambda x, y, s, a: ridge_weights(x, y, np.ones_like(s), a),
            lambda x, y, s, a: ridge_weights(x, y, s**2, a),
            lambda x, y, s, a: ridge_weights(x, y, np.sqrt(s), a),
            lambda x, y, s, a: ridge_weights(x, y, s, 0.0),
            lambda x, y, s, a: ridge_weights(x, y, s, a).T,
            lambda x, y, s, a: np.linalg.solve(x.T @ (x * s[:, None]) + a, x.T @ (y * s[:, None])),
        ),
    ),
    "02.2": Exercise(
        "NDCG",
        ndcg,
        cases=_ranked_stars,
        hint="gain 2^stars - 1, discount 1 / log2(rank + 1), divided by the same sum for the best order",
        wrong=(
            lambda r, k: float(np.mean(r[:k]) / np.mean(np.sort(r)[::-1][:k])),
            lambda r, k: float((2.0 ** r[:k] - 1) @ (1 / np.log2(np.arange(2, k + 2)))),
            lambda r, k: (
                float(r[:k] @ (1 / np.log2(np.arange(2, k + 2))))
                / float(np.sort(r)[::-1][:k] @ (1 / np.log2(np.arange(2, k + 2))))
            ),
            lambda r, k: ndcg(r, len(r)),
            lambda r, k: ndcg(r[::-1], k),
        ),
    ),
    "02.3": Exercise(
        "folds without twins",
        fold_of_plots,
        cases=lambda seed: (np.random.default_rng(seed).choice(list("abcdefghijkl"), size=30), 3 + seed % 3),
        hint="number the distinct plots first (np.unique with return_inverse), then take the number modulo n_folds",
        wrong=(
            lambda plots, n: np.arange(len(plots)) % n,
            lambda plots, n: np.random.default_rng(0).integers(0, n, len(plots)),
            lambda plots, n: np.zeros(len(plots), dtype=int),
            lambda plots, n: np.unique(plots, return_inverse=True)[1],
            lambda plots, n: np.unique(plots, return_inverse=True)[1][:-1] % n,
        ),
    ),
    "03.1": Exercise(
        "novelty",
        novelty,
        cases=_gap_case,
        hint="all distances by broadcasting, sort each row, add the first k",
        wrong=(
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, :k].mean(axis=1),
            lambda z, items, k: np.linalg.norm(z[:, None] - items[None], axis=2).sum(axis=1),
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, k],
            lambda z, items, k: np.sort(((z[:, None] - items[None]) ** 2).sum(axis=2), axis=1)[:, :k].sum(axis=1),
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, 1 : k + 1].sum(1),
        ),
    ),
    "03.2": Exercise(
        "utility",
        utility,
        cases=lambda seed: (*_gap_case(seed)[:2], _normal(seed, 5), 3.5, 0.5, 3),
        hint="stars that the user would give, plus lambda times novelty divided by the items' own mean novelty",
        wrong=(
            lambda z, items, user, level, lam, k: level + z @ user,
            lambda z, items, user, level, lam, k: level + z @ user + lam * novelty(z, items, k),
            lambda z, items, user, level, lam, k: z @ user + lam * novelty(z, items, k),
            lambda z, items, user, level, lam, k: level + z @ user - utility(z, items, 0 * user, 0, lam, k),
            lambda z, items, user, level, lam, k: utility(z, items, user, level, 1.0, k),
        ),
    ),
}
