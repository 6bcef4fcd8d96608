"""How good is an encoder on movies it has never seen? Cross-validation without leaks, and ranking scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num, Real
from scipy.stats import rankdata

from helpers.domains.domain import Domain
from helpers.embedding.encoder import Features, Head, rating_weights
from helpers.embedding.factorization import Factorization, fit_als, fold_in_items

N_FOLDS = 5
MIN_RATINGS = 10  # a user needs this many rated movies for a rank correlation


def movie_folds(domain: Domain, seed: int = 0) -> Int[np.ndarray, " text_item"]:
    """Fold of every movie with text. Movies with the same plot share a fold (MovieLens lists 18 films twice)."""
    plots = domain.items["plot_text"].to_numpy()[domain.text_items]
    _, plot_number = np.unique(plots, return_inverse=True)
    order = np.random.default_rng(seed).permutation(plot_number.max() + 1)
    return order[plot_number] % N_FOLDS


@dataclass(frozen=True)
class Fold:
    """One fold: a factorisation that never saw a rating of the `held_out` movies.

    Attributes:
        train, held_out: positions among the movies with text (`domain.text_items`).
        targets: embeddings of all movies with text, on the axes of this fold's factorisation. Those of held-out
            movies are what their hidden ratings would have given (`fold_in_items`): for scoring only.
    """

    factorization: Factorization
    targets: Float[np.ndarray, "text_item dim"]
    train: Int[np.ndarray, " train"]
    held_out: Int[np.ndarray, " held_out"]


def make_folds(domain: Domain, seed: int = 0, **als) -> list[Fold]:
    """Cross-validation folds over movies. Ratings of held-out movies are hidden from the factorisation too.

    Otherwise the user vectors remember the ratings of the "unseen" movies, and the score rises by a tenth for nothing
    (notebook 02 shows it).
    """
    fold_of = movie_folds(domain, seed)
    users, items, stars = domain.triplets
    size = (domain.n_users, domain.n_items)
    penalties = {name: als[name] for name in ("regularisation", "unobserved") if name in als}
    folds = []
    for number in range(N_FOLDS):
        hidden = np.isin(items, domain.text_items[fold_of == number])
        model = fit_als(users[~hidden], items[~hidden], stars[~hidden], *size, seed=seed, **als)
        truth = fold_in_items(model, users[hidden], items[hidden], stars[hidden], **penalties)
        held_out = fold_of == number
        targets = np.where(held_out[:, None], truth[domain.text_items], model.item_embeddings[domain.text_items])
        folds.append(Fold(model, targets, np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return folds


def leaky_folds(domain: Domain, seed: int = 0, **als) -> list[Fold]:
    """The same folds with the usual mistake: one factorisation of all ratings, held-out movies included."""
    fold_of = movie_folds(domain, seed)
    model = fit_als(*domain.triplets, domain.n_users, domain.n_items, seed=seed, **als)
    targets = model.item_embeddings[domain.text_items]
    return [
        Fold(model, targets, np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number))
        for number in range(N_FOLDS)
    ]


@dataclass(frozen=True)
class CrossValidation:
    """What a head predicts for movies it has not seen.

    Attributes:
        scores: Float[user text_item], predicted preference in stars, each movie by the fold that held it out,
            relative to the mean training movie of that fold. Without this the folds are not comparable: hiding
            liked movies lowers the mean of the rest, and "predict the mean" would correlate with -0.06.
        r2: Float[dim], share of variance explained per dimension, mean over folds.
    """

    scores: Float[np.ndarray, "user text_item"]
    r2: Float[np.ndarray, " dim"]


def cross_validate(
    folds: list[Fold],
    features: Features | Callable[[Fold], Features],
    head: Head,
    n_ratings: Real[np.ndarray, " text_item"],
) -> CrossValidation:
    """Fit the head on the training movies of every fold and predict its held-out movies.

    Args:
        features: of all movies with text; a function of the fold where they are fitted to texts themselves, as a
            vocabulary is: fit them to `fold.train` alone.
    """
    scores = np.empty((len(folds[0].factorization.user_bias), len(n_ratings)))
    r2 = []
    for fold in folds:
        train, held_out = fold.train, fold.held_out
        weights = rating_weights(n_ratings[train])
        known = features(fold) if callable(features) else features
        predict = head(known[train], fold.targets[train], weights)
        predicted, target = predict(known[held_out]), fold.targets[held_out]
        typical = np.average(fold.targets[train], axis=0, weights=weights)
        scores[:, held_out] = fold.factorization.user_embeddings @ (predicted - typical).T
        r2.append(1 - ((target - predicted) ** 2).sum(axis=0) / ((target - target.mean(axis=0)) ** 2).sum(axis=0))
    return CrossValidation(scores, np.mean(r2, axis=0))


def out_of_fold_embeddings(
    features: Features,
    targets: Float[np.ndarray, "text_item dim"],
    n_ratings: Real[np.ndarray, " text_item"],
    fold_of: Int[np.ndarray, " text_item"],
    head: Head,
) -> Float[np.ndarray, "text_item dim"]:
    """Embedding of every movie by a head that did not train on it, all on the axes of `targets`.

    What the encoder would predict for these movies if they were new. User vectors may have seen their ratings, so
    this is for looking at single movies, not for scores (use `cross_validate`).
    """
    result = np.empty_like(targets)
    for number in np.unique(fold_of):
        train = fold_of != number
        predict = head(features[train], targets[train], rating_weights(n_ratings[train]))
        result[~train] = predict(features[~train])
    return result


def rated_lists(domain: Domain) -> Iterator[tuple[int, Int[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """For each user with enough ratings: number, positions of rated movies among those with text, ratings."""
    position = np.full(domain.n_items, -1)
    position[domain.text_items] = np.arange(len(domain.text_items))
    ratings = domain.ratings[domain.has_text[domain.ratings["item"]]]
    for user, rows in ratings.groupby("user"):
        stars = rows["rating"].to_numpy()
        if len(rows) >= MIN_RATINGS and np.ptp(stars) > 0:
            yield user, position[rows["item"]], stars


def spearman_per_user(domain: Domain, scores: Float[np.ndarray, "user text_item"]) -> Float[np.ndarray, " rater"]:
    """Spearman's rank correlation of predicted and given ratings per user; 0 where all predictions are equal."""
    values = []
    for user, movies, stars in rated_lists(domain):
        predicted = rankdata(scores[user, movies].round(9))  # rounding: equal up to float noise is equal
        constant = np.ptp(predicted) == 0
        values.append(0.0 if constant else np.corrcoef(predicted, rankdata(stars))[0, 1])
    return np.array(values)


