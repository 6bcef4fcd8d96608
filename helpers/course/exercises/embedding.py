"""Exercises of notebooks 00 to 02: cosines, factorised ratings, from text to embedding."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata, spearmanr

from helpers.course.judge import Exercise, normal_values
from helpers.embedding.encoder import rating_weights
from helpers.embedding.evaluation import Fold, ndcg
from helpers.embedding.factorization import Factorization

EMBEDDING_EXERCISES: dict[str, Exercise] = {}


def _changed(function, place, change):
    """A wrong answer: `function` with the argument at `place` changed."""
    return lambda *given: function(*given[:place], change(given[place]), *given[place + 1 :])


# --- 00 ----------------------------------------------------------------------------------------------------


def cosine_of(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


EMBEDDING_EXERCISES["00.1"] = Exercise(
    "the cosine",
    cosine_of,
    cases=lambda seed: (normal_values(seed, 6), normal_values(seed + 50, 6)),
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
    wrong=(
        lambda q, m: int((m @ q).argmax()),
        lambda q, m: int((m / np.linalg.norm(m, axis=1, keepdims=True) @ q).argmin()),
        lambda q, m: int(np.linalg.norm(m - q, axis=1).argmin()),
        lambda q, m: int((m / np.linalg.norm(m, axis=0) @ q).argmax()),
        lambda q, m: float((m @ q).max()),
    ),
)


# --- 01 ----------------------------------------------------------------------------------------------------


def fit_level(u, i, r, n_users, n_items, damping=5.0, n_sweeps=10):
    rated, left = np.zeros((n_users, n_items)), np.zeros((n_users, n_items))
    rated[u, i], left[u, i] = 1, r - np.mean(r)
    b_u = np.zeros(n_users)
    for _ in range(n_sweeps):
        b_i = (rated * (left - b_u[:, None])).sum(axis=0) / (rated.sum(axis=0) + damping)
        b_u = (rated * (left - b_i)).sum(axis=1) / (rated.sum(axis=1) + damping)
    return np.mean(r), b_u, b_i


def _some_ratings(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Users, movies and stars of some ratings in mixed order, by 6 users of 8 movies; the last of both have none."""
    random = np.random.default_rng(seed)
    u, i = np.divmod(random.permutation(35)[:20], 7)
    return u, i, random.integers(1, 6, size=20).astype(float), 6, 8


def _both_taken_off(u, i, r, n_users, n_items, damping, n_sweeps):
    b_u, b_i = np.zeros(n_users), np.zeros(n_items)
    for _ in range(n_sweeps):
        left = r - r.mean() - b_u[u] - b_i[i]
        b_i = np.bincount(i, left, n_items) / (np.bincount(i, minlength=n_items) + damping)
        b_u = np.bincount(u, left, n_users) / (np.bincount(u, minlength=n_users) + damping)
    return r.mean(), b_u, b_i


def _users_first(u, i, r, n_users, n_items, damping, n_sweeps):
    mean, b_i, b_u = fit_level(i, u, r, n_items, n_users, damping, n_sweeps)
    return mean, b_u, b_i


EMBEDDING_EXERCISES["01.1"] = Exercise(
    "the level",
    fit_level,
    cases=lambda seed: (*_some_ratings(seed), 5.0 - seed, 2 + seed),
    wrong=(
        lambda u, i, r, n, m, damping, sweeps: fit_level(u, i, r, n, m, 1e-9, sweeps),
        lambda u, i, r, n, m, damping, sweeps: fit_level(u, i, r, n, m, damping, 1),
        lambda u, i, r, n, m, damping, sweeps: fit_level(u, i, r, u.max() + 1, i.max() + 1, damping, sweeps),
        lambda u, i, r, n, m, damping, sweeps: (0.0, *fit_level(u, i, r, n, m, damping, sweeps)[1:]),
        lambda u, i, r, n, m, damping, sweeps: (r.mean(), *fit_level(u, i, r, n, m, damping, sweeps)[:0:-1]),
        lambda u, i, r, n, m, damping, sweeps: (
            r.mean(),
            np.bincount(u, r - r.mean(), n) / (np.bincount(u, minlength=n) + damping),
            np.bincount(i, r - r.mean(), m) / (np.bincount(i, minlength=m) + damping),
        ),
        _both_taken_off,
        _users_first,
    ),
)


