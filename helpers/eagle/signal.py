"""How much of the variance is due to the instruction: the most that any agent can learn.

Every action is tried on every start several times. What repeats between draws is due to the action; what repeats
between starts as well can be learnt on some starts and used on others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from helpers.base.intervals import Interval


class SignalShare(NamedTuple):
    """Shares of the variance within starts, of one text's moves or gains.

    Attributes:
        within: explained by the action on that very start.
        across: explained by what the action does on all starts alike.
    """

    within: float
    across: float


class ShareIntervals(NamedTuple):
    """`SignalShare` with an interval over starts for each share."""

    within: Interval
    across: Interval


def signal_share(values: Float[np.ndarray, "start action draw *dim"]) -> SignalShare:
    """Analysis of variance with two factors, start and action, and draws within each pair.

    Variance components by the method of moments (Searle, Casella and McCulloch 1992, chapter 4), summed over the
    dimensions of a value and none below 0.

    Raises:
        ValueError: fewer than two starts, actions or draws, or values that never change within a start.
    """
    n_starts, n_actions, n_draws = values.shape[:3]
    if min(n_starts, n_actions, n_draws) < 2:
        raise ValueError(f"{n_starts} starts, {n_actions} actions, {n_draws} draws: two or more of each are needed")
    values = values.reshape(n_starts, n_actions, n_draws, -1)
    noise = values.var(axis=2, ddof=1).mean(axis=(0, 1)).sum()
    means = values.mean(axis=2)
    means = means - means.mean(axis=1, keepdims=True)  # what all actions share on a start is not an effect of one
    common = means.mean(axis=0)
    rest = ((means - common) ** 2).sum() / ((n_starts - 1) * (n_actions - 1))  # interaction, and noise of the means
    main = max(0.0, (common**2).sum() / (n_actions - 1) - rest / n_starts)
    interaction = max(0.0, rest - noise / n_draws)
    total = main + interaction + noise
    if total == 0:
        raise ValueError("nothing ever changes: there is no variance to share out")
    return SignalShare(float((main + interaction) / total), float(main / total))


def share_intervals(values: Float[np.ndarray, "start action draw *dim"]) -> ShareIntervals:
    """Both shares with intervals over starts, by leaving out one start at a time (the jackknife).

    A bootstrap would draw starts twice, and two copies of a start agree about every action.

    Raises:
        ValueError: fewer than three starts, or as for `signal_share`.
    """
    n = len(values)
    if n < 3:
        raise ValueError(f"{n} starts: leave one out of three or more")
    without = np.array([signal_share(np.delete(values, start, axis=0)) for start in range(n)])
    error = 1.96 * np.sqrt((n - 1) * without.var(axis=0))
    return ShareIntervals(
        *(Interval(s, s - e, s + e) for s, e in zip(signal_share(values), error.tolist(), strict=True))
    )
