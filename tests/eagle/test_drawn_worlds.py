"""Worlds of drawings: the truth has the formula of the utility, and what nobody sees changes no part of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.eagle.drawn_worlds import UTILITY_PARTS, DrawnWorld, make_world


@pytest.fixture(scope="module")
def world() -> DrawnWorld:
    return make_world(0, n_posters=80, n_users=30)


def column(world: DrawnWorld, name: str, posters, user: int = 3, item: int = 7) -> np.ndarray:
    return world.parts(user, item, posters)[:, UTILITY_PARTS.index(name)]


def test_true_ratings_are_the_stars_of_the_user(world):
    posters = world.drawings.posters[:9]
    np.testing.assert_allclose(column(world, "rating, true", posters), world.drawings.taste.stars(posters, 3))


def test_posters_are_as_far_apart_as_their_users_say(world):
    one, other = world.drawings.posters[:2]
    stars = np.array([world.drawings.taste.stars([one, other], user) for user in range(30)])
    expected = np.sqrt(((stars[:, 0] - stars[:, 1]) ** 2).mean())
    assert np.linalg.norm(np.subtract(*world.seen([one, other]))) == pytest.approx(expected)


def test_predicted_parts_add_up_to_what_is_paid(world):
    posters = world.drawings.posters[:9]
    predicted = column(world, "rating, predicted", posters) + column(world, "novelty, predicted", posters)
    np.testing.assert_allclose(world.paid(3, 7)(posters), predicted)
    stars = world.paid(3, 7, novelty_weight=0.0)(posters)
    np.testing.assert_allclose(stars, column(world, "rating, predicted", posters))


def test_the_own_poster_does_not_count_among_what_exists(world):
    (own,) = world.parts(3, 7, [world.drawings.posters[7]])
    (other,) = world.parts(3, 8, [world.drawings.posters[7]])
    assert own[1] > other[1] and own[3] > other[3] and own[[0, 2]] == pytest.approx(other[[0, 2]])


def test_what_nobody_sees_changes_what_is_predicted_alone(world):
    poster = replace(world.drawings.posters[0], pattern="stripes")
    turned, framed = replace(poster, tilt=poster.tilt + 40), replace(poster, frame=0.12)
    parts = world.parts(3, 0, [poster, turned, framed])
    assert (parts[1:, 2:] == parts[0, 2:]).all() and (parts[1:, :2] != parts[0, :2]).all()


def test_posters_are_drawn_once(world):
    asked = []

    def features(pictures):
        asked.append(len(pictures))
        return np.array([picture.mean(axis=(0, 1)) for picture in pictures])

    own = make_world(1, featurise=features, n_posters=50, n_users=20, per_user=10)
    posters, before = own.drawings.posters[:3], len(asked)
    np.testing.assert_array_equal(own.embed([*posters, posters[0]])[3], own.embed(posters[:1])[0])
    assert asked[before:] == [3]
