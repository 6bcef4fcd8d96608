"""Cross-validation that does not leak, and ranking scores against scikit-learn and SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from helpers.domains.clothing import load_clothing
from helpers.domains.domain import Domain
from helpers.domains.drawings import make_drawings
from helpers.embedding import evaluation as ev
from helpers.embedding.encoder import fit_mean, fit_ridge
from helpers.embedding.factorization import fit_als, fold_in_items

N_USERS, N_ITEMS = 150, 60
TASTES = np.random.default_rng(7).normal(size=(N_ITEMS, 3))  # what decides the ratings, and what a text could tell


@pytest.fixture(scope="module")
def world() -> Domain:
    """Ratings that follow from tastes; items 0 to 4 have no text, items 10 and 11 and items 20 and 21 are twins."""
    random = np.random.default_rng(0)
    liking = 3 + random.normal(size=(N_USERS, 3)) @ TASTES.T + 0.3 * random.normal(size=(N_USERS, N_ITEMS))
    users, items = np.nonzero(random.random(liking.shape) < 0.6)
    ratings = pd.DataFrame({"user": users, "item": items, "rating": liking[users, items].round(1).clip(0.5, 5)})
    plots = ["" if i < 5 else f"Plot {i}" for i in range(N_ITEMS)]
    plots[11], plots[21] = plots[10], plots[20]
    frame = pd.DataFrame({"title": plots, "year": 1990.0, "genres": [[]] * N_ITEMS})
    return Domain("small", frame.assign(plot_text=plots, plot_source=""), N_USERS, ratings)


@pytest.fixture(scope="module")
def folds(world) -> list[ev.Fold]:
    return ev.make_folds(world, rank=3)


@pytest.fixture(scope="module")
def n_ratings(world):
    return world.n_ratings[world.text_items].astype(float)


def truth(world) -> np.ndarray:
    return TASTES[world.text_items]


def noise(world) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(world.text_items), 3))


# Folds


@pytest.mark.parametrize("seed", range(20))
def test_folds_keep_twins_together_and_have_even_sizes(world, seed):
    fold_of = ev.movie_folds(world, seed)
    position = {item: k for k, item in enumerate(world.text_items)}
    assert fold_of[position[10]] == fold_of[position[11]] and fold_of[position[20]] == fold_of[position[21]]
    sizes = np.bincount(fold_of, minlength=5)
    assert sizes.sum() == 55 and np.ptp(sizes) <= 3
    assert (ev.movie_folds(world, seed + 1) != fold_of).any()


def test_folds_of_the_real_movies_keep_plots_together(movies):
    plots = pd.Series(movies.texts("plot"))
    assert plots.duplicated().any()
    for seed in range(5):
        folds_of_plot = pd.Series(ev.movie_folds(movies, seed)).groupby(plots).agg(set)
        assert (folds_of_plot.str.len() == 1).all()


def test_every_movie_with_text_is_held_out_once(world, folds):
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(55))
    for fold in folds:
        assert sorted([*fold.train, *fold.held_out]) == list(range(55))


def changed_ratings(world: Domain, items: np.ndarray) -> Domain:
    """The same domain with the ratings of some items replaced at random."""
    ratings = world.ratings.copy()
    rows = ratings["item"].isin(items)
    assert rows.any()
    ratings.loc[rows, "rating"] = np.random.default_rng(3).uniform(0.5, 5, size=rows.sum())
    return replace(world, ratings=ratings)


@pytest.mark.parametrize("number", range(5))
def test_a_fold_never_saw_a_rating_of_its_held_out_movies(world, folds, number):
    fold = folds[number]
    other = ev.make_folds(changed_ratings(world, world.text_items[fold.held_out]), rank=3)[number]
    for name, value in vars(fold.factorization).items():
        np.testing.assert_array_equal(getattr(other.factorization, name), value)
    np.testing.assert_array_equal(other.targets[fold.train], fold.targets[fold.train])
    assert (other.targets[fold.held_out] != fold.targets[fold.held_out]).any(axis=1).all()
    # Changing a movie that the fold trains on does change it, so the test above can fail.
    seen = ev.make_folds(changed_ratings(world, world.text_items[fold.train]), rank=3)[number]
    assert not np.allclose(seen.factorization.user_factors, fold.factorization.user_factors)


def test_leaky_folds_do_see_them(world):
    fold = ev.leaky_folds(world, rank=3)[0]
    other = ev.leaky_folds(changed_ratings(world, world.text_items[fold.held_out]), rank=3)[0]
    assert not np.allclose(other.factorization.user_factors, fold.factorization.user_factors)
    assert (fold.held_out == ev.make_folds(world, rank=3)[0].held_out).all()


def test_held_out_targets_use_the_options_of_the_factorisation(world):
    fold = ev.make_folds(world, rank=3, regularisation=0.7, unobserved=0.3)[0]
    rows = np.isin(world.triplets[1], world.text_items[fold.held_out])
    hidden = (column[rows] for column in world.triplets)
    expected = fold_in_items(fold.factorization, *hidden, regularisation=0.7, unobserved=0.3)
    held_out = world.text_items[fold.held_out]
    np.testing.assert_allclose(fold.targets[fold.held_out], expected[held_out])


# Cross-validation


def mean_spearman(world, found: ev.CrossValidation) -> float:
    return ev.spearman_per_user(world, found.scores).mean()


def test_noise_scores_zero_and_the_truth_scores_high(world, folds, n_ratings):
    assert abs(mean_spearman(world, ev.cross_validate(folds, noise(world), fit_ridge, n_ratings))) < 0.1
    assert mean_spearman(world, ev.cross_validate(folds, truth(world), fit_ridge, n_ratings)) > 0.7
    leak = fit_als(*world.triplets, world.n_users, world.n_items, rank=3).item_embeddings[world.text_items]
    assert mean_spearman(world, ev.cross_validate(folds, leak, fit_ridge, n_ratings)) > 0.7


def test_noise_scores_zero_on_the_real_movies(movies):
    """One fold's worth of 131 unseen movies and 943 users: less than a twentieth away from 0."""
    real_folds = ev.make_folds(movies, n_sweeps=4)
    random = np.random.default_rng(0).normal(size=(len(movies.text_items), 30))
    n_ratings = movies.n_ratings[movies.text_items].astype(float)
    scores = ev.cross_validate(real_folds, random, fit_ridge, n_ratings).scores
    assert abs(ev.spearman_per_user(movies, scores).mean()) < 0.05


