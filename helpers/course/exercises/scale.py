"""Exercises of notebooks 16 to 18: limits, larger machines, pictures."""

from __future__ import annotations

from functools import cache

import numpy as np

from helpers.base.intervals import clustered_interval
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


def ridge_head(features, targets, weights, penalty):
    mean_x, mean_y = np.average(features, axis=0, weights=weights), np.average(targets, axis=0, weights=weights)
    x, y = features - mean_x, targets - mean_y
    slopes = np.linalg.solve(x.T @ (weights[:, None] * x) + penalty * np.eye(x.shape[1]), x.T @ (weights[:, None] * y))
    return slopes, mean_y - mean_x @ slopes


def _weighted_rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """More rows than features, or fewer; neither has mean 0."""
    n, weights = 30 - 5 * seed, np.random.default_rng(seed).uniform(0.2, 3, 30 - 5 * seed)
    return 1 + normal_values(seed, n, 12), 2 + normal_values(seed, n, 3), weights, 0.5 + seed


def _through_the_origin(features, targets, weights, penalty):
    x = features * weights[:, None]
    slopes = np.linalg.solve(features.T @ x + penalty * np.eye(x.shape[1]), x.T @ targets)
    return slopes, np.zeros(targets.shape[1])


def _penalised_intercept(features, targets, weights, penalty):
    x = np.hstack([features, np.ones((len(features), 1))])
    both = _through_the_origin(x, targets, weights, penalty)[0]
    return both[:-1], both[-1]


SCALE_EXERCISES["18.2"] = Exercise(
    "the encoder's head",
    ridge_head,
    cases=_weighted_rows,
    wrong=(
        lambda features, targets, weights, penalty: ridge_head(features, targets, np.ones_like(weights), penalty),
        lambda features, targets, weights, penalty: ridge_head(features, targets, weights**2, penalty),
        lambda features, targets, weights, penalty: ridge_head(features, targets, weights, 0.01 * penalty),
        lambda features, targets, weights, penalty: ridge_head(features, targets, weights, penalty**2 + 1),
        _through_the_origin,
        _penalised_intercept,
        lambda features, targets, weights, penalty: (
            ridge_head(features, targets, weights, penalty)[0],
            np.average(targets, axis=0, weights=weights),
        ),
    ),
)


def search(start, rounds, utility, calls, width):
    visited, best = [start], [start]
    for edits in rounds:
        tried = dict.fromkeys(edit(state) for state in best for edit in edits)
        new = [state for state in tried if state not in visited][: calls + 1 - len(visited)]
        if not new:
            break
        visited += new
        best = [new[i] for i in np.argsort(-utility(new))[:width]]
    return visited


