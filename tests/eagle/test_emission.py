"""What a method hands out: rules of emission by hand, and gains by an encoder against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from fake_world import fake_space, place

from helpers.eagle.emission import (
    Visited,
    gains,
    gap_of_start,
    selected,
    selection_curve,
    unselected,
)
from helpers.eagle.rewriting import Start

VALUES = np.array([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]])
CHOOSER = np.array([[0.0, 1.0, 2.0], [3.0, 3.0, 1.0]])


def test_unselected_is_the_mean_of_what_is_emitted():
    emitted = np.array([[True, False, True], [False, True, False]])
    assert unselected(VALUES, emitted).tolist() == [2, 2]


def test_selected_is_what_the_chooser_likes_best_among_the_first_calls():
    assert [selected(VALUES, CHOOSER, n).tolist() for n in (1, 2, 3)] == [[1, 4], [5, 4], [3, 4]]
    np.testing.assert_array_equal(selection_curve(VALUES, CHOOSER), [[1, 5, 3], [4, 4, 4]])
    assert selection_curve(VALUES, CHOOSER, 2).shape == (2, 2)


def test_a_chooser_never_loses_by_its_own_measure_when_it_may_choose_from_more():
    values = np.random.default_rng(0).normal(size=(20, 30))
    assert (np.diff(selection_curve(values, values)) >= 0).all()


@pytest.mark.parametrize("calls", [0, 4])
def test_as_many_calls_as_there_are(calls):
    with pytest.raises(ValueError, match=f"best of {calls} among 3"):
        selected(VALUES, CHOOSER, calls)


def starts_of(space) -> list[Start]:
    texts = list(space.domain.items["plot_text"][space.domain.has_text])
    return [Start(texts[row], user, int(space.domain.text_items[row])) for row, user in ((0, 1), (2, 3))]


def test_gains_are_over_the_start_with_its_own_item_left_out():
    space = fake_space()
    starts = starts_of(space)
    texts = [[start.text, place((3.0, 0.5, 1.0))] for start in starts]
    found = gains(space, starts, texts)
    assert found.total.shape == (2, 2)
    np.testing.assert_allclose(found.total[:, 0], 0, atol=1e-9)
    for row, start in enumerate(starts):
        own = int(np.flatnonzero(space.domain.text_items == start.item)[0])
        others, user = np.delete(space.items, own, axis=0), space.model.user_embeddings[start.user]
        before, after = space.encoder([start.text, texts[row][1]])
        typical = gap_of_start(space, start).typical_distance
        near = [np.sort(np.linalg.norm(others - z, axis=1))[:3].sum() / typical for z in (before, after)]
        assert found.rating[row, 1] == pytest.approx((after - before) @ user)
        assert found.novelty[row, 1] == pytest.approx(0.5 * (near[1] - near[0]))


def test_only_starts_that_are_made_from_an_item_have_gains():
    space = fake_space()
    with pytest.raises(ValueError, match="item -1 has no text"):
        gap_of_start(space, Start(place((0, 0, 0)), 0))
    with pytest.raises(ValueError, match="1 lists of texts for 2 starts"):
        gains(space, starts_of(space), [["x"]])
    here = place((0, 0, 0))
    for starts, texts in ((starts_of(space), [[here], [here] * 3]), ([], [])):
        with pytest.raises(ValueError, match="as many texts to each start"):
            gains(space, starts, texts)


@pytest.mark.parametrize(
    ("texts", "emitted", "words"),
    [
        ([["a", "b"], ["c"]], np.ones((2, 2), bool), "as many to each start"),
        ([["a"]], np.ones((1, 2), bool), "as many to each start"),
        ([["a", "b"]], np.zeros((1, 2), bool), "nothing is emitted"),
    ],
)
def test_every_start_has_as_many_texts_and_emits_one(texts, emitted, words):
    with pytest.raises(ValueError, match=words):
        Visited(texts, emitted)
