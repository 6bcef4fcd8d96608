"""Exercises of notebooks 03 to 09: the EAGLE agent."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from helpers.course.judge import Exercise, normal_values

EAGLE_EXERCISES: dict[str, Exercise] = {}


# --- 03 ----------------------------------------------------------------------------------------------------


def novelty(z, items, k):
    distances = np.linalg.norm(z[:, None] - items[None], axis=2)
    return np.sort(distances, axis=1)[:, :k].sum(axis=1)


def _gap_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    return normal_values(seed, 4, 5), normal_values(seed, 20, 5), 3


EAGLE_EXERCISES["03.1"] = Exercise(
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
)


def utility(z, items, user, level, novelty_weight, k, own=None):
    itself, _ = NearestNeighbors(n_neighbors=k).fit(items).kneighbors()
    others = items if own is None else np.delete(items, own, axis=0)
    return level + z @ user + novelty_weight * novelty(z, others, k) / itself.sum(axis=1).mean()


def _utility_case(seed: int) -> tuple:
    """Texts near items, of which one is left out in four cases of five: the one that the first text lies on."""
    items = normal_values(seed, 20, 5)
    z = items[seed : seed + 4] + 0.1 * normal_values(seed, 4, 5)
    return z, items, normal_values(seed, 5), 3.5, 0.5, 3, None if seed == 0 else seed


EAGLE_EXERCISES["03.2"] = Exercise(
    "utility",
    utility,
    cases=_utility_case,
    hint="stars that the user would give, plus lambda times novelty divided by the items' own mean novelty",
    wrong=(
        lambda z, items, user, level, lam, k, own=None: level + z @ user,
        lambda z, items, user, level, lam, k, own=None: level + z @ user + lam * novelty(z, items, k),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, 0, lam, k, own),
        lambda z, items, user, level, lam, k, own=None: level + z @ user - utility(z, items, 0 * user, 0, lam, k, own),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, 1.0, k, own),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, lam, k),
        lambda z, items, user, level, lam, k, own=None: utility(z, items, user, level, lam, k, own or 0),
    ),
)


def spread_out(values, points, apart, n):
    taken = []
    for index in np.argsort(-values):
        distances = np.linalg.norm(points[taken] - points[index], axis=1)
        if len(taken) < n and (distances >= apart).all():
            taken.append(int(index))
    return taken


def _only_from_the_last(values, points, apart, n):
    taken = []
    for index in np.argsort(-values):
        if len(taken) < n and (not taken or np.linalg.norm(points[taken[-1]] - points[index]) >= apart):
            taken.append(int(index))
    return taken


EAGLE_EXERCISES["03.3"] = Exercise(
    "spread-out points",
    spread_out,
    cases=lambda seed: (normal_values(seed, 40), normal_values(seed, 40, 2), 1.0, 4),
    hint="best first; skip what is nearer than `apart` to any that was taken; stop at n",
    wrong=(
        lambda values, points, apart, n: [int(i) for i in np.argsort(-values)[:n]],
        lambda values, points, apart, n: spread_out(-values, points, apart, n),
        lambda values, points, apart, n: spread_out(values, points, apart, len(values)),
        lambda values, points, apart, n: spread_out(values, points, 2 * apart, n),
        _only_from_the_last,
    ),
)


def hesitation(log_probs, tokens, given):
    rows = np.arange(given - 1, len(tokens) - 1)
    return float(np.exp(-log_probs[rows, tokens[given:]].mean()))


def _token_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    logits = normal_values(seed, 9, 6)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return log_probs, np.random.default_rng([3, seed]).integers(0, 6, size=9), 2 + seed % 3


EAGLE_EXERCISES["03.4"] = Exercise(
    "perplexity",
    hesitation,
    cases=_token_case,
    hint="row i speaks about token i + 1; mean of minus the log-probabilities of the real tokens, then exp",
    wrong=(
        lambda log_probs, tokens, given: hesitation(log_probs, tokens, 1),
        lambda log_probs, tokens, given: float(np.log(hesitation(log_probs, tokens, given))),
        lambda log_probs, tokens, given: float(1 / hesitation(log_probs, tokens, given)),
        lambda log_probs, tokens, given: float(
            np.exp(-log_probs[np.arange(given, len(tokens)), tokens[given:]].mean())
        ),
        lambda log_probs, tokens, given: float(
            np.exp(-log_probs[np.arange(given - 1, len(tokens) - 1), tokens[given:]].sum())
        ),
    ),
)


def row_agreement(a, b):
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(a, b, strict=True)]))


EAGLE_EXERCISES["03.5"] = Exercise(
    "agreement",
    row_agreement,
    cases=lambda seed: (
        3 * normal_values(seed, 6, 1) + normal_values(seed, 6, 15),
        2 * normal_values(seed, 6, 1) + normal_values(seed, 6, 15) + normal_values(seed, 6, 15, 1)[..., 0],
    ),
    hint="take each row's mean off, then the sum of products over the product of lengths, row by row, then the mean",
    wrong=(
        lambda a, b: float(np.corrcoef(a.ravel(), b.ravel())[0, 1]),
        lambda a, b: row_agreement(a.T, b.T),
        lambda a, b: row_agreement(a, b) ** 2,
        lambda a, b: float(((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))).mean()),
        lambda a, b: float(np.median([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])),
    ),
)


# --- 04 ----------------------------------------------------------------------------------------------------


def repeated_share(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _loops(seed: int) -> tuple[list[str], int]:
    """A text of few words, so that sequences come again; the last one is shorter than a sequence."""
    rng = np.random.default_rng([4, seed])
    return [str(word) for word in rng.choice(list("abc"), size=2 if seed == 4 else 20 + seed)], 2 + seed % 3


EAGLE_EXERCISES["04.1"] = Exercise(
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
)


def returns_to_go(utility, reward):
    rewards = np.diff(utility, axis=0)
    if reward == "terminal":
        rewards = np.concatenate([np.zeros_like(rewards[1:]), utility[-1:]])
    return np.cumsum(rewards[::-1], axis=0)[::-1]


def _utilities(seed: int) -> tuple[np.ndarray, str]:
    return 4 + normal_values(seed, 6, 3), "dense" if seed % 2 else "terminal"


EAGLE_EXERCISES["04.2"] = Exercise(
    "what is still to come",
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
)


# --- 05 ----------------------------------------------------------------------------------------------------


def action_leverages(z, q):
    sigma = (q[:, None] * z).T @ z
    return (z @ np.linalg.inv(sigma) * z).sum(axis=1)


def _weighted_actions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    q = np.exp(normal_values(seed + 50, 9))
    return normal_values(seed, 9, 3), q / q.sum()


EAGLE_EXERCISES["05.1"] = Exercise(
    "all leverages at once",
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
)


def step_with_gap(z, q):
    n = z.shape[1]
    new = q * action_leverages(z, q) / n
    return new, float(action_leverages(z, new).max() - n)


EAGLE_EXERCISES["05.2"] = Exercise(
    "one step and its certificate",
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
)


# --- 06 ----------------------------------------------------------------------------------------------------


def kl_rows(p, q):
    log_p = np.log(np.where(p > 0, p, 1.0))
    return (p * (log_p - np.log(q))).sum(axis=1)


def _two_policies(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of distributions; the first has zeros."""
    p, q = np.exp(normal_values(seed, 4, 6)), np.exp(normal_values(seed + 50, 4, 6))
    p[np.arange(4), np.arange(4)] = 0
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