STEPS = (lambda n: n + 3, lambda n: 2 * n, lambda n: n // 2, lambda n: n - 5)
FEW_STEPS = (lambda n: min(n + 1, 12), lambda n: 9)


@cache
def _near(goal):
    def utility(states):
        if not len(states):
            raise ValueError("no state to score")
        return -np.abs(np.array(states) - goal)

    return utility


def _numbers(seed: int) -> tuple:
    """From a number to one that is wanted, by small steps; in the last case one soon runs out of new numbers."""
    later = STEPS if seed % 2 else STEPS[1:3]
    rounds = [list(FEW_STEPS)] * 10 if seed == 4 else [list(STEPS), *[list(later)] * 5]
    return 10, rounds, _near(37.3 + 20 * seed), (9, 24, 30, 17, 30)[seed], 1 + seed % 3


def _best_of_all(start, rounds, utility, calls, width):
    visited, best = [start], [start]
    for edits in rounds:
        tried = dict.fromkeys(edit(state) for state in best for edit in edits)
        new = [state for state in tried if state not in visited][: calls + 1 - len(visited)]
        visited += new
        best = [visited[i] for i in np.argsort(-utility(visited))[:width]]
    return visited


def _counts_again(start, rounds, utility, calls, width):
    visited, best = [start], [start]
    for edits in rounds:
        new = [edit(state) for state in best for edit in edits][: calls + 1 - len(visited)]
        if not new:
            break
        visited += new
        best = [new[i] for i in np.argsort(-utility(new))[:width]]
    return visited


SCALE_EXERCISES["18.3"] = Exercise(
    "the search",
    search,
    cases=_numbers,
    wrong=(
        lambda start, rounds, utility, calls, width: search(start, rounds, utility, calls, 1),
        lambda start, rounds, utility, calls, width: search(start, rounds, utility, 10 * calls, width),
        lambda start, rounds, utility, calls, width: search(start, rounds[:1], utility, calls, width),
        lambda start, rounds, utility, calls, width: search(start, rounds[:1] * 10, utility, calls, width),
        lambda start, rounds, utility, calls, width: search(start, rounds[-1:] * 10, utility, calls, width),
        lambda start, rounds, utility, calls, width: search(start, rounds, lambda s: -utility(s), calls, width),
        lambda start, rounds, utility, calls, width: search(start, rounds, utility, calls, width)[1:],
        lambda start, rounds, utility, calls, width: search(start, rounds, utility, calls - 1, width),
        _best_of_all,
        _counts_again,
    ),
)


def emitted(paid, parts):
    best = int(np.argmax(paid))
    return best, parts[best] - parts[0]


def _visited(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What nine states are paid, and four measures of each; in the first case nothing is better than the start."""
    return np.roll(np.sort(normal_values(seed, 9)), 1 + seed), normal_values(seed, 9, 4)


SCALE_EXERCISES["18.4"] = Exercise(
    "what is emitted, and what it gained",
    emitted,
    cases=_visited,
    wrong=(
        lambda paid, parts: (emitted(paid, parts)[0], parts[emitted(paid, parts)[0]]),
        lambda paid, parts: (1 + int(np.argmax(paid[1:])), parts[1 + int(np.argmax(paid[1:]))] - parts[0]),
        lambda paid, parts: (len(paid) - 1, parts[-1] - parts[0]),
        lambda paid, parts: emitted(parts.sum(axis=1), parts),
        lambda paid, parts: emitted(-paid, parts),
        lambda paid, parts: (emitted(paid, parts)[0], parts.mean(axis=0) - parts[0]),
        lambda paid, parts: (emitted(paid, parts)[0], emitted(paid, parts)[1].sum()),
    ),
)


def interval_over_worlds(values):
    return tuple(clustered_interval(values.ravel(), np.arange(len(values)).repeat(values.shape[1])))


def _worlds(seed: int) -> tuple[np.ndarray]:
    """Eight worlds with four people each; in some cases worlds differ most, in others people do."""
    between = (0.0, 0.3, 1.0, 3.0, 0.1)[seed]
    return (between * normal_values(seed, 8, 1) + normal_values(seed, 8, 4) + seed,)


def _nearly_as_wide(answer, expected):
    """Draws are random: the ends may lie apart by a few hundredths of the interval's width."""
    found = np.asarray(answer, dtype=float)
    if found.shape != (3,):
        return f"shape {found.shape}, expected (3,): mean, low end, high end"
    apart = np.abs(found - expected) / (expected[2] - expected[1])
    for place, name in enumerate(("mean", "low end", "high end")):
        if not apart[place] <= (0.09 if place else 0.001):
            return f"{name} {found[place]:.3f}, expected about {expected[place]:.3f}"
    return None


def _percentiles(values, draw, level=95):
    rng = np.random.default_rng(0)
    low, high = np.percentile([draw(rng).mean() for _ in range(2000)], [50 - level / 2, 50 + level / 2])
    return float(values.mean()), float(low), float(high)


SCALE_EXERCISES["18.5"] = Exercise(
    "an interval over worlds",
    interval_over_worlds,
    cases=_worlds,
    compare=_nearly_as_wide,
    wrong=(
        lambda values: _percentiles(values, lambda rng: rng.choice(values.ravel(), values.size)),
        lambda values: _percentiles(values, lambda rng: values[np.arange(8)[:, None], rng.integers(4, size=(8, 4))]),
        lambda values: _percentiles(values, lambda rng: values[rng.integers(8, size=8)], level=90),
        lambda values: _percentiles(
            values, lambda rng: values[rng.integers(8, size=(8, 1)), rng.integers(4, size=(8, 4))]
        ),
        lambda values: _percentiles(values, lambda rng: values[rng.integers(8)]),
        lambda values: interval_over_worlds(values)[1:],
        lambda values: interval_over_worlds(values - values.mean()),
    ),
)


def worth_without(ends, without, parts_of):
    pairs = [(case, [state, without(state)]) for case, state in ends]
    rows = [-np.diff(parts_of(case, two), axis=0)[0] for case, two in pairs if two[0] != two[1]]
    return len(rows) / len(ends), np.stack(rows)


def _hatless(state: tuple[int, int]) -> tuple[int, int]:
    return state[0], 0


def _priced(case: int, states: list[tuple[int, int]]) -> np.ndarray:
    """Three parts of states (kind, hats): what a hat is worth depends on the case and on the kind."""
    kind, hats = np.array(states, dtype=float).T
    return np.column_stack([case + kind * hats, case * (1 + hats) ** 2 - kind, np.sin(case + kind + hats)])


def _hats(seed: int) -> tuple:
    """Nine ends, of which about half wear one hat or more; the first has none and the last has one."""
    rng = np.random.default_rng(seed)
    hats = rng.integers(0, 4, 9) * (rng.random(9) < 0.6)
    hats[0], hats[-1] = 0, 1 + seed % 3
    ends = [(int(case), (kind, int(n))) for case, kind, n in zip(rng.integers(1, 6, 9), range(9), hats, strict=True)]
    return ends, _hatless, _priced


def _share_and_rows(row, kept=lambda state: state != _hatless(state)):
    """A wrong answer: the right share, but with other rows, or with rows for other ends."""

    def answer(ends, without, parts_of):
        rows = [row(case, state, parts_of) for case, state in ends if kept(state)]
        return worth_without(ends, without, parts_of)[0], np.array(rows)

    return answer


def _worth_of_hat(case, state, parts_of):
    return np.subtract(*parts_of(case, [state, _hatless(state)]))


def _framed_against_others(ends, without, parts_of):
    """No ablation: ends that have the thing, minus the mean of those that have none."""
    rows = [(state != without(state), parts_of(case, [state])[0]) for case, state in ends]
    plain = np.mean([row for has, row in rows if not has], axis=0)
    return np.mean([has for has, _ in rows]), np.array([row - plain for has, row in rows if has])


SCALE_EXERCISES["18.6"] = Exercise(
    "what one thing is worth",
    worth_without,
    cases=_hats,
    wrong=(
        _framed_against_others,
        _share_and_rows(_worth_of_hat, kept=lambda state: True),
        _share_and_rows(_worth_of_hat, kept=lambda state: state == _hatless(state)),
        _share_and_rows(lambda case, state, parts_of: -_worth_of_hat(case, state, parts_of)),
        _share_and_rows(lambda case, state, parts_of: parts_of(case, [state])[0]),
        _share_and_rows(lambda case, state, parts_of: _worth_of_hat(1, state, parts_of)),
        _share_and_rows(lambda case, state, parts_of: _worth_of_hat(case, (state[0], 1), parts_of)),
        lambda ends, without, parts_of: (
            len(worth_without(ends, without, parts_of)[1]),
            worth_without(ends, without, parts_of)[1],
        ),
        lambda ends, without, parts_of: (
            worth_without(ends, without, parts_of)[0],
            worth_without(ends, without, parts_of)[1].mean(axis=0),
        ),
        lambda ends, without, parts_of: worth_without(ends[::-1], without, parts_of),
    ),
)
