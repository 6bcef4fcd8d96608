"""Bootstrap intervals."""

import numpy as np
import pytest

from helpers.base import intervals
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
def test_bootstrap_refuses_what_it_cannot_resample(bad):
    with pytest.raises(CourseError, match="bootstrap"):
        intervals.bootstrap_ci(bad)
