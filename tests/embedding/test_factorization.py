"""Weighted alternating least squares against brute force, and against LensKit on real ratings."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.embedding import factorization as fz

SIZES = {"seed": st.integers(0, 10_000), "rows": st.integers(1, 7), "columns": st.integers(1, 7)}


def sparse_ratings(seed: int, rows: int, columns: int) -> tuple[sp.csr_array, np.ndarray, np.ndarray]:
    """Residuals of random pairs, the same as a dense matrix, and which pairs are observed; some rows are empty."""
    random = np.random.default_rng(seed)
    seen = random.random((rows, columns)) < 0.5
    seen[random.integers(rows)] = False
    dense = np.where(seen, random.normal(size=(rows, columns)), 0.0)
    pairs = np.nonzero(seen)
    return sp.csr_array((dense[pairs], pairs), shape=dense.shape), dense, seen


def dense_half_sweep(dense, seen, factors, regularisation, unobserved) -> np.ndarray:
    """Every row by least squares on all its pairs, with the penalty as extra rows of the design."""
    rank = factors.shape[1]
    result = []
    for target, observed in zip(dense, seen, strict=True):
        root = np.sqrt(np.where(observed, 1.0, unobserved))
        penalty = np.sqrt(regularisation * max(observed.sum(), 1)) * np.eye(rank)
        design = np.vstack([root[:, None] * factors, penalty])
        result.append(np.linalg.lstsq(design, np.concatenate([root * target, np.zeros(rank)]), rcond=None)[0])
    return np.array(result)


def loss(dense, seen, p, q, regularisation, unobserved) -> float:
    error = (np.where(seen, 1.0, unobserved) * (dense - p @ q.T) ** 2).sum()
    sizes = seen.sum(axis=1).clip(1) @ (p**2).sum(axis=1) + seen.sum(axis=0).clip(1) @ (q**2).sum(axis=1)
    return error + regularisation * sizes


@settings(max_examples=60, deadline=None)
@given(**SIZES, rank=st.integers(1, 4), unobserved=st.sampled_from([0.0, 0.05, 1.0]), lam=st.sampled_from([0.1, 2.0]))
def test_half_a_sweep_is_a_weighted_ridge_regression(seed, rows, columns, rank, unobserved, lam):
    table, dense, seen = sparse_ratings(seed, rows, columns)
    factors = np.random.default_rng(seed + 1).normal(size=(columns, rank))
    expected = dense_half_sweep(dense, seen, factors, lam, unobserved)
    np.testing.assert_allclose(fz.solve_rows(table, factors, lam, unobserved), expected, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_the_loss_never_rises(seed, rows, columns):
    table, dense, seen = sparse_ratings(seed, rows, columns)
    q = np.random.default_rng(seed + 1).normal(size=(columns, 2))
    losses = [np.inf]
    for _ in range(5):
        p = fz.solve_rows(table, q, 0.1, 0.05)
        losses.append(loss(dense, seen, p, q, 0.1, 0.05))
        q = fz.solve_rows(table.T.tocsr(), p, 0.1, 0.05)
        losses.append(loss(dense, seen, p, q, 0.1, 0.05))
    assert (np.diff(losses) <= 1e-9).all()


def test_a_rating_equal_to_its_prediction_still_counts_as_observed():
    """A residual of 0 is evidence, unlike a missing one: it must not fall out of the sparse matrix."""
    table = sp.csr_array((np.array([0.0, 1.0]), (np.array([0, 0]), np.array([0, 1]))), shape=(1, 2))
    dense, seen, factors = np.array([[0.0, 1.0]]), np.array([[True, True]]), np.array([[1.0], [0.5]])
    expected = dense_half_sweep(dense, seen, factors, 0.1, 0.0)
    np.testing.assert_allclose(fz.solve_rows(table, factors, 0.1, 0.0), expected)


def small_ratings(seed: int = 0, n_users: int = 12, n_items: int = 9):
    """Triplets of random ratings in which the last user and the last item do not occur."""
    random = np.random.default_rng(seed)
    seen = random.random((n_users, n_items)) < 0.6
    seen[-1], seen[:, -1] = False, False
    users, items = np.nonzero(seen)
    return users, items, random.integers(1, 6, size=len(users)).astype(float), n_users, n_items


def test_fit_als_is_biases_and_then_half_sweeps():
    users, items, stars, n_users, n_items = small_ratings()
    model = fz.fit_als(*small_ratings(), rank=3, n_sweeps=4, regularisation=0.2, unobserved=0.1, seed=5)
    mean, user_bias, item_bias = fz.fit_biases(*small_ratings())
    seen = np.zeros((n_users, n_items), dtype=bool)
    seen[users, items] = True
    dense = np.zeros(seen.shape)
    dense[users, items] = stars - mean - user_bias[users] - item_bias[items]
    q = 0.1 * np.random.default_rng(5).normal(size=(n_items, 3))
    for _ in range(4):
        p = dense_half_sweep(dense, seen, q, 0.2, 0.1)
        q = dense_half_sweep(dense.T, seen.T, p, 0.2, 0.1)
    everyone, everything = (index.ravel() for index in np.indices(seen.shape))
    expected = mean + user_bias[everyone] + item_bias[everything] + (p @ q.T).ravel()
    np.testing.assert_allclose(model.predict(everyone, everything), expected, atol=1e-8)


def test_biases_without_damping_solve_the_least_squares_problem():
    users, items, stars, n_users, n_items = small_ratings()
    keep = (n_users - 1, n_items - 1)  # without damping, who never occurs has no bias
    mean, user_bias, item_bias = fz.fit_biases(users, items, stars, *keep, damping=0.0, n_sweeps=500)
    design = np.hstack([np.eye(keep[0])[users], np.eye(keep[1])[items]])
    best = design @ np.linalg.lstsq(design, stars - mean, rcond=None)[0]
    np.testing.assert_allclose(user_bias[users] + item_bias[items], best, atol=1e-6)


def test_damping_pulls_biases_to_zero():
    free, damped = (fz.fit_biases(*small_ratings(), damping=d) for d in (0.1, 50.0))
    assert np.abs(damped[1]).max() < 0.5 * np.abs(free[1]).max()


def test_users_and_items_without_ratings_get_zeros():
    model = fz.fit_als(*small_ratings(), rank=3)
    for values in (model.user_factors[-1], model.item_embeddings[-1], model.user_bias[-1]):
        assert (values == 0).all()
    assert model.user_embeddings[-1].tolist() == [0, 0, 0, 1]
    assert model.predict(np.array([11]), np.array([8]))[0] == pytest.approx(model.mean)


# Principal axes


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rank=st.integers(1, 5), rows=st.integers(5, 9), columns=st.integers(5, 9))
def test_principal_axes_keep_products_and_order_strengths(seed, rank, rows, columns):
    random = np.random.default_rng(seed)
    p, q = random.normal(size=(rows, rank)), random.normal(size=(columns, rank))
    users, items = fz.principal_axes(p, q)
    np.testing.assert_allclose(users @ items.T, p @ q.T, atol=1e-8)
    strength = np.linalg.norm(users, axis=0)
    np.testing.assert_allclose(strength, np.linalg.norm(items, axis=0))  # users and items have the same length
    assert (np.diff(strength) <= 1e-9).all()
    np.testing.assert_allclose(users.T @ users, np.diag(strength**2), atol=1e-8)
    assert (items[np.abs(items).argmax(axis=0), np.arange(rank)] > 0).all()


def test_principal_axes_forget_what_stood_between_the_factors():
    """A start with other signs or any other basis ends on the same axes."""
    random = np.random.default_rng(0)
    p, q, between = random.normal(size=(8, 3)), random.normal(size=(6, 3)), random.normal(size=(3, 3))
    expected = fz.principal_axes(p, q)
    for matrix in (-np.eye(3), np.diag([1.0, -1.0, 1.0]), between):
        found = fz.principal_axes(p @ matrix, q @ np.linalg.inv(matrix).T)
        np.testing.assert_allclose(found[0], expected[0], atol=1e-8)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-8)


def test_a_start_with_the_other_sign_gives_the_same_model(monkeypatch):
    ratings = small_ratings()
    model = fz.fit_als(*ratings, rank=3, seed=1)

    class Mirrored:
        def normal(self, size):
            return -np.random.Generator(np.random.PCG64(1)).normal(size=size)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Mirrored())
    mirrored = fz.fit_als(*ratings, rank=3, seed=1)
    np.testing.assert_allclose(mirrored.item_embeddings, model.item_embeddings, atol=1e-8)
    np.testing.assert_allclose(mirrored.user_embeddings, model.user_embeddings, atol=1e-8)


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratings": []}, "at least one rating"),
        ({"ratings": [5.0, np.nan]}, "finite"),
        ({"ratings": [5.0, np.inf]}, "finite"),
        ({"rank": 0}, "rank 0 must lie"),
        ({"rank": 3}, r"rank 3 must lie between 1 and the number of users \(2\) and items \(3\)"),
        ({"items": [0, 0], "users": [1, 1]}, "rated an item twice"),
    ],
)
def test_bad_input_is_refused(change, words):
    given = {"users": [0, 1], "items": [0, 2], "ratings": [5.0, 1.0], "rank": 2} | change
    rank = given.pop("rank")
    kinds = {"users": int, "items": int, "ratings": float}
    n = len(given["ratings"])
    triplets = [np.array(given[name][:n], dtype=kind) for name, kind in kinds.items()]
    with pytest.raises(ValueError, match=words):
        fz.fit_als(*triplets, 2, 3, rank=rank)


def test_splits_are_disjoint_complete_and_seeded():
    parts = fz.split_ratings(103, seed=1)
    assert [len(part) for part in parts] == [83, 10, 10]
    assert sorted(np.concatenate(parts)) == list(range(103))
    assert (fz.split_ratings(103, seed=1)[2] == parts[2]).all() and (fz.split_ratings(103, seed=2)[2] != parts[2]).any()


def test_rmse_clips_to_the_scale():
    assert fz.rmse(np.array([7.0, 0.0]), np.array([5.0, 1.0])) == 0
    assert fz.rmse(np.array([2.0, 5.0]), np.array([1.0, 5.0])) == pytest.approx(np.sqrt(0.5))


# Real ratings


@pytest.fixture(scope="module")
def split(movies):
    train, _, test = fz.split_ratings(len(movies.ratings), seed=0)
    return train, test


def fit(movies, part, **options):
    return fz.fit_als(*(column[part] for column in movies.triplets), movies.n_users, movies.n_items, **options)


def fold_in_difference(movies, model) -> np.ndarray:
    """Distance between fold-in and training embedding, relative to its length, for items with many ratings."""
    folded, known = fz.fold_in_items(model, *movies.triplets), movies.n_ratings >= 50
    difference = np.linalg.norm((folded - model.item_embeddings)[known], axis=1)
    return np.median(difference / np.linalg.norm(model.item_embeddings[known], axis=1))


def test_folding_in_a_training_item_gives_its_embedding(movies, monkeypatch):
    """Exactly on the axes of the sweeps, nearly on principal axes, where the penalty is not quite the same."""
    model = fit(movies, slice(None))
    assert fold_in_difference(movies, model) < 0.2
    monkeypatch.setattr(fz, "principal_axes", lambda users, items: (users, items))
    assert fold_in_difference(movies, fit(movies, slice(None))) < 0.02


def test_folding_in_leaves_items_without_ratings_at_zero():
    users, items, stars, *size = small_ratings()
    model = fz.fit_als(users, items, stars, *size, rank=2)
    rows = items != 3
    folded = fz.fold_in_items(model, users[rows], items[rows], stars[rows])
    assert (folded[3] == 0).all() and np.isfinite(folded).all() and (folded[:3] != 0).all()


def lenskit_predictions(movies, train, test, rank=16, regularisation=0.13):
    from lenskit.als import BiasedMFScorer
    from lenskit.data import ItemList, from_interactions_df

    users, items, stars = movies.triplets
    frame = pd.DataFrame({"user_id": users[train], "item_id": items[train], "rating": stars[train]})
    scorer = BiasedMFScorer(embedding_size=rank, epochs=12, regularization=regularisation)
    scorer.train(from_interactions_df(frame))
    predicted = np.full(len(test), stars[train].mean())
    for user, rows in pd.Series(np.arange(len(test))).groupby(users[test]):
        scores = scorer(user, ItemList(items[test][rows])).scores()
        predicted[rows] = np.where(np.isnan(scores), predicted[rows], scores)
    return predicted


def test_as_good_as_lenskit_and_better_than_biases(movies, split):
    train, test = split
    users, items, stars = (column[test] for column in movies.triplets)
    mean, user_bias, item_bias = fz.fit_biases(*(c[train] for c in movies.triplets), movies.n_users, movies.n_items)
    biases = fz.rmse(mean + user_bias[users] + item_bias[items], stars)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = fz.rmse(lenskit_predictions(movies, train, test), stars)
    ours = fz.rmse(fit(movies, train).predict(users, items), stars)
    assert abs(ours / library - 1) < 0.02
    assert ours < 0.99 * biases
