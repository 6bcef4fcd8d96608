"""Bootstrap intervals."""

import numpy as np
import pytest
from scipy import stats

from helpers.base import intervals
from helpers.base.intervals import (
    clustered_interval,
    corrected_interval,
    corrected_rate,
    crossed_interval,
    exact_interval,
)
from helpers.base.storage import CourseError


def test_bootstrap_interval_is_seeded_and_has_about_the_textbook_width():
    samples = np.random.default_rng(0).normal(3.0, 1.0, size=400)
    low, high = intervals.bootstrap_ci(samples)
    assert (low, high) == intervals.bootstrap_ci(list(samples))
    assert low < samples.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)
    assert intervals.bootstrap_ci(samples, level=0.5)[0] > low
    assert intervals.bootstrap_ci(samples, statistic=lambda x: float(np.median(x)), n_resamples=200)[0] < high
    assert intervals.bootstrap_ci([2.0, 2.0, 2.0]) == (2.0, 2.0)


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0], [3.0, 4.0]]])
def test_bootstrap_refuses_what_it_cannot_resample(bad, unchecked):
    with pytest.raises(CourseError, match="bootstrap"):
        intervals.bootstrap_ci(bad)


def clustered(random, n_clusters: int = 30, per_cluster: int = 6, within: float = 0.3):
    """Rows of mean 2 that share most of their luck within a cluster."""
    clusters = np.repeat(np.arange(n_clusters), per_cluster)
    luck = random.normal(size=n_clusters)[clusters]
    return 2 + luck + within * random.normal(size=len(clusters)), clusters


def test_intervals_over_clusters_cover_and_those_over_rows_do_not():
    random, hits, naive = np.random.default_rng(0), [], []
    for _ in range(200):
        values, clusters = clustered(random)
        for list_, found in ((hits, clustered_interval(values, clusters)), (naive, clustered_interval(values))):
            assert found.mean == pytest.approx(values.mean())
            list_.append(found.low <= 2 <= found.high)
    assert 0.88 <= np.mean(hits) <= 0.98
    assert np.mean(naive) < 0.7


def test_an_interval_needs_no_order_or_balance_of_clusters():
    values, clusters = clustered(np.random.default_rng(1))
    values, clusters = values[5:], clusters[5:]  # the first cluster has one row left
    names = np.array([f"item {number}" for number in clusters])
    assert clustered_interval(values, names) == clustered_interval(values, clusters)
    order = np.random.default_rng(2).permutation(len(values))
    shuffled = clustered_interval(values[order], names[order])
    assert shuffled.mean == pytest.approx(values.mean())
    np.testing.assert_allclose(shuffled, clustered_interval(values, clusters), atol=0.1)


def test_an_interval_over_clusters_is_that_of_their_means_when_balanced():
    values, clusters = clustered(np.random.default_rng(3))
    means = values.reshape(30, 6).mean(axis=1)
    np.testing.assert_allclose(clustered_interval(values, clusters), clustered_interval(means))
    assert str(clustered_interval([1.0, 1.0])) == "1.00 [1.00, 1.00]"


@pytest.mark.parametrize(
    ("values", "clusters", "error", "words"),
    [
        ([1.0, 2.0], [0], ValueError, "one number and cluster per row"),
        ([1.0, np.nan], [0, 1], ValueError, "not finite"),
        ([1.0, 2.0], [7, 7], CourseError, "two or more"),
        ([1.0], None, CourseError, "two or more"),
        ([], None, CourseError, "two or more"),
    ],
)
def test_bad_rows_are_refused(values, clusters, error, words):
    with pytest.raises(error, match=words):
        clustered_interval(values, clusters)


