"""Nearest neighbours: approximate against exact, and one index for all users."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from fake_world import fake_space
from scipy.spatial.distance import cdist

from helpers.eagle.utility import ContentGap
from helpers.embedding.neighbours import EXACT_UP_TO, Neighbours

N, DIM = EXACT_UP_TO + 5000, 17


def clustered(n: int = N, seed: int = 0, n_clusters: int = 100) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(n_clusters, DIM))
    return centres[random.integers(n_clusters, size=n)] + 0.3 * random.normal(size=(n, DIM))


def normal(n: int = N, seed: int = 0) -> np.ndarray:
    """No clusters at all: the worst case."""
    return np.random.default_rng(seed).normal(size=(n, DIM))


def queries(points: np.ndarray, n: int = 300) -> np.ndarray:
    random = np.random.default_rng(1)
    return points[random.choice(len(points), n, replace=False)] + 0.2 * random.normal(size=(n, DIM))


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, expected, strict=True)])


@pytest.mark.parametrize(("make", "least", "most"), [(clustered, 0.99, 0.0005), (normal, 0.95, 0.005)])
def test_many_points_are_found_almost_as_exactly_as_few(make, least, most):
    points = make()
    z = queries(points)
    everything = cdist(z, points)
    expected = np.argsort(everything, axis=1)[:, :3]
    distances, found = Neighbours(points)(z, 3)
    assert recall(found, expected) >= least
    novelty, exact = distances.sum(axis=1), np.take_along_axis(everything, expected, axis=1).sum(axis=1)
    assert (novelty >= exact * (1 - 1e-9)).all()  # a missed neighbour can only be replaced by a farther one
    assert (novelty / exact - 1).mean() < most
    np.testing.assert_allclose(distances, np.take_along_axis(everything, found, axis=1), atol=1e-9)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_the_typical_distance_is_nearly_the_exact_one():
    points = clustered(8000)
    near, exact = (Neighbours(points, exact_up_to=most) for most in (0, 8000))
    assert near.typical_distance(3) == pytest.approx(exact.typical_distance(3), rel=1e-3)


def test_few_points_are_exact():
    points, z = clustered(200), queries(clustered(200), 20)
    distances, found = Neighbours(points)(z, 5)
    expected = np.argsort(cdist(z, points), axis=1)[:, :5]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(distances, np.sort(cdist(z, points), axis=1)[:, :5], atol=1e-6)


@pytest.mark.parametrize("exact_up_to", [0, 2000])
def test_points_among_themselves_leave_themselves_out(exact_up_to):
    points = clustered(2000)
    own = Neighbours(points, exact_up_to=exact_up_to)
    everything = cdist(points, points)
    np.fill_diagonal(everything, np.inf)
    expected = np.sort(everything, axis=1)[:, :3]
    close = np.isclose(own.among_themselves(3), expected, atol=1e-6).all(axis=1)
    assert close.mean() > 0.99
    assert own.among_themselves(3) is own.among_themselves(3)
    assert own.typical_distance(3) == pytest.approx(expected.sum(axis=1).mean(), rel=1e-3)


def test_copies_have_distance_zero_also_far_from_the_origin():
    points = clustered() + 1e4
    points[:6] = points[0]
    index = Neighbours(points)
    np.testing.assert_array_equal(index(points[:1], 3)[0], 0)
    np.testing.assert_array_equal(index.among_themselves(3)[:6], 0)
    assert index.among_themselves(1)[6:].min() > 0
    shifted = index(queries(points), 3)[1]
    assert recall(Neighbours(points - 1e4)(queries(points) - 1e4, 3)[1], shifted) > 0.99


def test_points_that_fill_few_cells_still_have_enough_neighbours():
    points = np.zeros((3000, DIM))
    points[-40:] = 10 + np.random.default_rng(0).normal(size=(40, DIM))
    distances, found = Neighbours(points, exact_up_to=0)(points[-1:], 100)
    assert len(set(found[0])) == 100 and (found >= 0).all()
    np.testing.assert_allclose(distances[0], np.sort(cdist(points[-1:], points)[0])[:100], atol=1e-6)


def test_every_index_gives_the_same_answer():
    points = clustered()
    one, other = (Neighbours(points)(queries(points), 3) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_more_neighbours_than_points_are_refused():
    with pytest.raises(ValueError, match="11 neighbours of 10 points"):
        Neighbours(clustered(10), exact_up_to=0)(np.zeros((1, DIM)), 11)


# The content gap ------------------------------------------------------------------------------------------------


def test_users_of_a_space_share_one_index():
    space = fake_space()
    one, other = ContentGap.of_user(space, 0), ContentGap.of_user(space, 1)
    assert one.neighbours is other.neighbours is space.neighbours
    assert one.typical_distance == other.typical_distance
    z = one.items[:3] + 0.1
    alone = ContentGap(other.items, other.user, other.user_level)
    np.testing.assert_array_equal(other(z), alone(z))
    np.testing.assert_array_equal(other.of_items(), alone.of_items())


def test_the_utility_among_many_items_is_nearly_the_exact_one():
    items = clustered()
    exact = Neighbours(items, exact_up_to=N)
    z, user = queries(items), np.full(DIM, 0.1)
    near, expected = (ContentGap(items, user, 3.5, neighbours=index) for index in (None, exact))
    np.testing.assert_allclose(near(z).novelty, expected(z).novelty, rtol=0.02)
    np.testing.assert_allclose(near(z).total, expected(z).total, rtol=0.002)
    assert near.nearest(items[7], k=1).tolist() == [7]


def test_many_items_on_one_point_are_refused():
    items = np.ones((2000, DIM))
    with pytest.raises(ValueError, match="the encoder is constant"):
        ContentGap(items, np.ones(DIM), 3.5, neighbours=Neighbours(items, exact_up_to=0))(np.ones(DIM))


def test_an_index_of_other_items_is_refused():
    items = clustered(50)
    with pytest.raises(ValueError, match="index is of other items"):
        ContentGap(items, np.ones(DIM), 3.5, neighbours=Neighbours(items.copy()))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["faiss", "torch"])
def test_faiss_and_torch_work_in_one_process(first):
    """Each brings an OpenMP library; some pairs of these abort the process."""
    code = f"""
import {first}, faiss, torch, numpy as np
from helpers.embedding.neighbours import Neighbours
points = np.random.default_rng(0).normal(size=(3000, 4))
found = Neighbours(points, exact_up_to=0)(points[:5], 1)[1]
assert found.ravel().tolist() == list(range(5))
assert (torch.ones(400, 400) @ torch.ones(400, 400) == 400).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "OMP" not in done.stderr