def test_features_that_are_fitted_to_texts_are_fitted_in_every_fold(world, folds, n_ratings):
    asked: list[ev.Fold] = []
    found = ev.cross_validate(folds, lambda fold: asked.append(fold) or truth(world), fit_ridge, n_ratings)
    assert [id(fold) for fold in asked] == [id(fold) for fold in folds]
    np.testing.assert_array_equal(found.scores, ev.cross_validate(folds, truth(world), fit_ridge, n_ratings).scores)


def test_predicting_the_mean_scores_exactly_zero(world, folds, n_ratings):
    found = ev.cross_validate(folds, noise(world), fit_mean, n_ratings)
    np.testing.assert_allclose(found.scores, 0, atol=1e-9)
    assert (ev.spearman_per_user(world, found.scores) == 0).all()
    assert (found.r2 <= 0).all()


def test_r2_is_one_for_a_head_that_knows_the_targets(world, folds, n_ratings):
    fold = folds[0]
    found = ev.cross_validate([fold], fold.targets, lambda x, y, w: lambda new: new, n_ratings)
    np.testing.assert_allclose(found.r2, 1)
    expected = fold.factorization.user_factors @ fold.targets[fold.held_out, :-1].T + fold.targets[fold.held_out, -1]
    offset = found.scores[:, fold.held_out] - expected
    np.testing.assert_allclose(offset, offset[:, :1] * np.ones_like(offset))  # relative to a typical movie