def ndcg(ranked: Num[np.ndarray, " n"], k: int = 10) -> float:
    """NDCG@k of ratings in predicted order, with gain 2^stars - 1 (Järvelin and Kekäläinen 2002)."""
    discount = 1 / np.log2(np.arange(2, min(k, len(ranked)) + 2))
    gain = 2.0**ranked - 1
    best = np.sort(gain)[::-1]
    return float(gain[:k] @ discount / (best[:k] @ discount))


def ndcg_per_user(
    domain: Domain, scores: Float[np.ndarray, "user text_item"], seed: int = 0
) -> Float[np.ndarray, " rater"]:
    """NDCG@10 over the movies that each user rated; equal scores are put in a random order."""
    generator = np.random.default_rng(seed)
    values = []
    for user, movies, stars in rated_lists(domain):
        shuffled = generator.permutation(len(movies))
        order = shuffled[np.argsort(-scores[user, movies[shuffled]], kind="stable")]
        values.append(ndcg(stars[order]))
    return np.array(values)


Candidates = Mapping[str, tuple[Features, Head]]


def nested_cross_validate(
    folds: list[Fold], candidates: Candidates, n_ratings: Real[np.ndarray, " text_item"]
) -> tuple[CrossValidation, list[str]]:
    """Cross-validation of "take the best candidate", where every fold chooses on its own training movies.

    Reporting the best of several cross-validated candidates would be optimistic: the winner was picked on the
    very movies it is scored on. Returns the scores of the procedure and the name that each fold chose.
    """
    chosen = [choose_candidate(fold, candidates, n_ratings) for fold in folds]
    scores, r2 = np.empty((len(folds[0].factorization.user_bias), len(n_ratings))), []
    for fold, name in zip(folds, chosen, strict=True):
        result = cross_validate([fold], *candidates[name], n_ratings)
        scores[:, fold.held_out] = result.scores[:, fold.held_out]
        r2.append(result.r2)
    return CrossValidation(scores, np.mean(r2, axis=0)), chosen


def choose_candidate(fold: Fold, candidates: Candidates, n_ratings: Real[np.ndarray, " text_item"]) -> str:
    """The candidate with the least error on a fifth of a fold's training movies, fitted on the other four.

    An error in z counts as users feel it, in predicted stars: the mean over users of (z_user . error)^2.
    """
    order = np.random.default_rng(0).permutation(fold.train)
    inner_test, inner_train = np.split(order, [len(order) // 5])
    users = fold.factorization.user_embeddings
    metric = users.T @ users / len(users)
    errors = {}
    for name, (features, head) in candidates.items():
        predict = head(features[inner_train], fold.targets[inner_train], rating_weights(n_ratings[inner_train]))
        error = predict(features[inner_test]) - fold.targets[inner_test]
        squared = np.einsum("nd,de,ne->n", error, metric, error)
        errors[name] = np.average(squared, weights=rating_weights(n_ratings[inner_test]))
    return min(errors, key=errors.__getitem__)
