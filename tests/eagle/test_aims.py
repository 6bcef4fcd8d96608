"""Aimed actions: one for each wording, what they promise, and how far texts follow them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.domains.domain import Domain
from helpers.domains.wording import CLOTHES, MOVIES
from helpers.eagle import aims
from helpers.eagle.aims import Aim, aims_of, borrowing_aims
from helpers.eagle.rewriting import start_items
from helpers.eagle.utility import ContentGap

WEST, SPACE = Aim(("Western",), "betrayal and revenge", (0, 2)), Aim(("Drama", "Sci-Fi"), "faith and doubt", (1,))


def test_an_aim_is_said_in_the_words_of_its_domain():
    assert SPACE.instruction(MOVIES) == "Move it towards Drama and Sci-Fi, and towards stories about faith and doubt."
    assert WEST.instruction(CLOTHES).startswith(f"Move it towards Western, and towards {CLOTHES.drawn_to} ")


@pytest.fixture(scope="module")
def of_movies(movies: Domain) -> tuple[Aim, ...]:
    return aims_of(movies)


def test_no_two_aims_read_the_same_and_every_item_with_genres_has_one(movies, of_movies):
    assert len({aim.instruction(MOVIES) for aim in of_movies}) == len(of_movies) > 200
    items = Counter(item for aim in of_movies for item in aim.items)
    assert set(items.values()) == {1}
    for aim in of_movies[::20]:
        for item in movies.text_items[list(aim.items)]:
            assert set(aim.labels) <= set(movies.items["genres"].iloc[item])
    assert of_movies == aims_of(movies), "the same on every call"


def test_what_is_left_out_is_no_aim(movies, of_movies):
    left_out = movies.text_items[list(of_movies[0].items)]
    fewer = aims_of(movies, left_out)
    assert set(of_movies) - set(fewer) == {of_movies[0]}


def test_every_item_that_could_be_a_start_can_be_borrowed_from_unless_it_is_left_out(movies):
    left_out = start_items(movies)[5:9].tolist()
    found = borrowing_aims(movies, left_out)
    assert [movies.text_items[aim.items[0]] for aim in found] == [i for i in start_items(movies) if i not in left_out]
    for aim in found[::40]:
        assert len(aim.items) == 1 and aim.kind == "borrowed"
        assert aim.idea == movies.texts("idea")[aim.items[0]]
        assert aim.instruction(MOVIES) == "Borrow from this idea: " + aim.idea.replace("\n", " ")
    assert {aim.kind for aim in aims_of(movies)} == {"named"}


def test_a_reach_for_each_aim():
    goals, z = np.array([[4.0, 0.0], [0.0, 4.0]]), np.zeros(2)
    np.testing.assert_array_equal(aims.landing(z, goals, np.array([0.5, 0.25])), [[2, 0], [0, 1]])
    np.testing.assert_array_equal(aims.landing(z, goals, 0.5), [[2, 0], [0, 2]])


def test_a_target_is_the_mean_of_its_items():
    items = np.array([[0.0, 2.0], [5.0, 5.0], [2.0, 0.0]])
    np.testing.assert_array_equal(aims.targets([WEST, SPACE], items), [[1, 1], [5, 5]])


def test_what_promises_nothing_finite_is_not_chosen():
    some = [Aim((str(i),), str(i), (i,)) for i in range(4)]
    promised = np.array([1.0, -np.inf, 0.0, -np.inf])
    assert aims.most_promising(promised, some, 2).tolist() == [0, 2]
    with pytest.raises(ValueError, match="2 aims that differ enough, 3 wanted"):
        aims.most_promising(promised, some, 3)


def test_a_promise_is_the_utility_where_one_lands_less_the_present_one():
    random = np.random.default_rng(0)
    gap = ContentGap(random.normal(size=(9, 3)), random.normal(size=3), 3.5)
    z, targets = random.normal(size=3), random.normal(size=(4, 3))
    found = aims.promise(gap, z, targets, 0.25)
    for index, target in enumerate(targets):
        expected = [float(b[0] - a[0]) for a, b in zip(gap(z), gap(0.75 * z + 0.25 * target), strict=True)]
        assert [part[index] for part in found] == pytest.approx(expected)
    assert all(np.allclose(part, 0) for part in aims.promise(gap, z, targets, 0.0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), reach=st.floats(-1, 2))
def test_the_reach_of_texts_that_follow_exactly_is_found(seed, reach):
    before, targets, sideways = np.random.default_rng(seed).normal(size=(3, 20, 4))
    ways = targets - before
    sideways -= ways * (sideways * ways).sum(axis=1, keepdims=True) / (ways * ways).sum(axis=1, keepdims=True)
    assert aims.fit_reach(before, before + reach * ways + sideways, targets) == pytest.approx(reach, abs=1e-9)


def test_no_way_to_go_is_refused():
    with pytest.raises(ValueError, match="on its target"):
        aims.fit_reach(np.ones((2, 3)), np.zeros((2, 3)), np.ones((2, 3)))


def test_the_most_promising_aims_are_not_all_alike():
    many = [Aim(("War",), theme, (0,)) for theme in "abc"] + [Aim(("Drama",), theme, (0,)) for theme in "aad"]
    promised = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert aims.most_promising(promised, many, 4).tolist() == [0, 1, 3, 5]
    assert aims.most_promising(promised, many, 2, alike=1).tolist() == [0, 5]
    assert aims.most_promising(-promised, many, 3, alike=9).tolist() == [5, 4, 3]
    with pytest.raises(ValueError, match="2 aims that differ enough, 3 wanted"):
        aims.most_promising(promised, many, 3, alike=1)


def test_aims_in_order_of_promise_are_alike_only_where_others_do_not_suffice():
    many = [Aim(("A",), str(n), (0,)) for n in range(4)] + [Aim(("B",), "x", (0,))]
    promised = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    orders = [aims.in_order_of_promise(promised, many, k).tolist() for k in range(1, 6)]
    assert orders == [[0], [0, 1], [0, 1, 4], [0, 1, 4, 2], [0, 1, 4, 2, 3]]
    with pytest.raises(ValueError, match="5 aims to choose from, 6 wanted"):
        aims.in_order_of_promise(promised, many, 6)
    assert aims.in_order_of_promise(np.where(promised > 2, -np.inf, promised), many, 2).tolist() == [3, 4]
