"""How much faster is `optimal_design` than a general convex solver? Run: python tests/benchmarks/bench_design.py

Both are timed in turns in one run on sets of K = 100 whitened actions in n = 32 dimensions, and only their ratio is
meant to be compared. SCS is cvxpy's fastest solver here; CLARABEL needs longer with every dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cvxpy as cp
import numpy as np

from helpers.eagle.design import leverages, optimal_design, prepare

N_ACTIONS, N_DIMS = 100, 32


def by_cvxpy(z: np.ndarray, solver: str = cp.SCS) -> np.ndarray:
    """The same design as one writes it in a modelling language: maximise log det Sigma(q) over the simplex."""
    q = cp.Variable(len(z), nonneg=True)
    cp.Problem(cp.Maximize(cp.log_det(z.T @ cp.diag(q) @ z)), [cp.sum(q) == 1]).solve(solver=solver)
    return np.maximum(q.value, 0) / np.maximum(q.value, 0).sum()


def ours(z: np.ndarray) -> np.ndarray:
    """The weights of the multiplicative algorithm at its default tolerance."""
    return optimal_design(z).weights


def seconds(solve: Callable, z: np.ndarray) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    solve(z)
    return time.perf_counter() - start


def main(repeats: int = 3, n_sets: int = 4) -> None:
    """Print value and shortest time of each on every set of actions, and the ratio of the times."""
    total = dict.fromkeys((by_cvxpy, ours), 0.0)
    for seed in range(n_sets):
        z = prepare(np.random.default_rng(seed).normal(size=(N_ACTIONS, N_DIMS)))
        times = [[seconds(solve, z) for solve in total] for _ in range(repeats)]
        for solve, shortest in zip(total, np.min(times, axis=0), strict=True):
            total[solve] += shortest
            q = solve(z)
            value, log_det = leverages(z, q).max() / N_DIMS, np.linalg.slogdet(z.T @ (q[:, None] * z))[1]
            print(f"{solve.__name__}: {1000 * shortest:.1f} ms, log det {log_det:.4f}, largest leverage {value:.5f} n")
    print(f"optimal_design is {total[by_cvxpy] / total[ours]:.0f} times as fast as cvxpy with SCS")


if __name__ == "__main__":
    main()