def solve_one(factors, rated, residuals, regularisation, unobserved):
    """As least squares: a row for every movie and a row of the penalty for every factor."""
    weights, values = np.full(len(factors), float(unobserved)), np.zeros(len(factors))
    weights[rated], values[rated] = 1, residuals
    penalty = np.sqrt(regularisation * max(len(rated), 1)) * np.eye(factors.shape[1])
    rows = np.vstack([np.sqrt(weights)[:, None] * factors, penalty])
    return np.linalg.lstsq(rows, np.append(np.sqrt(weights) * values, np.zeros(len(penalty))), rcond=None)[0]


def _one_user(seed: int) -> tuple:
    """Some rated movies of twelve, once as a list; the last user has rated none, and others have no weight there."""
    rated = np.random.default_rng(seed).permutation(12)[: (4, 7, 2, 5, 0)[seed]]
    numbers = rated.tolist() if seed == 3 else rated
    return normal_values(seed, 12, 3), numbers, normal_values(seed, 20)[: len(rated)], 0.1 + seed, 0.05 * (seed < 4)


def _solved(gram, right):
    return np.linalg.solve(gram, right)


EMBEDDING_EXERCISES["01.2"] = Exercise(
    "one user's factors",
    solve_one,
    cases=_one_user,
    wrong=(
        lambda f, rated, e, lam, w: _solved(f[rated].T @ f[rated] + lam * len(e) * np.eye(3), f[rated].T @ e),
        lambda f, rated, e, lam, w: solve_one(f, rated, e, lam, 0.0),
        lambda f, rated, e, lam, w: solve_one(f, rated, e, lam / max(len(e), 1), w),
        lambda f, rated, e, lam, w: solve_one(f, rated, e, lam * 3 / max(len(e), 1), w),
        lambda f, rated, e, lam, w: _solved(
            w * f.T @ f + f[rated].T @ f[rated] + lam * max(len(e), 1) * np.eye(3), f[rated].T @ e
        ),
        lambda f, rated, e, lam, w: _solved(
            w * f.T @ f + (1 - w) * f[rated].T @ f[rated] + lam * max(len(e), 1), f[rated].T @ e
        ),
        lambda f, rated, e, lam, w: _solved(
            w * f.T @ f + (1 - w) * f[rated].T @ f[rated] + lam * len(e) * np.eye(3), f[rated].T @ e
        ),
        lambda f, rated, e, lam, w: f[rated].T @ e,
        # The last section of the notebook hands over a list.
        lambda f, rated, e, lam, w: solve_one(f, rated, e, lam * max(rated.size, 1) / max(len(e), 1), w),
    ),
)


def half_sweep(factors, rows, columns, residuals, n_rows, regularisation, unobserved):
    parts = [np.flatnonzero(rows == number) for number in range(n_rows)]
    return np.array([solve_one(factors, columns[part], residuals[part], regularisation, unobserved) for part in parts])


def _some_residuals(seed: int) -> tuple:
    u, i, r, n_users, n_movies = _some_ratings(seed)
    return normal_values(seed, n_movies, 3), u, i, r - 3, n_users, 0.1 + 0.1 * seed, 0.05


