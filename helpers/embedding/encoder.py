"""The encoder E: text -> z. Frozen text features, and a head that regresses behavioural embeddings on them.

Tennenholtz et al. 2024 fine-tune a 3.25B language model by L2 regression; here the text features are frozen
and the head is small, so that it trains in a second. Every head is a function `(features, targets, weights) ->
predict`, and movies with more ratings weigh more, because their embeddings are known better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Real
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from helpers.base.compute import one_thread

Features = Float[np.ndarray, "text feature"]
Embeddings = Float[np.ndarray, "text dim"]
Weights = Float[np.ndarray, " text"]
Predict = Callable[[Features], Embeddings]
Head = Callable[[Features, Embeddings, Weights], Predict]

RIDGE_PENALTIES = np.logspace(-1, 4, 16)
MEMBERS = 3  # networks of `fit_mlp`, each with so many hidden units and this share of them dropped in a step
HIDDEN = 128
DROPOUT = 0.5
PATIENCE = 20  # epochs without a better error on its held-out texts before a network stops
MAX_EPOCHS = 400


def rating_weights(n_ratings: Real[np.ndarray, " text"]) -> Weights:
    """Weight of a movie in the regression: square root of its number of ratings (plus 1), with mean 1."""
    weights = np.sqrt(n_ratings + 1.0)
    return weights / weights.mean()


def fit_mean(features: Features, targets: Embeddings, weights: Weights) -> Predict:
    """The mean embedding for every text: what a head must beat."""
    mean = np.average(targets, axis=0, weights=weights)
    return lambda x: np.tile(mean, (len(x), 1))


def fit_knn(features: Features, targets: Embeddings, weights: Weights, n_neighbors: int = 15) -> Predict:
    """Average embedding of the nearest texts by cosine, nearer ones counting more; `weights` play no part."""
    n_neighbors = min(n_neighbors, len(features))
    model = KNeighborsRegressor(n_neighbors, weights=lambda d: np.clip(1 - d, 1e-6, None), metric="cosine")
    return model.fit(features, targets).predict


def fit_ridge(features: Features, targets: Embeddings, weights: Weights) -> Predict:
    """Ridge regression; each dimension picks its own penalty by leave-one-out error on the training texts."""
    model = RidgeCV(RIDGE_PENALTIES, alpha_per_target=True).fit(features, targets, sample_weight=weights)
    return lambda x: model.predict(x).reshape(len(x), -1)  # scikit-learn flattens a single dimension


def fit_mlp(features: Features, targets: Embeddings, weights: Weights) -> Predict:
    """Mean of a few small networks, each stopped early on a seventh of the training texts of its own."""
    members = [_train_network(features, targets, weights, seed) for seed in range(MEMBERS)]
    return lambda x: np.mean([member(x) for member in members], axis=0)


def _train_network(features: Features, targets: Embeddings, weights: Weights, seed: int) -> Predict:
    scale = StandardScaler().fit(targets)
    spread = scale.scale_.mean()  # one scale for all dimensions: a weak dimension must not be blown up
    x = torch.as_tensor(features, dtype=torch.float32)
    y = torch.as_tensor((targets - scale.mean_) / spread, dtype=torch.float32)
    w = torch.as_tensor(weights, dtype=torch.float32)[:, None]
    held_out = torch.as_tensor(np.random.default_rng(seed).random(len(x)) < 1 / 7)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(x.shape[1], HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Dropout(DROPOUT),
            torch.nn.Linear(HIDDEN, y.shape[1]),
        )
        _stop_early(network, x, y, w, held_out)

    def predict(new: Features) -> Embeddings:
        with torch.inference_mode():
            output = network(torch.as_tensor(new, dtype=torch.float32))
        return output.numpy().astype(float) * spread + scale.mean_

    return predict


def _stop_early(network, x, y, w, held_out) -> None:
    """Full-batch AdamW on the training part; keeps the weights with the least error on the held-out part."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    best, best_state, waited = np.inf, network.state_dict(), 0
    (x_in, y_in, w_in), (x_out, y_out, w_out) = ([part[rows] for part in (x, y, w)] for rows in (~held_out, held_out))
    for _ in range(MAX_EPOCHS):
        network.train()
        loss = (w_in * (network(x_in) - y_in) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        network.eval()
        with torch.no_grad():
            error = (w_out * (network(x_out) - y_out) ** 2).mean().item()
        if error < best:
            best, waited = error, 0
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        else:
            waited += 1
        if waited > PATIENCE:
            break
    network.load_state_dict(best_state)


HEADS: dict[str, Head] = {"mean": fit_mean, "knn": fit_knn, "ridge": fit_ridge, "mlp": fit_mlp}


@dataclass(frozen=True)
class Encoder:
    """E: `featurise` turns texts (or pictures, see `images.py`) into features, `predict` features into embeddings."""

    featurise: Callable[[Sequence], Features]
    predict: Predict

    def __call__(self, texts: Sequence) -> Embeddings:
        """z of each text.

        Raises:
            ValueError: an empty text, or texts with another number of lines than the encoder was fitted on.
        """
        return self.predict(self.featurise(texts)).astype(float)


def fit_encoder(
    texts: Sequence,
    targets: Embeddings,
    n_ratings: Real[np.ndarray, " text"],
    *,
    featurise: Callable[[Sequence], Features],
    head: Head = fit_ridge,
) -> Encoder:
    """Fit E on texts, or whatever else `featurise` takes, with known embeddings."""
    if not np.isfinite(targets).all():
        raise ValueError("an embedding is not finite: fit the factorisation again")
    return Encoder(featurise, head(featurise(texts), targets, rating_weights(n_ratings)))
