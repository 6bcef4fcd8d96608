"""Exercises of notebooks 00 to 02: cosines, factorised ratings, from text to embedding."""

from __future__ import annotations

import numpy as np

from helpers.course.judge import Exercise, normal_values
from helpers.embedding.evaluation import ndcg

EMBEDDING_EXERCISES: dict[str, Exercise] = {}


# --- 00 ----------------------------------------------------------------------------------------------------


def cosine_of(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


EMBEDDING_EXERCISES["00.1"] = Exercise(
    "the cosine",
    cosine_of,
    cases=lambda seed: (normal_values(seed, 6), normal_values(seed + 50, 6)),
    hint="inner product, divided by the product of the two lengths",
    wrong=(
        lambda a, b: a @ b,
        lambda a, b: a @ b / np.linalg.norm(a),
        lambda a, b: a @ b / (np.linalg.norm(a) + np.linalg.norm(b)),
        lambda a, b: np.linalg.norm(a - b),
        lambda a, b: 1 - cosine_of(a, b),
        lambda a, b: a * b / (np.linalg.norm(a) * np.linalg.norm(b)),
    ),
)


def nearest_row(query, matrix):
    return int((matrix / np.linalg.norm(matrix, axis=1, keepdims=True) @ query).argmax())


EMBEDDING_EXERCISES["00.2"] = Exercise(
    "the nearest text",
    nearest_row,
    # Rows of very different lengths: the inner product alone would choose a long one.
    cases=lambda seed: (normal_values(seed, 4), normal_values(seed, 40, 4) * np.geomspace(1, 100, 40)[:, None]),
    hint="divide each row by its length, multiply by the query, take the argmax",
    wrong=(
        lambda q, m: int((m @ q).argmax()),
        lambda q, m: int((m / np.linalg.norm(m, axis=1, keepdims=True) @ q).argmin()),
        lambda q, m: int(np.linalg.norm(m - q, axis=1).argmin()),
        lambda q, m: int((m / np.linalg.norm(m, axis=0) @ q).argmax()),
        lambda q, m: float((m @ q).max()),
    ),
)


# --- 01 ----------------------------------------------------------------------------------------------------


def predict_rating(mean, user_bias, item_bias, p, q):
    return mean + user_bias + item_bias + p @ q


EMBEDDING_EXERCISES["01.1"] = Exercise(
    "one predicted rating",
    predict_rating,
    cases=lambda seed: (3.5, *normal_values(seed, 2), normal_values(seed, 4), normal_values(seed + 50, 4)),
    hint="four terms are added; the last is an inner product",
    wrong=(
        lambda m, u, i, p, q: m + p @ q,
        lambda m, u, i, p, q: m + u + p @ q,
        lambda m, u, i, p, q: m + u - i + p @ q,
        lambda m, u, i, p, q: m + u + i + p * q,
        lambda m, u, i, p, q: u + i + p @ q,
    ),
)


def solve_user(factors, residuals, regularisation):
    n, rank = factors.shape
    return np.linalg.solve(factors.T @ factors + regularisation * n * np.eye(rank), factors.T @ residuals)


EMBEDDING_EXERCISES["01.2"] = Exercise(
    "one user's factors",
    solve_user,
    cases=lambda seed: (normal_values(seed, 9, 3), normal_values(seed, 9), 0.1),
    hint="a ridge regression of the residuals on the factors of the rated movies, penalty lambda times n",
    wrong=(
        lambda f, r, lam: np.linalg.lstsq(f, r, rcond=None)[0],
        lambda f, r, lam: np.linalg.solve(f.T @ f + lam * np.eye(f.shape[1]), f.T @ r),
        lambda f, r, lam: np.linalg.solve(f.T @ f + lam * len(f), f.T @ r),
        lambda f, r, lam: f.T @ r,
        lambda f, r, lam: np.linalg.solve(f.T @ f + lam * f.shape[1] * np.eye(f.shape[1]), f.T @ r),
    ),
)


# --- 02 ----------------------------------------------------------------------------------------------------


def ridge_weights(features, targets, weights, penalty):
    weighted = features * weights[:, None]
    gram = weighted.T @ features + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, weighted.T @ targets)


EMBEDDING_EXERCISES["02.1"] = Exercise(
    "weighted ridge regression",
    ridge_weights,
    cases=lambda seed: (
        normal_values(seed, 12, 5),
        normal_values(seed, 12, 2),
        normal_values(seed, 12) ** 2,
        0.5 + seed,
    ),
    hint="solve (X'SX + penalty I) W = X'SY, with S the diagonal matrix of weights",
    wrong=(
        lambda x, y, s, a: ridge_weights(x, y, np.ones_like(s), a),
        lambda x, y, s, a: ridge_weights(x, y, s**2, a),
        lambda x, y, s, a: ridge_weights(x, y, np.sqrt(s), a),
        lambda x, y, s, a: ridge_weights(x, y, s, 0.0),
        lambda x, y, s, a: ridge_weights(x, y, s, a).T,
        lambda x, y, s, a: np.linalg.solve(x.T @ (x * s[:, None]) + a, x.T @ (y * s[:, None])),
    ),
)


def _ranked_stars(seed: int) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).integers(1, 6, size=15).astype(float), 5 + seed


EMBEDDING_EXERCISES["02.2"] = Exercise(
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
)


def fold_of_plots(plots, n_folds):
    _, number = np.unique(plots, return_inverse=True)
    return number % n_folds


EMBEDDING_EXERCISES["02.3"] = Exercise(
    "folds without duplicates",
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
)