EMBEDDING_EXERCISES["01.3"] = Exercise(
    "half a sweep",
    half_sweep,
    cases=_some_residuals,
    wrong=(
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, rows, columns, e, n - 1, lam, w),
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, rows, columns, e, n, 0.1, w),
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, np.sort(rows), columns, e, n, lam, w),
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, rows, rows, e, n, lam, w),
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, columns, rows, e, n, lam, w),
        lambda f, rows, columns, e, n, lam, w: half_sweep(f, rows, columns, e, n, lam, w).T,
        lambda f, rows, columns, e, n, lam, w: np.array([solve_one(f, columns, e, lam, w)] * n),
    ),
)


def solve_all(table, factors, regularisation, unobserved):
    """Sparse throughout: a blank notebook fits all ratings with it, again and again."""
    counts = np.maximum(np.diff(table.indptr), 1)[:, None, None]
    gram = _weights_of_rows(table, factors, unobserved, _with_ones(table))
    return _by_gram(table, factors, gram + regularisation * counts * np.eye(factors.shape[1]))


def _sparse_residuals(seed: int) -> tuple[sp.csr_array, np.ndarray, float, float]:
    """A table in which some residuals are exactly 0; one case gives no weight to pairs without a rating."""
    u, i, r, *shape = _some_ratings(seed)
    return sp.csr_array((r - 3, (u, i)), shape=tuple(shape)), normal_values(seed, 8, 3), 0.2, 0.0 if seed == 2 else 0.05


def _with_ones(table):
    return sp.csr_array((np.ones(table.nnz), table.indices, table.indptr), shape=table.shape)


def _table_overwritten(table, factors, regularisation, unobserved):
    solved = solve_all(table, factors, regularisation, unobserved)
    table.data[:] = 1
    return solved


def _by_gram(table, factors, gram):
    return np.linalg.solve(gram, (table @ factors)[..., None])[..., 0]


def _weights_of_rows(table, factors, unobserved, rated):
    outer = np.einsum("ia,ib->iab", factors, factors).reshape(len(factors), -1)
    return unobserved * factors.T @ factors + (1 - unobserved) * (rated @ outer).reshape(-1, *factors.shape[1:] * 2)


EMBEDDING_EXERCISES["01.4"] = Exercise(
    "all at once",
    solve_all,
    cases=_sparse_residuals,
    wrong=(
        lambda t, f, lam, w: _by_gram(
            t, f, _weights_of_rows(t, f, w, t != 0) + lam * np.diff(t.indptr).clip(1)[:, None, None] * np.eye(3)
        ),
        lambda t, f, lam, w: _by_gram(
            t, f, _weights_of_rows(t, f, w, t) + lam * np.diff(t.indptr).clip(1)[:, None, None] * np.eye(3)
        ),
        lambda t, f, lam, w: _by_gram(
            t, f, _weights_of_rows(t, f, w, _with_ones(t)) + lam * np.diff(t.indptr)[:, None, None] * np.eye(3)
        ),
        lambda t, f, lam, w: _by_gram(t, f, _weights_of_rows(t, f, w, _with_ones(t)) + lam * np.eye(3)),
        lambda t, f, lam, w: _by_gram(
            t, f, _weights_of_rows(t, f, w, _with_ones(t)) + lam * np.diff(t.indptr).clip(1)[:, None, None]
        ),
        lambda t, f, lam, w: solve_all(t, f, lam, 0.0),
        lambda t, f, lam, w: solve_all(_with_ones(t), f, lam, w),
        lambda t, f, lam, w: solve_all(t, f, lam, w)[..., None],
        _table_overwritten,
    ),
)


def als(u, i, r, n_users, Q, regularisation, unobserved, n_sweeps):
    mean, b_u, b_i = fit_level(u, i, r, n_users, len(Q))
    by_user = sp.csr_array((r - (mean + b_u[u] + b_i[i]), (u, i)), shape=(n_users, len(Q)))
    by_movie = by_user.T.tocsr()
    for _ in range(n_sweeps):
        P = solve_all(by_user, Q, regularisation, unobserved)
        Q = solve_all(by_movie, P, regularisation, unobserved)
    return mean, b_u, b_i, P, Q


