"""Exercises of notebooks 16 to 18: limits, larger machines, pictures."""

from __future__ import annotations

import numpy as np

from helpers.course.judge import Exercise, normal_values

SCALE_EXERCISES: dict[str, Exercise] = {}


# --- 16 ----------------------------------------------------------------------------------------------------


def true_rate(observed, sensitivity, specificity):
    informed = sensitivity + specificity - 1
    if informed <= 0:
        return np.full(observed.shape, np.nan)
    return np.clip((observed + specificity - 1) / informed, 0, 1)


def _judged(seed: int) -> tuple[np.ndarray, float, float]:
    """Observed rates, some beyond what the judge could report; the last judge is worse than a coin."""
    errors = [(0.8, 0.9), (0.98, 0.7), (1.0, 1.0), (0.75, 0.95), (0.4, 0.5)]
    return np.array([0.02, 0.2, 0.35, 0.6, 0.97]), *errors[seed]


SCALE_EXERCISES["16.1"] = Exercise(
    "the rate behind the judge",
    true_rate,
    cases=_judged,
    hint="(observed + specificity - 1) / (sensitivity + specificity - 1), clipped; nan if the divisor is 0 or less",
    wrong=(
        lambda observed, sensitivity, specificity: observed,
        lambda observed, sensitivity, specificity: (observed + specificity - 1) / (sensitivity + specificity - 1),
        lambda observed, sensitivity, specificity: np.clip(
            (observed + specificity - 1) / (sensitivity + specificity - 1), 0, 1
        ),
        lambda observed, sensitivity, specificity: true_rate(observed, specificity, sensitivity),
        lambda observed, sensitivity, specificity: true_rate(observed, sensitivity, 1.0),
        lambda observed, sensitivity, specificity: true_rate(observed, 1.0, specificity),
        lambda observed, sensitivity, specificity: 1 - true_rate(observed, sensitivity, specificity),
        lambda observed, sensitivity, specificity: np.nan_to_num(true_rate(observed, sensitivity, specificity)),
        lambda observed, sensitivity, specificity: sensitivity * observed + (1 - specificity) * (1 - observed),
    ),
)


def gini(counts):
    n = len(counts)
    return float(2 * np.arange(1, n + 1) @ np.sort(counts) / (n * counts.sum()) - (n + 1) / n)


SCALE_EXERCISES["16.2"] = Exercise(
    "Gini without pairs",
    gini,
    # Film counts with ties; with seed 0 all are equal, so that the coefficient is 0.
    cases=lambda seed: (np.random.default_rng([16, seed]).integers(1, 2 + 6 * seed, size=12 + seed),),
    hint="sort the counts, smallest first, and take the inner product with 1 to n",
    wrong=(
        lambda counts: gini(counts) * len(counts) / (len(counts) - 1) + 1e-3,
        lambda counts: gini(counts) * len(counts) / (len(counts) - 1),
        lambda counts: -gini(counts),
        lambda counts: 2 * gini(counts),
        lambda counts: 1 - gini(counts),
        lambda counts: float(
            2 * np.arange(len(counts)) @ np.sort(counts) / (len(counts) * counts.sum())
            - (len(counts) + 1) / len(counts)
        ),
        lambda counts: float(
            2 * np.arange(1, len(counts) + 1) @ counts / (len(counts) * counts.sum()) - (len(counts) + 1) / len(counts)
        ),
        lambda counts: float(counts.std() / counts.mean()),
        lambda counts: float(np.abs(np.diff(np.sort(counts))).mean() / (2 * counts.mean())),
    ),
)


# --- 17 ----------------------------------------------------------------------------------------------------


def gradient_of_shares(gradients, counts):
    return sum(count * gradient for count, gradient in zip(counts, gradients, strict=True)) / sum(counts)


SCALE_EXERCISES["17.1"] = Exercise(
    "shares of different size",
    gradient_of_shares,
    cases=lambda seed: ([*normal_values(seed, 3, 4, 2)], [6, 2, 1 + seed]),
    hint="a mean times its count is a sum: add up the sums, then divide once",
    wrong=(
        lambda gradients, counts: sum(gradients) / len(gradients),
        lambda gradients, counts: sum(c * g for c, g in zip(counts, gradients, strict=True)),
        lambda gradients, counts: sum(c * g for c, g in zip(counts, gradients, strict=True)) / len(counts),
        lambda gradients, counts: sum(g / c for c, g in zip(counts, gradients, strict=True)),
        lambda gradients, counts: sum(gradients) / sum(counts),
    ),
)