EAGLE_EXERCISES["06.1"] = Exercise(
    "Kullback–Leibler divergence",
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
)


def optimistic_targets(utility, k):
    targets = np.zeros(utility.shape)
    np.put_along_axis(targets, np.argsort(-utility, axis=1)[:, :k], 1 / k, axis=1)
    return targets


EAGLE_EXERCISES["06.2"] = Exercise(
    "optimistic targets",
    optimistic_targets,
    cases=lambda seed: (normal_values(seed, 5, 12), 3 + seed % 3),
    hint="find the k largest of each row with argsort; each gets 1 / k",
    wrong=(
        lambda utility, k: optimistic_targets(-utility, k),
        lambda utility, k: k * optimistic_targets(utility, k),
        lambda utility, k: optimistic_targets(utility.reshape(1, -1), k).reshape(utility.shape),
        lambda utility, k: optimistic_targets(utility.T, k).T,
        lambda utility, k: optimistic_targets(utility, k - 1),
        lambda utility, k: np.exp(utility) / np.exp(utility).sum(axis=1, keepdims=True),
    ),
)


# --- 07 ----------------------------------------------------------------------------------------------------


def generalised_advantages(rewards, values, discount):
    surprise = rewards + np.concatenate([values[1:], np.zeros_like(values[:1])]) - values
    steps = np.arange(len(rewards))
    ahead = steps - steps[:, None]  # from row to column
    return np.where(ahead >= 0, discount ** np.maximum(ahead, 0), 0.0) @ surprise