def _a_fit(seed: int) -> tuple:
    u, i, r, n_users, n_movies = _some_ratings(seed)
    return u, i, r, n_users, normal_values(seed, n_movies, 2), 0.1, 0.05, 2 + seed % 2


def _movies_first(u, i, r, n_users, Q, regularisation, unobserved, n_sweeps):
    mean, b_u, b_i, _, _ = als(u, i, r, n_users, Q, regularisation, unobserved, 1)
    left, P = r - (mean + b_u[u] + b_i[i]), np.zeros((n_users, Q.shape[1]))
    for _ in range(n_sweeps):
        new = half_sweep(P, i, u, left, len(Q), regularisation, unobserved)  # from the user factors before
        P = half_sweep(Q, u, i, left, n_users, regularisation, unobserved)
        Q = new
    return mean, b_u, b_i, P, Q


def _explains_stars(u, i, r, n_users, Q, regularisation, unobserved, n_sweeps):
    P = half_sweep(Q, u, i, r, n_users, regularisation, unobserved)
    for _ in range(n_sweeps):
        P = half_sweep(Q, u, i, r, n_users, regularisation, unobserved)
        Q = half_sweep(P, i, u, r, len(Q), regularisation, unobserved)
    return *fit_level(u, i, r, n_users, len(Q)), P, Q


EMBEDDING_EXERCISES["01.5"] = Exercise(
    "alternating least squares",
    als,
    cases=_a_fit,
    wrong=(
        _explains_stars,
        _movies_first,
        _changed(als, 7, lambda n_sweeps: 1),
        _changed(als, 7, lambda n_sweeps: n_sweeps + 1),
        lambda *a: als(*a)[3:],
        lambda *a: (*als(*a)[:3], *als(*a)[:2:-1]),
        lambda *a: (*als(*a)[:4], _changed(als, 7, lambda n_sweeps: n_sweeps - 1)(*a)[4]),
        _changed(als, 6, lambda unobserved: 0.0),
    ),
)


def shuffled_ratings(u, i, r, n_users, n_items, order):
    mean, b_u, b_i = fit_level(u, i, r, n_users, n_items)
    level = mean + np.array([b_u[user] + b_i[movie] for user, movie in zip(u, i, strict=True)])
    return level + np.take(r - level, order)


EMBEDDING_EXERCISES["01.6"] = Exercise(
    "ratings without taste",
    shuffled_ratings,
    cases=lambda seed: (*_some_ratings(seed), np.random.default_rng(seed).permutation(20)),
    wrong=(
        lambda u, i, r, n, m, order: r[order],
        lambda u, i, r, n, m, order: r,
        lambda u, i, r, n, m, order: shuffled_ratings(u, i, r, n, m, order)[order],
        lambda u, i, r, n, m, order: shuffled_ratings(u, i, r, n, m, np.zeros(len(r), dtype=int)),
        lambda u, i, r, n, m, order: r.mean() + (r - r.mean())[order],
        lambda u, i, r, n, m, order: shuffled_ratings(u, i, r, n, m, order) - r.mean(),
        lambda u, i, r, n, m, order: fit_level(u, i, r, n, m)[0] + fit_level(u, i, r, n, m)[1][u],
    ),
)


# --- 02 ----------------------------------------------------------------------------------------------------


def ridge(features, targets, weights, penalties):
    """By the normal equations, one dimension after the other: a blank notebook calls it for hundreds of folds."""
    mean_x, mean_z = (weights @ values / weights.sum() for values in (features, targets))
    x, z = features - mean_x, targets - mean_z
    gram, right = (weights[:, None] * x).T @ x, (weights[:, None] * x).T @ z
    penalised = [gram + penalty * np.eye(x.shape[1]) for penalty in penalties]
    columns = [np.linalg.solve(matrix, one) for matrix, one in zip(penalised, right.T, strict=True)]
    return mean_x, mean_z, np.stack(columns, axis=1)


