"""What MovieLens-25M costs, on generated ratings of its shape: speed, memory and error of `large.fit_als_large`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from helpers.embedding.factorization import Factorization, rmse
from helpers.larger_machines.ratings import fit_als_large

N_USERS, N_ITEMS, N_RATINGS = 162_541, 62_423, 25_000_095
NOISE, RANK, BLOCK = 0.75, 8, 1 << 20  # stars; of the true model; ratings made at a time


class GeneratedRatings(NamedTuple):
    """Ratings in half stars, ordered by user, and the model that they were drawn from."""

    users: Int[np.ndarray, " n"]
    items: Int[np.ndarray, " n"]
    ratings: Float[np.ndarray, " n"]
    truth: Factorization


class LargeAls(NamedTuple):
    """What a fit cost, and how well it predicts held-out ratings.

    Attributes:
        n_ratings: in the fit.
        ratings_per_second: that number over the median seconds of a sweep (users and items updated once).
        ratings_per_cpu_second: the same over the processor time of all threads. Beside other busy programs it says
            more; an idle machine comes to at most so much for each thread.
        fit_seconds: of the whole fit.
        peak_gb: the most memory (10^9 bytes) that the process held, ratings and libraries included.
        rmse: in stars; biases_rmse: of the biases alone; noise_floor: of the model that the ratings were drawn from.
    """

    n_ratings: int
    ratings_per_second: float
    ratings_per_cpu_second: float
    fit_seconds: float
    peak_gb: float
    rmse: float
    biases_rmse: float
    noise_floor: float


def generated_ratings(scale: float = 1.0, seed: int = 0) -> GeneratedRatings:
    """Ratings of the shape of MovieLens-25M: few users and items have most of them, no pair occurs twice.

    A rating is mean + biases + factors of rank 8 + noise of 0.75 stars, rounded to half stars from 0.5 to 5. Activity
    of users and popularity of items fall as powers of their rank, about as in the original.

    Args:
        scale: share of the ratings and users; items go with its square root, so that a user keeps 154 ratings on
            average and can have them all.

    Raises:
        ValueError: `scale` is not between 0.001 and 1.
    """
    if not 0.001 <= scale <= 1:
        raise ValueError(f"scale {scale} must lie between 0.001 and 1, the size of MovieLens-25M")
    random = np.random.default_rng(seed)
    n_users, n_items, n = round(N_USERS * scale), round(N_ITEMS * scale**0.5), round(N_RATINGS * scale)
    users, items = _pairs(n_users, n_items, n, random)
    factors = [random.normal(size=(count, RANK)) * RANK**-0.25 * 0.5**0.5 for count in (n_users, n_items)]
    truth = Factorization(3.5, *(random.normal(0, 0.4, count) for count in (n_users, n_items)), *factors)
    ratings = np.empty(n, np.float32)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        expected = truth.predict(users[part], items[part])
        ratings[part] = np.clip(np.round(2 * (expected + random.normal(0, NOISE, len(expected)))) / 2, 0.5, 5)
    return GeneratedRatings(users, items, ratings, truth)


def _pairs(n_users: int, n_items: int, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """n different pairs, ordered: drawn with repetition until enough are left without the copies."""
    activity = _power_law(n_users, 1.0, 0.002, random)
    popularity = _power_law(n_items, 2.0, 0.005, random)
    pairs = np.empty(0, np.int64)
    while len(pairs) < n:
        more = int(1.3 * (n - len(pairs))) + 1000
        items = _draw(popularity, more, random)
        random.shuffle(items)
        pairs = np.concatenate([pairs, _draw(activity, more, random) * n_items + items])
        pairs.sort()
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    pairs = np.delete(pairs, random.choice(len(pairs), len(pairs) - n, replace=False))
    return (pairs // n_items).astype(np.int32), (pairs % n_items).astype(np.int32)


def _power_law(count: int, exponent: float, offset: float, random: np.random.Generator) -> np.ndarray:
    """Probabilities that fall with the rank, in random order; `offset` (a share of all) flattens the top."""
    weights = (np.arange(count) / count + offset) ** -exponent
    return random.permutation(weights / weights.sum())


def _draw(probabilities: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    return np.repeat(np.arange(len(probabilities)), random.multinomial(n, probabilities))


def large_als_benchmark(
    scale: float = 0.1,
    *,
    n_sweeps: int = 6,
    rank: int = 16,
    regularisation: float = 0.05,
    threads: int = 2,
    seed: int = 0,
) -> LargeAls:
    """Fit 99 of 100 generated ratings in a process of its own, and predict the rest: 2 minutes at scale 1.

    Args:
        n_sweeps: how many are timed, after one that is not.
        regularisation: lambda; generated ratings want less of it than real ones.
        threads: of the process.

    Raises:
        ValueError: a setting is out of range.
        RuntimeError: the process failed; the message has the end of what it wrote.
    """
    if not 0.001 <= scale <= 1 or min(n_sweeps, rank, threads) < 1:
        raise ValueError("scale must lie between 0.001 and 1, and sweeps, rank and threads be at least 1")
    settings = {"scale": scale, "n_sweeps": n_sweeps, "rank": rank, "regularisation": regularisation, "seed": seed}
    code = f"from helpers.embedding import scale; scale._print_measured({json.dumps(settings)})"
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the benchmark's process ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return LargeAls(**json.loads(done.stdout.splitlines()[-1]))


def _print_measured(settings: dict) -> None:
    print(json.dumps(_measured(**settings)._asdict()))


def _measured(scale: float, n_sweeps: int, seed: int, **options) -> LargeAls:
    train, test, truth = _split(scale, seed)
    marks, start = [], time.perf_counter()  # wall-clock and processor time at the end of each sweep
    model = fit_als_large(
        *train,
        len(truth.user_bias),
        len(truth.item_bias),
        n_sweeps=n_sweeps + 1,  # the first one only gives the start of the second
        seed=seed,
        after_sweep=lambda: marks.append((time.perf_counter(), time.process_time())),
        **options,
    )
    fit_seconds = time.perf_counter() - start
    wall, cpu = np.median(np.diff(marks, axis=0), axis=0)
    users, items, ratings = test
    biases = model.user_level[users] + model.item_bias[items]
    return LargeAls(
        n_ratings=len(train[0]),
        ratings_per_second=len(train[0]) / wall,
        ratings_per_cpu_second=len(train[0]) / cpu,
        fit_seconds=fit_seconds,
        peak_gb=_peak_bytes() / 1e9,
        rmse=rmse(model.predict(users, items), ratings, lowest=0.5),
        biases_rmse=rmse(biases, ratings, lowest=0.5),
        noise_floor=rmse(truth.predict(users, items), ratings, lowest=0.5),
    )


def _split(scale: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], Factorization]:
    """Users, items and stars of 99 of 100 generated ratings, of the rest, and the model behind them."""
    users, items, ratings, truth = generated_ratings(scale, seed)
    held_out = np.zeros(len(ratings), dtype=bool)
    held_out[np.random.default_rng([seed, 1]).choice(len(ratings), len(ratings) // 100, replace=False)] = True
    train, test = ([column[part] for column in (users, items, ratings)] for part in (~held_out, held_out))
    return train, test, truth


def _peak_bytes() -> int:
    """The largest memory that this process held.

    On Linux `ru_maxrss` also remembers the memory of the parent, from before the new program started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text("utf-8").split("VmHWM:")[1].split()[0])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