def _played(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    return normal_values(seed, 5, 3), normal_values(seed + 50, 5, 3), 0.5 + 0.1 * seed


EAGLE_EXERCISES["07.1"] = Exercise(
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
)


def advantages_in_groups(gain, group):
    groups = gain.reshape(-1, group)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return (centred / (groups.std(axis=1, ddof=1, keepdims=True) + 1e-4)).reshape(-1)


def _groups(seed: int) -> tuple[np.ndarray, int]:
    """Three starts of different difficulty; in the last one all gains are equal."""
    gain = normal_values(seed, 3, 2 + seed % 3) + np.array([[0.0], [5.0], [1.0]])
    gain[2] = 1.0
    return gain.reshape(-1), gain.shape[1]


EAGLE_EXERCISES["07.2"] = Exercise(
    "group-relative advantages",
    advantages_in_groups,
    cases=_groups,
    hint="one row per start, minus the row's mean, divided by the row's standard deviation",
    wrong=(
        lambda gain, group: (gain - gain.mean()) / (gain.std(ddof=1) + 1e-4),
        lambda gain, group: (gain.reshape(-1, group) - gain.reshape(-1, group).mean(1, keepdims=True)).reshape(-1),
        lambda gain, group: advantages_in_groups(gain.reshape(group, -1).T.reshape(-1), group),
        lambda gain, group: advantages_in_groups(gain, group).reshape(-1, group),
        lambda gain, group: -advantages_in_groups(gain, group),
        lambda gain, group: gain / (gain.std(ddof=1) + 1e-4),
    ),
)


# --- 08 ----------------------------------------------------------------------------------------------------


def amortised(per_item, training, n_items):
    return per_item + training / n_items


EAGLE_EXERCISES["08.1"] = Exercise(
    "the bill",
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
)


def resampled_mean(values, clusters, drawn):
    return float(np.concatenate([values[clusters == cluster] for cluster in drawn]).mean())


def _clustered(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([8, seed])
    clusters = np.repeat(np.arange(5), [1, 2, 3, 4, 2])
    return rng.normal(size=len(clusters)), clusters, np.array([0, 0, 2, 3, 3])


EAGLE_EXERCISES["08.2"] = Exercise(
    "an interval over movies",
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
)


# --- 09 ----------------------------------------------------------------------------------------------------


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
    """One review is missing for a first group of one age; the last ages are too few; a case in three has no group."""
    counts = np.random.default_rng(seed).integers(3, 30, size=12).tolist()
    return list(range(18, 30)), [39, *counts[1:-1], 1], 1000 if seed % 3 == 2 else 40


EAGLE_EXERCISES["09.1"] = Exercise(
    "ages to groups",
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
)


def left_over(stars):
    rest = stars - stars.mean(axis=1, keepdims=True) - stars.mean(axis=0) + stars.mean()
    return float(rest.var() / stars.var())


EAGLE_EXERCISES["09.2"] = Exercise(
    "taste, or only generosity?",
    left_over,
    cases=lambda seed: (
        normal_values(seed, 5 + seed, 7) + 3 * normal_values(seed, 5 + seed, 1) + normal_values(seed, 1, 7) + 4,
    ),
    hint="the grand mean is in the means of the rows and in those of the columns: add it back once",
    wrong=(
        lambda stars: float((stars - stars.mean(axis=1, keepdims=True)).var() / stars.var()),
        lambda stars: float((stars - stars.mean(axis=0)).var() / stars.var()),
        lambda stars: 1 - left_over(stars),
        lambda stars: float((stars - stars.mean()).var() / stars.var()),
        lambda stars: left_over(stars) * float(stars.var()),
        lambda stars: float(np.sqrt(left_over(stars))),
    ),
)
