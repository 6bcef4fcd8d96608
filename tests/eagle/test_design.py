"""Optimal designs against a general convex solver, theory with known answers, and brute force."""

from __future__ import annotations

from itertools import combinations

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.eagle.design import (
    Design,
    _certainty,
    _leverages,
    _may_support,
    _row_space,
    _volume,
    dpp_subset,
    efficiency,
    kmeans_subset,
    leverages,
    optimal_design,
    prepare,
    printed_rule,
    random_subset,
    round_design,
)
from helpers.embedding.space import build_space

BASELINES = {
    "random": random_subset,
    "kmeans": kmeans_subset,
    "dpp": lambda z, k, rng: dpp_subset(z, k),
}
worlds = {"seed": st.integers(0, 10_000), "n_actions": st.integers(8, 30), "n": st.sampled_from([1, 2, 3, 6])}


def actions(seed: int = 0, n_actions: int = 40, n: int = 6) -> np.ndarray:
    """Rows of very different lengths, so that designs are far from even."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n_actions, n)) * random.lognormal(sigma=0.5, size=(n_actions, 1))


def tight(z: np.ndarray) -> Design:
    """The design to nine digits, by Frank and Wolfe's steps: what the optimum is compared with."""
    w = _row_space(z)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        q = _frank_wolfe(w, 1e-9 * w.shape[1], 10_000)
    return Design(q / q.sum(), _leverages(w, q / q.sum()), w.shape[1])


def _frank_wolfe(w: np.ndarray, tolerance: float, max_steps: int) -> np.ndarray:
    """Move weight to the action of largest leverage, or away from the used one of smallest, by the best step.

    Fedorov 1972 and Wynn 1970; away steps as in Todd and Yildirim 2007.
    """
    n = w.shape[1]
    q = np.full(len(w), 1 / len(w))
    for step in range(max_steps + 1):
        values = _leverages(w, q)
        if values.max() - n <= tolerance or step == max_steps:
            break
        action, size = _exact_step(values, q, n)
        q = (1 - size) * q
        q[action] = max(q[action] + size, 0.0)
    return q


def _exact_step(values: np.ndarray, q: np.ndarray, n: int) -> tuple[int, float]:
    """The action a and the size s, negative to move away, for which q <- (1 - s) q + s e_a raises log det most."""
    forward = int(values.argmax())
    away = int(np.where(q > 0, values, np.inf).argmin())
    if values[forward] - n >= n - values[away]:
        return forward, (values[forward] / n - 1) / (values[forward] - 1)
    everything = -q[away] / (1 - q[away])
    if values[away] <= 1:
        return away, everything
    return away, max(everything, (values[away] / n - 1) / (values[away] - 1))


def information(z: np.ndarray, q: np.ndarray) -> np.ndarray:
    return sum(weight * np.outer(row, row) for weight, row in zip(q, z, strict=True))


def log_det(z: np.ndarray, q: np.ndarray) -> float:
    sign, value = np.linalg.slogdet(information(z, q))
    assert sign > 0
    return value


