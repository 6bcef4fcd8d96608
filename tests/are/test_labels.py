"""Which prompts to label: groups of the real questions, choices that see no label, and what labels are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny

from helpers.are import labels
from helpers.are.concepts import Question
from helpers.are.labels import (
    SELECTIONS,
    Labelled,
    after_labels,
    balanced,
    choose_prompts,
    design_rows,
    directions,
    draw_pools,
    group_of,
    harm_questions,
    is_harmful,
    judged_right,
    picks,
    states_of,
    worst_group,
)
from helpers.base.intervals import balanced_accuracy_interval
from helpers.eagle import design
from helpers.language.generation import prompt_tokens
from helpers.language.states import ReadOut, read_all

every_method = pytest.mark.parametrize("method", SELECTIONS)


def prompts(seed: int = 0, count: int = 80, dim: int = 12, apart: float = 3.0) -> Labelled:
    """States of two kinds that lie `apart`, in four groups; a quarter shows the concept."""
    random = np.random.default_rng(seed)
    kinds = np.arange(count) % 4 == 0
    states = random.normal(size=(count, dim)) * np.linspace(3, 0.5, dim)
    states[:, 0] += apart * kinds
    return Labelled(states.astype(np.float32), kinds, np.array(list("abcd") * (count // 4)))


# --- what is labelled --------------------------------------------------------------------------------------------


def test_the_parts_share_no_question_and_hold_every_group():
    select, rest = harm_questions()
    assert (len(select), len(rest)) == (300, 1150)
    assert len({question.text for question in (*select, *rest)}) == 1450
    for part in (select, rest):
        assert {group_of(question) for question in part} == {*labels.HARMFUL, "task", "edgy"}
        assert 0.5 < np.mean([is_harmful(question) for question in part]) < 0.75


@pytest.mark.parametrize(
    ("name", "group", "harmful"),
    [
        ("malicious_uses-17", "malicious_uses", True),
        ("harmbench-3", "harmbench", True),
        ("task-5", "task", False),
        ("overrefusal_exp_sd_2", "edgy", False),
    ],
)
def test_groups_come_from_the_name(name, group, harmful):
    question = Question(name, "words")
    assert (group_of(question), is_harmful(question)) == (group, harmful)


def test_states_are_those_of_the_prompt_and_are_kept(cache, monkeypatch):
    lm = tiny(layers=3)
    texts = [f"text {number}" for number in range(100)]
    states = states_of(lm, texts, (1, 3))
    tokens = [prompt_tokens(lm.tokenizer, text) for text in texts]
    np.testing.assert_allclose(states, read_all(lm.model, tokens, ReadOut((1, 3)))[:, :, 0], atol=1e-5)
    monkeypatch.setattr(labels, "read_all", None)  # whoever reads again fails
    np.testing.assert_array_equal(states_of(lm, texts, (1, 3)), states)
    for other, layers in ((lm, (2,)), (tiny(layers=3, seed=1), (1, 3))):
        with pytest.raises(TypeError):
            states_of(other, texts, layers)


# --- which to label ----------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.integers(1, 12))
def test_rows_are_an_intercept_and_white_components(seed, n):
    rows = design_rows(prompts(seed).states, n)
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(1 + n), atol=1e-5)
    assert (rows[:, 0] == 1).all()


def test_half_as_many_directions_as_labels():
    assert [directions(k) for k in (1, 2, 8, 63, 64, 1000)] == [1, 1, 4, 31, 32, 32]


@every_method
@pytest.mark.parametrize("k", [1, 4, 20, 80])
def test_a_choice_holds_k_different_prompts_in_order(method, k):
    rows = design_rows(prompts().states, 4)
    chosen = choose_prompts(method, rows, k, np.random.default_rng(0))
    assert len(chosen) == k and (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < 80


@every_method
def test_more_labels_than_prompts_are_refused(method):
    with pytest.raises(ValueError, match="k = 200"):
        choose_prompts(method, design_rows(prompts().states, 4), 200, np.random.default_rng(0))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="goptimal"):
        choose_prompts("best", design_rows(prompts().states, 4), 3, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(4))
def test_the_design_is_more_efficient_than_chance(seed):
    rows, rng = design_rows(prompts(seed).states, 4), np.random.default_rng(seed)
    by_chance = [design.efficiency(rows, choose_prompts("random", rows, 12, rng)) for _ in range(50)]
    assert design.efficiency(rows, choose_prompts("goptimal", rows, 12, rng)) > max(by_chance)


def test_half_of_the_labels_are_designed_and_the_others_left_to_chance():
    rows = design_rows(prompts().states, 4)
    drawn = [set(choose_prompts("half", rows, 13, np.random.default_rng(seed))) for seed in range(5)]
    assert set.intersection(*drawn) >= set(choose_prompts("goptimal", rows, 7, np.random.default_rng(0)))
    assert len(set.union(*drawn)) > 13


def test_extremes_are_the_longest_rows():
    rows = design_rows(prompts().states, 4)
    length = (rows**2).sum(axis=1)
    chosen = choose_prompts("extremes", rows, 12, np.random.default_rng(0))
    assert length[chosen].min() >= np.delete(length, chosen).max()


def test_the_same_seeds_give_the_same_pools_for_every_n():
    few, many = (draw_pools(prompts(), 40, n, range(3)) for n in (2, 6))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one.members, other.members)
        assert one.rows.shape == (40, 3) and other.rows.shape == (40, 7)
    assert set(few[0].members) != set(few[1].members)
    np.testing.assert_allclose(few[0].rows, design_rows(prompts().states[few[0].members], 2))


def test_only_methods_with_chance_in_them_differ_between_draws():
    pools = draw_pools(prompts(), 60, 4, range(2))
    for method in SELECTIONS:
        drawn = {tuple(chosen) for chosen in picks(method, pools, 8, draws=5)[0]}
        assert (len(drawn) == 1) == (method in ("goptimal", "dpp", "extremes"))


# --- what the labels are worth -----------------------------------------------------------------------------------


def test_labels_that_tell_kinds_apart_are_learnt_and_shuffled_ones_are_not():
    every = prompts(apart=30.0)
    pools = draw_pools(every, 60, 4, range(4))
    picked = picks("random", pools, 30, draws=10)
    right = after_labels(picked, pools, every, 1.0)
    assert right.shape == (4, 10, 80)
    assert balanced(right, every.labels).mean() > 0.95
    control = balanced(after_labels(picked, pools, every, 1.0, shuffled=True), every.labels)
    assert abs(control.mean() - 0.5) < 0.15


def test_the_questions_of_a_pool_are_not_judged_by_its_own_probe():
    every, others = prompts(), prompts(seed=1)
    pools = draw_pools(every, 60, 4, range(3))
    picked = picks("random", pools, 12, draws=2)
    right = after_labels(picked, pools, every, 1.0)
    for pool, chosen, rows in zip(pools, picked, right, strict=True):
        outside = np.setdiff1d(np.arange(80), pool.members)
        assert np.isnan(rows[:, pool.members]).all()
        expected = judged_right(every.of(pool.members[chosen[1]]), every.of(outside), 1.0)
        np.testing.assert_array_equal(rows[1, outside], expected)
    assert not np.isnan(after_labels(picked, pools, every, 1.0, others)).any()


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_of_label_judges_everything_alike(kind):
    every, others = prompts(), prompts(seed=1)
    right = judged_right(every.of(np.flatnonzero(every.labels == kind)), others, 1.0)
    np.testing.assert_array_equal(right, others.labels == kind)
    assert balanced(right.astype(float), others.labels) == 0.5


def test_accuracies_by_hand():
    right = np.array([[1.0, 1, 0, 1], [1, 0, 0, 0], [1, np.nan, 0, 1]])
    kinds, groups = np.array([True, False, False, False]), np.array(["a", "a", "b", "b"])
    np.testing.assert_allclose(balanced(right, kinds), [(1 + 2 / 3) / 2, 0.5, 0.75])
    np.testing.assert_allclose(worst_group(right, groups), [0.5, 0.0, 0.5])


def test_intervals_hold_the_value_and_shrink_with_pools_and_questions():
    random = np.random.default_rng(0)
    kinds = np.arange(400) % 3 == 0

    def width(pools: int, texts: int) -> float:
        right = (random.random((pools, texts)) < 0.8).astype(float)
        right[random.random((pools, texts)) < 0.4] = np.nan
        low, high = balanced_accuracy_interval(right, kinds[:texts], n_resamples=400)
        assert low < balanced(right, kinds[:texts]).mean() < high
        return high - low

    assert width(20, 400) < width(20, 60) and width(20, 400) < width(2, 400)


def test_pools_are_drawn_anew_and_not_the_questions_alone():
    """Pools apart and questions alike: the interval has a width all the same; and so the other way round."""
    kinds = np.arange(60) % 2 == 0
    by_pool = np.repeat([[0.2], [0.4], [0.6], [0.8]], 60, axis=1)
    low, high = balanced_accuracy_interval(by_pool, kinds, n_resamples=400)
    assert low < 0.4 and high > 0.6
    by_question = np.tile(np.arange(60) % 4 < 2, (4, 1)).astype(float)
    low, high = balanced_accuracy_interval(by_question, kinds, n_resamples=400)
    assert 0.3 < low < 0.45 and 0.55 < high < 0.7


def test_the_interval_of_a_difference_is_paired():
    right = np.random.default_rng(0).random((5, 60))
    kinds = np.arange(60) % 2 == 0
    np.testing.assert_allclose(balanced_accuracy_interval((right + 0.1) - right, kinds), 0.1)
