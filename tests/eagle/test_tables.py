"""Tables: one rule for all, over the control, with seeds and items drawn anew together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_steering import fake_task, task_starts

from helpers.base.intervals import clustered_interval, crossed_interval
from helpers.eagle.emission import Gains, gains
from helpers.eagle.rewriting import Start
from helpers.eagle.rivals import neutral, tree_search
from helpers.eagle.tables import (
    GAIN_COLUMNS,
    Measured,
    break_even,
    calls_to_reach,
    gain_difference,
    gain_table,
    mean_interval,
    measured,
    measured_each,
    paired,
)

STARTS = tuple(Start("Genres: Drama.\nA text.", user, item) for item in range(5) for user in range(2))
ITEMS = [start.item for start in STARTS]


def some(seed: int, n_seeds: int, lead: float = 0.0) -> Measured:
    random = np.random.default_rng(seed)
    gains = {
        name: [Gains(lead + random.normal(size=(10, 4)), random.normal(size=(10, 4))) for _ in range(n_seeds)]
        for name in ("paid", "second", "judge")
    }
    return Measured(STARTS, gains, [np.tile([False, True, False, True], (10, 1)) for _ in range(n_seeds)])


def test_every_encoder_measures_the_texts_of_every_seed():
    task, starts = fake_task(), task_starts(4)
    visited = [tree_search(task, starts, 8, seed) for seed in (0, 1)]
    method = measured(task.encoders, starts, visited)
    assert (
        method.starts == tuple(starts)
        and method.planned
        and not measured(task.encoders, starts, [neutral(task, starts, 8)]).planned
    )
    for name, space in task.encoders._asdict().items():
        for seed in (0, 1):
            expected = gains(space, starts, visited[seed].texts)
            np.testing.assert_allclose(method.gains[name][seed], expected)
            np.testing.assert_allclose(method.values(name)[seed], expected.total[:, 4:].mean(axis=1))


def test_several_methods_are_measured_in_one_pass_that_encodes_every_text_once():
    task, starts = fake_task(), task_starts(4)
    visited = {
        "tree": [tree_search(task, starts, 8, seed) for seed in (0, 1)],
        "neutral": [neutral(task, starts, 3)],
        "again": [neutral(task, starts, 3)],
    }
    asked = []
    paid = task.encoders.paid

    def featurise(texts):
        asked.append(list(texts))
        return paid.encoder.featurise(texts)

    watched = replace(paid, encoder=replace(paid.encoder, featurise=featurise))
    found = measured_each(task.encoders._replace(paid=watched), starts, visited)
    assert list(found) == list(visited) and [one.planned for one in found.values()] == [True, False, False]
    for name, runs in visited.items():
        alone = measured(task.encoders, starts, runs)
        for encoder, of_seeds in alone.gains.items():
            np.testing.assert_allclose(found[name].gains[encoder], of_seeds, atol=1e-9)
        np.testing.assert_array_equal(found[name].emitted, alone.emitted)
    (texts,) = asked
    known = {text for runs in visited.values() for run in runs for row in run.texts for text in row}
    assert len(texts) == len(set(texts)) and set(texts) == known | {start.text for start in starts}


def test_unselected_values_are_means_of_what_is_emitted():
    method = some(0, 2)
    for seed, values in enumerate(method.values("judge", "rating")):
        np.testing.assert_allclose(values, method.gains["judge"][seed].rating[:, [1, 3]].mean(axis=1))


@pytest.mark.parametrize("chooser", ["paid", "both"])
def test_selected_values_are_what_the_chooser_likes_best_and_never_the_judge(chooser):
    method = some(1, 3)
    for seed, values in enumerate(method.values(calls=3, chooser=chooser)):
        by = method.gains["paid"][seed].total[:, :3]
        by = by + method.gains["second"][seed].total[:, :3] if chooser == "both" else by
        expected = method.gains["judge"][seed].total[np.arange(10), by.argmax(axis=1)]
        np.testing.assert_allclose(values, expected)
        np.testing.assert_allclose(method.curve("judge", chooser)[seed, :, 2], expected)


def test_intervals_draw_seeds_and_items():
    values = some(2, 4).values()
    assert mean_interval(values, ITEMS) == crossed_interval(values, ITEMS)
    assert mean_interval(values[:1], ITEMS) == clustered_interval(values[0], ITEMS)


def test_differences_are_paired():
    one, other, single = some(3, 4).values(), some(4, 4).values(), some(5, 1).values()
    np.testing.assert_allclose(paired(one, other), one - other)
    np.testing.assert_allclose(paired(one, single), one - single[0])
    np.testing.assert_allclose(paired(single, one), single[0] - one)
    forth, back = (gain_difference(*pair) for pair in ((some(3, 4), some(5, 1)), (some(5, 1), some(3, 4))))
    assert forth == pytest.approx((-back.mean, -back.high, -back.low))
    assert gain_difference(some(3, 4), some(3, 4)) == (0, 0, 0)
    np.testing.assert_allclose(paired(one, other[:3]), (one - other)[:3])  # the seeds that both have
    np.testing.assert_allclose(paired(one[:2], other), (one - other)[:2])


def test_a_search_that_plans_is_only_what_it_was_run_for():
    method = replace(some(1, 2), planned=True)
    assert method.values(calls=4).shape == (2, 10) and method.values().shape == (2, 10)
    with pytest.raises(ValueError, match="a search of 4 calls is none of 3"):
        method.values(calls=3)


def test_a_table_takes_the_control_off_everywhere():
    methods = {"neutral": some(6, 1), "agent": some(7, 3, lead=2.0)}
    table = gain_table(methods, calls=2, chooser="paid")
    assert list(table.columns) == list(GAIN_COLUMNS) and list(table.index) == ["neutral", "agent"]
    assert all(table.loc["neutral", column] == (0, 0, 0) for column in GAIN_COLUMNS)
    expected = gain_difference(methods["agent"], methods["neutral"], calls=2, chooser="paid", encoder="judge")
    assert table.loc["agent", "judged"] == expected
    assert gain_table(methods, over=None).loc["agent", "novelty"].mean == pytest.approx(
        methods["agent"].values("paid", "novelty").mean()
    )


def test_calls_that_a_search_needs():
    curve = np.array([0.1, 0.2, 0.2, 0.3])
    assert [calls_to_reach(curve, gain) for gain in (0.05, 0.1, 0.15, 0.3, 0.31)] == [1, 1, 2, 4, 5]
    assert calls_to_reach(np.array([0.1, 0.3, 0.2, 0.3]), 0.3) == 4  # it must stay there


def test_training_pays_when_it_has_saved_as_many_calls_as_it_cost():
    assert break_even(1000, 10, 30) == 50
    assert break_even(0, 10, 30) == 0
    assert break_even(1000, 10, 10) == break_even(1000, 10, 5) == float("inf")
