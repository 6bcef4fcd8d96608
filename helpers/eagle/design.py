"""G-optimal design: which of K candidate actions to try, so that together they tell the most about all of them.

Tennenholtz et al. 2024, section 4. Action a moves the embedding to z_a; if its value is linear in z_a, trying the
actions in proportions q predicts the value of action a with a variance proportional to its leverage

    ||z_a||^2_{Sigma(q)^-1} = z_a^T Sigma(q)^-1 z_a,    Sigma(q) = sum_a q_a z_a z_a^T .

A G-optimal design makes the largest leverage as small as possible. Kiefer and Wolfowitz 1960: the smallest possible
value is n, the dimension that the actions span; the same q maximises log det Sigma(q), which is concave; and for
every q the excess, max_a leverage_a - n, bounds how far log det Sigma(q) is below its maximum. So each design here
carries a certificate that anyone can recompute from its weights.

Leverages do not change when all z are multiplied by one invertible matrix. The solvers use that: they work on
orthonormal coordinates of the space that the actions span, so K < n, duplicates and unused dimensions do no harm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

RANK_CUTOFF = 1e-6  # directions this much thinner than the thickest one are rounding noise of float32 embeddings
SPAN_CUTOFF = 1e-9  # the same inside whitened coordinates, where only weights near zero make a direction thin

Proportions = Float[np.ndarray, " action"]
Subset = Int[np.ndarray, " k"]


@dataclass(frozen=True)
class Design:
    """Proportions in which to try the actions, with the proof of how good they are.

    Attributes:
        weights: q, non-negative, sums to 1; leverages: of all actions under q; rank: n, the dimension they span.
    """

    weights: Float[np.ndarray, " action"]
    leverages: Float[np.ndarray, " action"]
    rank: int

    @property
    def value(self) -> float:
        """The largest leverage, which the design minimises; n at the optimum."""
        return float(self.leverages.max())

    @property
    def value_over_n(self) -> float:
        """The factor C of the paper's definition; 1 at the optimum."""
        return self.value / self.rank

    @property
    def gap(self) -> float:
        """The certificate: largest leverage - n >= 0, a bound on how much log det Sigma could still grow."""
        return self.value - self.rank

    @property
    def support(self) -> Int[np.ndarray, " chosen"]:
        """Actions that count: weight above a thousandth of 1/n, the most that an optimal design gives one action."""
        return np.flatnonzero(self.weights > 1e-3 / self.rank)


def leverages(
    z: Float[np.ndarray, "action dim"], q: Float[np.ndarray, " action"], ridge: float = 0.0
) -> Float[np.ndarray, " action"]:
    """z_a^T (Sigma(q) + ridge I)^-1 z_a of every action.

    Without ridge, an action outside of what the weighted actions span has leverage infinity: nothing is learned
    about it. (A pseudo-inverse would give it 0 there, the opposite.)

    Args:
        q: proportions, non-negative, sum 1; ridge: in units of z^2.

    Raises:
        ValueError: z is not a finite matrix or all zero, q is not a distribution over its rows, or ridge < 0.
    """
    z = _matrix(z)
    q = np.asarray(q, dtype=np.float64)
    if q.shape != (len(z),) or not (q >= 0).all() or not abs(q.sum() - 1) < 1e-6:
        raise ValueError(f"q must hold {len(z)} non-negative weights of sum 1: divide them by their sum")
    if not ridge >= 0:
        raise ValueError(f"ridge = {ridge} must be 0 or more")
    if ridge:
        return _leverages(z, q, ridge)
    w = _row_space(z)
    _, scales, axes = np.linalg.svd(np.sqrt(q)[:, None] * w, full_matrices=False)
    reached = scales > SPAN_CUTOFF * scales.max()
    along = w @ axes[reached].T
    length = (w**2).sum(axis=1)
    outside = length - (along**2).sum(axis=1) > RANK_CUTOFF**2 * length
    return np.where(outside, np.inf, ((along / scales[reached]) ** 2).sum(axis=1))


def optimal_design(
    z: Float[np.ndarray, "action dim"],
    *,
    tolerance: float = 1e-3,
    max_steps: int = 10_000,
) -> Design:
    """The G- and D-optimal design over the actions: the largest leverage is at most (1 + tolerance) n.

    Few steps suffice down to a tolerance of about 1e-4. When `max_steps` do not, `gap` of the result says by how much.

    Args:
        z: one row for each action, usually from `prepare`; rows of zeros get weight 0.
        tolerance: of the gap, relative to n.

    Raises:
        ValueError: z is not a finite matrix or all zero, or the tolerance is not positive.
    """
    if not tolerance > 0 or max_steps < 0:
        raise ValueError("tolerance must be above 0 and max_steps 0 or more")
    w = _row_space(z)
    q = _multiplicative(w, w.shape[1] * tolerance, max_steps)
    q = q / q.sum()
    return Design(q, _leverages(w, q), w.shape[1])