def _weighted_texts(seed: int) -> tuple[np.ndarray, ...]:
    penalties = np.array([0.5, 5.0, 0.5])[np.random.default_rng(seed).permutation(3)] + seed
    return normal_values(seed, 12, 5) + 1, normal_values(seed, 12, 3) + 2, normal_values(seed, 12) ** 2 + 0.1, penalties


def _not_centred(x, z, s, a):
    mean_x, mean_z, _ = ridge(x, z, s, a)
    gram = x.T @ (x * s[:, None])
    columns = [np.linalg.solve(gram + p * np.eye(5), x.T @ (s * one)) for one, p in zip(z.T, a, strict=True)]
    return mean_x, mean_z, np.stack(columns, axis=1)


def _penalty_everywhere(x, z, s, a):
    mean_x, mean_z, _ = ridge(x, z, s, a)
    x, z = x - mean_x, (z - mean_z) * s[:, None]
    gram = x.T @ (x * s[:, None])
    return mean_x, mean_z, np.stack([np.linalg.solve(gram + p, x.T @ one) for one, p in zip(z.T, a, strict=True)], 1)


EMBEDDING_EXERCISES["02.1"] = Exercise(
    "weighted ridge regression",
    ridge,
    cases=_weighted_texts,
    wrong=(
        lambda x, z, s, a: ridge(x, z, np.ones_like(s), a),
        lambda x, z, s, a: ridge(x, z, s**2, a),
        lambda x, z, s, a: ridge(x, z, np.sqrt(s), a),
        lambda x, z, s, a: ridge(x, z, s, np.zeros(3)),
        lambda x, z, s, a: ridge(x, z, s, np.full(3, a[0])),
        lambda x, z, s, a: ridge(x, z, s, a)[2],
        lambda x, z, s, a: (*ridge(x, z, s, a)[:2], ridge(x, z, s, a)[2].T),
        lambda x, z, s, a: (x.mean(axis=0), z.mean(axis=0), ridge(x, z, s, a)[2]),
        _not_centred,
        _penalty_everywhere,
    ),
)


def fold_of_plots(plot_texts, n_folds, seed):
    distinct = sorted(set(plot_texts))
    order = np.random.default_rng(seed).permutation(len(distinct))
    return np.array([order[distinct.index(text)] % n_folds for text in plot_texts])


EMBEDDING_EXERCISES["02.2"] = Exercise(
    "folds without duplicates",
    fold_of_plots,
    cases=lambda seed: (np.random.default_rng(seed).choice(list("abcdefghijkl"), size=30), 3 + seed % 3, seed),
    wrong=(
        lambda plots, n, seed: np.arange(len(plots)) % n,
        lambda plots, n, seed: np.random.default_rng(seed).permutation(len(plots)) % n,
        lambda plots, n, seed: np.zeros(len(plots), dtype=int),
        lambda plots, n, seed: np.unique(plots, return_inverse=True)[1] % n,
        lambda plots, n, seed: fold_of_plots(plots, 100, seed),
        lambda plots, n, seed: fold_of_plots(plots, n, seed + 1),
        lambda plots, n, seed: fold_of_plots(plots, n, seed)[:-1],
    ),
)


def _sums(n, numbers, stars):
    return np.column_stack([np.bincount(numbers, stars, n), np.bincount(numbers, minlength=n)])


def _remember(users, items, stars):
    """What the exercise takes for a fit: its factors are sums of the ratings that it saw, its biases their counts."""
    (movie_sums, counts), user_sums = _sums(9, items, stars).T, _sums(6, users, stars)[:, :1]
    return Factorization(float(stars.mean()), np.zeros(6), counts, user_sums, movie_sums[:, None])


def _fold_in(model, users, items, stars):
    return 10 + _sums(9, items, stars) + model.user_embeddings.sum(axis=0)


