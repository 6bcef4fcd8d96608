"""How certain a number is: bootstrap intervals (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

from helpers.base.storage import CourseError


def bootstrap_ci(
    samples: Iterable[float] | Num[np.ndarray, " sample"],
    *,
    statistic: Callable[..., float | np.ndarray] = np.mean,
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
        raise CourseError(f"bootstrap: {bad} of {len(values)} samples are not finite: remove or fix them first")
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


class Interval(NamedTuple):
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def clustered_interval(
    values: Sequence[float] | Float[np.ndarray, " row"], clusters: Sequence[Hashable] | np.ndarray | None = None
) -> Interval:
    """Mean of rows and a 95% percentile bootstrap interval that resamples clusters, not rows.

    Several users and seeds start from the same item, and their rows are correlated: resampled one by one they would
    count as independent and the interval would be too narrow. To compare two methods, give their differences.
    With few clusters (under 20, say) a percentile interval is a little too narrow as well.

    Args:
        clusters: what each row belongs to, such as `[start.item for start in starts]`; by default each row is its own.

    Raises:
        ValueError: not one cluster per value, or a value that is not finite.
        CourseError: fewer than two clusters.
    """
    import pandas as pd  # slow to import, as above

    values = np.asarray(values, dtype=float)
    number, names = pd.factorize(np.asarray(np.arange(len(values)) if clusters is None else clusters))
    if values.shape != number.shape:
        raise ValueError(f"shapes {values.shape}, {number.shape}: give one number and cluster per row")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite: remove or fix it first")
    sums, counts = np.bincount(number, values), np.bincount(number)

    def mean(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = drawn.astype(int)
        return sums[drawn].sum(axis=axis) / counts[drawn].sum(axis=axis)

    low, high = bootstrap_ci(np.arange(len(names)), statistic=mean)
    return Interval(float(values.mean()), low, high)


def crossed_interval(
    values: Float[np.ndarray, "seed row"], clusters: Sequence[Hashable] | np.ndarray, n_resamples: int = 2000
) -> Interval:
    """Mean and 95% percentile bootstrap interval that resamples both seeds and clusters of rows.

    For what was trained with several seeds and measured on the same rows: an interval over rows alone covers the mean
    of these very runs, not the method. To compare two methods, give their differences, row by row and seed by seed.

    Rather too wide than too narrow: what belongs to one seed on one row alone, drawn over both, counts up to three
    times in the variance (Owen 2007, "The pigeonhole bootstrap"). That matters most where seeds agree about rows least.

    Args:
        clusters: what each row belongs to, such as the item that a start is made from.

    Raises:
        ValueError: not one cluster per row, or a value that is not finite.
        CourseError: fewer than two seeds or clusters.
    """
    import pandas as pd  # slow to import, as above

    number, names = pd.factorize(np.asarray(clusters))
    if values.shape[1:] != number.shape:
        raise ValueError(f"shapes {values.shape}, {number.shape}: give one cluster per row")
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite: remove or fix it first")
    if min(len(values), len(names)) < 2:
        raise CourseError(f"{len(values)} seeds and {len(names)} clusters: two or more of each are needed")
    rng = np.random.default_rng(0)
    sums = np.stack([np.bincount(number, row) for row in values])
    counts = np.bincount(number)
    seeds = rng.integers(len(values), size=(n_resamples, len(values)))
    drawn = rng.integers(len(names), size=(n_resamples, len(names)))
    found = [
        sums[some][:, rows].sum() / (len(some) * counts[rows].sum()) for some, rows in zip(seeds, drawn, strict=True)
    ]
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def balanced_accuracy_interval(
    right: Float[np.ndarray, "pool text"], labels: Bool[np.ndarray, " text"], n_resamples: int = 2000
) -> tuple[float, float]:
    """95% bootstrap interval of balanced accuracy that resamples both pools and questions.

    Args:
        right: share of the draws from a pool after which a question was judged correctly, nan for questions in the
            pool; or the difference of two such tables.
    """
    rng, found = np.random.default_rng(0), []
    known, values = ~np.isnan(right), np.nan_to_num(right)
    kinds = [np.flatnonzero(labels), np.flatnonzero(~labels)]
    for _ in range(n_resamples):
        pools = rng.integers(len(right), size=len(right))
        total, count = values[pools].sum(axis=0), known[pools].sum(axis=0)
        drawn = [rng.choice(kind, len(kind)) for kind in kinds]
        found.append(np.mean([total[rows].sum() / count[rows].sum() for rows in drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def exact_interval(hits: int, n: int) -> Interval:
    """A rate and its exact 95% interval (Clopper and Pearson 1934), which has a width even for 0 hits.

    Raises:
        ValueError: no trial, or not 0 to `n` hits.
    """
    from scipy import stats  # slow to import, as above

    if not 0 <= hits <= n or not n:
        raise ValueError(f"{hits} hits in {n} trials: give 1 trial or more, and no more hits than trials")
    found = stats.binomtest(hits, n).proportion_ci(method="exact")
    return Interval(hits / n, float(found.low), float(found.high))


def corrected_rate(rate: float, sensitivity: float, specificity: float) -> float:
    """The true rate, estimated from the rate that an imperfect judge reports (Rogan and Gladen 1978), from 0 to 1.

    Raises:
        CourseError: the judge is no better than chance.
    """
    if sensitivity + specificity <= 1:
        raise CourseError(
            f"sensitivity {sensitivity:.2f} and specificity {specificity:.2f}: no better than chance, use another judge"
        )
    return float(np.clip((rate + specificity - 1) / (sensitivity + specificity - 1), 0, 1))


def corrected_interval(
    verdicts: Bool[np.ndarray, " answer"],
    judged: Bool[np.ndarray, " label"],
    labels: Bool[np.ndarray, " label"],
    n_resamples: int = 2000,
) -> Interval:
    """`corrected_rate` of a judge's verdicts, with a 95% interval that covers both the answers and the judge.

    Each draw takes the reported rate, sensitivity and specificity from what x of n verdicts leave open: Beta(x + 1/2,
    n - x + 1/2), the posterior of Jeffreys' prior (Brown, Cai and DasGupta 2001, *Interval Estimation for a Binomial
    Proportion*). Verdicts that are resampled would add no uncertainty where the judge made no error on the labels, or
    says the same of all answers.

    Args:
        verdicts: the judge's verdicts on the answers that are reported.
        judged, labels: its verdicts on labelled answers, and their labels. The interval is that of a judge who errs on
            the reported answers as on these.

    Raises:
        ValueError: no answer, or a kind without labels.
        CourseError: as `corrected_rate`; or there are too few labels to tell the judge from chance.
    """
    kinds = judged[labels], ~judged[~labels]
    if not len(verdicts) or not all(map(len, kinds)):
        raise ValueError("no answer, or no label of one kind: give some of each")

    mean = corrected_rate(float(verdicts.mean()), *(float(kind.mean()) for kind in kinds))
    rng = np.random.default_rng(0)
    drawn = [rng.beta(some.sum() + 0.5, (~some).sum() + 0.5, n_resamples) for some in (verdicts, *kinds)]
    try:
        found = [corrected_rate(*rates) for rates in zip(*drawn, strict=True)]
    except CourseError as error:  # its message would be about a draw, which nobody knows
        raise CourseError(f"{len(labels)} labels are too few to tell this judge from chance: label more") from error
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
