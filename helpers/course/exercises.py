"""The exercises of the notebooks: reference, seeded cases, hint, and wrong answers that a check must reject."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from helpers.course.check import Exercise
from helpers.embedding.evaluation import ndcg


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


# --- 00 --------------------------------------------------------------------------------------------------


def cosine_of(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def nearest_row(query, matrix):
    return int((matrix / np.linalg.norm(matrix, axis=1, keepdims=True) @ query).argmax())


# --- 01 --------------------------------------------------------------------------------------------------


def predict_rating(mean, user_bias, item_bias, p, q):
    return mean + user_bias + item_bias + p @ q


def solve_user(factors, residuals, regularisation):
    n, rank = factors.shape
    return np.linalg.solve(factors.T @ factors + regularisation * n * np.eye(rank), factors.T @ residuals)


# --- 02 --------------------------------------------------------------------------------------------------


def ridge_weights(features, targets, weights, penalty):
    weighted = features * weights[:, None]
    gram = weighted.T @ features + penalty * np.eye(features.shape[1])
    return np.linalg.solve(gram, weighted.T @ targets)


def _ranked_stars(seed: int) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).integers(1, 6, size=15).astype(float), 5 + seed


def fold_of_plots(plots, n_folds):
    _, number = np.unique(plots, return_inverse=True)
    return number % n_folds


# --- 03 --------------------------------------------------------------------------------------------------


def novelty(z, items, k):
    distances = np.linalg.norm(z[:, None] - items[None], axis=2)
    return np.sort(distances, axis=1)[:, :k].sum(axis=1)


def utility(z, items, user, level, novelty_weight, k):
    itself, _ = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()
    return level + z @ user + novelty_weight * novelty(z, items, k) / itself.sum(axis=1).mean()


def _gap_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    return _normal(seed, 4, 5), _normal(seed, 20, 5), 3


# --- 04 --------------------------------------------------------------------------------------------------


def repeated_share(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _loops(seed: int) -> tuple[list[str], int]:
    """A text of few words, so that sequences come again; the last one is shorter than a sequence."""
    rng = np.random.default_rng([4, seed])
    return [str(word) for word in rng.choice(list("abc"), size=2 if seed == 4 else 20 + seed)], 2 + seed % 3


def returns_to_go(utility, reward):
    rewards = np.diff(utility, axis=0)
    if reward == "terminal":
        rewards = np.concatenate([np.zeros_like(rewards[1:]), utility[-1:]])
    return np.cumsum(rewards[::-1], axis=0)[::-1]


def _utilities(seed: int) -> tuple[np.ndarray, str]:
    return 4 + _normal(seed, 6, 3), "dense" if seed % 2 else "terminal"


# --- 05 --------------------------------------------------------------------------------------------------


def action_leverages(z, q):
    sigma = (q[:, None] * z).T @ z
    return (z @ np.linalg.inv(sigma) * z).sum(axis=1)


def step_with_gap(z, q):
    n = z.shape[1]
    new = q * action_leverages(z, q) / n
    return new, float(action_leverages(z, new).max() - n)


def _weighted_actions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    q = np.exp(_normal(seed + 50, 9))
    return _normal(seed, 9, 3), q / q.sum()


# --- 06 --------------------------------------------------------------------------------------------------


def kl_rows(p, q):
    log_p = np.log(np.where(p > 0, p, 1.0))
    return (p * (log_p - np.log(q))).sum(axis=1)


def _two_policies(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of distributions; the first has zeros."""
    p, q = np.exp(_normal(seed, 4, 6)), np.exp(_normal(seed + 50, 4, 6))
    p[np.arange(4), np.arange(4)] = 0
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


def optimistic_targets(utility, k):
    targets = np.zeros(utility.shape)
    np.put_along_axis(targets, np.argsort(-utility, axis=1)[:, :k], 1 / k, axis=1)
    return targets


# --- 07 --------------------------------------------------------------------------------------------------


def generalised_advantages(rewards, values, discount):
    surprise = rewards + np.concatenate([values[1:], np.zeros_like(values[:1])]) - values
    steps = np.arange(len(rewards))
    ahead = steps - steps[:, None]  # from row to column
    return np.where(ahead >= 0, discount ** np.maximum(ahead, 0), 0.0) @ surprise


def group_advantages(gain, group):
    groups = gain.reshape(-1, group)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (centred / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4)).reshape(-1)