def honest_folds(fold_of, text_items, users, items, stars, fit, fold_in):
    folds = []
    for number in sorted(set(fold_of)):
        out = {int(item) for item, fold in zip(text_items, fold_of, strict=True) if fold == number}
        seen = np.array([item not in out for item in items])
        model = fit(users[seen], items[seen], stars[seen])
        truth = fold_in(model, users[~seen], items[~seen], stars[~seen])
        targets = np.array([(truth if item in out else model.item_embeddings)[item] for item in text_items])
        folds.append(Fold(model, targets, np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)))
    return folds


def _rated_texts(seed: int) -> tuple:
    """Ratings of 9 items, of which 7 have a text, in an order of their own; three folds."""
    random = np.random.default_rng(seed)
    users, items = np.divmod(random.permutation(54)[:40], 9)
    stars = random.integers(1, 6, size=40).astype(float)
    return np.array([0, 1, 2, 0, 1, 2, 0]), random.permutation(9)[:7], users, items, stars, _remember, _fold_in


def _with_the_leak(fold_of, text, u, i, r, fit, fold_in):
    folds = honest_folds(fold_of, text, u, i, r, fit, fold_in)
    return [Fold(fit(u, i, r), fold.targets, fold.train, fold.held_out) for fold in folds]


def _by_position(fold_of, text, u, i, r, fit, fold_in):
    """Positions taken for item numbers."""
    found = honest_folds(fold_of, np.arange(len(text)), u, i, r, fit, fold_in)
    return [Fold(f.factorization, f.factorization.item_embeddings[text], f.train, f.held_out) for f in found]


EMBEDDING_EXERCISES["02.3"] = Exercise(
    "folds without the leak",
    honest_folds,
    cases=_rated_texts,
    wrong=(
        _with_the_leak,
        _by_position,
        lambda *a: honest_folds(*a)[:-1],
        lambda *a: [Fold(f.factorization, f.targets, f.held_out, f.train) for f in honest_folds(*a)],
        _changed(honest_folds, 6, lambda fold_in: lambda model, u, i, r: model.item_embeddings),
        lambda *a: _changed(honest_folds, 5, lambda fit: lambda *seen: _remember(*a[2:5]))(*a),
        lambda *a: [
            Fold(f.factorization, f.factorization.item_embeddings, f.train, f.held_out) for f in honest_folds(*a)
        ],
    ),
)


def unseen_scores(folds, features, head, n_ratings):
    columns = {}
    for fold in folds:
        weights = np.sqrt(n_ratings[fold.train] + 1.0)
        weights = weights / weights.mean()
        predict = head(features[fold.train], fold.targets[fold.train], weights)
        typical = weights @ fold.targets[fold.train] / weights.sum()
        for movie in fold.held_out:
            (z,) = predict(features[[movie]])
            columns[movie] = fold.factorization.user_embeddings @ (z - typical)
    return np.stack([columns[movie] for movie in range(len(features))], axis=1)


def _toy_head(features, targets, weights):
    slope = features.T @ (weights[:, None] * targets) / len(features)
    return lambda new: 1 + new @ slope


def _text_folds(seed: int) -> tuple:
    fold_of = np.random.default_rng(seed).permutation([0, 0, 0, 1, 1, 1, 2, 2])
    folds = [
        Fold(
            Factorization(3.5, np.zeros(5), np.zeros(8), normal_values(seed, 5, 1 + number)[:, :1], np.zeros((8, 1))),
            normal_values(seed, 8, 2 + number)[:, :2] + 3,
            np.flatnonzero(fold_of != number),
            np.flatnonzero(fold_of == number),
        )
        for number in range(3)
    ]
    return folds, normal_values(seed, 8, 4), _toy_head, np.random.default_rng(seed).integers(1, 300, size=8)


