"""The path for MovieLens-25M: LensKit's factors against ours, generated ratings, and the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from helpers.embedding import factorization as fz
from helpers.larger_machines import ratings as large
from helpers.larger_machines.ratings import fit_als_large


def triplets(seed: int = 0, n_users: int = 30, n_items: int = 20, n: int = 200):
    random = np.random.default_rng(seed)
    pairs = random.choice(n_users * n_items, n, replace=False)
    return *np.divmod(pairs, n_items), random.integers(1, 6, n).astype(float), n_users, n_items


@pytest.fixture(scope="module")
def split(movies):
    train, _, test = fz.split_ratings(len(movies.ratings), seed=0)
    return [column[train] for column in movies.triplets], [column[test] for column in movies.triplets]


def test_as_good_as_fit_als_on_held_out_ratings(movies, split):
    train, (users, items, stars) = split
    error = {}
    for fit in (fz.fit_als, fit_als_large):
        error[fit] = fz.rmse(fit(*train, movies.n_users, movies.n_items).predict(users, items), stars)
    assert abs(error[fit_als_large] / error[fz.fit_als] - 1) < 0.01


def test_our_own_sweeps_stay_at_the_factors():
    """Half sweeps with the same penalty and no weight of other pairs end where LensKit's did; others elsewhere."""
    users, items, stars, *size = triplets()
    model = fit_als_large(users, items, stars, *size, rank=2, regularisation=0.1, n_sweeps=400)
    left_over = stars - model.user_level[users] - model.item_bias[items]
    by_user = sp.csr_array((left_over, (users, items)), shape=size)

    def change(regularisation: float, unobserved: float) -> float:
        item_factors = model.item_factors
        for _ in range(400):
            user_factors = fz.solve_rows(by_user, item_factors, regularisation, unobserved)
            item_factors = fz.solve_rows(by_user.T.tocsr(), user_factors, regularisation, unobserved)
        return np.abs(user_factors @ item_factors.T - model.user_factors @ model.item_factors.T).max()

    assert change(0.1, 0.0) < 0.01
    assert min(change(0.12, 0.0), change(0.1, 0.05)) > 0.1


def test_biases_are_damped_means_items_first():
    users, items, stars, *size = triplets()
    model = fit_als_large(users, items, stars, *size, rank=2, n_sweeps=1)
    assert model.mean == pytest.approx(stars.mean())
    for item in range(size[1]):
        own = items == item
        assert model.item_bias[item] == pytest.approx((stars[own] - stars.mean()).sum() / (own.sum() + 5), abs=1e-5)
    for user in range(size[0]):
        own = users == user
        left = stars[own] - stars.mean() - model.item_bias[items[own]]
        assert model.user_bias[user] == pytest.approx(left.sum() / (own.sum() + 5), abs=1e-5)


def test_factors_lie_on_principal_axes_and_the_model_is_the_same_every_time():
    calls = []
    model = fit_als_large(*triplets(), rank=3, n_sweeps=4, seed=2, after_sweep=lambda: calls.append(1))
    assert len(calls) == 4
    again = fz.principal_axes(model.user_factors, model.item_factors)
    np.testing.assert_allclose(model.item_factors, again[1], atol=1e-6)
    same, other = (fit_als_large(*triplets(), rank=3, n_sweeps=4, seed=seed) for seed in (2, 3))
    np.testing.assert_array_equal(model.user_factors, same.user_factors)
    assert (model.user_factors != other.user_factors).any()


def test_who_has_no_rating_gets_zeros_and_order_does_not_matter():
    users, items, stars, n_users, n_items = triplets()
    model = fit_als_large(users, items, stars, n_users + 2, n_items + 1, rank=2)
    assert (model.user_embeddings[-2:, :-1] == 0).all() and (model.item_embeddings[-1] == 0).all()
    order = np.random.default_rng(0).permutation(len(stars))
    mixed = fit_als_large(users[order], items[order], stars[order], n_users + 2, n_items + 1, rank=2)
    np.testing.assert_allclose(mixed.predict(users, items), model.predict(users, items), atol=1e-3)