def _multiplicative(w: Float[np.ndarray, "action n"], tolerance: float, max_steps: int) -> Proportions:
    """q_a <- q_a (leverage_a - b) / (n - b) until the gap is within the tolerance.

    b = 0 is the classical step (Silvey, Titterington and Torsney 1978); b = half the smallest leverage still
    never lowers log det and needs fewer steps (Dette, Pepelyshev and Zhigljavsky 2008). Actions that cannot be in
    the optimum are dropped on the way.
    """
    n = w.shape[1]
    q = np.full(len(w), 1 / len(w))
    for step in range(max_steps + 1):
        values = _leverages(w, q)
        gap = values.max() - n
        if gap <= tolerance or step == max_steps:
            break
        shift = values[q > 0].min() / 2
        q = q * (values - shift) / (n - shift)
        if step % 10 == 0:
            q = np.where(_may_support(values, gap, n), q, 0)
            q = q / q.sum()
    return q


def _may_support(values: Float[np.ndarray, " action"], gap: float, n: int) -> Bool[np.ndarray, " action"]:
    """False for actions that no optimal design uses, by their leverages in any design (Harman and Pronzato 2007)."""
    gap = max(gap, 0.0)
    bound = n * (1 + gap / 2 - np.sqrt(gap * (4 + gap - 4 / n)) / 2)
    return values >= bound * (1 - 1e-9)  # at the optimum every leverage in use is n but for rounding


def prepare(
    z: Float[np.ndarray, "action dim"],
    *,
    form: Literal["centred", "raw", "displacement"] = "centred",
    origin: Float[np.ndarray, " dim"] | None = None,
    n_components: int | None = None,
) -> Float[np.ndarray, "action component"]:
    """Choose from where z is measured, then whiten it, on as many principal axes as asked for.

    The zero point matters, since a design is made for a linear model without intercept:

    - "displacement", z - origin with the state's own z_x as origin, is the right one inside an episode. The
      value of x itself can be computed, so what the agent has to predict is the gain, <theta, z_a - z_x>, and an
      action that changes nothing teaches nothing.
    - "centred", z - mean over the actions, is for when there is no state, or its value is not known: what is
      learned is how the actions differ, whatever they have in common.
    - "raw" keeps z as it is (and scales nothing). All edits of one text lie close to that text, so one of the
      n directions is spent on what they share, and the design changes when the embedding's zero point does.

    Whitening, or any other invertible matrix, leaves `optimal_design` as it is; it matters for `kmeans_subset` and
    `dpp_subset`, which see lengths and angles. Fewer components do change the design: k actions can only span k
    dimensions, so for a design of k actions use n_components <= k.

    Args:
        n_components: principal axes kept, those of largest second moment; all that z spans when not given.

    Raises:
        ValueError: z is not a finite matrix or has no such origin or components, or an option does not fit the form.
    """
    moved = _moved(_matrix(z), form, origin)
    if form == "raw" and n_components is None:
        return moved
    _, scales, axes = _svd(moved)
    n = len(scales) if n_components is None else n_components
    if not 1 <= n <= len(scales):
        raise ValueError(f"n_components = {n} must be between 1 and {len(scales)}, the dimension that z spans")
    components = moved @ axes[:n].T
    return components if form == "raw" else components * np.sqrt(len(z)) / scales[:n]


def _moved(z: np.ndarray, form: str, origin: np.ndarray | None) -> Float[np.ndarray, "action dim"]:
    if form not in ("centred", "raw", "displacement"):
        raise ValueError(f"form = {form!r} is unknown: choose centred, raw or displacement")
    if (origin is None) == (form == "displacement"):
        raise ValueError("origin belongs to the displacement form: give the state's embedding there, and only there")
    if form == "raw":
        return z
    origin = z.mean(axis=0) if origin is None else np.asarray(origin, dtype=np.float64)
    if origin.shape != z.shape[1:] or not np.isfinite(origin).all():
        raise ValueError(f"origin must be one finite embedding of {z.shape[1]} numbers, got shape {origin.shape}")
    moved = z - origin
    return np.where(np.abs(moved) > 1e-12 * np.abs(z).max(), moved, 0.0)  # rounding errors are not a direction