def _played(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    return _normal(seed, 5, 3), _normal(seed + 50, 5, 3), 0.5 + 0.1 * seed


def _groups(seed: int) -> tuple[np.ndarray, int]:
    """Three starts of different difficulty; in the last one all gains are equal."""
    gain = _normal(seed, 3, 2 + seed % 3) + np.array([[0.0], [5.0], [1.0]])
    gain[2] = 1.0
    return gain.reshape(-1), gain.shape[1]


# --- 08 --------------------------------------------------------------------------------------------------


def amortised(per_item, training, n_items):
    return per_item + training / n_items


def resampled_mean(values, clusters, drawn):
    return float(np.concatenate([values[clusters == cluster] for cluster in drawn]).mean())


def _clustered(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([8, seed])
    clusters = np.repeat(np.arange(5), [1, 2, 3, 4, 2])
    return rng.normal(size=len(clusters)), clusters, np.array([0, 0, 2, 3, 3])


def fooling(logits, kind):
    return float((np.logaddexp(logits[:, 0], logits[:, 1]) - logits[:, kind]).mean())


def merge(weight, a, b, scale, factor):
    return weight + factor * scale * b @ a


def _adapter(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    return _normal(seed, 5, 4), _normal(seed + 10, 2, 4), _normal(seed + 20, 5, 2), 1.5 + seed, 0.5 + seed


def kappa(a, b):
    equal = (a == b).mean()
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float((equal - chance) / (1 - chance))


def _verdicts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = _normal(seed, 2, 40) > 0.4
    return a, np.where(np.arange(40) % 3 == 0, b, a)


def dominated(harmful, edgy):
    as_good = (harmful[:, None] >= harmful) & (edgy[:, None] <= edgy)
    better = (harmful[:, None] > harmful) | (edgy[:, None] < edgy)
    return (as_good & better).any(axis=0)


def _frontier(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rates = np.round(np.random.default_rng(seed).random((2, 9)), 1)
    rates[:, 0] = rates[:, 1]  # two methods that are level do not beat each other
    rates[:, 0:2] = [[0.95], [0.05]]
    return rates[0], rates[1]


# --- 09 --------------------------------------------------------------------------------------------------


def age_groups(ages, counts, wanted):
    groups, youngest, total = [], None, 0
    for age, count in zip(ages, counts, strict=True):
        youngest, total = (age if youngest is None else youngest), total + count
        if total >= wanted:
            groups.append((youngest, age))
            youngest, total = None, 0
    if youngest is not None:
        groups = [*groups[:-1], (groups[-1][0] if groups else youngest, ages[-1])]
    return groups


def _ages(seed: int) -> tuple[list[int], list[int], int]:
    """The last ages are too few for a group; one case in three has too few for any."""
    counts = np.random.default_rng(seed).integers(3, 30, size=12).tolist()
    return list(range(18, 30)), [*counts[:-1], 1], 1000 if seed % 3 == 2 else 40


def left_over(stars):
    rest = stars - stars.mean(axis=1, keepdims=True) - stars.mean(axis=0) + stars.mean()
    return float(rest.var() / stars.var())


# --- 10 --------------------------------------------------------------------------------------------------


def balanced_accuracy(said, truth):
    return float((said[truth].mean() + 1 - said[~truth].mean()) / 2)


def share_of_gap(plain, patched, target):
    return float((patched - plain).mean() / (target - plain).mean())


def _verdicts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on 40 prompts of which few are refused."""
    rng = np.random.default_rng([10, seed])
    return rng.random(40) < 0.3, np.arange(40) < 7 + seed


def _patched(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain, gap = -8 + _normal(seed, 12), 5 + 2 * _normal(seed + 50, 12)
    return plain, plain + 0.6 * gap + 0.5 * _normal(seed + 100, 12), plain + gap


# --- 16 --------------------------------------------------------------------------------------------------


def true_rate(observed, sensitivity, specificity):
    informed = sensitivity + specificity - 1
    if informed <= 0:
        return np.full(observed.shape, np.nan)
    return np.clip((observed + specificity - 1) / informed, 0, 1)


def _judged(seed: int) -> tuple[np.ndarray, float, float]:
    """Observed rates, some beyond what the judge could report; the last judge is worse than a coin."""
    errors = [(0.8, 0.9), (0.98, 0.7), (1.0, 1.0), (0.75, 0.95), (0.4, 0.5)]
    return np.array([0.02, 0.2, 0.35, 0.6, 0.97]), *errors[seed]


def gini(counts):
    n = len(counts)
    return float(2 * np.arange(1, n + 1) @ np.sort(counts) / (n * counts.sum()) - (n + 1) / n)


# --- 15 --------------------------------------------------------------------------------------------------


def lowest_group(right, groups):
    return float(min(right[groups == name].mean() for name in np.unique(groups)))


def _groups_of_answers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers in four groups of different sizes; the rarest is not always the worst."""
    rng = np.random.default_rng([15, seed])
    groups = np.repeat(list("abcd"), [20, 12, 7, 5])
    chance = np.repeat(rng.permutation([0.9, 0.8, 0.6, 0.3]), [20, 12, 7, 5])
    return rng.random(len(groups)) < chance, groups


def worst_known(rows, chosen):
    inverse = np.linalg.inv(rows[chosen].T @ rows[chosen] + np.eye(rows.shape[1]))
    variance = (rows @ inverse * rows).sum(axis=1)
    return int(variance.argmax()), float(variance.max())


def _some_labelled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin with a 1, and five of them to label."""
    rows = np.column_stack([np.ones(30), 2 * _normal(seed, 30, 3)])
    return rows, np.random.default_rng([15, seed]).choice(30, 5, replace=False)


# --- 11 --------------------------------------------------------------------------------------------------


def mean_fooling_loss(logits, kind):
    return float((np.logaddexp(logits[..., 0], logits[..., 1]) - logits[..., kind]).mean())


def at_right_angles(rows, direction):
    u = direction / np.linalg.norm(direction)
    return rows - (rows @ u)[:, None] * u


def _logits(seed: int) -> tuple[np.ndarray, int]:
    """Mild logits, and in the last case such that a naive softmax overflows."""
    return _normal(seed, 3, 5, 2) * (500 if seed == 4 else 2), 1 - seed % 2


# --- 14 --------------------------------------------------------------------------------------------------


def mc(scores, correct):
    p = np.exp(scores - scores.max())
    return bool(scores[0] > scores[~correct].max()), float(p[correct].sum() / p.sum())


def way_to_fair(before, after):
    if before == 0.5:
        return 0.0 if after == 0.5 else -np.inf
    return 1 - abs(after - 0.5) / abs(before - 0.5)


def _choices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of answers, the best one first; in the last case so low that a plain exp gives 0."""
    rng = np.random.default_rng([14, seed])
    correct = np.array([True, *rng.permutation([True, False, False])])
    return rng.normal(size=4) - (2000 if seed == 4 else 1), correct


# --- 17 --------------------------------------------------------------------------------------------------


def gradient_of_shares(gradients, counts):
    return sum(count * gradient for count, gradient in zip(counts, gradients, strict=True)) / sum(counts)


def rows_that_fit(memory, weights, per_token, shared, own):
    return max(0, (memory - weights - shared * per_token) // (own * per_token))


def _memories(seed: int) -> tuple[int, ...]:
    """Room for some rows; in one case in three not even for the weights."""
    rng = np.random.default_rng(seed)
    weights, per_token, shared, own = (int(rng.integers(*bounds)) for bounds in ((500, 900), (2, 5), (20, 60), (5, 12)))
    return (weights - 300 if seed % 3 == 2 else 2000), weights, per_token, shared, own


# --- 18 --------------------------------------------------------------------------------------------------


def colour_histogram(picture, levels):
    codes = np.minimum(picture.reshape(-1, 3).astype(int) * levels // 256, levels - 1) @ [levels**2, levels, 1]
    return np.bincount(codes, minlength=levels**3) / len(codes)


def _picture(seed: int) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, size=(5 + seed, 7, 3), dtype=np.uint8) // (1 + seed), 2 + seed % 3


def unearned(utility, truth):
    gained, earned = np.diff(utility, axis=1)[:, 0], np.diff(truth, axis=1)[:, 0]
    return float((gained - earned).sum() / gained.sum())


def _before_and_after(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Utility rises by about 2, true stars by about 1."""
    start, rise = _normal(seed, 6, 1), 0.3 * _normal(seed + 50, 6, 1)
    return np.hstack([start + 4, start + 6 + rise]), np.hstack([start + 3, start + 4 - rise])


EXERCISES = {
    "00.1": Exercise(
        "the cosine",
        cosine_of,
        cases=lambda seed: (_normal(seed, 6), _normal(seed + 50, 6)),
        hint="inner product, divided by the product of the two lengths",
        wrong=(
            lambda a, b: a @ b,
            lambda a, b: a @ b / np.linalg.norm(a),
            lambda a, b: a @ b / (np.linalg.norm(a) + np.linalg.norm(b)),
            lambda a, b: np.linalg.norm(a - b),
            lambda a, b: 1 - cosine_of(a, b),
            lambda a, b: a * b / (np.linalg.norm(a) * np.linalg.norm(b)),
        ),
    ),
    "00.2": Exercise(
        "the nearest text",
        nearest_row,
        # Rows of very different lengths: the inner product alone would choose a long one.
        cases=lambda seed: (_normal(seed, 4), _normal(seed, 40, 4) * np.geomspace(1, 100, 40)[:, None]),
        hint="divide each row by its length, multiply by the query, take the argmax",
        wrong=(
            lambda q, m: int((m @ q).argmax()),
            lambda q, m: int((m / np.linalg.norm(m, axis=1, keepdims=True) @ q).argmin()),
            lambda q, m: int(np.linalg.norm(m - q, axis=1).argmin()),
            lambda q, m: int((m / np.linalg.norm(m, axis=0) @ q).argmax()),
            lambda q, m: float((m @ q).max()),
        ),
    ),
    "01.1": Exercise(
        "one predicted rating",
        predict_rating,
        cases=lambda seed: (3.5, *_normal(seed, 2), _normal(seed, 4), _normal(seed + 50, 4)),
        hint="four terms are added; the last is an inner product",
        wrong=(
            lambda m, u, i, p, q: m + p @ q,
            lambda m, u, i, p, q: m + u + p @ q,
            lambda m, u, i, p, q: m + u - i + p @ q,
            lambda m, u, i, p, q: m + u + i + p * q,
            lambda m, u, i, p, q: u + i + p @ q,
        ),
    ),
    "01.2": Exercise(
        "one user's factors",
        solve_user,
        cases=lambda seed: (_normal(seed, 9, 3), _normal(seed, 9), 0.1),
        hint="a ridge regression of the residuals on the factors of the rated movies, penalty lambda times n",
        wrong=(
            lambda f, r, lam: np.linalg.lstsq(f, r, rcond=None)[0],
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * np.eye(f.shape[1]), f.T @ r),
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * len(f), f.T @ r),
            lambda f, r, lam: f.T @ r,
            lambda f, r, lam: np.linalg.solve(f.T @ f + lam * f.shape[1] * np.eye(f.shape[1]), f.T @ r),
        ),
    ),
    "02.1": Exercise(
        "weighted ridge regression",
        ridge_weights,
        cases=lambda seed: (_normal(seed, 12, 5), _normal(seed, 12, 2), _normal(seed, 12) ** 2, 0.5 + seed),
        hint="solve (X'SX + penalty I) W = X'SY, with S the diagonal matrix of weights",
        wrong=(
            lambda x, y, s, a: ridge_weights(x, y, np.ones_like(s), a),
            lambda x, y, s, a: ridge_weights(x, y, s**2, a),
            lambda x, y, s, a: ridge_weights(x, y, np.sqrt(s), a),
            lambda x, y, s, a: ridge_weights(x, y, s, 0.0),
            lambda x, y, s, a: ridge_weights(x, y, s, a).T,
            lambda x, y, s, a: np.linalg.solve(x.T @ (x * s[:, None]) + a, x.T @ (y * s[:, None])),
        ),
    ),
    "02.2": Exercise(
        "NDCG",
        ndcg,
        cases=_ranked_stars,
        hint="gain 2^stars - 1, discount 1 / log2(rank + 1), divided by the same sum for the best order",
        wrong=(
            lambda r, k: float(np.mean(r[:k]) / np.mean(np.sort(r)[::-1][:k])),
            lambda r, k: float((2.0 ** r[:k] - 1) @ (1 / np.log2(np.arange(2, k + 2)))),
            lambda r, k: (
                float(r[:k] @ (1 / np.log2(np.arange(2, k + 2))))
                / float(np.sort(r)[::-1][:k] @ (1 / np.log2(np.arange(2, k + 2))))
            ),
            lambda r, k: ndcg(r, len(r)),
            lambda r, k: ndcg(r[::-1], k),
        ),
    ),
    "02.3": Exercise(
        "folds without twins",
        fold_of_plots,
        cases=lambda seed: (np.random.default_rng(seed).choice(list("abcdefghijkl"), size=30), 3 + seed % 3),
        hint="number the distinct plots first (np.unique with return_inverse), then take the number modulo n_folds",
        wrong=(
            lambda plots, n: np.arange(len(plots)) % n,
            lambda plots, n: np.random.default_rng(0).integers(0, n, len(plots)),
            lambda plots, n: np.zeros(len(plots), dtype=int),
            lambda plots, n: np.unique(plots, return_inverse=True)[1],
            lambda plots, n: np.unique(plots, return_inverse=True)[1][:-1] % n,
        ),
    ),
    "03.1": Exercise(
        "novelty",
        novelty,
        cases=_gap_case,
        hint="all distances by broadcasting, sort each row, add the first k",
        wrong=(
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, :k].mean(axis=1),
            lambda z, items, k: np.linalg.norm(z[:, None] - items[None], axis=2).sum(axis=1),
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, k],
            lambda z, items, k: np.sort(((z[:, None] - items[None]) ** 2).sum(axis=2), axis=1)[:, :k].sum(axis=1),
            lambda z, items, k: np.sort(np.linalg.norm(z[:, None] - items[None], axis=2), axis=1)[:, 1 : k + 1].sum(1),
        ),
    ),
    "03.2": Exercise(
        "utility",
        utility,
        cases=lambda seed: (*_gap_case(seed)[:2], _normal(seed, 5), 3.5, 0.5, 3),
        hint="stars that the user would give, plus lambda times novelty divided by the items' own mean novelty",
        wrong=(
            lambda z, items, user, level, lam, k: level + z @ user,
            lambda z, items, user, level, lam, k: level + z @ user + lam * novelty(z, items, k),
            lambda z, items, user, level, lam, k: z @ user + lam * novelty(z, items, k),
            lambda z, items, user, level, lam, k: level + z @ user - utility(z, items, 0 * user, 0, lam, k),
            lambda z, items, user, level, lam, k: utility(z, items, user, level, 1.0, k),
        ),
    ),
    "04.1": Exercise(
        "repetition",
        repeated_share,
        cases=_loops,
        hint="list all n-word sequences as tuples; compare their number with that of the distinct ones",
        wrong=(
            lambda words, n: 1 - repeated_share(words, n),
            lambda words, n: repeated_share(words, 1),
            lambda words, n: repeated_share(words, n + 1),
            lambda words, n: repeated_share(words[:-1], n),  # the last sequence forgotten
            lambda words, n: repeated_share(words, n) * max(0, len(words) - n + 1) / len(words),
            lambda words, n: repeated_share(words[::n], 1),  # sequences that do not overlap
            lambda words, n: repeated_share(words, n) if len(words) >= n else 1.0,
        ),
    ),
    "04.2": Exercise(
        "returns-to-go",
        returns_to_go,
        cases=_utilities,
        hint="make the rewards first (np.diff, or zeros and the last utility), then add them up from the end",
        wrong=(
            lambda u, r: returns_to_go(u, "dense"),
            lambda u, r: returns_to_go(u, "terminal"),
            lambda u, r: np.diff(u, axis=0) if r == "dense" else returns_to_go(u, r),
            lambda u, r: np.cumsum(np.diff(u, axis=0), axis=0) if r == "dense" else returns_to_go(u, r),
            lambda u, r: returns_to_go(u, r)[::-1],
            lambda u, r: returns_to_go(u, r)[0],
            lambda u, r: returns_to_go(u - u[:1], r),
            lambda u, r: returns_to_go(u.T, r).T,
        ),
    ),
    "05.1": Exercise(
        "leverages",
        action_leverages,
        cases=_weighted_actions,
        hint="Sigma weighs every outer product by q; multiply z by its inverse, then row by row with z",
        wrong=(
            lambda z, q: (z @ np.linalg.inv(z.T @ z) * z).sum(axis=1),
            lambda z, q: (z @ ((q[:, None] * z).T @ z) * z).sum(axis=1),
            lambda z, q: z @ np.linalg.inv((q[:, None] * z).T @ z) @ z.T,
            lambda z, q: q * action_leverages(z, q),
            lambda z, q: np.sqrt(action_leverages(z, q)),
            lambda z, q: action_leverages(z, q).max(),
        ),
    ),
    "05.2": Exercise(
        "one step and its gap",
        step_with_gap,
        cases=_weighted_actions,
        hint="q times leverage over n; then the largest leverage under the new q, minus n",
        wrong=(
            lambda z, q: (step_with_gap(z, q)[0], float(action_leverages(z, q).max() - z.shape[1])),
            lambda z, q: (q * action_leverages(z, q), step_with_gap(z, q)[1]),
            lambda z, q: (q * action_leverages(z, q) / len(z), step_with_gap(z, q)[1]),
            lambda z, q: (step_with_gap(z, q)[0], step_with_gap(z, q)[1] + z.shape[1]),
            lambda z, q: (step_with_gap(z, q)[0], step_with_gap(z, q)[1] / z.shape[1]),
            lambda z, q: (q, float(action_leverages(z, q).max() - z.shape[1])),
            lambda z, q: step_with_gap(z, q)[0],
        ),
    ),
    "06.1": Exercise(
        "Kullback-Leibler divergence",
        kl_rows,
        cases=_two_policies,
        hint="p times (log p - log q), summed along each row; terms with p = 0 count 0",
        wrong=(
            lambda p, q: (p * (np.log(p + (p == 0)) - np.log(q))).sum(),
            lambda p, q: (p * (np.log(p + (p == 0)) - np.log(q))).mean(axis=1),
            lambda p, q: (p * (np.log(p + (p == 0)) - np.log(q))).sum(axis=0),
            lambda p, q: -(p * np.log(q)).sum(axis=1),
            lambda p, q: kl_rows(p, q) / np.log(2),
            lambda p, q: (q * (np.log(q) - np.log(p + (p == 0)))).sum(axis=1),
            lambda p, q: np.full(len(p), np.nan),
        ),
    ),
    "06.2": Exercise(
        "optimistic targets",
        optimistic_targets,
        cases=lambda seed: (_normal(seed, 5, 12), 3 + seed % 3),
        hint="find the k largest of each row with argsort; each gets 1 / k",
        wrong=(
            lambda utility, k: optimistic_targets(-utility, k),
            lambda utility, k: k * optimistic_targets(utility, k),
            lambda utility, k: optimistic_targets(utility.reshape(1, -1), k).reshape(utility.shape),
            lambda utility, k: optimistic_targets(utility.T, k).T,
            lambda utility, k: optimistic_targets(utility, k - 1),
            lambda utility, k: np.exp(utility) / np.exp(utility).sum(axis=1, keepdims=True),
        ),
    ),
    "07.1": Exercise(
        "advantages in one pass",
        generalised_advantages,
        cases=_played,
        hint="from the last step to the first: surprise plus discount times the advantage of the step after",
        wrong=(
            lambda r, v, d: generalised_advantages(r, v, 0.0),
            lambda r, v, d: generalised_advantages(r, v, 1.0),
            lambda r, v, d: generalised_advantages(r, np.zeros_like(v), d),
            lambda r, v, d: generalised_advantages(r[::-1], v[::-1], d)[::-1],
            lambda r, v, d: generalised_advantages(r - v, np.zeros_like(v), d),
            lambda r, v, d: generalised_advantages(r, v, d)[::-1],
        ),
    ),
    "07.2": Exercise(
        "group-relative advantages",
        group_advantages,
        cases=_groups,
        hint="one row per start, minus the row's mean, divided by the row's standard deviation",
        wrong=(
            lambda gain, group: (gain - gain.mean()) / (gain.std(ddof=1) + 1e-4),
            lambda gain, group: (gain.reshape(-1, group) - gain.reshape(-1, group).mean(1, keepdims=True)).reshape(-1),
            lambda gain, group: group_advantages(gain.reshape(group, -1).T.reshape(-1), group),
            lambda gain, group: group_advantages(gain, group).reshape(-1, group),
            lambda gain, group: -group_advantages(gain, group),
            lambda gain, group: gain / (gain.std(ddof=1) + 1e-4),
        ),
    ),
    "08.1": Exercise(
        "calls per item",
        amortised,
        cases=lambda seed: (5.0 + seed, 300.0, 10 + seed),
        hint="training is paid once and shared by all items",
        wrong=(
            lambda per_item, training, n_items: per_item + training,
            lambda per_item, training, n_items: (per_item + training) / n_items,
            lambda per_item, training, n_items: per_item * n_items + training,
            lambda per_item, training, n_items: training / n_items,
            lambda per_item, training, n_items: per_item,
        ),
    ),
    "08.2": Exercise(
        "a mean over resampled movies",
        resampled_mean,
        cases=_clustered,
        hint="put the rows of every drawn movie together, a movie drawn twice twice, and take one mean",
        wrong=(
            lambda values, clusters, drawn: float(values.mean()),
            lambda values, clusters, drawn: float(values[np.isin(clusters, drawn)].mean()),
            lambda values, clusters, drawn: float(np.mean([values[clusters == c].mean() for c in drawn])),
            lambda values, clusters, drawn: float(values[drawn].mean()),
            lambda values, clusters, drawn: float(np.concatenate([values[clusters == c] for c in drawn]).sum()),
        ),
    ),
    "12.1": Exercise(
        "fooling loss",
        fooling,
        cases=lambda seed: (_normal(seed, 6 + seed, 2), seed % 2),
        hint="the log of the sum of both exponentials, minus the logit of the wanted kind; then the mean",
        wrong=(
            lambda logits, kind: fooling(logits, 1 - kind),
            lambda logits, kind: -fooling(logits, kind),
            lambda logits, kind: fooling(logits, kind) * len(logits),
            lambda logits, kind: float(-logits[:, kind].mean()),
            lambda logits, kind: fooling(logits, 1),
            lambda logits, kind: np.logaddexp(logits[:, 0], logits[:, 1]) - logits[:, kind],
        ),
    ),
    "12.2": Exercise(
        "merging an adapter",
        merge,
        cases=_adapter,
        hint="B A has the shape of W; scale it twice, once by the adapter's own scale",
        wrong=(
            lambda weight, a, b, scale, factor: weight + scale * b @ a,
            lambda weight, a, b, scale, factor: weight + factor * b @ a,
            lambda weight, a, b, scale, factor: factor * (weight + scale * b @ a),
            lambda weight, a, b, scale, factor: weight - factor * scale * b @ a,
            lambda weight, a, b, scale, factor: factor * scale * b @ a,
            lambda weight, a, b, scale, factor: weight + factor * scale * (b[:, :1] @ a[:1]),
        ),
    ),
    "13.1": Exercise(
        "Cohen's kappa",
        kappa,
        cases=_verdicts,
        hint="by chance both say yes with the product of their rates, and both no with the product of the rests",
        wrong=(
            lambda a, b: float((a == b).mean()),
            lambda a, b: float((a == b).mean() - a.mean() * b.mean()),
            lambda a, b: float(((a == b).mean() - a.mean() * b.mean()) / (1 - a.mean() * b.mean())),
            lambda a, b: float(((a == b).mean() - 0.5) / 0.5),
            lambda a, b: float(np.corrcoef(a, ~b)[0, 1]),
            lambda a, b: kappa(a, b) * (1 - (a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))),
        ),
    ),
    "13.2": Exercise(
        "dominated methods",
        dominated,
        cases=_frontier,
        hint="at least as good in both and strictly better in one, for every pair; then any over the rivals",
        wrong=(
            lambda harmful, edgy: ((harmful[:, None] >= harmful) & (edgy[:, None] <= edgy)).any(axis=0),
            lambda harmful, edgy: ((harmful[:, None] > harmful) & (edgy[:, None] < edgy)).any(axis=0),
            lambda harmful, edgy: dominated(harmful, -edgy),
            lambda harmful, edgy: dominated(-harmful, edgy),
            lambda harmful, edgy: ~dominated(harmful, edgy),
            lambda harmful, edgy: harmful < harmful.max(),
        ),
    ),
    "09.1": Exercise(
        "groups of ages",
        age_groups,
        cases=_ages,
        hint="close a group as soon as it has enough reviews; what is left at the end joins the last group",
        wrong=(
            lambda ages, counts, wanted: [(age, age) for age in ages],
            lambda ages, counts, wanted: [(ages[0], ages[-1])] * 2,
            lambda ages, counts, wanted: age_groups(ages, counts, wanted)[:-1],
            lambda ages, counts, wanted: [*age_groups(ages, counts, wanted), (ages[-1], ages[-1])],
            lambda ages, counts, wanted: age_groups(ages, counts, wanted // 2),
            lambda ages, counts, wanted: [high for _, high in age_groups(ages, counts, wanted)],
        ),
    ),
    "09.2": Exercise(
        "share that levels leave",
        left_over,
        cases=lambda seed: (_normal(seed, 5 + seed, 7) + 3 * _normal(seed, 5 + seed, 1) + _normal(seed, 1, 7) + 4,),
        hint="the grand mean is in the means of the rows and in those of the columns: add it back once",
        wrong=(
            lambda stars: float((stars - stars.mean(axis=1, keepdims=True)).var() / stars.var()),
            lambda stars: float((stars - stars.mean(axis=0)).var() / stars.var()),
            lambda stars: 1 - left_over(stars),
            lambda stars: float((stars - stars.mean()).var() / stars.var()),
            lambda stars: left_over(stars) * float(stars.var()),
            lambda stars: float(np.sqrt(left_over(stars))),
        ),
    ),
    "10.1": Exercise(
        "an accuracy that chance cannot inflate",
        balanced_accuracy,
        cases=_verdicts,
        hint="said[truth].mean() is the share of refused prompts that were called so; do the same for the others",
        wrong=(
            lambda said, truth: float((said == truth).mean()),
            lambda said, truth: float(said[truth].mean()),
            lambda said, truth: float((said[truth].mean() + said[~truth].mean()) / 2),
            lambda said, truth: float((truth[said].mean() + 1 - truth[~said].mean()) / 2),
            lambda said, truth: float(said[truth].mean() + 1 - said[~truth].mean()),
            lambda said, truth: 1 - balanced_accuracy(said, truth),
        ),
    ),
    "10.2": Exercise(
        "the share of the gap",
        share_of_gap,
        cases=_patched,
        hint="mean of patched - plain, divided by the mean of target - plain",
        wrong=(
            lambda plain, patched, target: float(((patched - plain) / (target - plain)).mean()),
            lambda plain, patched, target: float((patched - plain).mean()),
            lambda plain, patched, target: float(patched.mean() / target.mean()),
            lambda plain, patched, target: float((target - patched).mean() / (target - plain).mean()),
            lambda plain, patched, target: (patched - plain) / (target - plain),
            lambda plain, patched, target: float((target - plain).mean() / (patched - plain).mean()),
            lambda plain, patched, target: float(np.median(patched - plain) / np.median(target - plain)),
        ),
    ),
    "16.1": Exercise(
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
    ),
    "16.2": Exercise(
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
                2 * np.arange(1, len(counts) + 1) @ counts / (len(counts) * counts.sum())
                - (len(counts) + 1) / len(counts)
            ),
            lambda counts: float(counts.std() / counts.mean()),
            lambda counts: float(np.abs(np.diff(np.sort(counts))).mean() / (2 * counts.mean())),
        ),
    ),
    "15.1": Exercise(
        "the worst group",
        lowest_group,
        cases=_groups_of_answers,
        hint="one mean per group, then the smallest of them",
        wrong=(
            lambda right, groups: float(right.mean()),
            lambda right, groups: float(max(right[groups == name].mean() for name in np.unique(groups))),
            lambda right, groups: float(np.mean([right[groups == name].mean() for name in np.unique(groups)])),
            lambda right, groups: float(min(right[groups == name].sum() for name in np.unique(groups))),
            lambda right, groups: float(min(right[groups == name].sum() / len(right) for name in np.unique(groups))),
            lambda right, groups: 1 - lowest_group(right, groups),
            lambda right, groups: float(right.min()),
        ),
    ),
    "15.2": Exercise(
        "the worst-known prompt",
        worst_known,
        cases=_some_labelled,
        hint="invert X_c'X_c + I, make x' inverse x of every row, then argmax and max",
        wrong=(
            lambda rows, chosen: worst_known(rows[chosen], np.arange(len(chosen))),
            lambda rows, chosen: worst_known(rows, np.arange(len(rows))),
            lambda rows, chosen: worst_known(rows, chosen)[::-1],
            lambda rows, chosen: worst_known(rows, chosen)[1],
            lambda rows, chosen: (worst_known(rows, chosen)[0], worst_known(rows, chosen)[1] ** 0.5),
            lambda rows, chosen: (worst_known(rows, chosen)[0], worst_known(rows, chosen)[1] * len(chosen)),
            lambda rows, chosen: worst_known(rows * len(chosen) ** -0.5, chosen),
        ),
    ),
    "11.1": Exercise(
        "the fooling loss",
        mean_fooling_loss,
        cases=_logits,
        hint="log of the sum of both exponentials (np.logaddexp) minus the logit of the wished-for kind, then the mean",
        wrong=(
            lambda logits, kind: mean_fooling_loss(logits, 1 - kind),
            lambda logits, kind: -mean_fooling_loss(logits, kind),
            lambda logits, kind: mean_fooling_loss(logits, kind) * logits.shape[0],
            lambda logits, kind: mean_fooling_loss(logits.mean(axis=0), kind),
            lambda logits, kind: float((logits[..., 1 - kind] - logits[..., kind]).mean()),
            lambda logits, kind: float(
                -np.log(np.exp(np.clip(logits, -50, 50))[..., kind] / np.exp(np.clip(logits, -50, 50)).sum(-1)).mean()
            ),
            lambda logits, kind: mean_fooling_loss(logits, 1),
        ),
    ),
    "11.2": Exercise(
        "sideways",
        at_right_angles,
        cases=lambda seed: (_normal(seed, 5, 7), (2 + seed) * _normal(seed, 7)),
        hint="make the direction a unit vector u, then take (rows @ u)[:, None] * u off",
        wrong=(
            lambda rows, direction: rows - (rows @ direction)[:, None] * direction,
            lambda rows, direction: rows - at_right_angles(rows, direction),
            lambda rows, direction: 2 * at_right_angles(rows, direction) - rows,
            lambda rows, direction: rows - direction / np.linalg.norm(direction),
            lambda rows, direction: rows - (rows @ direction).mean() * direction / (direction @ direction),
            lambda rows, direction: (
                at_right_angles(rows, direction)
                / np.linalg.norm(at_right_angles(rows, direction), axis=1, keepdims=True)
            ),
        ),
    ),
    "14.1": Exercise(
        "multiple choice",
        mc,
        cases=_choices,
        hint="p = np.exp(scores - scores.max()); MC1 looks at scores[0] and scores[~correct], MC2 at p[correct]",
        wrong=(
            lambda scores, correct: (mc(scores, correct)[0], float(correct.mean())),
            lambda scores, correct: (mc(scores, ~correct)[0] if not correct.all() else True, mc(scores, correct)[1]),
            lambda scores, correct: (mc(scores, correct)[0], mc(scores, ~correct)[1]),
            lambda scores, correct: (bool(scores.argmax() == 0), mc(scores, correct)[1]),
            lambda scores, correct: (
                mc(scores, correct)[0],
                float(np.exp(scores)[correct].sum() / np.exp(scores).sum()) if scores[0] > -1000 else 0.0,
            ),
            lambda scores, correct: (mc(scores, correct)[0], float(scores[correct].sum() / scores.sum())),
        ),
    ),
    "14.2": Exercise(
        "halfway to fair",
        way_to_fair,
        cases=lambda seed: [(0.6, 0.45), (0.4, 0.45), (0.5, 0.5), (0.7, 0.8), (0.5, 0.6)][seed],
        hint="one minus the distance to one half afterwards, divided by the distance before",
        wrong=(
            lambda before, after: (before - after) / (before - 0.5) if before != 0.5 else 0.0,
            lambda before, after: 1 - abs(after - 0.5) / abs(before - 0.5) if before != 0.5 else 0.0,
            lambda before, after: abs(after - 0.5) / abs(before - 0.5) if before != 0.5 else 0.0,
            lambda before, after: abs(before - 0.5) - abs(after - 0.5),
            lambda before, after: max(0.0, way_to_fair(before, after)),
            lambda before, after: 1 - abs(after - before) / abs(before - 0.5) if before != 0.5 else 0.0,
        ),
    ),
    "17.1": Exercise(
        "gradients of unequal shares",
        gradient_of_shares,
        cases=lambda seed: ([*_normal(seed, 3, 4, 2)], [6, 2, 1 + seed]),
        hint="a mean times its count is a sum: add up the sums, then divide once",
        wrong=(
            lambda gradients, counts: sum(gradients) / len(gradients),
            lambda gradients, counts: sum(c * g for c, g in zip(counts, gradients, strict=True)),
            lambda gradients, counts: sum(c * g for c, g in zip(counts, gradients, strict=True)) / len(counts),
            lambda gradients, counts: sum(g / c for c, g in zip(counts, gradients, strict=True)),
            lambda gradients, counts: sum(gradients) / sum(counts),
        ),
    ),
    "17.2": Exercise(
        "rows that fit",
        rows_that_fit,
        cases=_memories,
        hint="take away what is kept once (weights, the common prompt), divide by what a row needs, round down",
        wrong=(
            lambda memory, weights, per_token, shared, own: (memory - weights) // ((shared + own) * per_token),
            lambda memory, weights, per_token, shared, own: max(0, (memory - weights) // (own * per_token)),
            lambda memory, weights, per_token, shared, own: (
                (memory - weights - shared * per_token) // (own * per_token)
            ),
            lambda memory, weights, per_token, shared, own: max(0, (memory - shared * per_token) // (own * per_token)),
            lambda memory, weights, per_token, shared, own: max(0, (memory - weights - shared) // own),
        ),
    ),
    "18.1": Exercise(
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
    ),
    "18.2": Exercise(
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
    ),
}