def test_heads_train_on_training_movies_alone_with_their_weights(world, folds, n_ratings):
    seen = []

    def head(x, y, weights):
        seen.append((x[:, 0].astype(int), weights))
        return lambda new: np.zeros((len(new), y.shape[1]))

    numbers = np.arange(55.0)[:, None]
    ev.cross_validate(folds, numbers, head, n_ratings)
    for fold, (rows, weights) in zip(folds, seen, strict=True):
        assert rows.tolist() == fold.train.tolist()
        np.testing.assert_allclose(weights, np.sqrt(n_ratings[rows] + 1) / np.sqrt(n_ratings[rows] + 1).mean())


def test_out_of_fold_embeddings_never_use_their_own_target(world, n_ratings):
    targets, fold_of = TASTES[world.text_items] @ np.ones((3, 2)), ev.movie_folds(world)
    before = ev.out_of_fold_embeddings(truth(world), targets, n_ratings, fold_of, fit_ridge)
    assert np.corrcoef(before[:, 0], targets[:, 0])[0, 1] > 0.99
    for number in range(5):
        own = fold_of == number
        changed = np.where(own[:, None], np.random.default_rng(1).normal(size=targets.shape), targets)
        after = ev.out_of_fold_embeddings(truth(world), changed, n_ratings, fold_of, fit_ridge)
        np.testing.assert_array_equal(after[own], before[own])
        assert not np.allclose(after[~own], before[~own])


# Choosing a candidate


def test_every_fold_chooses_the_obviously_best_candidate(world, folds, n_ratings):
    candidates = {
        "noise": (noise(world), fit_ridge),
        "truth": (truth(world), fit_ridge),
        "mean": (noise(world), fit_mean),
    }
    found, chosen = ev.nested_cross_validate(folds, candidates, n_ratings)
    assert chosen == ["truth"] * 5
    alone = ev.cross_validate(folds, truth(world), fit_ridge, n_ratings)
    np.testing.assert_allclose(found.scores, alone.scores)
    np.testing.assert_allclose(found.r2, alone.r2)


def test_the_choice_knows_nothing_of_held_out_movies(world, folds, n_ratings):
    """Targets, features and numbers of ratings of held-out movies may be anything at all."""
    random = np.random.default_rng(5)
    weak = {f"noise {i}": (random.normal(size=(55, 2)), fit_ridge) for i in range(6)}
    for fold in folds:
        targets, counts = fold.targets.copy(), n_ratings.copy()
        targets[fold.held_out], counts[fold.held_out] = np.nan, np.nan
        other = {
            name: (np.where(np.isin(range(55), fold.held_out)[:, None], np.nan, x), h) for name, (x, h) in weak.items()
        }
        chosen = ev.choose_candidate(fold, weak, n_ratings)
        assert ev.choose_candidate(replace(fold, targets=targets), other, counts) == chosen
    assert len({ev.choose_candidate(fold, weak, n_ratings) for fold in folds}) > 1


class Witness:
    """Heads that note which rows they were fitted on, and fail when they are asked about one of these."""

    def __init__(self, n_rows: int) -> None:
        self.rows = np.arange(float(n_rows))[:, None]  # features: every text's own number
        self.fits = 0

    def __call__(self, x, y, weights):
        fitted, mean = set(x[:, 0]), np.average(y, axis=0, weights=weights)
        self.fits += 1

        def predict(new):
            assert len(new) and not fitted & set(new[:, 0]), "asked about a text that it was fitted on"
            return np.tile(mean, (len(new), 1))

        return predict


def test_nothing_is_scored_or_chosen_on_what_a_head_was_fitted_on(world, folds, n_ratings):
    witness = Witness(55)
    candidates = {name: (witness.rows, witness) for name in ("one", "other")}
    ev.cross_validate(folds, witness.rows, witness, n_ratings)
    ev.nested_cross_validate(folds, candidates, n_ratings)
    ev.choose_candidate(folds[0], candidates, n_ratings)
    ev.out_of_fold_embeddings(witness.rows, folds[0].targets, n_ratings, ev.movie_folds(world), witness)
    assert witness.fits == 5 + 5 * 2 + 5 + 2 + 5


