"""Behavioural embeddings of tens of millions of ratings: LensKit's compiled alternating least squares.

`factorization.fit_als` makes one sparse product with rank^2 columns for each half of a sweep, and those columns
outgrow the processor's caches. Measured with rank 16, in millions of ratings in a sweep and second of processor time:

| ratings | `fit_als` | LensKit |
|---|---|---|
| 2.5 million (16,254 users, 19,740 items) | 3.3 | 9.7 |
| 25 million (162,541 users, 62,423 items: MovieLens-25M) | 1.8 | 8.8 |

LensKit spreads a sweep over threads as well: 5.6 to 5.9 million a second for 25 million ratings on two cores that had
other work, in a process of 2.9 GB, the ratings included.
Libraries for implicit feedback (`implicit`) do not fit: they want counts, and residuals of ratings can be negative.
`scale.large_als_benchmark` measures LensKit again.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from helpers.embedding.factorization import Factorization, principal_axes, refuse_unfit


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
    of ratings on both, but wants a little more here: on held-out ratings of MovieLens-100K, 0.13 is best and gives
    an RMSE of 0.903, `fit_als` 0.901. Biases are damped alike, but fitted in one pass, items first. All is in single
    precision, 12 bytes a rating are copied. Users and items without a rating have zeros.

    Args:
        users, items, ratings: one entry per observed rating.
        regularisation: lambda, which the number of ratings of a user or an item multiplies.
        after_sweep: called after each sweep, to show progress or take times.

    Raises:
        ValueError: no ratings, a rating that is not finite, two ratings of one user for one item, a user or an item
            out of range, or a rank that is below 1 or above the number of users or items.
    """
    from lenskit.als import BiasedMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    refuse_unfit(ratings, n_users, n_items, rank)
    _refuse_pairs(users, items, n_users, n_items)
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
    factors = principal_axes(scorer.user_embeddings.astype(float), scorer.item_embeddings.astype(float))
    return Factorization(bias.global_bias, bias.user_biases.astype(float), bias.item_biases.astype(float), *factors)


def _refuse_pairs(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> None:
    """What `fit_als` notices while it builds its sparse matrix, and LensKit would take as it is."""
    for name, numbers, count in (("user", users, n_users), ("item", items, n_items)):
        if not 0 <= numbers.min() <= numbers.max() < count:
            raise ValueError(f"a rating names {name} {numbers.min()} or {numbers.max()}: number them 0 to {count - 1}")
    pairs = users.astype(np.int64) * n_items + items
    pairs.sort()
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("a user rated an item twice: keep one of the two ratings")


@functools.cache
def _share_threads() -> None:
    """Let LensKit use as many threads as torch does, once: left alone it takes all cores and changes torch's number."""
    from lenskit.parallel import initialize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # torch has already started and keeps its own settings
        initialize(threads=torch.get_num_threads(), backend_threads=torch.get_num_threads())
