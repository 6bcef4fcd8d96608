"""Statistics of ARE against libraries and cases by hand: agreement, intervals, draws, and where a judge's line runs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from helpers.are import experiment
from helpers.are.evaluation import agreement
from helpers.are.labels import Pool, picks, worst_group
from helpers.base.intervals import balanced_accuracy_interval


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_the_known_one_for_judges_of_unequal_rates(seed):
    rng = np.random.default_rng(seed)
    one = rng.random(60) < 0.2 + 0.1 * seed
    other = np.where(rng.random(60) < 0.3, rng.random(60) < 0.8, one)
    equal, kappa = agreement(one, other)
    assert equal == pytest.approx((one == other).mean()) and kappa == pytest.approx(cohen_kappa_score(one, other))


KINDS = np.array([True] * 10 + [False] * 30)


def test_an_interval_draws_pools_anew():
    right = np.repeat([[0.0], [1.0]], len(KINDS), axis=1)  # one pool teaches nothing, the other one everything
    assert balanced_accuracy_interval(right, KINDS, 200) == (0.0, 1.0)


def test_an_interval_draws_questions_anew():
    right = np.where(np.arange(len(KINDS)) % 2, 1.0, 0.0)[None]
    low, high = balanced_accuracy_interval(right, KINDS, 400)
    assert 0.2 < low < 0.45 and 0.55 < high < 0.8


def test_both_kinds_of_questions_weigh_the_same_in_an_interval():
    assert balanced_accuracy_interval(np.where(KINDS, 1.0, 0.0)[None], KINDS, 50) == (0.5, 0.5)


def test_questions_of_a_pool_count_in_the_other_pools_only():
    right = np.ones((2, len(KINDS)))
    right[0, :5] = right[1, 5:9] = np.nan
    assert balanced_accuracy_interval(right, KINDS, 200) == (1.0, 1.0)


def test_the_worst_group_is_found_for_every_draw():
    right = np.array([[1.0, 1.0, 0.0, np.nan], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert worst_group(right, np.array(list("aabb"))).tolist() == [0.0, 0.5, 1.0]


def test_pools_sizes_and_draws_each_have_chance_of_their_own():
    rows = np.column_stack([np.ones(40), np.random.default_rng(0).normal(size=(40, 3))])
    pools = [Pool(np.arange(40), rows)] * 2
    drawn = {k: picks("random", pools, k, draws=2) for k in (8, 9)}
    every = [tuple(chosen)[:8] for of_k in drawn.values() for of_pool in of_k for chosen in of_pool]
    assert len(set(every)) == 8
    again = picks("random", pools, 8, draws=2)
    assert [[one.tolist() for one in pool] for pool in again] == [[one.tolist() for one in pool] for pool in drawn[8]]


@pytest.mark.parametrize(
    ("score", "positive", "negative"),
    [(0.3, True, False), (0.29, False, False), (0.0, False, False), (-0.29, False, False), (-0.3, False, True)],
)
def test_an_answer_is_clear_from_the_threshold_on(score, positive, negative, monkeypatch):
    monkeypatch.setattr(experiment, "_score", lambda text: score)
    assert (experiment.is_positive("so"), experiment.is_negative("so")) == (positive, negative)
