"""What an agent knows of its options: promises by hand, supports by their definition, time and memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_steering import BORROWED_REACH, REACH, fake_task, task_starts
from fake_world import encode

from helpers.eagle.aims import landing
from helpers.eagle.design import efficiency, prepare
from helpers.eagle.emission import gains
from helpers.eagle.rewriting import Start
from helpers.eagle.steering import FEATURES, State, Table, supported, weighted, with_reach

START = task_starts(4)[3]
STATE = State(START, START.text)


def column(table: Table, name: str) -> np.ndarray:
    return table.features[:, FEATURES.index(name)]


def test_a_promise_is_what_the_text_would_gain_where_the_aim_leads():
    task = fake_task()
    table, z = task.table(STATE), encode([START.text])[0]
    gap = task.gaps(START)[0]
    there, here = gap(z + REACH * (task.targets[0] - z)), gap(z)
    np.testing.assert_allclose(column(table, "rating"), there.rating - here.rating)
    np.testing.assert_allclose(column(table, "novelty"), 0.5 * (there.novelty - here.novelty))
    np.testing.assert_allclose(table.ways, landing(z, task.targets[0], REACH) - z)
    distances = np.linalg.norm(task.targets[0] - z, axis=1) / gap.typical_distance
    np.testing.assert_allclose(column(table, "distance"), distances)


def test_the_second_encoder_has_features_of_its_own():
    task = fake_task()
    table = task.table(STATE)
    for name in ("novelty", "distance"):  # the fake one is the same map on other axes
        np.testing.assert_allclose(column(table, f"second_{name}"), column(table, name), atol=1e-6)
    gap, z = task.gaps(START)[1], task.embedded([START.text])[1][0]
    there = gap(z + REACH * (task.targets[1] - z)).rating - gap(z).rating
    np.testing.assert_allclose(column(table, "second_rating"), there)
    assert not np.allclose(there, column(table, "rating"))


def test_the_words_of_an_aim_are_features():
    table = fake_task().table(STATE)  # the text says Drama, Sci-Fi
    assert column(table, "shared").tolist() == [float(i % 6 == 0) for i in range(20)]
    assert set(column(table, "labels")) == {1.0} and set(column(table, "items")) == {0.0}


def test_gains_so_far_are_those_of_the_rule_that_reports_them():
    task = fake_task()
    moved = task_starts(9)[8].text
    (rating, novelty), second = task.gained_parts(START, [moved])[..., 0]
    found = gains(task.encoders.paid, [START], [[moved]])
    assert (rating, novelty) == pytest.approx((found.rating[0, 0], found.novelty[0, 0]))
    assert sum(second) == pytest.approx(gains(task.encoders.second, [START], [[moved]]).total[0, 0])
    assert task.gained(START, [moved])[:, 0] == pytest.approx((rating + novelty, sum(second)))
    table = task.table(State(START, moved, 1))
    assert table.gained == pytest.approx((rating + novelty, sum(second)))
    assert set(column(table, "gained_rating")) == {rating} and set(column(table, "gained_novelty")) == {novelty}
    assert task.table(STATE).gained.tolist() == [0, 0]


def test_a_task_says_how_many_aims_there_are_to_choose_from_and_what_novelty_is_worth():
    task = replace(fake_task(), k=4, novelty_weight=2.0)
    assert len(task.options(STATE, "optimistic").aims) == 4 and len(task.options(STATE, "optimistic", 7).aims) == 7
    usual, more = column(fake_task().table(STATE), "novelty"), column(task.table(STATE), "novelty")
    np.testing.assert_allclose(more, 4 * usual)
    moved = task_starts(9)[8].text
    parts, usual_parts = task.gained_parts(START, [moved]), fake_task().gained_parts(START, [moved])
    np.testing.assert_allclose(parts[:, 0], usual_parts[:, 0])
    np.testing.assert_allclose(parts[:, 1], 4 * usual_parts[:, 1])


def test_options_end_with_stop_and_know_the_time():
    task = fake_task(horizon=4)
    first = task.options(STATE, "optimistic", 5)
    later = task.options(STATE._replace(step=1, asked=(int(first.aims[2]), 99)), "optimistic", 5)
    assert first.features.shape == (6, len(FEATURES))
    assert later.aims.tolist() == first.aims.tolist()
    asked, left, stop = (FEATURES.index(name) for name in ("asked", "left", "stop"))
    assert first.features[:, asked].tolist() == [0] * 6
    assert later.features[:, asked].tolist() == [0, 0, 1, 0, 0, 0]
    assert set(first.features[:, left]) == {1.0} and set(later.features[:, left]) == {0.75}
    assert later.features[:, stop].tolist() == [0, 0, 0, 0, 0, 1]
    assert not later.features[-1, :left].any()


@pytest.mark.parametrize("support", ["uniform", "optimistic", "goptimal"])
def test_a_support_is_k_aims_the_same_every_time(support):
    first, again = (fake_task().options(STATE, support, 8).aims for _ in range(2))
    assert first.tolist() == again.tolist() and len(set(first.tolist())) == 8
    assert set(first.tolist()) <= set(range(20))


def test_the_optimistic_support_promises_most():
    task = fake_task()
    promised = task.table(STATE).features[:, :2].sum(axis=1)
    chosen = task.options(STATE, "optimistic", 3).aims
    assert promised[chosen].max() == promised.max()
    assert promised[chosen].mean() > np.sort(promised)[-8:].mean()


def test_the_designed_support_spans_more_than_random_ones():
    task = fake_task()
    table = task.table(STATE)
    z = prepare(table.ways, form="displacement", origin=np.zeros(3))
    designed = efficiency(z, supported("goptimal", table, task.aims, 6, 0))
    random = [efficiency(z, supported("uniform", table, task.aims, 6, seed)) for seed in range(30)]
    assert designed > max(random)


def test_an_aim_that_borrows_promises_by_a_reach_of_its_own():
    task = fake_task(borrowed=3)
    table, z = task.table(STATE), encode([START.text])[0]
    ways = (task.targets[0] - z) * np.repeat([REACH, BORROWED_REACH], [20, 3])[:, None]
    np.testing.assert_allclose(table.ways, ways)
    gap = task.gaps(START)[0]
    np.testing.assert_allclose(column(table, "rating"), gap(z + ways).rating - gap(z).rating)
    assert column(table, "borrowed").tolist() == [0] * 20 + [1] * 3
    assert [len(task.of_kind(kind).aims) for kind in ("named", "borrowed")] == [20, 3]
    np.testing.assert_allclose(task.of_kind("borrowed").table(STATE).ways, ways[20:])


def test_an_answer_that_copies_what_it_should_borrow_from_is_refused():
    task = fake_task(borrowed=3)
    copied = replace(task.aims[21], idea=START.text)  # all texts of the map have nearly the same words
    task = replace(task, aims=(*task.aims[:21], copied, task.aims[22]))
    found = task.follow([START.text] * 3, [20, 21, 0], [1, 2, 3])
    assert found.problems == ["", "copies the idea", ""]
    assert [text == START.text for text in found.texts] == [False, True, False]
    assert found.texts[0] == task.rewrite([START.text], task.said([20]), [1]).texts[0]


def test_random_supports_differ_from_state_to_state():
    task = fake_task()
    others = [State(start, start.text) for start in task_starts(6)]
    assert len({tuple(task.options(state, "uniform", 5).aims) for state in others}) > 3


def test_the_reach_is_what_texts_go_of_their_way_by_each_encoder():
    task = replace(fake_task(noise=0.01, bad=0.2, borrowed=12), reach=np.array([[0.1, 0.9], [0.3, 0.3]]))
    fitted = with_reach(task, task_starts(10))
    np.testing.assert_allclose(fitted.reach, [[REACH, BORROWED_REACH]] * 2, atol=0.02)
    promised = fitted.table(STATE).features[:, 0]
    np.testing.assert_allclose(
        promised, replace(fake_task(borrowed=12), reach=fitted.reach).table(STATE).features[:, 0]
    )


def test_a_task_that_is_changed_forgets_what_it_has_kept():
    task = fake_task()
    task.options(STATE, "optimistic", 5)
    assert replace(task, reach=np.zeros((2, 2))).options(STATE, "optimistic", 5).features[0, 0] == 0


def test_a_reach_needs_answers():
    with pytest.raises(ValueError, match="no answer could be used"):
        with_reach(fake_task(bad=1.0), task_starts(3))


def test_more_aims_than_there_are_cannot_be_offered():
    for support in ("uniform", "optimistic", "goptimal"):
        with pytest.raises(ValueError, match="21 of 20 aims"):
            fake_task().options(STATE, support, 21)


def test_a_step_leaves_start_and_memory():
    after = STATE.after("Genres: Drama.\nMore.", 3).after("Genres: Drama.\nStill more.", 3)
    assert after == State(START, "Genres: Drama.\nStill more.", 2, (3, 3))


def test_gains_are_weighed():
    gained = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert weighted(gained, 0.25).tolist() == [1.5, 3.0]
    assert weighted(gained, 0.0).tolist() == [1.0, 2.0]


def test_unknown_supports_and_starts_from_nowhere_are_refused(unchecked):
    task = fake_task()
    with pytest.raises(ValueError, match="unknown support 'best'"):
        task.options(STATE, "best")
    with pytest.raises(ValueError, match="item -1 has no text"):
        task.table(State(Start(START.text, 0), START.text))