def test_the_number_of_threads_of_torch_stays():
    before = torch.get_num_threads()
    fit_als_large(*triplets(), rank=2, n_sweeps=1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratings": np.empty(0), "users": np.empty(0, int), "items": np.empty(0, int)}, "at least one rating"),
        ({"ratings": np.array([1.0, np.nan])}, "finite ratings"),
        ({"items": np.array([1, 1]), "users": np.array([2, 2])}, "twice"),
        ({"users": np.array([0, 3])}, "names user 0 or 3: number them 0 to 2"),
        ({"items": np.array([-1, 3])}, "names item -1 or 3: number them 0 to 3"),
        ({"rank": 4}, "rank 4 must lie between 1"),
        ({"rank": 0}, "rank 0 must lie between 1"),
    ],
)
def test_bad_ratings_are_refused(change, words):
    good = {"users": np.array([0, 1]), "items": np.array([0, 3]), "ratings": np.array([1.0, 2.0]), "rank": 2}
    with pytest.raises(ValueError, match=words):
        fit_als_large(n_users=3, n_items=4, **(good | change))


# Generated ratings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated():
    return large.generated_ratings(0.004)


def test_generated_ratings_have_the_shape_that_was_asked_for(generated):
    assert len(generated.ratings) == round(large.N_RATINGS * 0.004)
    assert generated.truth.user_bias.shape == (round(large.N_USERS * 0.004),)
    assert generated.truth.item_bias.shape == (round(large.N_ITEMS * 0.004**0.5),)
    assert {column.dtype for column in generated[:2]} == {np.dtype(np.int32)}
    assert set(np.unique(generated.ratings)) == set(np.arange(0.5, 5.5, 0.5))


def test_no_pair_occurs_twice_and_few_have_most(generated):
    assert len(np.unique(np.stack(generated[:2]), axis=1).T) == len(generated.ratings)
    for numbers, share in ((generated.users, 0.3), (generated.items, 0.5)):
        counts = np.sort(np.bincount(numbers))[::-1]
        assert counts[: len(counts) // 10].sum() > share * counts.sum()
        assert np.corrcoef(np.arange(len(counts)), np.bincount(numbers))[0, 1] ** 2 < 0.05  # in no order


def test_ratings_lie_around_the_model_that_made_them(generated):
    users, items, ratings, truth = generated
    expected = truth.predict(users, items)
    middle = (expected > 2) & (expected < 3.5)  # where the ends of the scale cut nothing off
    error = (ratings - expected)[middle]
    assert error.mean() == pytest.approx(0, abs=0.02)
    assert error.std() == pytest.approx(np.hypot(large.NOISE, 0.5 / 12**0.5), rel=0.03)  # and of the rounding


def test_the_seed_decides(generated):
    same, other = large.generated_ratings(0.004), large.generated_ratings(0.004, seed=1)
    np.testing.assert_array_equal(np.stack(same[:3]), np.stack(generated[:3]))
    assert (other.ratings != generated.ratings).any()


@pytest.mark.parametrize("scale", [0, 1e-4, 1.5, np.nan])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(ValueError, match=r"between 0\.001 and 1"):
        large.generated_ratings(scale)


# The benchmark --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_measures_a_process_of_its_own():
    ballast = np.ones(150_000_000)  # 1.2 GB of this process, which are none of the benchmark's
    cost = large.large_als_benchmark(0.01, threads=1)
    assert ballast[-1] == 1
    assert cost.n_ratings == pytest.approx(0.99 * 0.01 * large.N_RATINGS, rel=1e-3)
    assert 0.05 < cost.peak_gb < 1
    assert 6 * cost.n_ratings / cost.ratings_per_second < cost.fit_seconds
    assert cost.noise_floor < cost.rmse < 0.97 * cost.biases_rmse


def test_a_benchmark_out_of_range_is_refused():
    for wrong in ({"threads": 0}, {"scale": 2}):
        with pytest.raises(ValueError, match="at least 1"):
            large.large_als_benchmark(**({"scale": 0.001} | wrong))