def rows_that_fit(memory, weights, per_token, shared, own):
    return max(0, (memory - weights - shared * per_token) // (own * per_token))


def _memories(seed: int) -> tuple[int, ...]:
    """Room for some rows; in one case in three not even for the weights."""
    rng = np.random.default_rng(seed)
    weights, per_token, shared, own = (int(rng.integers(*bounds)) for bounds in ((500, 900), (2, 5), (20, 60), (5, 12)))
    return (weights - 300 if seed % 3 == 2 else 2000), weights, per_token, shared, own


SCALE_EXERCISES["17.2"] = Exercise(
    "how many rows at once?",
    rows_that_fit,
    cases=_memories,
    hint="take away what is kept once (weights, the common prompt), divide by what a row needs, round down",
    wrong=(
        lambda memory, weights, per_token, shared, own: (memory - weights) // ((shared + own) * per_token),
        lambda memory, weights, per_token, shared, own: max(0, (memory - weights) // (own * per_token)),
        lambda memory, weights, per_token, shared, own: (memory - weights - shared * per_token) // (own * per_token),
        lambda memory, weights, per_token, shared, own: max(0, (memory - shared * per_token) // (own * per_token)),
        lambda memory, weights, per_token, shared, own: max(0, (memory - weights - shared) // own),
    ),
)


# --- 18 ----------------------------------------------------------------------------------------------------


def colour_histogram(picture, levels):
    codes = np.minimum(picture.reshape(-1, 3).astype(int) * levels // 256, levels - 1) @ [levels**2, levels, 1]
    return np.bincount(codes, minlength=levels**3) / len(codes)


def _picture(seed: int) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(5 + seed, 7, 3), dtype=np.uint8) // (1 + seed), 2 + seed % 3


SCALE_EXERCISES["18.1"] = Exercise(
    "a histogram of colours",
    colour_histogram,
    cases=_picture,
    hint="level of a channel: value * levels // 256; number of a colour: red * levels**2 + green * levels + blue",
    wrong=(
        lambda picture, levels: colour_histogram(picture, levels) * picture.shape[0] * picture.shape[1],
        lambda picture, levels: colour_histogram(picture[..., ::-1], levels),
        lambda picture, levels: np.concatenate(
            [np.bincount(picture[..., c].ravel().astype(int) * levels // 256, minlength=levels) for c in range(3)]
        ),
        lambda picture, levels: colour_histogram(picture, levels + 1)[: levels**3],
        lambda picture, levels: (
            np.bincount(
                np.minimum(picture.reshape(-1, 3) // levels, levels - 1) @ [levels**2, levels, 1],
                minlength=levels**3,
            )
            / picture[..., 0].size
        ),
    ),
)


def unearned(utility, truth):
    gained, earned = np.diff(utility, axis=1)[:, 0], np.diff(truth, axis=1)[:, 0]
    return float((gained - earned).sum() / gained.sum())


def _before_and_after(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Utility rises by about 2, true stars by about 1."""
    start, rise = normal_values(seed, 6, 1), 0.3 * normal_values(seed + 50, 6, 1)
    return np.hstack([start + 4, start + 6 + rise]), np.hstack([start + 3, start + 4 - rise])


SCALE_EXERCISES["18.2"] = Exercise(
    "the share that is unearned",
    unearned,
    cases=_before_and_after,
    hint="rise of utility minus rise of true stars, summed over the pairs, over the summed rise of utility",
    wrong=(
        lambda utility, truth: 1 - unearned(utility, truth),
        lambda utility, truth: float((utility[:, 1] - truth[:, 1]).sum() / utility[:, 1].sum()),
        lambda utility, truth: unearned(utility, truth) * len(utility),
        lambda utility, truth: float((1 - np.diff(truth)[:, 0] / np.diff(utility)[:, 0]).mean()),
        lambda utility, truth: float((np.diff(utility) - np.diff(truth)).sum() / np.diff(truth).sum()),
    ),
)