def efficiency(z: Float[np.ndarray, "action dim"], subset: Subset) -> float:
    """G-efficiency of trying each action of a subset equally often: n / largest leverage over all actions.

    1 is the optimum over all weightings; 0 means that the subset does not span what the actions span, as always
    when it has fewer than n actions.

    Raises:
        ValueError: z is not a finite matrix or all zero, or the subset is empty or no set of its rows.
    """
    rows = _row_space(z)
    subset = np.asarray(subset)
    if len(subset) == 0 or len(np.unique(subset)) != len(subset) or not np.isin(subset, np.arange(len(rows))).all():
        raise ValueError(f"a subset holds different row numbers from 0 to {len(rows) - 1}")
    q = np.zeros(len(rows))
    q[subset] = 1 / len(subset)
    return min(1.0, rows.shape[1] / float(leverages(rows, q).max()))


def round_design(
    z: Float[np.ndarray, "action dim"],
    design: Design,
    k: int,
    method: Literal["topk", "sampled", "exchange"] = "topk",
    rng: np.random.Generator | None = None,
) -> Subset:
    """k different actions, in ascending order, that approximate a design when each is tried equally often.

    "topk" takes the largest weights (then, beyond the support, the largest leverages); "sampled" draws from q
    without replacement (then, beyond the support, evenly from the rest); "exchange" starts from topk and swaps
    actions while that helps, and is never less efficient than topk.

    Raises:
        ValueError: k is not between 1 and K, the design is of other actions, the method is unknown, or "sampled"
            has no generator.
    """
    rows = _row_space(z)
    _check_k(k, len(rows))
    if len(design.weights) != len(rows):
        raise ValueError(f"the design has {len(design.weights)} actions, z has {len(rows)}: use the z it was made for")
    if method == "sampled":
        if rng is None:
            raise ValueError("method 'sampled' needs rng, for example numpy.random.default_rng(0)")
        with np.errstate(divide="ignore"):  # log 0 = -inf: after all others, in random order
            keys = np.log(design.weights) + rng.gumbel(size=len(rows))
        return np.sort(np.lexsort((rng.random(len(rows)), -keys))[:k])
    if method not in ("topk", "exchange"):
        raise ValueError(f"method = {method!r} is unknown: choose topk, sampled or exchange")
    top = np.sort(np.lexsort((-design.leverages, -design.weights))[:k])
    if method == "topk":
        return top
    # By volume first: the largest leverage is infinite, whatever is swapped, until the chosen actions span everything.
    swapped = _exchange(rows, top, _volume)
    ends = [_exchange(rows, start, _certainty) for start in (swapped, top) if efficiency(rows, start)]
    return max((*ends, swapped, top), key=lambda subset: efficiency(rows, subset))


def _exchange(w: Float[np.ndarray, "action n"], chosen: Subset, score: Callable) -> Subset:
    """Replace one chosen action after the other by the one of best score beside the rest, until no score rises."""
    chosen = chosen.copy()
    improved = True
    while improved:
        improved = False
        for position, old in enumerate(chosen):
            rest = np.delete(chosen, position)
            # The small multiple of I keeps Sigma invertible while the rest does not span everything yet.
            inverse = np.linalg.inv(w[rest].T @ w[rest] + 1e-6 * np.eye(w.shape[1]))
            scores = score(w @ inverse @ w.T)
            scores[rest] = -np.inf
            best = int(scores.argmax())
            if scores[best] > scores[old] + 1e-6:  # more than rounding, which could swap forever
                chosen[position] = best
                improved = True
    return np.sort(chosen)


# What each action would do beside the rest, with gram = w Sigma^-1 w^T and Sigma = sum of z z^T over the rest. One more
# row b changes det Sigma by the factor 1 + gram_bb, and the leverage of a to gram_aa - gram_ab^2 / (1 + gram_bb).


def _volume(gram: Float[np.ndarray, "action action"]) -> Float[np.ndarray, " action"]:
    """log det Sigma with each action beside the rest, but for a constant."""
    return np.log1p(gram.diagonal())


def _certainty(gram: Float[np.ndarray, "action action"]) -> Float[np.ndarray, " action"]:
    """Minus the log of the largest leverage with each action beside the rest."""
    own = gram.diagonal()
    return -np.log((own[:, None] - gram**2 / (1 + own)).max(axis=0))


def random_subset(z: Float[np.ndarray, "action dim"], k: int, rng: np.random.Generator) -> Subset:
    """Baseline: k different actions, each set equally likely."""
    _check_k(k, len(z))
    return np.sort(rng.choice(len(z), k, replace=False))


def kmeans_subset(z: Float[np.ndarray, "action dim"], k: int, rng: np.random.Generator) -> Subset:
    """Baseline: the action nearest to each of k cluster centres, the next nearest where one is taken already."""
    z = _matrix(z)
    _check_k(k, len(z))
    with warnings.catch_warnings():  # fewer different actions than clusters is fine here
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(k, n_init=4, random_state=int(rng.integers(2**31))).fit(z)
    chosen: list[int] = []
    for distances in fitted.transform(z).T:
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return np.sort(chosen)