def brute_leverages(z: np.ndarray, q: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(information(z, q))
    return np.array([row @ inverse @ row for row in z])


def solve_by_cvxpy(z: np.ndarray, solver: str) -> np.ndarray:
    q = cp.Variable(len(z), nonneg=True)
    cp.Problem(cp.Maximize(cp.log_det(z.T @ cp.diag(q) @ z)), [cp.sum(q) == 1]).solve(solver=solver)
    weights = np.maximum(q.value, 0)
    return weights / weights.sum()


@pytest.fixture(scope="module")
def film_embeddings(movies) -> np.ndarray:
    return build_space(movies).items[:100]


# --- the optimum -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_frank_wolfe_step_is_as_long_as_it_should_be(seed):
    """Its size raises log det as far as any size does, in either direction."""
    w = _row_space(actions(seed, 12, 3))
    q = 0.8 * optimal_design(w).weights + 0.2 * np.eye(12)[seed]  # too much of one: away from it, or to another
    action, size = _exact_step(_leverages(w, q), q, 3)

    def log_det(length: float) -> float:
        weights = (1 - length) * q + length * np.eye(12)[action]
        return np.linalg.slogdet((w * weights[:, None]).T @ w)[1]

    shortest = -q[action] / (1 - q[action])
    assert size >= shortest - 1e-12
    lengths = np.linspace(shortest, 0.999, 400)
    assert log_det(size) >= max(map(log_det, lengths)) - 1e-9


@pytest.mark.parametrize(
    ("n_actions", "n", "solver"),
    [(100, 4, cp.CLARABEL), (100, 17, cp.CLARABEL), (60, 10, cp.SCS), (100, 32, cp.SCS)],
)
def test_the_design_is_the_one_of_a_general_solver(n_actions, n, solver):
    z = prepare(np.random.default_rng(n).normal(size=(n_actions, n)))
    assert_as_good_as(z, solve_by_cvxpy(z, solver), optimal_design(z))


@pytest.mark.parametrize("form", ["centred", "displacement"])
def test_the_design_of_real_films_is_the_one_of_a_general_solver(film_embeddings, form):
    origin = film_embeddings[0] if form == "displacement" else None
    z = prepare(film_embeddings, form=form, origin=origin)
    assert z.shape == (100, 17)
    assert_as_good_as(z, solve_by_cvxpy(z, cp.CLARABEL), optimal_design(z))


def assert_as_good_as(z, expected, design):
    assert design.weights.sum() == pytest.approx(1) and (design.weights >= 0).all()
    assert log_det(z, design.weights) == pytest.approx(log_det(z, expected), rel=1e-3, abs=1e-3)
    assert -1e-9 <= design.gap <= 1e-3 * z.shape[1] * (1 + 1e-6)
    np.testing.assert_allclose(information(z, design.weights), information(z, expected), atol=0.05)


def test_quadratic_regression_has_its_textbook_design():
    x = np.linspace(-1, 1, 21)
    design = optimal_design(np.vander(x, 3), tolerance=1e-5)
    expected = np.isin(np.arange(21), [0, 10, 20]) / 3  # -1, 0 and 1, a third each
    np.testing.assert_allclose(design.weights, expected, atol=5e-3)
    assert set(design.support) >= {0, 10, 20}
    assert len(tight(np.vander(x, 3)).support) == 3


def test_one_dimension_is_best_seen_at_its_ends():
    design = optimal_design(np.array([[1.0], [-3.0], [2.0], [0.0]]))
    np.testing.assert_allclose(design.weights, [0, 1, 0, 0], atol=2e-3)
    assert design.support.tolist() == [1]


def test_perpendicular_actions_get_equal_weight_whatever_their_length():
    design = optimal_design(np.diag([1.0, 5.0, 0.2, 100.0]))
    np.testing.assert_allclose(design.weights, 0.25)
    assert design.value == pytest.approx(4) and design.value_over_n == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(**worlds)
def test_kiefer_and_wolfowitz(seed, n_actions, n):
    """G- and D-optimum coincide at value n, and the gap of any q bounds its distance from the best log det."""
    z = actions(seed, n_actions, n)
    design = tight(z)
    assert design.value == pytest.approx(n, rel=1e-8)
    np.testing.assert_allclose(design.leverages[design.support], n, rtol=1e-3)
    q = np.random.default_rng(seed).dirichlet(np.ones(n_actions))
    values = leverages(z, q)
    assert q @ values == pytest.approx(n)
    assert values.max() >= n - 1e-9
    missing = log_det(z, design.weights) - log_det(z, q)
    assert -1e-9 <= missing <= values.max() - n + 1e-9
    found = optimal_design(z)
    assert -1e-9 <= log_det(z, design.weights) - log_det(z, found.weights) <= found.gap + 1e-9 <= 1e-3 * n * (1 + 1e-6)


@settings(max_examples=25, deadline=None)
@given(steps=st.sampled_from([0, 1, 7, 10, 11, 30, 200, 10_000]), **worlds)
def test_the_certificate_is_honest(seed, n_actions, n, steps):
    """Whenever the solver stops, value and gap are those of the weights that it returns."""
    z = actions(seed, n_actions, n)
    design = optimal_design(z, max_steps=steps)
    assert design.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(design.leverages, brute_leverages(z, design.weights), rtol=1e-6)
    assert design.gap == pytest.approx(brute_leverages(z, design.weights).max() - n, abs=1e-6)
    assert design.gap <= 1e-3 * n * (1 + 1e-6) or steps < 10_000


@settings(max_examples=20, deadline=None)
@given(**worlds)
def test_log_det_never_falls(seed, n_actions, n):
    z = actions(seed, n_actions, n)
    values = [log_det(z, optimal_design(z, max_steps=s).weights) for s in (0, 1, 2, 5, 10, 20, 40)]
    assert (np.diff(values) >= -1e-6).all()


@settings(max_examples=40, deadline=None)
@given(progress=st.floats(0, 1), **worlds)
@example(seed=182, n_actions=10, n=2, progress=1.0)  # where rounding puts every leverage below n
def test_no_action_of_the_optimum_is_dropped(seed, n_actions, n, progress):
    z, rng = actions(seed, n_actions, n), np.random.default_rng(seed)
    best = tight(z)
    needed = np.flatnonzero(best.weights > 1e-3 / n)
    q = (1 - progress) * rng.dirichlet(np.ones(n_actions)) + progress * best.weights
    values = leverages(z, q)
    assert _may_support(values, values.max() - n, n)[needed].all()


def test_dropping_drops_something():
    z = actions(n_actions=200, n=4)
    values = optimal_design(z).leverages
    assert _may_support(values, values.max() - 4, 4).sum() < 20


# --- what a design must not depend on --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(**worlds)
def test_the_order_of_the_actions_does_not_matter(seed, n_actions, n):
    z, order = actions(seed, n_actions, n), np.random.default_rng(seed).permutation(n_actions)
    before, after = optimal_design(z), optimal_design(z[order])
    np.testing.assert_allclose(after.weights, before.weights[order], atol=1e-6)
    np.testing.assert_allclose(after.leverages, before.leverages[order], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(scale=st.sampled_from([1e-150, 1e-3, 1.0, 1e6, 1e150]), **worlds)
def test_an_invertible_map_of_z_does_not_matter(seed, n_actions, n, scale):
    z, rng = actions(seed, n_actions, n), np.random.default_rng(seed + 1)
    left, right = np.linalg.qr(rng.normal(size=(n, n)))[0], np.linalg.qr(rng.normal(size=(n, n)))[0]
    shape = scale * left @ np.diag(rng.uniform(0.1, 3, size=n)) @ right
    before, after = optimal_design(z), optimal_design(z @ shape)
    np.testing.assert_allclose(after.weights, before.weights, atol=1e-6)
    np.testing.assert_allclose(leverages(z @ shape, before.weights), before.leverages, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(**worlds)
def test_duplicates_share_their_weight(seed, n_actions, n):
    z = actions(seed, n_actions, n)
    twice = optimal_design(np.vstack([z, z]), tolerance=1e-4)
    once = optimal_design(z, tolerance=1e-4)
    assert twice.gap <= 1.1e-4 * n
    together = twice.weights[:n_actions] + twice.weights[n_actions:]
    assert log_det(z, together) == pytest.approx(log_det(z, once.weights), abs=1e-3)
    np.testing.assert_allclose(twice.weights[:n_actions], once.weights / 2, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(extra=st.integers(1, 5), **worlds)
def test_dimensions_that_no_action_uses_do_not_matter(seed, n_actions, n, extra):
    z, rng = actions(seed, n_actions, n), np.random.default_rng(seed)
    wide = z @ rng.normal(size=(n, n + extra))
    before, after = optimal_design(z), optimal_design(wide)
    assert after.rank == n
    np.testing.assert_allclose(after.weights, before.weights, atol=1e-5)
    np.testing.assert_allclose(leverages(wide, after.weights), after.leverages, rtol=1e-6)


def test_fewer_actions_than_dimensions():
    design = optimal_design(actions(n_actions=7, n=20))
    assert design.rank == 7
    np.testing.assert_allclose(design.weights, 1 / 7)
    np.testing.assert_allclose(design.leverages, 7)


def test_actions_that_change_nothing_get_no_weight():
    z = np.vstack([np.zeros((3, 6)), actions()])
    design = optimal_design(z)
    assert design.weights[:3].sum() < 1e-6 and design.leverages[:3].max() < 1e-20
    assert design.gap <= 6e-3


def test_rounding_errors_of_float32_add_no_dimension():
    z = (actions(n=3) @ np.random.default_rng(1).normal(size=(3, 8))).astype(np.float32)
    assert optimal_design(z).rank == 3


# --- leverages -------------------------------------------------------------------------------------------------


def test_leverages_with_and_without_ridge():
    z = actions()
    q = np.random.default_rng(1).dirichlet(np.ones(len(z)))
    np.testing.assert_allclose(leverages(z, q), brute_leverages(z, q))
    inverse = np.linalg.inv(information(z, q) + 0.3 * np.eye(6))
    np.testing.assert_allclose(leverages(z, q, ridge=0.3), np.einsum("ai,ij,aj->a", z, inverse, z))


def test_what_the_weighted_actions_do_not_span_is_unknown():
    z = np.array([[2.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1e-3], [0, 0, 0]])
    values = leverages(z, np.array([0.5, 0.5, 0, 0, 0, 0]))
    np.testing.assert_allclose(values, [2, 2, 2.5, np.inf, np.inf, 0])
    assert np.isfinite(leverages(z, np.array([0.5, 0.5, 0, 0, 0, 0]), ridge=1e-3)).all()


# --- where z is measured from ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["centred", "displacement"])
def test_prepared_actions_are_white_and_know_no_zero_point(form):
    z, origin, shift = actions() + 3, np.full(6, 3.0), np.arange(6)
    here = prepare(z, form=form, origin=origin if form == "displacement" else None)
    there = prepare(z + shift, form=form, origin=origin + shift if form == "displacement" else None)
    np.testing.assert_allclose(here.T @ here / len(z), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(here @ here.T, there @ there.T, atol=1e-7)
    measured_from = z.mean(axis=0) if form == "centred" else origin
    np.testing.assert_allclose(optimal_design(here).weights, optimal_design(z - measured_from).weights, atol=1e-8)


def test_the_raw_form_keeps_z_and_depends_on_its_zero_point():
    z = actions()
    np.testing.assert_array_equal(prepare(z, form="raw"), z)
    assert np.abs(tight(z).weights - tight(z + 5).weights).max() > 0.01


def test_fewer_components_are_the_widest_ones():
    z = np.random.default_rng(0).normal(size=(50, 4)) * [1, 10, 0.1, 5]
    np.testing.assert_allclose(np.abs(prepare(z, n_components=2)), np.abs(prepare(z)[:, :2]))
    raw = prepare(z, form="raw", n_components=1)
    assert abs(np.corrcoef(raw[:, 0], z[:, 1])[0, 1]) > 0.99
    assert np.linalg.norm(raw) == pytest.approx(np.linalg.norm(z, 2))


# --- from proportions to k actions -------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(method=st.sampled_from(["topk", "sampled", "exchange"]), k=st.integers(1, 30), **worlds)
def test_rounding_gives_k_different_actions(seed, n_actions, n, method, k):
    z = actions(seed, n_actions, n)
    z[1] = z[0]
    k = min(k, n_actions)
    subset = round_design(z, optimal_design(z), k, method, np.random.default_rng(seed))
    assert len(subset) == k and (np.diff(subset) > 0).all()
    assert subset[0] >= 0 and subset[-1] < n_actions
    assert 0 <= efficiency(z, subset) <= 1
    assert (efficiency(z, subset) == 0) >= (k < n)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 12), **worlds)
def test_exchange_is_never_less_efficient_than_topk(seed, n_actions, n, k):
    z = actions(seed, n_actions, n)
    design = optimal_design(z)
    k = min(k, n_actions)
    top, swapped = (round_design(z, design, k, method) for method in ("topk", "exchange"))
    assert efficiency(z, swapped) >= efficiency(z, top)


def test_exchange_comes_close_to_the_best_of_all_subsets():
    for seed in range(5):
        z = actions(seed, n_actions=12, n=3)
        best = max(efficiency(z, np.array(subset)) for subset in combinations(range(12), 5))
        assert efficiency(z, round_design(z, optimal_design(z), 5, "exchange")) >= 0.9 * best


def test_exchange_spans_where_topk_does_not():
    z = np.vstack([np.tile([[10.0, 0, 0], [0, 10, 0]], (5, 1)), np.eye(3)[2:]])
    design = optimal_design(z, max_steps=0)  # even weights: the largest leverages are not yet in front
    poor = type(design)(design.weights, -design.leverages, design.rank)
    assert efficiency(z, round_design(z, poor, 3, "topk")) == 0
    assert efficiency(z, round_design(z, poor, 3, "exchange")) == pytest.approx(1)


def test_below_the_rank_exchange_spans_as_much_volume_as_it_can():
    z = actions(n_actions=15, n=8)
    subset = round_design(z, optimal_design(z), 3, "exchange")
    white = prepare(z, form="displacement", origin=np.zeros(8))
    volume = {s: np.linalg.det(white[list(s)] @ white[list(s)].T) for s in combinations(range(15), 3)}
    assert volume[tuple(subset)] >= 0.8 * max(volume.values())
    assert efficiency(z, subset) == 0


@pytest.mark.parametrize("rest", [[3, 4, 7], [0, 1, 2, 8, 9]])
def test_scores_of_swaps_are_those_of_brute_force(rest):
    z = actions(n_actions=10, n=3)
    gram = z @ np.linalg.inv(z[rest].T @ z[rest]) @ z.T
    for new in range(10):
        sigma = z[[*rest, new]].T @ z[[*rest, new]]
        growth = np.linalg.slogdet(sigma)[1] - np.linalg.slogdet(z[rest].T @ z[rest])[1]
        assert _volume(gram)[new] == pytest.approx(growth)
        largest = np.einsum("ai,ij,aj->a", z, np.linalg.inv(sigma), z).max()
        assert _certainty(gram)[new] == pytest.approx(-np.log(largest))


def test_topk_takes_the_largest_weights_and_then_the_largest_leverages():
    z = np.array([[1.0, 0], [0.9, 0], [0, 1.0], [0, 0.5], [0, 0]])
    design = tight(z)
    assert [round_design(z, design, k).tolist() for k in (2, 3, 4)] == [[0, 2], [0, 1, 2], [0, 1, 2, 3]]
    other = type(design)(np.array([0.1, 0.2, 0.3, 0.4, 0]), design.leverages, 2)
    assert [round_design(z, other, k).tolist() for k in (1, 2, 3)] == [[3], [2, 3], [1, 2, 3]]


def test_sampling_follows_the_weights_and_comes_to_the_rest_last():
    z = np.array([[3.0, 0], [1, 0], [0, 2.0], [0, 1], [1, 1]])
    design = tight(z)
    assert design.support.tolist() == [0, 2]
    assert not design.weights[[1, 3, 4]].any()
    rng = np.random.default_rng(0)
    third = [round_design(z, design, 3, "sampled", rng).tolist() for _ in range(60)]
    assert all({0, 2} < set(subset) for subset in third)
    assert {a for subset in third for a in subset} == {0, 1, 2, 3, 4}
    uneven = type(design)(np.array([0.7, 0.1, 0.1, 0.1, 0]), design.leverages, 2)
    drawn = [round_design(z, uneven, 1, "sampled", rng)[0] for _ in range(1000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 1000, uneven.weights, atol=0.05)


def test_the_efficiency_is_that_of_the_formula():
    z = actions()
    q = np.isin(np.arange(len(z)), subset := np.arange(4, 20)) / 16
    assert efficiency(z, subset) == pytest.approx(6 / brute_leverages(z, q).max())
    assert efficiency(np.eye(4), np.arange(4)) == pytest.approx(1)
    assert efficiency(np.eye(4), np.arange(3)) == 0


def test_on_real_films_the_design_beats_the_baselines(film_embeddings):
    z = prepare(film_embeddings, n_components=8)
    designed = efficiency(z, round_design(z, optimal_design(z), 10, "exchange"))
    for subset_of in BASELINES.values():
        scores = [efficiency(z, subset_of(z, 10, np.random.default_rng(seed))) for seed in range(5)]
        assert designed > np.mean(scores)


# --- baselines and the paper's rule --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_baselines_give_k_different_actions(name, k):
    z = actions()
    z[:20] = z[20:]  # every action twice
    subset = BASELINES[name](z, k, np.random.default_rng(0))
    assert len(subset) == k and (np.diff(subset) > 0).all() and subset[0] >= 0 and subset[-1] < 40
    np.testing.assert_array_equal(subset, BASELINES[name](z, k, np.random.default_rng(0)))


def test_kmeans_takes_one_action_of_each_group():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(4), 10))
    z = 100 * np.eye(4)[groups] + rng.normal(size=(40, 4))
    assert sorted(groups[kmeans_subset(z, 4, rng)]) == [0, 1, 2, 3]
    nearest = [np.linalg.norm(z - z[groups == g].mean(axis=0), axis=1).argmin() for g in range(4)]
    assert kmeans_subset(z, 4, rng).tolist() == sorted(nearest)


@pytest.mark.parametrize("seed", range(5))
def test_the_determinantal_choice_is_greedy_in_the_determinant(seed):
    z = actions(seed, n_actions=15, n=4)
    kernel = z @ z.T + 0.1 * (z**2).sum() / 15 * np.eye(15)
    chosen: list[int] = []
    for _ in range(7):  # more than n: the noise decides
        left = [a for a in range(15) if a not in chosen]
        chosen.append(max(left, key=lambda a: np.linalg.det(kernel[np.ix_([*chosen, a], [*chosen, a])])))
    assert dpp_subset(z, 7, noise=0.1).tolist() == sorted(chosen)


@pytest.mark.parametrize("n", [10, 16, 40])
def test_the_printed_rule_is_vacuous_for_n_of_at_least_k(n):
    outcome = printed_rule(actions(n_actions=100, n=n), 10, draws=300, rng=np.random.default_rng(0))
    np.testing.assert_allclose(outcome.sup, 10)
    assert outcome.accepted == 1


@pytest.mark.parametrize("n", [2, 4, 8, 9])
def test_the_printed_rule_is_unsatisfiable_for_n_below_k(n):
    z = np.random.default_rng(n).normal(size=(100, n))
    outcome = printed_rule(z, 10, draws=2000, rng=np.random.default_rng(0))
    assert outcome.accepted == 0
    assert outcome.sup.min() > n
    lenient = printed_rule(z, 10, C=np.median(outcome.sup) / n, draws=2000, rng=np.random.default_rng(0))
    assert lenient.accepted == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_printed_rule_is_computed_with_the_pseudo_inverse(n):
    z = actions(n_actions=20, n=n)
    z[:10] = z[10:]  # with duplicates, rows that are drawn together can be dependent
    outcome = printed_rule(z, 6, C=1.9, draws=50, rng=np.random.default_rng(1))
    order = np.random.default_rng(1).random((50, 20)).argsort(axis=1)[:, :6]
    expected = []
    for subset in np.sort(order, axis=1):
        inverse = np.linalg.pinv(z[subset].T @ z[subset] / 6, rcond=1e-10)
        expected.append(np.einsum("ai,ij,aj->a", z[subset], inverse, z[subset]).max())
    np.testing.assert_allclose(outcome.sup, expected)
    assert outcome.accepted == pytest.approx((outcome.sup <= 1.9 * min(n, 10)).mean())


def test_a_draw_of_two_equal_actions_spans_one_dimension():
    z = np.array([[2.0, 1], [2, 1], [0, 1]])
    outcome = printed_rule(z, 2, draws=60, rng=np.random.default_rng(0))
    assert sorted(set(outcome.sup.round(9))) == [1, 2]
    assert np.mean(outcome.sup < 1.5) == pytest.approx(1 / 3, abs=0.15)


def test_one_dimension_is_solved_for_every_draw():
    for seed in range(100):
        z = actions(seed, 8 + seed % 23, 1)
        assert optimal_design(z, tolerance=1e-6).gap <= 1e-6


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z, d: optimal_design(np.where(z > 1, np.nan, z)), "must be finite"),
        (lambda z, d: optimal_design(np.where(z > 1, np.inf, z)), "must be finite"),
        (lambda z, d: optimal_design(z[0]), "one row for each action"),
        (lambda z, d: optimal_design(z[:0]), "one row for each action"),
        (lambda z, d: optimal_design(0 * z), "all z are zero"),
        (lambda z, d: optimal_design(z, tolerance=0), "tolerance must be above 0"),
        (lambda z, d: optimal_design(z, tolerance=np.nan), "tolerance must be above 0"),
        (lambda z, d: optimal_design(z, max_steps=-1), "max_steps 0 or more"),
        (lambda z, d: leverages(z, np.ones(40)), "divide them by their sum"),
        (lambda z, d: leverages(z, np.ones(3) / 3), "40 non-negative weights"),
        (lambda z, d: leverages(z, np.full(40, np.nan)), "non-negative weights"),
        (lambda z, d: leverages(z, np.r_[-1, 2, np.zeros(38)]), "non-negative weights"),
        (lambda z, d: leverages(z, np.full(40, 1 / 40), ridge=-1), "ridge = -1 must be 0 or more"),
        (lambda z, d: prepare(z, form="white"), "choose centred, raw or displacement"),
        (lambda z, d: prepare(z, form="displacement"), "give the state's embedding there"),
        (lambda z, d: prepare(z, origin=z[0]), "and only there"),
        (lambda z, d: prepare(z, form="displacement", origin=z[0, :3]), "one finite embedding of 6 numbers"),
        (lambda z, d: prepare(z, form="displacement", origin=z[0] * np.nan), "one finite embedding"),
        (lambda z, d: prepare(z, form="displacement", origin=np.r_[np.nan, z[0, 1:]]), "one finite embedding"),
        (lambda z, d: prepare(np.tile(z[0], (49, 1))), "all z are zero"),
        (lambda z, d: prepare(z, n_components=7), "between 1 and 6"),
        (lambda z, d: prepare(z, n_components=0), "between 1 and 6"),
        (lambda z, d: round_design(z, d, 41), "k = 41 must be between 1 and 40"),
        (lambda z, d: round_design(z, d, 0), "k = 0 must be between 1 and 40"),
        (lambda z, d: round_design(z[:9], d, 3), "40 actions, z has 9"),
        (lambda z, d: round_design(z, d, 3, "sampled"), "needs rng"),
        (lambda z, d: round_design(z, d, 3, "best"), "choose topk, sampled or exchange"),
        (lambda z, d: efficiency(z, np.array([], dtype=int)), "different row numbers"),
        (lambda z, d: efficiency(z, np.array([1, 1])), "different row numbers"),
        (lambda z, d: efficiency(z, np.array([-1, 1])), "from 0 to 39"),
        (lambda z, d: random_subset(z, 41, np.random.default_rng(0)), "k = 41"),
        (lambda z, d: kmeans_subset(z, 41, np.random.default_rng(0)), "k = 41"),
        (lambda z, d: dpp_subset(z, 41), "k = 41"),
        (lambda z, d: printed_rule(z, 41, rng=np.random.default_rng(0)), "k = 41"),
        (lambda z, d: printed_rule(z, 10, draws=0, rng=np.random.default_rng(0)), "draws = 0 must be 1 or more"),
    ],
)
def test_bad_calls_are_refused(call, words, unchecked):
    z = actions()
    with pytest.raises(ValueError, match=words):
        call(z, optimal_design(z))
