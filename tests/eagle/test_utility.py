"""Utility and content gap against brute force."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_world import fake_space
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.eagle.utility import ContentGap, best_in_reach
from helpers.embedding.factorization import Factorization


def world(seed: int = 0, n_items: int = 12, dim: int = 4, n_texts: int = 5):
    random = np.random.default_rng(seed)
    return random.normal(size=(n_items, dim)), random.normal(size=dim), random.normal(size=(n_texts, dim))


def brute_novelty(z: np.ndarray, items: np.ndarray, k: int) -> float:
    return sorted(np.linalg.norm(z - item) for item in items)[:k] @ np.ones(k)


def brute_typical(items: np.ndarray, k: int) -> float:
    return np.mean([brute_novelty(item, np.delete(items, i, axis=0), k) for i, item in enumerate(items)])


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_items=st.integers(5, 15),
    dim=st.sampled_from([1, 2, 5, 17]),
    k=st.integers(1, 4),
    weight=st.floats(0, 3),
)
def test_utility_is_what_the_formula_says(seed, n_items, dim, k, weight):
    items, user, z = world(seed, n_items, dim)
    gap = ContentGap(items, user, 3.5, novelty_weight=weight, n_neighbors=k)
    typical = brute_typical(items, k)
    novelty = np.array([brute_novelty(row, items, k) / typical for row in z])
    parts = gap(z)
    assert gap.typical_distance == pytest.approx(typical)
    np.testing.assert_allclose(parts.novelty, novelty, atol=1e-6)
    np.testing.assert_allclose(parts.rating, 3.5 + z @ user)
    np.testing.assert_allclose(parts.total, 3.5 + z @ user + weight * novelty, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n_items=st.integers(6, 15), k=st.integers(1, 4), copies=st.integers(0, 2))
def test_the_item_that_a_text_was_made_from_does_not_count(seed, n_items, k, copies):
    items, user, z = world(seed, n_items)
    items[:copies] = items[copies]  # films that are listed twice: a copy still counts
    z[0] = items[copies]
    gap = ContentGap(items, user, 3.5, n_neighbors=k, without=copies)
    others = np.delete(items, copies, axis=0)
    expected = [brute_novelty(row, others, k) / gap.typical_distance for row in z]
    np.testing.assert_allclose(gap(z).novelty, expected, atol=1e-6)
    assert gap.typical_distance == ContentGap(items, user, 3.5, n_neighbors=k).typical_distance


def test_existing_items_are_compared_with_the_others():
    items, user, _ = world()
    parts = ContentGap(items, user, 3.5).of_items()
    expected = [brute_novelty(z, np.delete(items, i, axis=0), 3) for i, z in enumerate(items)]
    np.testing.assert_allclose(parts.novelty, expected / brute_typical(items, 3))
    assert parts.novelty.mean() == pytest.approx(1)  # what d_D is for
    np.testing.assert_allclose(parts.total, parts.rating + 0.5 * parts.novelty)


def test_a_copy_has_one_neighbour_at_distance_zero():
    items, user, _ = world()
    gap = ContentGap(items, user, 3.5, n_neighbors=1)
    np.testing.assert_allclose(gap(items).novelty, 0, atol=1e-6)
    three = ContentGap(items, user, 3.5)
    two_others = [brute_novelty(z, np.delete(items, i, axis=0), 2) for i, z in enumerate(items)]
    np.testing.assert_allclose(three(items).novelty, np.array(two_others) / three.typical_distance, atol=1e-6)


def test_novelty_knows_neither_origin_nor_scale():
    items, user, z = world()
    novelty = ContentGap(items, user, 3.5)(z).novelty
    shift = np.full(4, 7.0)
    np.testing.assert_allclose(ContentGap(items + shift, user, 3.5)(z + shift).novelty, novelty, rtol=1e-6)
    np.testing.assert_allclose(ContentGap(100 * items, user, 3.5)(100 * z).novelty, novelty, rtol=1e-6)


def test_without_novelty_the_utility_is_the_rating():
    items, user, z = world()
    parts = ContentGap(items, user, 3.5, novelty_weight=0.0)(z)
    np.testing.assert_array_equal(parts.total, parts.rating)
    assert (parts.novelty > 0).all()


def test_further_away_is_more_novel():
    items, user, _ = world()
    steps = np.arange(10, 60, 10)[:, None] * np.ones(4)
    assert (np.diff(ContentGap(items, user, 3.5)(steps).novelty) > 0).all()


def test_one_embedding_and_its_nearest_items():
    items, user, z = world()
    gap = ContentGap(items, user, 3.5)
    assert gap(z[0]).total.shape == (1,)
    np.testing.assert_allclose(gap(z[0]).total, gap(z).total[:1])
    assert gap.nearest(z[0], k=4).tolist() == np.argsort(np.linalg.norm(items - z[0], axis=1))[:4].tolist()


def test_the_gap_of_a_user_of_a_space():
    items, _, z = world()
    random = np.random.default_rng(1)
    model = Factorization(3.5, np.array([0.25, -0.5]), np.zeros(12), random.normal(size=(2, 3)), np.zeros((12, 3)))
    space = replace(fake_space(), model=model, items=items)
    gap = ContentGap.of_user(space, 1, novelty_weight=2.0, n_neighbors=2)
    assert (gap.novelty_weight, gap.n_neighbors) == (2.0, 2)
    np.testing.assert_allclose(gap(z).rating, 3.0 + z[:, :3] @ model.user_factors[1] + z[:, 3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": np.full((12, 4), np.nan)}, "not finite"),
        ({"user": np.array([1, 2, 3, np.inf])}, "not finite"),
        ({"user_level": np.nan}, "not finite"),
        ({"novelty_weight": np.nan}, "not finite"),
        ({"user": np.ones(3)}, "dims must agree"),
        ({"user": np.ones((4, 1))}, "dims must agree"),
        ({"items": np.ones(4)}, "dims must agree"),
        ({"n_neighbors": 12}, "12 items are too few"),
        ({"n_neighbors": 0}, "k = 0 is below 1"),
    ],
)
def test_bad_settings_are_refused(change, words, unchecked):
    items, user, _ = world()
    with pytest.raises(ValueError, match=words):
        ContentGap(**({"items": items, "user": user, "user_level": 3.5} | change))


@pytest.mark.parametrize("z", [np.full((2, 4), np.nan), np.ones((2, 3)), np.ones(5), np.ones((0, 4))])
def test_bad_embeddings_are_refused(z):
    items, user, _ = world()
    with pytest.raises(ValueError, match=r"expected finite embeddings|0 sample"):
        ContentGap(items, user, 3.5)(z)


@pytest.mark.parametrize("dim", [2, 17])
def test_items_on_one_point_are_refused(dim):
    items = np.tile(np.random.default_rng(0).normal(size=dim), (20, 1))
    with pytest.raises(ValueError, match="the encoder is constant"):
        ContentGap(items, np.ones(dim), 3.5)(np.ones(dim))


# The best point in reach ---------------------------------------------------------------------------------------------


def test_the_best_point_in_reach_lies_on_a_way_to_an_item_and_nothing_within_reach_is_better():
    random = np.random.default_rng(3)
    for seed in range(24):
        items, z = random.normal(size=(20, 3)), random.normal(size=3)
        gap = ContentGap(items, np.random.default_rng(seed).normal(size=3), 3.0)
        target, ways = best_in_reach(gap, z, items), items - z
        lengths = np.linalg.norm(ways, axis=1)
        assert np.linalg.norm(target - z) <= np.median(lengths) * (1 + 1e-6)
        cosines = ways @ (target - z) / lengths / np.linalg.norm(target - z)
        assert cosines.max() == pytest.approx(1)
        points = [z + step / 10 * way for way in ways for step in range(1, 11)]
        reachable = np.array([p for p in points if np.linalg.norm(p - z) <= np.median(lengths) * (1 + 1e-9)])
        assert gap(target).total[0] == pytest.approx(gap(reachable).total.max())


def test_the_best_point_in_reach_may_be_an_item_at_just_the_median_distance(unchecked):
    z, way = np.array([0.4, -0.2, 1.0]), np.array([1.0, 0.0, 0.0])
    items = z + np.array([[0.1], [0.2], [0.3], [0.7], [0.8]]) * way
    found = best_in_reach(lambda points: SimpleNamespace(total=points @ way), z, items)
    np.testing.assert_allclose(found, z + 0.3 * way)
