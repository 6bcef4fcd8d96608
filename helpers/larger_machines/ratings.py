"""Behavioural embeddings of tens of millions of ratings: LensKit's compiled solver, and what it costs.

`factorization.fit_als` makes one sparse product with rank^2 columns for each half of a sweep, and those columns
outgrow the processor's caches. Measured with rank 16, in millions of ratings in a sweep and second of processor time:

| ratings | `fit_als` | LensKit |
|---|---|---|
| 2.5 million (16,254 users, 19,740 items) | 3.3 | 9.7 |
| 25 million (162,541 users, 62,423 items: MovieLens-25M) | 1.8 | 8.8 |

LensKit also runs a sweep on several threads: 5.6 to 5.9 million ratings per second for 25 million ratings on two cores
that had other work, in a process of 2.9 GB including the ratings.
Libraries for implicit feedback (`implicit`) do not fit: they expect counts, and residuals of ratings can be negative.
`large_als_benchmark` measures LensKit again, on generated ratings of the shape of MovieLens-25M.
"""

from __future__ import annotations

import functools
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from helpers.embedding.factorization import Factorization, principal_axes, refuse_unfit, rmse

N_USERS, N_ITEMS, N_RATINGS = 162_541, 62_423, 25_000_095  # of MovieLens-25M
NOISE, RANK, BLOCK = 0.75, 8, 1 << 20  # stars; of the true model of generated ratings; ratings made at a time


def fit_als_large(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    ratings: Float[np.ndarray, " n"],
    n_users: int,
    n_items: int,
    *,
    rank: int = 16,
    regularisation: float = 0.13,
    n_sweeps: int = 12,
    seed: int = 0,
    after_sweep: Callable[[], None] = lambda: None,
) -> Factorization:
    """Fit biases and factors as `factorization.fit_als` does, with these differences.

    Pairs without a rating have no weight (Zhou et al. 2008; `unobserved=0` there). The penalty grows with the number
    of ratings in both, but has to be a little larger here: on held-out ratings of MovieLens-100K, 0.13 is best and
    gives an RMSE of 0.903, `fit_als` 0.901. Biases are damped alike, but fitted in one pass, items first. All is in
    single precision, and 12 bytes per rating are copied. Users and items without a rating have zeros.

    Args:
        users, items, ratings: one entry per observed rating.
        regularisation: lambda, which is multiplied by the number of ratings of a user or an item.
        after_sweep: called after each sweep, to show progress or take times.

    Raises:
        ValueError: as `factorization.refuse_unfit`.
    """
    from lenskit.als import BiasedMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    refuse_unfit(users, items, ratings, n_users, n_items, rank)
    _share_threads()
    columns = {
        "user_id": users.astype(np.int32),
        "item_id": items.astype(np.int32),
        "rating": ratings.astype(np.float32),
    }
    data = from_interactions_df(pd.DataFrame(columns), users=np.arange(n_users), items=np.arange(n_items))
    del columns
    scorer = BiasedMFScorer(embedding_size=rank, epochs=n_sweeps, regularization=regularisation)
    trainer = scorer.create_trainer(data, TrainingOptions(rng=seed))
    for _ in range(n_sweeps):
        trainer.train_epoch()
        after_sweep()
    bias = scorer.bias
    factors = principal_axes(np.asarray(scorer.user_embeddings, float), np.asarray(scorer.item_embeddings, float))
    return Factorization(
        bias.global_bias, np.asarray(bias.user_biases, float), np.asarray(bias.item_biases, float), *factors
    )


@functools.cache
def _share_threads() -> None:
    """Let LensKit use as many threads as torch does, once: by default it takes all cores and changes torch's number."""
    from lenskit.parallel import initialize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # torch has already started and keeps its own settings
        initialize(threads=torch.get_num_threads(), backend_threads=torch.get_num_threads())


# Ratings of the shape of MovieLens-25M -------------------------------------------------------------------------------


class GeneratedRatings(NamedTuple):
    """Ratings in half stars, ordered by user, and the model that they were drawn from."""

    users: Int[np.ndarray, " n"]
    items: Int[np.ndarray, " n"]
    ratings: Float[np.ndarray, " n"]
    truth: Factorization


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
    n_users = round(N_USERS * scale)
    n_items = round(N_ITEMS * scale**0.5)
    n = round(N_RATINGS * scale)
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


# What a fit costs ----------------------------------------------------------------------------------------------------


class LargeAls(NamedTuple):
    """What a fit cost, and how well it predicts held-out ratings.

    Attributes:
        n_ratings: in the fit.
        ratings_per_second: that number over the median seconds of a sweep (users and items updated once).
        fit_seconds: of the whole fit.
        peak_gb: the most memory (10^9 bytes) that the process held, ratings and libraries included.
        rmse: in stars; biases_rmse: of the biases alone; noise_floor: of the model that the ratings were drawn from.
    """

    n_ratings: int
    ratings_per_second: float
    fit_seconds: float
    peak_gb: float
    rmse: float
    biases_rmse: float
    noise_floor: float


def large_als_benchmark(scale: float = 0.1, threads: int = 2) -> LargeAls:
    """Fit 99 of 100 generated ratings in a process of its own with some threads, and predict the rest: 2 minutes at
    scale 1.

    Raises:
        ValueError: the scale or the number of threads is out of range.
    """
    if not 0.001 <= scale <= 1 or threads < 1:
        raise ValueError("scale must lie between 0.001 and 1, and threads be at least 1")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measured_fit, scale, threads).result()


def measured_fit(scale: float, threads: int) -> LargeAls:
    """`large_als_benchmark` in this process, the memory of which it reports."""
    torch.set_num_threads(threads)
    users, items, ratings, truth = generated_ratings(scale)
    test = np.zeros(len(ratings), dtype=bool)
    test[np.random.default_rng(1).choice(len(ratings), len(ratings) // 100, replace=False)] = True
    ends: list[float] = []
    start = time.perf_counter()
    model = fit_als_large(
        users[~test],
        items[~test],
        ratings[~test],
        len(truth.user_bias),
        len(truth.item_bias),
        regularisation=0.05,  # generated ratings need less of it than real ones
        n_sweeps=7,  # the first one only gives the start of the second
        after_sweep=lambda: ends.append(time.perf_counter()),
    )
    fit_seconds = time.perf_counter() - start
    n_ratings = int((~test).sum())
    users, items, stars = users[test], items[test], ratings[test]
    return LargeAls(
        n_ratings=n_ratings,
        ratings_per_second=n_ratings / float(np.median(np.diff(ends))),
        fit_seconds=fit_seconds,
        peak_gb=_peak_bytes() / 1e9,
        rmse=rmse(model.predict(users, items), stars, lowest=0.5),
        biases_rmse=rmse(model.user_level[users] + model.item_bias[items], stars, lowest=0.5),
        noise_floor=rmse(truth.predict(users, items), stars, lowest=0.5),
    )


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
