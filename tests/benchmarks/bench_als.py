"""How much faster is `solve_rows` than one user after the other? Run: python tests/benchmarks/bench_als.py

Both are timed in turns in one run, at the size of MovieLens-100K, and only their ratio is meant to be compared.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.sparse as sp

from helpers.embedding.factorization import solve_rows

N_USERS, N_ITEMS, N_RATINGS, RANK = 943, 1682, 100_000, 16


def ratings(seed: int = 0) -> tuple[sp.csr_array, np.ndarray]:
    """Residuals of random pairs and random item factors."""
    random = np.random.default_rng(seed)
    pairs = random.choice(N_USERS * N_ITEMS, N_RATINGS, replace=False)
    table = sp.csr_array((random.normal(size=N_RATINGS), np.divmod(pairs, N_ITEMS)), shape=(N_USERS, N_ITEMS))
    return table, random.normal(size=(N_ITEMS, RANK))


def naive(table: sp.csr_array, factors: np.ndarray, regularisation: float, unobserved: float) -> np.ndarray:
    """One weighted ridge regression after the other, as notebook 01 writes it first."""
    rows = []
    for start, end in zip(table.indptr[:-1], table.indptr[1:], strict=True):
        chosen, values = factors[table.indices[start:end]], table.data[start:end]
        gram = unobserved * factors.T @ factors + (1 - unobserved) * chosen.T @ chosen
        gram += regularisation * max(end - start, 1) * np.eye(factors.shape[1])
        rows.append(np.linalg.solve(gram, chosen.T @ values))
    return np.array(rows)


def main(repeats: int = 5) -> None:
    """Print the shortest time of each and their ratio."""
    table, factors = ratings()
    np.testing.assert_allclose(naive(table, factors, 0.1, 0.05), solve_rows(table, factors, 0.1, 0.05), atol=1e-8)
    seconds = {naive: np.inf, solve_rows: np.inf}
    for _ in range(repeats):
        for solve in seconds:
            start = time.perf_counter()
            solve(table, factors, 0.1, 0.05)
            seconds[solve] = min(seconds[solve], time.perf_counter() - start)
    for solve, shortest in seconds.items():
        print(f"{solve.__name__}: {1000 * shortest:.1f} ms")
    print(f"solve_rows is {seconds[naive] / seconds[solve_rows]:.1f} times as fast as the loop")


if __name__ == "__main__":
    main()