def test_a_head_that_knows_its_training_texts_by_heart_is_not_chosen(world, folds, n_ratings):
    def by_heart(x, y, weights):
        known = {float(number): row for number, row in zip(x[:, 0], y, strict=True)}
        return lambda new: np.array([known.get(float(number), 9 * np.ones(y.shape[1])) for number in new[:, 0]])

    numbers = np.arange(55.0)[:, None]
    candidates = {"by heart": (numbers, by_heart), "mean": (numbers, fit_mean)}
    assert ev.nested_cross_validate(folds, candidates, n_ratings)[1] == ["mean"] * 5


def test_folds_of_drawings_and_of_clothes_share_no_item_and_no_text():
    for domain in (make_drawings(60, 30, per_user=20).domain, load_clothing()):
        table = pd.DataFrame({"text": domain.texts("plot"), "fold": ev.movie_folds(domain)})
        assert set(table["fold"]) == set(range(5))
        assert len(table.drop_duplicates()) == table["text"].nunique()  # a text lies in one fold
    for fold in ev.make_folds(make_drawings(60, 30, per_user=20).domain, rank=2):
        assert not set(fold.train) & set(fold.held_out)
        assert sorted([*fold.train, *fold.held_out]) == list(range(60))


# Scores


def scores_of(world, seed: int = 0, decimals: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(world.n_users, 55)).round(decimals)


@pytest.mark.parametrize("decimals", [9, 0])  # with 0 decimals nearly all are tied
def test_spearman_is_that_of_scipy(world, decimals):
    scores = scores_of(world, decimals=decimals)
    expected = [spearmanr(scores[user, movies], stars)[0] for user, movies, stars in ev.rated_lists(world)]
    np.testing.assert_allclose(ev.spearman_per_user(world, scores), expected)


def test_only_rated_movies_with_text_and_users_with_enough_of_them_count(world):
    rated = {user: (movies, stars) for user, movies, stars in ev.rated_lists(world)}
    rows = world.ratings[(world.ratings["user"] == 3) & (world.ratings["item"] >= 5)]
    assert world.text_items[rated[3][0]].tolist() == rows["item"].tolist()
    assert rated[3][1].tolist() == rows["rating"].tolist()
    first = world.ratings["user"] == 3
    few = world.ratings[~first | (first & (world.ratings["item"] < 5 + ev.MIN_RATINGS // 2))]
    same = world.ratings.assign(rating=world.ratings["rating"].where(~first, 4.0))
    for ratings in (few, same):  # too few, or no order among equal ratings
        assert 3 not in {user for user, _, _ in ev.rated_lists(replace(world, ratings=ratings))}


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_ndcg_is_that_of_scikit_learn(k):
    random = np.random.default_rng(k)
    for _ in range(20):
        stars, scores = random.integers(1, 6, size=15).astype(float), random.permutation(15)
        expected = ndcg_score([2**stars - 1], [scores], k=k)
        assert ev.ndcg(stars[np.argsort(-scores)], k) == pytest.approx(expected)


def test_ndcg_of_the_best_order_is_one():
    assert ev.ndcg(np.array([5.0, 4.0, 4.0, 1.0])) == pytest.approx(1)
    assert ev.ndcg(np.array([1.0, 4.0, 4.0, 5.0])) < 1


def test_ties_are_broken_at_random_so_that_their_order_in_the_file_earns_nothing(world):
    """The mean over orders is what scikit-learn computes for ties in closed form."""
    scores = scores_of(world, decimals=0)
    found = np.mean([ev.ndcg_per_user(world, scores, seed=seed) for seed in range(100)], axis=0)
    expected = [ndcg_score([2**stars - 1], [scores[user, m]], k=10) for user, m, stars in ev.rated_lists(world)]
    np.testing.assert_allclose(found, expected, atol=0.06)
    assert abs((found - expected).mean()) < 0.003
    best_first = world.ratings.sort_values("rating", ascending=False)  # a stable sort alone would be perfect here
    constant = ev.ndcg_per_user(replace(world, ratings=best_first), np.zeros((world.n_users, 55)))
    assert constant.mean() < 0.9