def crossed(random: np.random.Generator, n_seeds: int = 8, n_items: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Values with an error of each seed, of each item and of each row; two rows an item. The true mean is 2."""
    of_seed, of_item = random.normal(size=(n_seeds, 1)), np.repeat(random.normal(size=n_items), 2)
    return 2 + 0.5 * of_seed + of_item + 0.3 * random.normal(size=(n_seeds, 2 * n_items)), np.repeat(range(n_items), 2)


def test_intervals_over_seeds_and_items_cover_and_those_over_items_do_not():
    random, hits, naive = np.random.default_rng(0), [], []
    for _ in range(100):
        values, items = crossed(random)
        found = crossed_interval(values, items, n_resamples=500)
        assert found.mean == pytest.approx(values.mean())
        hits.append(found.low <= 2 <= found.high)
        rows = clustered_interval(values.mean(axis=0), items)
        naive.append(rows.low <= 2 <= rows.high)
    assert 0.86 <= np.mean(hits) <= 1
    assert np.mean(naive) < np.mean(hits)


def test_what_all_seeds_and_items_share_is_sure():
    assert crossed_interval(np.full((3, 4), 7.0), [0, 0, 1, 1]) == (7, 7, 7)


@pytest.mark.parametrize(
    ("values", "clusters", "error", "words"),
    [
        (np.zeros((3, 4)), [0, 1], ValueError, "one cluster per row"),
        (np.full((3, 2), np.nan), [0, 1], ValueError, "not finite"),
        (np.zeros((1, 2)), [0, 1], CourseError, "1 seeds and 2 clusters"),
        (np.zeros((3, 2)), [0, 0], CourseError, "3 seeds and 1 clusters"),
    ],
)
def test_bad_tables_are_refused(values, clusters, error, words):
    with pytest.raises(error, match=words):
        crossed_interval(values, clusters)


def test_worlds_are_drawn_whole():
    """Drawing rows within worlds as well counts their luck twice: means of worlds already carry it."""
    random, hits, widths, twice = np.random.default_rng(0), [], [], []
    worlds = np.arange(24).repeat(4)
    for _ in range(100):
        values = 2 + random.normal(size=(24, 4))  # worlds do not differ
        found = clustered_interval(values.ravel(), worlds)
        hits.append(found.low <= 2 <= found.high)
        widths.append(found.high - found.low)
        rows = [values[random.integers(24, size=(24, 1)), random.integers(4, size=(24, 4))].mean() for _ in range(300)]
        twice.append(np.subtract(*np.percentile(rows, [97.5, 2.5])))
    true_width = 2 * 1.96 / np.sqrt(96)
    assert 0.86 <= np.mean(hits) <= 0.99
    assert np.mean(widths) == pytest.approx(true_width, rel=0.1) and np.mean(twice) > 1.2 * true_width


def test_an_interval_over_seeds_and_rows_is_too_wide_where_nothing_is_shared_and_never_more_than_root_3():
    random = np.random.default_rng(0)
    found = [crossed_interval(random.normal(size=(5, 40)), range(40), n_resamples=500) for _ in range(40)]
    ratio = np.mean([one.high - one.low for one in found]) / (2 * 1.96 / np.sqrt(200))
    assert 1.3 < ratio < np.sqrt(3)


def test_an_exact_interval_is_that_of_two_beta_tails_and_has_a_width_where_nothing_happened():
    for hits, n in ((0, 60), (1, 60), (30, 60), (60, 60), (3, 7)):
        tails = stats.beta.ppf(0.025, hits, n - hits + 1), stats.beta.ppf(0.975, hits + 1, n - hits)
        found = exact_interval(hits, n)
        assert found.mean == hits / n
        assert found[1:] == pytest.approx((tails[0] if hits else 0.0, tails[1] if hits < n else 1.0))
    assert exact_interval(0, 60).high == pytest.approx(0.06, abs=0.001)
    for hits, n in ((0, 0), (5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="give 1 trial or more"):
            exact_interval(hits, n)


def test_a_rate_is_corrected_by_what_a_judge_gets_wrong():
    assert corrected_rate(0.9 * 0.4 + 0.2 * 0.6, 0.9, 0.8) == pytest.approx(0.4)
    assert corrected_rate(0.1, 0.9, 0.8) == 0 and corrected_rate(0.95, 0.9, 0.8) == 1
    with pytest.raises(CourseError, match="no better than chance, use another judge"):
        corrected_rate(0.5, 0.3, 0.7)


def test_too_few_labels_are_named_rather_than_a_resample():
    labels = np.repeat([True, False], 5)
    judged = np.array([True] * 3 + [False] * 5 + [True] * 2)  # right on 3 of 5 of both kinds
    with pytest.raises(CourseError, match="10 labels are too few to tell this judge from chance: label more"):
        corrected_interval(np.array([True, False]), judged, labels)
    with pytest.raises(CourseError, match=r"sensitivity 0\.40 and specificity 0\.40"):
        corrected_interval(np.array([True, False]), ~judged, labels)


def test_a_judge_without_an_error_on_the_labels_is_not_taken_for_one_who_never_errs():
    """It may still err: the interval is wider than that of the answers alone, the wider the fewer labels there are."""
    verdicts, widths = np.arange(120) < 96, []
    for labelled in (24, 60, 400):
        labels = np.repeat([True, False], labelled // 2)
        found = corrected_interval(verdicts, labels, labels)
        assert found.mean == 0.8 and found.low < 0.8 < found.high
        widths.append(found.high - found.low)
    low, high = intervals.bootstrap_ci(verdicts.astype(float))
    assert widths[0] > 1.3 * widths[1] and widths[1] > 1.1 * widths[2] and widths[2] > 0.9 * (high - low)


@pytest.mark.parametrize("refused", [0, 120])
def test_a_corrected_rate_of_none_or_all_has_a_width_too(refused):
    labels = np.repeat([True, False], 60)
    found = corrected_interval(np.arange(120) < refused, labels, labels)
    assert found.mean == refused / 120 and 0.01 < found.high - found.low < 0.1


def test_a_corrected_interval_covers_the_true_rate_and_a_naive_one_does_not():
    random, true, sensitivity, specificity = np.random.default_rng(0), 0.6, 0.8, 0.9
    covered, naive = [], []
    for _ in range(60):
        labels = np.repeat([True, False], 80)
        judged = random.random(160) < np.where(labels, sensitivity, 1 - specificity)
        really = random.random(150) < true
        verdicts = random.random(150) < np.where(really, sensitivity, 1 - specificity)
        found = corrected_interval(verdicts, judged, labels, n_resamples=300)
        covered.append(found.low <= true <= found.high)
        naive.append(exact_interval(int(verdicts.sum()), 150))
    assert np.mean(covered) >= 0.88
    assert np.mean([one.low <= true <= one.high for one in naive]) < np.mean(covered)
    with pytest.raises(ValueError, match="no label of one kind"):
        corrected_interval(np.array([True]), np.array([True]), np.array([True]))
