"""How sure a number is: bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from helpers.base.storage import CourseError


def bootstrap_ci(
    samples: Iterable[float],
    *,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of `statistic` over one-dimensional `samples`.

    Raises:
        CourseError: fewer than two samples, more than one dimension, or a value that is not finite.
    """
    from scipy import stats  # slow to import, and most users of this module only record

    values = np.asarray(samples if hasattr(samples, "__len__") else list(samples), dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise CourseError(f"bootstrap of an array of shape {values.shape}: give a list of two or more numbers")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise CourseError(f"bootstrap: {bad} of {len(values)} samples are not finite: remove or mend them first")
    interval = stats.bootstrap(
        (values,),
        statistic,
        method="percentile",
        confidence_level=level,
        n_resamples=n_resamples,
        batch=max(1, 1_000_000 // len(values)),  # at most 8 MB of resamples at once
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