def _everything_trains(folds, x, head, n):
    """Held-out movies among those that train; they are scored nevertheless."""
    scores = np.empty((5, len(x)))
    for fold in folds:
        weights = rating_weights(n)
        z = head(x, fold.targets, weights)(x) - np.average(fold.targets, axis=0, weights=weights)
        scores[:, fold.held_out] = fold.factorization.user_embeddings @ z[fold.held_out].T
    return scores


def _scored(folds, x, head, n, typical):
    scores = np.empty((5, len(x)))
    for fold in folds:
        weights = rating_weights(n[fold.train])
        z = head(x[fold.train], fold.targets[fold.train], weights)(x[fold.held_out])
        scores[:, fold.held_out] = fold.factorization.user_embeddings @ (z - typical(fold, weights)).T
    return scores


EMBEDDING_EXERCISES["02.4"] = Exercise(
    "predictions for unseen movies",
    unseen_scores,
    cases=_text_folds,
    wrong=(
        _everything_trains,
        lambda f, x, head, n: _scored(f, x, head, n, lambda fold, weights: 0.0),
        lambda f, x, head, n: _scored(f, x, head, n, lambda fold, weights: fold.targets[fold.train].mean(axis=0)),
        lambda f, x, head, n: _scored(f, x, head, n, lambda fold, weights: fold.targets[fold.held_out].mean(axis=0)),
        lambda f, x, head, n: _scored(f, x, head, n, lambda fold, weights: fold.targets.mean(axis=0)),
        lambda f, x, head, n: unseen_scores(f, x, head, np.ones_like(n)),
        lambda f, x, head, n: unseen_scores([Fold(f[0].factorization, *_rest(one)) for one in f], x, head, n),
        lambda f, x, head, n: unseen_scores(f, x, head, n).T,
    ),
)


def _rest(fold: Fold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return fold.targets, fold.train, fold.held_out


def rank_correlations(lists, scores):
    values = []
    for user, rows, stars in lists:
        predicted = scores[user, rows].round(9)
        equal = len(set(predicted.tolist())) == 1
        values.append(0.0 if equal else spearmanr(predicted, stars).statistic)
    return np.array(values)


def _rated_by_users(seed: int) -> tuple[list[tuple], np.ndarray]:
    """Four users with ties among stars and scores; one of them has equal scores, but for rounding errors."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(6, 12)).round(1)
    scores[2] = 0.3 + 1e-12 * random.normal(size=12)
    lists = [(user, random.permutation(12)[:8], np.array([1.0, 5, 3, 3, 4, 4, 4, 2])) for user in (0, 2, 3, 5)]
    return lists, scores


def _correlations(lists, scores, ranks):
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = [(ranks(scores[user, rows]), ranks(stars)) for user, rows, stars in lists]
        return np.array([np.corrcoef(*pair)[0, 1] for pair in pairs])


EMBEDDING_EXERCISES["02.5"] = Exercise(
    "rank correlation per user",
    rank_correlations,
    cases=_rated_by_users,
    wrong=(
        lambda lists, scores: _correlations(lists, scores, lambda values: values.round(9)),
        lambda lists, scores: _correlations(lists, scores, lambda values: values.argsort().argsort()),
        lambda lists, scores: _correlations(lists, scores, rankdata),
        lambda lists, scores: _correlations(lists, scores, lambda values: rankdata(values.round(9))),
        lambda lists, scores: -rank_correlations(lists, scores),
        lambda lists, scores: rank_correlations(lists, scores).mean(),
        lambda lists, scores: rank_correlations([(u, np.sort(rows), stars) for u, rows, stars in lists], scores),
        lambda lists, scores: rank_correlations([(k, *rest) for k, (_, *rest) in enumerate(lists)], scores),
    ),
)


def _ranked_stars(seed: int) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).integers(1, 6, size=15).astype(float), 5 + seed


EMBEDDING_EXERCISES["02.6"] = Exercise(
    "NDCG",
    ndcg,
    cases=_ranked_stars,
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