def dpp_subset(z: Float[np.ndarray, "action dim"], k: int, noise: float = 1e-3) -> Subset:
    """Baseline: greedy most probable set of a determinantal point process (Chen, Zhang and Zhou 2018); deterministic.

    The kernel is L = z z^T + noise * (mean of |z|^2) I. Without noise every set of more than n actions has
    probability 0; with it the greedy choice goes on and takes the action of largest remaining variance.
    """
    z = _matrix(z)
    _check_k(k, len(z))
    kernel = z @ z.T
    kernel[np.diag_indices(len(z))] += noise * np.trace(kernel) / len(z)
    remaining, factors = kernel.diagonal().copy(), np.zeros((k, len(z)))
    chosen: list[int] = []
    for i in range(k):
        remaining[chosen] = -np.inf
        best = int(remaining.argmax())
        factors[i] = (kernel[best] - factors[:i, best] @ factors[:i]) / np.sqrt(max(remaining[best], 1e-300))
        remaining = remaining - factors[i] ** 2
        chosen.append(best)
    return np.sort(chosen)


class PrintedRule(NamedTuple):
    """Outcome of the paper's selector: the share of draws that it accepts, and the sup of every draw."""

    accepted: float
    sup: Float[np.ndarray, " draw"]


def printed_rule(
    z: Float[np.ndarray, "action dim"], k: int, C: float = 1.0, draws: int = 10, *, rng: np.random.Generator
) -> PrintedRule:
    """The selector as the paper prints it: draw k actions, accept when their largest leverage is at most C n.

    An ablation, since with C = 1 it selects nothing. Let q be even on the subset. The leverages of the k actions
    in the pseudo-inverse of Sigma(q) are k times the diagonal of a projection (the hat matrix) and average to its
    rank, min(k, n) when the drawn actions are in general position. So

    - n >= k: the projection is the identity, every leverage is exactly k <= n, every draw passes: vacuous;
    - n < k: the largest is n only if all k are equal, which no random draw does: unsatisfiable.

    Taking the sup over all K actions, as the definition does, changes this little: with n > k some action is out
    of reach, leverage infinity, and with n <= k the sup is n only if the subset happens to be an optimal design.
    """
    rows = _row_space(z)
    _check_k(k, len(rows))
    if draws < 1:
        raise ValueError(f"draws = {draws} must be 1 or more")
    subsets = np.sort(rng.random((draws, len(rows))).argsort(axis=1)[:, :k], axis=1)
    left, scales, _ = np.linalg.svd(rows[subsets], full_matrices=False)
    spanned = scales > RANK_CUTOFF * scales.max(axis=1, keepdims=True)
    sup = k * (left**2 * spanned[:, None]).sum(axis=2).max(axis=1)
    return PrintedRule(float((sup <= C * rows.shape[1] * (1 + 1e-9)).mean()), sup)


def _check_k(k: int, n_actions: int) -> None:
    if not 1 <= k <= n_actions:
        raise ValueError(f"k = {k} must be between 1 and {n_actions}, the number of actions")


def _matrix(z: Float[np.ndarray, "action dim"]) -> Float[np.ndarray, "action dim"]:
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 2 or 0 in z.shape or not np.isfinite(z).all():
        raise ValueError(f"z must be finite, one row for each action, got shape {z.shape}: encode the texts again")
    return z


def _svd(z: Float[np.ndarray, "action dim"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition on the directions that z spans.

    Raises:
        ValueError: z is zero everywhere.
    """
    largest = np.abs(z).max()
    if largest == 0:
        raise ValueError("all z are zero: the actions change nothing, or were measured from themselves")
    left, scales, axes = np.linalg.svd(z / largest, full_matrices=False)
    rank = int((scales > RANK_CUTOFF * scales[0]).sum())
    return left[:, :rank], largest * scales[:rank], axes[:rank]


def _row_space(z: Float[np.ndarray, "action dim"]) -> Float[np.ndarray, "action n"]:
    """Coordinates in which Sigma of the even design is the identity, n = the rank of z."""
    left, _, _ = _svd(_matrix(z))
    return left * np.sqrt(len(left))


def _leverages(w: Float[np.ndarray, "action n"], q: Proportions, ridge: float = 0.0) -> Float[np.ndarray, " action"]:
    """Leverages where Sigma(q) + ridge I is well conditioned.

    In coordinates of `_row_space` it is without ridge: its inverse has the mean leverage as trace, so near the optimum
    no eigenvalue of Sigma is below 1 / n.
    """
    sigma = (w * q[:, None]).T @ w + ridge * np.eye(w.shape[1])
    return np.einsum("ai,ai->a", w @ np.linalg.inv(sigma), w)
