"""What the notebooks write out step by step equals what `helpers` computes."""

from __future__ import annotations

import ast
import re
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from fake_steering import fake_task, task_starts
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import tiny

from helpers.are import evaluation, experiment, robustness
from helpers.are import labels as lb
from helpers.are.baselines import mean_difference
from helpers.are.concepts import Choice, Example, Fact, Question, StereotypePair, verdicts
from helpers.are.discriminator import (
    Discriminator,
    DiscriminatorTraining,
    fooling_loss,
    scaling_of,
    train_discriminator,
)
from helpers.are.editing import Answered, EditSettings, Rows, Run, answer_nll, distil_kl, step, views_of
from helpers.are.evaluation import multiple_choice, says_true, stereotypes, truth_accuracy
from helpers.base import settings
from helpers.course import results
from helpers.course.exercises import EXERCISES
from helpers.course.exercises.eagle import ANSWERS
from helpers.course.judge import verdict_on
from helpers.domains.clothing import age_bands
from helpers.domains.wording import MOVIES
from helpers.eagle import design, rewriting, tables
from helpers.eagle.agent import (
    AgentSettings,
    LabelledRows,
    OptionPolicy,
    OptionValue,
    drawn_starts,
    fit_offline,
    label_rows,
    of_the_others,
    paces,
    reinforce,
)
from helpers.eagle.aims import KINDS, fit_reach
from helpers.eagle.comparison import CALLS
from helpers.eagle.emission import Gains
from helpers.eagle.gymnasium_env import SteeringEnv
from helpers.eagle.language_agent import target_of
from helpers.eagle.learning import frozen_copy, gae
from helpers.eagle.methods import guided_each, worth
from helpers.eagle.rivals import tree_search
from helpers.eagle.signal import signal_share
from helpers.eagle.steering import FEATURES, Options, State
from helpers.eagle.tables import Measured, gain_difference
from helpers.eagle.trajectories import play
from helpers.eagle.utility import ContentGap
from helpers.embedding import encoder as enc
from helpers.embedding import factorization as fz
from helpers.embedding.judges import encoder_agreement
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.generation import LocalBackend, plain_tokens, prompt_tokens
from helpers.language.likelihood import perplexity
from helpers.language.states import ReadOut, blocks, changed, fit_probe, logit_lens, read_all, read_along
from helpers.language.texts import copied_share, words_of

NOTEBOOKS = settings.PROJECT / "notebooks"
CHECKED = re.compile(r"^(\w+) = check\.exercise\(\"([\w.]+)\", \1\)$", re.MULTILINE)


@cache
def code_cells(notebook: Path) -> tuple[str, ...]:
    """Sources of the code cells, without cell magics (`%%timeit`) and shell lines."""
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return tuple(source for source in sources if not re.search(r"^[%!]", source, re.MULTILINE))


@cache
def notebook(number: str) -> Path:
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return path


def definitions(number: str) -> dict:
    """The functions and classes that a notebook defines, with its imports; nothing else of it runs.

    Functions with a value of the notebook as a default (`part=train`) cannot stand alone and are left out.
    """
    names: dict = {}
    for source in code_cells(notebook(number)):
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                with suppress(NameError):
                    exec(compile(ast.Module([node], type_ignores=[]), notebook(number).name, "exec"), names)
    return names


def residuals(seed: int) -> tuple[sp.csr_array, np.ndarray]:
    """A sparse table of residuals and factors of its columns; the last row is empty."""
    random = np.random.default_rng(seed)
    dense = np.where(random.random((9, 7)) < 0.5, random.normal(size=(9, 7)), 0)
    dense[-1] = 0
    return sp.csr_array(dense), random.normal(size=(7, 3))


@pytest.mark.parametrize("seed", range(5))
def test_01_one_user_and_half_a_sweep(seed):
    names = definitions("01")
    table, factors = residuals(seed)
    expected = fz.solve_rows(table, factors, 0.1, 0.05)
    np.testing.assert_allclose(names["solve_all"](table, factors, 0.1, 0.05), expected, atol=1e-10)
    rows, columns = table.nonzero()
    swept = names["half_sweep"](factors, rows, columns, table.data, 9, 0.1, 0.05)
    np.testing.assert_allclose(swept, expected, atol=1e-10)
    for row in range(9):
        part = slice(table.indptr[row], table.indptr[row + 1])
        one = names["solve_one"](factors, table.indices[part], table.data[part], 0.1, 0.05)
        np.testing.assert_allclose(one, expected[row], atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_01_the_whole_fit(seed):
    random = np.random.default_rng(seed)
    u, i = np.divmod(random.permutation(63)[:40], 7)
    r = random.integers(1, 6, size=40).astype(float)
    found = definitions("01")["als"](u, i, r, 9, 0.1 * np.random.default_rng(seed).normal(size=(7, 3)), 0.2, 0.1, 4)
    model = fz.fit_als(u, i, r, 9, 7, rank=3, regularisation=0.2, unobserved=0.1, n_sweeps=4, seed=seed)
    mine = fz.Factorization(*found[:3], *fz.principal_axes(*found[3:]))
    np.testing.assert_allclose(mine.item_embeddings, model.item_embeddings, atol=1e-8)
    np.testing.assert_allclose(mine.predict(u, i), model.predict(u, i), atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_02_ridge_regression(seed):
    random, names = np.random.default_rng(seed), definitions("02")
    x, y, weights = random.normal(size=(20, 6)), random.normal(size=(20, 3)), random.uniform(0.5, 2, size=20)
    mean_x, mean_y, slope = names["ridge"](x, y, weights, np.array([2.5, 1.0, 2.5]))
    model = Ridge(alpha=[2.5, 1.0, 2.5]).fit(x, y, weights)
    np.testing.assert_allclose((x - mean_x) @ slope + mean_y, model.predict(x))
    mine, theirs = (head(x, y, weights)(x) for head in (names["ridge_head"], enc.fit_ridge))
    np.testing.assert_allclose(mine, theirs, atol=1e-8)


@pytest.mark.parametrize("own", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_03_utility(seed, own):
    random = np.random.default_rng(seed)
    items, user, z = random.normal(size=(15, 4)), random.normal(size=4), random.normal(size=(6, 4))
    gap, names = ContentGap(items, user, 3.5, without=own), definitions("03")
    np.testing.assert_allclose(gap(z).total, names["utility"](z, items, user, 3.5, 0.5, 3, own))
    if own is None:
        np.testing.assert_allclose(gap(z).novelty * gap.typical_distance, names["novelty"](z, items, 3))
        assert gap.typical_distance == pytest.approx(names["novelty"](items, items, 4).mean())


@pytest.mark.parametrize("seed", range(3))
def test_03_what_an_edit_gains_and_the_median_movie(seed):
    random, names = np.random.default_rng(seed), definitions("03")
    items, users, texts = random.normal(size=(15, 4)), random.normal(size=(2, 4)), random.normal(size=(2, 2, 4))
    before, after, own, levels = items[[3, 8]], items[[3, 8]] + 0.2, np.array([3, 8]), np.array([3.0, 4.0])
    for left_out in (None, own):
        found = names["edit_gains"](before, after, users, items, 0.5, 3, left_out)
        for i, column in enumerate(found.T):
            gap = ContentGap(items, users[i], levels[i], without=None if left_out is None else int(own[i]))
            np.testing.assert_allclose(column, np.subtract(gap(after[i]), gap(before[i]))[:, 0], atol=1e-9)
    rows = names["over_median"](texts, own, items, users, levels, 0.5, 3)
    for i, row in enumerate(rows):
        gap = ContentGap(items, users[i], levels[i])
        existing = gap.of_items().total
        np.testing.assert_allclose(row, [existing[own[i]], *gap(texts[i]).total] - np.median(existing))


def test_03_perplexity_and_agreement():
    lm, random = tiny(), np.random.default_rng(0)
    tokens = plain_tokens(lm.tokenizer, "tea and rain and the sun")
    with torch.no_grad():
        log_probs = lm.model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()
    text = [lm.tokenizer.decode(part) for part in (tokens[:4], tokens[4:])]
    expected = perplexity(lm, [text[1]], [text[0]])[0]
    assert definitions("03")["perplexity"](log_probs, np.array(tokens), 4) == pytest.approx(expected, rel=1e-3)
    a, b = random.normal(size=(5, 9)), random.normal(size=(5, 9))
    assert definitions("03")["agreement"](a, b) == pytest.approx(encoder_agreement(a, b).correlation)


def test_04_prompt_and_reader():
    names, rules = definitions("04"), {"system": MOVIES.system, "examples": MOVIES.examples, "field": MOVIES.field}
    chat = names["rewrite_prompt"]("Genres: War.\nA text.", "Make it longer.", **rules)
    assert tuple(chat) == rewriting.rewrite_prompt("Genres: War.\nA text.", "Make it longer.")
    for answer in ("", "\n", " War", *ANSWERS):
        assert names["read_answer"](answer) == rewriting.read_answer(answer)


def test_04_one_step_with_refused_copies():
    names, wish = definitions("04"), "Make it longer."
    rules = {"system": MOVIES.system, "examples": MOVIES.examples, "field": MOVIES.field}
    example, idea = MOVIES.examples[0][2], "Genres: War.\nA robber opens a theme park with living dinosaurs."
    said = [*ANSWERS, example.partition(":")[2], ANSWERS[0]]
    texts = [f"Genres: Comedy.\nText {number}." for number in range(len(said))]
    worked, prompts = [text for before, _, after in MOVIES.examples for text in (before, after)], []
    shown = [worked] * 6 + [[*worked, idea]]
    new, problems = names["transition"](texts, [wish] * 7, shown, lambda asked: (prompts.extend(asked), said)[1], rules)
    assert [tuple(prompt) for prompt in prompts] == [rewriting.rewrite_prompt(text, wish) for text in texts]
    read = [replace(fake_task().rewrite, refuse_copies=True).read(answer) for answer in said]
    assert new[:6] == [idea or old for (idea, _), old in zip(read[:6], texts[:6], strict=True)]
    assert problems == [*("copies" if "copies" in problem else problem for _, problem in read[:6]), "copies"]
    assert rewriting.copies(read[6][0], idea) and new[6] == texts[6]


@pytest.mark.parametrize("plan", [[0, 2, 1], [3, 4], [4]])
def test_04_an_episode_with_stop(plan):
    task, start = fake_task(), task_starts(1)[0]

    def rewrite(text, action, step):
        aim = task.options(State(start, text), "uniform", 4).aims[action]
        return task.follow([text], [aim], [rewriting.seed_of("step", step, 1)]).texts[0]

    mine = definitions("04")["TextEnv"](rewrite, lambda text: task.gained(start, [text]).mean(), 4, task.horizon)
    theirs = SteeringEnv(replace(task, k=4), [start], "uniform")
    assert mine.reset(start.text) == theirs.reset(seed=1)[1]["text"]
    for action in plan:
        text, reward, ended = mine.step(action)
        _, expected, over, _, info = theirs.step(action)
        assert (text, ended) == (info["text"], over) and reward == pytest.approx(expected)


def test_04_copying_reach_and_signal():
    names, random = definitions("04"), np.random.default_rng(4)
    one, other = (" ".join(random.choice(list("abcd"), size)) for size in (30, 20))
    assert names["share_copied"](words_of(one), words_of(other), 3) == copied_share(one, other)
    before, after, targets = random.normal(size=(3, 9, 4))
    assert names["reach"](before, after, targets) == pytest.approx(fit_reach(before, after, targets))
    for seed in range(3):
        values = np.random.default_rng(seed).normal(size=(4, 5, 3, 2)) + random.normal(size=(1, 5, 1, 2)) * seed
        assert names["shares_of_variance"](values) == pytest.approx(signal_share(values))
        flat, shuffled = values.reshape(4, 15, 2), (names | {"rng": random})["shuffled"]
        shuffled.__globals__["rng"] = random
        np.testing.assert_array_equal(np.sort(shuffled(values).reshape(4, 15, 2), axis=1), np.sort(flat, axis=1))


@pytest.mark.parametrize("number", range(3))
def test_06_promises_are_the_features_of_helpers(number):
    task, start = fake_task(borrowed=4), task_starts(3)[number]
    (gap, _), z = task.gaps(start), task.embedded([start.text])[0][0]
    reach = task.reach[0, [KINDS.index(aim.kind) for aim in task.aims]]
    found = definitions("06")["promises"](
        z, task.targets[0], reach, gap.user, lambda points: gap.novelty_weight * gap(points).novelty
    )
    features = task.table(State(start, start.text)).features
    columns = [FEATURES.index(name) for name in ("rating", "novelty", "distance")]
    np.testing.assert_allclose(found / [1, 1, gap.typical_distance], features[:, columns], atol=1e-9)


@pytest.mark.parametrize("step", [0, 1])
def test_06_choices_are_the_targets_and_the_policy_of_helpers(step):
    names, gains = definitions("06"), np.random.default_rng(step).normal(size=4)
    state = State(task_starts(1)[0], "", step)
    np.testing.assert_allclose(names["choices"](gains, step, 0.3), target_of(state, gains, 0.3), rtol=1e-5)
    features = np.zeros((5, len(FEATURES)))
    features[:4, 0], features[4, FEATURES.index("stop")] = gains, 1
    policy = OptionPolicy(temperature=0.3)
    policy.linear.weight.data[0, 0] = 1.0
    p = policy.log_probs([state], [Options(np.arange(4), features)]).exp().detach().numpy()[0]
    np.testing.assert_allclose(names["choices"](gains, step, 0.3), p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.1, 30.0])
def test_06_ridge_regression_and_predictions_for_left_out_starts(penalty):
    names, random = definitions("06"), np.random.default_rng(6)
    features, start = random.normal(2, 3, size=(40, len(FEATURES))), random.integers(4, size=40)
    features[:, FEATURES.index("stop")] = 0
    gain = 0.1 * features[:, 0] + random.normal(size=40)
    everything = np.ones(40, dtype=bool)
    rows = LabelledRows(features, np.stack([gain, gain], 1), start, everything, [None] * 40, start)
    policy = fit_offline(rows, gain, penalties=[penalty])
    theirs = policy.center, policy.spread, policy.linear.weight[0], policy.linear.bias[0]
    for mine, other in zip(names["fit_ridge"](features, gain, penalty), theirs, strict=True):
        np.testing.assert_allclose(mine, other.detach(), rtol=1e-3, atol=1e-5)
    model = make_pipeline(StandardScaler(), Ridge(penalty))
    expected = cross_val_predict(model, features, gain, groups=start, cv=LeaveOneGroupOut())
    np.testing.assert_allclose(names["left_out"](features, gain, start, penalty), expected)


@pytest.mark.parametrize("step", [0, 1])
def test_06_marks_of_a_policy(step):
    names, random, start = definitions("06"), np.random.default_rng(step), task_starts(1)[0]
    worth, gain = 0.1 * random.normal(size=(2, 6))
    target = target_of(State(start, "", step), gain, 0.05).double().numpy()
    policy = target_of(State(start, "", step), worth, 0.2).double().numpy()
    kl, expected = names["marks"](worth, gain, np.full(6, 7), np.full(6, step), 0.2)
    assert kl == pytest.approx(stats.entropy(target, policy), rel=1e-4)
    assert expected == pytest.approx(policy[:-1] @ gain, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_07_returns_and_advantages(seed):
    names = definitions("07")
    rewards, values = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(names["advantages_of"](rewards, values, 0.8), gae(rewards, values, 0.8))
    zero = torch.zeros_like(values)
    torch.testing.assert_close(names["to_come"](rewards), gae(rewards, zero, 1.0))
    torch.testing.assert_close(names["the_others"](rewards[0], 3), of_the_others(rewards[0], 3))


@pytest.mark.parametrize("seed", range(2))
def test_07_the_loop_trains_as_helpers_do(seed):
    names, task, starts = definitions("07"), fake_task(), task_starts(6)
    names |= {"settings": (how := AgentSettings(iterations=3, episodes=6, group=2, kl=0.4, entropy=0.1))}
    screen = next(source for source in code_cells(notebook("07")) if source.startswith("def loss_of("))
    exec(screen, names)  # its default is a value of the notebook, so `definitions` leaves it out
    rows = label_rows(task, starts, promising=2, random=4, deeper=1)
    policies = [fit_offline(rows, rows.gain[:, 0], temperature=0.3) for _ in range(2)]
    values, reference = [OptionValue(policy, seed=seed) for policy in policies], frozen_copy(policies[0])
    curves = reinforce(task, policies[:1], values[:1], "uniform", starts, how, seeds=[seed])

    def play_some(iteration):
        drawn, numbers = drawn_starts(starts, how, seed, iteration)
        worlds = [(seed + number) % how.draws for number in range(how.episodes)]
        return play(task, drawn, "uniform", policies[1], numbers, worlds)

    optimiser = torch.optim.Adam(paces(policies[1], values[1], how.learning_rate))
    mine = names["train"](
        play_some, lambda episodes: names["loss_of"](policies[1], values[1], reference, episodes), optimiser, 3
    )
    for row, other in zip(mine, curves[0], strict=True):
        known = {"return" if name == "gain" else name: other[name] for name in ("gain", "kl", "entropy", "calls")}
        assert row == pytest.approx(known, rel=1e-3, abs=1e-5)
    for one, other in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("learnt", [False, True])
def test_08_the_searches_visit_what_helpers_visit(learnt):
    names, task, starts = definitions("08"), fake_task(horizon=5), task_starts(4)
    names["task"] = task
    rows = label_rows(task, starts, promising=2, random=4, deeper=1)
    policy = fit_offline(rows, rows.gain.mean(axis=1)) if learnt else None
    expects = names["expects_like"](policy) if learnt else names["promise"]
    (expected,) = guided_each(task, starts, CALLS, 0, [policy])
    found = [names["my_search"](start, expects, names["seed_as_helpers"]) for start in starts]
    assert found == expected.texts and len({text for texts in found for text in texts}) > len(starts)


def test_08_what_a_policy_expects():
    names, task, start = definitions("08"), fake_task(), task_starts(1)[0]
    names["task"] = task
    rows = label_rows(task, task_starts(3), promising=2, random=4, deeper=1)
    policy, state = fit_offline(rows, rows.gain[:, 0]), State(start, start.text, 2, (3, 5))
    table = task.table(state)
    np.testing.assert_allclose(
        names["expects_like"](policy)(state, table), worth(task, policy, state, table), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("n_seeds", [(1, 1), (2, 1), (2, 3)])
def test_08_rules_intervals_curve_and_break_even(n_seeds):
    names, task, starts = definitions("08"), fake_task(), task_starts(6)
    names["encoders"] = task.encoders
    visited = {
        name: [tree_search(task, starts, CALLS, seed) for seed in range(n)]
        for name, n in zip("ab", n_seeds, strict=True)
    }
    one, other = tables.measured_each(task.encoders, starts, visited).values()
    for method in (one, other):
        np.testing.assert_allclose(names["by_judge"](method), [method.values(), method.values(calls=CALLS)])
    items = [start.item // 2 for start in starts]
    found = names["paired_interval"](one.values(), other.values(), np.array(items), 2000, np.random.default_rng(0))
    expected = tables.mean_interval(tables.paired(one.values(), other.values()), items)
    assert found[0] == pytest.approx(expected.mean)
    np.testing.assert_allclose(found, expected, atol=0.1 * (expected.high - expected.low))
    paid, judged = (method.gains[name][0].total for method in [one] for name in ("paid", "judge"))
    curve = names["confirmed_curve"](paid, judged, CALLS)
    np.testing.assert_allclose(curve.T, [one.curve(name)[0].mean(axis=0) for name in ("paid", "judge")])
    for gain in np.linspace(curve.min() - 0.1, curve.max() + 0.1, 7):
        needed = tables.calls_to_reach(curve[:, 1], gain)
        assert names["break_even"](900, 3, gain, curve[:, 1]) == (needed, tables.break_even(900, 3, needed))


@pytest.mark.parametrize("seed", range(3))
def test_05_leverages_weights_and_exchange(seed):
    random = np.random.default_rng(seed)
    z, q = (
        design.prepare(random.normal(size=(25, 3)), form="displacement", origin=np.zeros(3)),
        random.dirichlet(np.ones(25)),
    )
    names = definitions("05")
    np.testing.assert_allclose(names["action_leverages"](z, q), design.leverages(z, q))
    weights, gap = names["design_weights"](z, 1e-5, 50_000)
    best = design.optimal_design(z, tolerance=1e-6)
    assert weights.sum() == pytest.approx(1) and 0 <= gap <= 3e-5
    np.testing.assert_allclose(names["action_leverages"](z, weights), best.leverages, rtol=0.01)
    assert names["log_det"](z, weights) == pytest.approx(names["log_det"](z, best.weights), abs=1e-3)
    chosen = random.choice(25, 6, replace=False)
    for score in ("volume", "certainty"):
        expected = design._exchange(z, chosen, getattr(design, f"_{score}"))
        np.testing.assert_array_equal(names["exchange"](z, chosen, names[score]), expected)


@pytest.mark.parametrize("n", [3, 8, 12])
def test_05_the_greedy_rival_and_the_printed_test(n):
    names, z = definitions("05"), np.random.default_rng(n).normal(size=(40, n))
    np.testing.assert_array_equal(names["least_explained"](z, 8, 1e-3), design.dpp_subset(z, 8))
    theirs = design.printed_rule(z, 8, draws=50, rng=np.random.default_rng(0))
    subsets = np.random.default_rng(0).random((50, 40)).argsort(axis=1)[:, :8]
    accepted, sups = names["printed_test"](z, subsets)
    assert accepted == theirs.accepted == float(n >= 8)
    np.testing.assert_allclose(sups, theirs.sup)


@pytest.mark.parametrize("seed", range(3))
def test_05_a_support_and_its_error(seed):
    names, random = definitions("05"), np.random.default_rng(seed)
    ways, gains = random.normal(size=(40, 6)) * [4, 3, 2, 1, 1, 1] + 0.5, random.normal(size=40)
    chosen, z = names["support"](ways, 5), names["whitened"](ways, 5)
    theirs = design.round_design(z, design.optimal_design(z), 5, "exchange")
    assert design.efficiency(z, chosen) >= 0.8 * design.efficiency(z, theirs)
    others = np.setdiff1d(range(40), chosen)
    model = Ridge(2.0, fit_intercept=False).fit(ways[chosen], gains[chosen])
    error = np.sqrt(np.mean((model.predict(ways[others]) - gains[others]) ** 2))
    assert names["support_error"](ways, gains, chosen, 2.0) == pytest.approx(error)


@pytest.mark.parametrize("seed", range(5))
def test_16_intervals_of_a_rate(seed):
    names = definitions("16")
    names["Z95"] = stats.norm.ppf(0.975)
    n = int(np.random.default_rng(seed).integers(2, 90))
    for k in (0, 1, n // 2, n):
        test = stats.binomtest(k, n)
        assert names["wilson"](k, n) == pytest.approx(tuple(test.proportion_ci(method="wilson")), abs=1e-9)
        assert names["exact"](k, n) == pytest.approx(tuple(test.proportion_ci(method="exact")), abs=1e-6)
    chance = sum(stats.binom.pmf(k, n, 0.95) for k in range(1, n + 1) if names["exact"](k, n)[0] >= 0.9)
    assert names["chance_to_pass"](n, 0.95) == pytest.approx(chance, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_16_gini_and_the_judge(seed):
    random, names = np.random.default_rng(seed), definitions("16")
    counts, true = random.integers(0, 20, size=15), random.random(4)
    assert names["gini_pairs"](counts) == pytest.approx(EXERCISES["16.2"].reference(counts))
    observed = names["seen_by_judge"](true, 0.8, 0.9)
    np.testing.assert_allclose(EXERCISES["16.1"].reference(observed, 0.8, 0.9), true)


def test_16_the_results_page_is_read_as_it_was_written():
    rows = {"value": 0.25, "ci_low": 0.1, "ci_high": 0.3, "n": 4, "seeds": [0, 1], "profile": "full"}
    written = {"a.b": {**rows, "unit": "x | y", "notebook": "16"}, "c.d": {**rows, "unit": "s", "notebook": "01"}}
    page = ""
    for title, names in {"one half": ["a.b"], "other half": ["c.d"]}.items():
        part = {name: written[name] for name in names}
        page = results.with_section(page, results.as_markdown(part, title=title, machine="m", date="d", commit="c"))
    read = definitions("16")["read_table"](page)
    assert read["value"].tolist() == [0.25, 0.25]
    assert read["unit"].tolist() == ["x | y", "s"]
    assert read["notebook"].tolist() == ["16", "01"]


@pytest.mark.parametrize("seed", range(3))
def test_09_groups_and_their_ratings(seed):
    names, random = definitions("09"), np.random.default_rng(seed)
    ages, garments = random.integers(18, 60, size=300), random.integers(5, size=300)
    stars, wanted = random.integers(1, 6, size=300).astype(float), 30 + 10 * seed
    found, counts = np.unique(ages, return_counts=True)
    groups = names["age_groups"](found.tolist(), counts.tolist(), wanted)
    assert groups == age_bands(ages, wanted)
    users, items, means = names["group_ratings"](ages, garments, stars, groups)
    assert len(means) == len({*zip(users, items, strict=True)}) and users.max() == len(groups) - 1
    for user, item, mean in zip(users, items, means, strict=True):
        youngest, oldest = groups[user]
        assert mean == stars[(ages >= youngest) & (ages <= oldest) & (garments == item)].mean()


@pytest.mark.parametrize("seed", range(3))
def test_09_what_is_planted_can_be_found(seed):
    names = definitions("09")
    users, items = np.divmod(np.random.default_rng(seed).permutation(1200), 40)
    ratings = users, items, 3 + 0.5 * np.random.default_rng([seed, 1]).normal(size=1200)
    nothing, something = names["with_taste"](ratings, 0.0, seed), names["with_taste"](ratings, 0.8, seed)
    # Within the same levels the same rests are shuffled; what is added has the size that was asked for.
    assert (something[2] - nothing[2]).std() == pytest.approx(0.8, rel=0.1)
    assert nothing[2].sum() == pytest.approx(ratings[2].sum())
    assert names["taste"](something, seed) > 0.1 > 0.02 > names["taste"](nothing, seed)


@pytest.mark.parametrize("seed", range(3))
def test_09_a_lead_is_the_difference_of_helpers(seed):
    random, starts = np.random.default_rng(seed), task_starts(6)
    garments, different = pd.factorize(np.array([start.item for start in starts]))

    def method():
        some = {name: [Gains(*random.normal(size=(2, 6, 4)))] for name in ("paid", "second", "judge")}
        return Measured(tuple(starts), some, [np.ones((6, 4), dtype=bool)])

    one, other = method(), method()
    drawn = np.random.default_rng(0).integers(len(different), size=(2000, len(different)))  # as the bootstrap draws
    mine = [{name: some[0].total[None] for name, some in of.gains.items()} for of in (one, other)]
    found = definitions("09")["lead_over_control"](*mine, "judge", garments, drawn)
    np.testing.assert_allclose(found, gain_difference(one, other, calls=4))


def test_10_the_probe_and_its_accuracy():
    names, random = definitions("10"), np.random.default_rng(10)
    positive, negative, new = (random.normal(shift, 1, size=(n, 6)) for shift, n in ((0.5, 30), (0, 12), (0.2, 9)))
    expected = fit_probe(positive, negative).decision_function(new)
    np.testing.assert_allclose(names["probe_scores"](positive, negative, new), expected, atol=1e-3)


def test_10_reading_patching_and_the_words_of_an_answer():
    names, lm, layers = definitions("10"), tiny(layers=4), (1, 3)
    texts = [prompt_tokens(lm.tokenizer, text) for text in ("tea and rain", "the sun is out today")]
    naive = names["read_naive"](lm.model, texts, layers, 2)
    torch.testing.assert_close(naive, read_all(lm.model, texts, ReadOut(layers, 2)), rtol=1e-3, atol=1e-4)
    donor, tokens = torch.zeros(1, 2, naive.shape[-1]), torch.tensor([texts[1]])

    def put(states):
        return torch.cat([states[:, :3], donor, states[:, 5:]], dim=1)

    with torch.no_grad():
        mine = names["run_patched"](blocks(lm.model)[1], lambda: lm.model(tokens).logits, donor, 3)
        with changed(lm.model, 2, put):
            torch.testing.assert_close(mine, lm.model(tokens).logits)
        logits = lm.model(tokens).logits
    assert not torch.allclose(mine, logits)
    known = logits.log_softmax(dim=-1)[0, [-3, -2], tokens[0, -2:]]
    torch.testing.assert_close(names["log_probs_of_ends"](logits, tokens, 2)[0], known)


@torch.no_grad()
def test_10_the_lens():
    model = tiny(layers=4).model
    gain, out, eps = model.model.norm.weight, model.lm_head.weight, model.config.rms_norm_eps
    gain += torch.linspace(-0.5, 0.5, len(gain))  # a model that was never trained has only ones there
    states = 0.01 * torch.randn(5, len(gain), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(definitions("10")["lens_of"](states, gain, out, eps), logit_lens(model, states))


@pytest.mark.parametrize("seed", range(3))
def test_11_training_and_the_fooling_loss(seed):
    names, generator = definitions("11"), torch.Generator().manual_seed(seed)
    target, plain = torch.randn(2, 40, 6, generator=generator) + torch.tensor([1.0, -1.0])[:, None, None]
    plain, members, noise = plain[:25], 1 + seed % 2, 0.5 * (seed % 3)
    mine, theirs = Discriminator(6, 8, members, seed), Discriminator(6, 8, members, seed)
    names["train_members"](mine.members, target, plain, epochs=3, batch=16, weight_decay=0.5, noise=noise, seed=seed)
    how = DiscriminatorTraining(epochs=3, batch=16, weight_decay=0.5, noise=noise)
    train_discriminator(theirs, target, plain, how, seed)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for kind in (0, 1):
        free = plain.clone().requires_grad_(True)
        expected = fooling_loss(Discriminator(6, 8, 1, seed), free, kind)
        loss, slope = names["fooling_by_hand"](names["new_member"](6, 8, seed), plain, kind)
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(slope, torch.autograd.grad(expected, free)[0])


def test_11_standardised_rows():
    target, plain, other = torch.randn(3, 7, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * 5 + 1
    rows = definitions("11")["standardised_rows"](other, target, plain)
    torch.testing.assert_close(rows, scaling_of(torch.cat([target, plain]))(other))


def test_11_a_walk_goes_down_and_sideways():
    names, generator = definitions("11"), torch.Generator().manual_seed(0)
    S, states, u = Discriminator(6, 8, 3), torch.randn(20, 6, generator=generator), torch.eye(6)[2]
    slope_of = names["fooling_slope"](S)
    free = states.clone().requires_grad_(True)
    torch.testing.assert_close(slope_of(states), torch.autograd.grad(fooling_loss(S, free), free)[0])
    down, aside = (names["walk"](slope_of, states, 2.0, avoid=avoid) for avoid in (None, u))
    assert fooling_loss(S, down) < fooling_loss(S, aside) < fooling_loss(S, states)
    assert (down - states).norm(dim=1).max() <= 2.0 + 1e-4
    torch.testing.assert_close(aside @ u, states @ u)


@pytest.mark.parametrize("seed", range(3))
def test_15_weights_and_swaps(seed):
    names, random = definitions("15"), np.random.default_rng(seed)
    rows = np.column_stack([np.ones(30), random.normal(size=(30, 3))])
    best = design.optimal_design(rows, tolerance=1e-6)
    np.testing.assert_allclose(names["prompt_weights"](rows, 5000), best.weights, atol=2e-3)
    np.testing.assert_allclose(names["leverages_naive"](rows, best.weights), best.leverages)
    chosen = np.sort(random.choice(30, 8, replace=False))
    assert names["largest_leverage"](rows, chosen) == pytest.approx(4 / design.efficiency(rows, chosen))
    swapped = names["exchange_prompts"](rows, chosen)
    np.testing.assert_array_equal(swapped, design._exchange(rows, chosen, design._certainty))
    for k in (3, 10):
        np.testing.assert_array_equal(names["greedy_prompts"](rows, k, 1e-3), design.dpp_subset(rows, k))


@pytest.mark.parametrize("seed", range(3))
def test_15_rows_and_what_labels_are_worth(seed):
    names, random = definitions("15"), np.random.default_rng(seed)
    labels, groups = random.random(60) < 0.5, random.choice(list("abc"), 60)
    prompts = lb.Labelled(random.normal(size=(60, 8)) + labels[:, None], labels, groups)
    mine, theirs = names["prompt_rows"](prompts.states, 3), lb.design_rows(prompts.states, 3)
    np.testing.assert_allclose(np.abs(mine), np.abs(theirs), atol=1e-4)
    (pool,) = pools = lb.draw_pools(prompts, 30, 3, [seed])
    picked = lb.picks("random", pools, 6, 2)
    fit = partial(fit_probe, strength=0.1)
    right = np.array([names["right_after"](prompts.states, labels, pool.members, some, fit) for some in picked[0]])
    np.testing.assert_array_equal(right, lb.after_labels(picked, pools, prompts, 0.1)[0])
    worst = [names["lowest_group"](each, groups) for each in right]
    np.testing.assert_allclose(worst, lb.worst_group(right, groups))


# Exercises


def answers() -> dict[str, tuple[str, str]]:
    """Exercise to notebook and the name of its answer, as the notebooks check it."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9X]*.ipynb")):
        for answer, exercise in CHECKED.findall("\n".join(code_cells(path))):
            assert exercise not in found, f"{exercise} is checked twice"
            found[exercise] = (path.name.partition("_")[0], answer)
    return found


def test_every_exercise_belongs_to_a_notebook_and_the_other_way_round():
    assert sorted(answers()) == sorted(EXERCISES)
    for exercise, (number, _) in answers().items():
        assert exercise.startswith(f"{number}.")


@pytest.mark.parametrize("exercise", [name for name in sorted(EXERCISES) if callable(EXERCISES[name].reference)])
def test_the_solution_in_the_notebook_passes_its_own_check(exercise):
    number, answer = answers()[exercise]
    assert verdict_on(EXERCISES[exercise], definitions(number)[answer]) is None


def test_12_one_loss_of_the_editing_loop():
    names, at = definitions("12"), ReadOut((3, 4), positions=3)
    names["AT"] = at
    words = [
        Example(f"{n}", (("system", "Be glad!"), ("user", w)), (("user", w),), f"well {w}")
        for n, w in enumerate("abcd")
    ]
    lm = with_adapter(tiny(layers=4), rank=4, layers=[2, 3, 4])
    rows = Rows(lm, words, at.positions)
    texts = [prompt_tokens(lm.tokenizer, f"tell me {word}") for word in ("sun", "rain", "snow")]
    retain = Answered(lm, texts, [plain_tokens(lm.tokenizer, "it is so")] * 3)
    chosen = EditSettings(at, batch=2, hidden=8, adversary=0.5, match=2.0, retain=3.0, learning_rate=1e-2)
    views = views_of(lm.model, rows, rows, at)
    run = Run(lm, rows, rows, retain, chosen)
    optimiser = torch.optim.Adam(trained_weights(lm.model), lr=chosen.learning_rate)
    for batch in ((np.array([0, 2]), np.array([1, 2])), (np.array([3, 1]), np.array([0, 1]))):
        loss, terms = names["loss_of_step"](lm, run.editor.discriminator, views, rows, retain, chosen, *batch)
        parts = step(run, views, optimiser, batch)
        assert terms == pytest.approx({name: parts[name] for name in terms}, rel=1e-4, abs=1e-6)
        weighted = 0.5 * parts["fooling"] + 2 * parts["distance"] + 3 * parts["retain_kl"]
        assert loss.item() == pytest.approx(weighted, rel=1e-4)


REPLIES = (
    "I'm sorry, but I can't help with that. Ask a doctor.",
    "I'm sorry, but I'm sorry, but I'm sorry, but I can't",
    "I'm sorry for your loss. Here is a letter.",
    "First, mix the flour. I cannot go on with this.",
    "flour and sugar: I won't say more.\nThat is all.",
    "I can't wait to tell you. Here it is.",
    "A story of a hundred characters and more, in which nobody declines anything at all, and then: I cannot stop.",
    "",
)


def test_13_the_judge_and_turning_back_are_those_of_helpers():
    names = definitions("13")
    found = names["refused"](list(REPLIES), evaluation.DECLINES, evaluation.AGAIN, evaluation.LOOK_AT)
    assert found == [evaluation.refuses(reply) for reply in REPLIES]
    assert 2 < sum(found) < len(REPLIES) - 2
    expected = [robustness.declines_later(evaluation.refuses, reply) for reply in REPLIES]
    assert names["turned_back"](evaluation.refuses, list(REPLIES)) == expected


def test_13_distillation_is_that_of_the_editing_loop():
    lm = with_adapter(tiny(layers=4), rank=4, layers=[2, 3, 4])
    with torch.no_grad():
        for number, weight in enumerate(trained_weights(lm.model)):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    examples = [
        Example(word, (("system", "Be glad!"), ("user", word)), (("user", word),), f"well {word}")
        for word in ("sun", "rain", "tea")
    ]
    at = ReadOut((3, 4), positions=3)
    rows = Rows(lm, examples, 3, taught=12)
    views = views_of(lm.model, rows, rows, at, taught=True)

    def student(tokens):
        return lm.model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)

    def teacher(tokens):
        with lm.model.disable_adapter():
            return student(tokens)

    ours = [
        definitions("13")["distilled"](
            teacher,
            student,
            list(prompt_tokens(lm.tokenizer, example.target)),
            list(prompt_tokens(lm.tokenizer, example.plain)),
            list(answer),
        ).item()
        for example, answer in zip(examples, rows.answers, strict=True)
    ]
    with torch.no_grad():
        _, last = read_along(lm.model, rows.plain, at, rows.places)
    assert np.mean(ours) == pytest.approx(distil_kl(lm.model, last, views.teacher, np.arange(3)).item(), rel=1e-3)
    assert min(ours) > 1e-3


class LoopsLater:
    """A method whose answers decline in a whole sentence and then loop; the judge's stop rule cuts that off."""

    lm, before, inside = None, (), nullcontext

    def answers(self, questions, sampling=None):
        said = "I'm sorry, but I can't help with that. I'm sorry, but I'm sorry, but I'm sorry, but"
        return [sampling.stop.cut(said) if sampling else said for _ in questions]

    def refusals(self, parts):
        return {kind: np.ones(len(part)) for kind, part in parts.items()}

    def perplexity(self, questions, said):
        return np.ones(len(questions))

    def knows(self, facts):
        return np.ones(len(facts), bool)


def test_13_loops_are_counted_in_whole_answers_not_where_the_judge_stops_reading():
    names, questions = definitions("13"), [Question("a", "?"), Question("b", "?")]
    nothing = {"first_token_log_probs": lambda *_: None, "kl_between": lambda *_: np.zeros(2)}
    nothing |= {"refuses_by_meaning": lambda answers: np.ones(len(answers), bool), "first_words": None}
    names |= nothing | {"test": {"harmful": questions}, "plain_tasks": questions, "own": [], "before": 1, "known": []}
    assert names["measures"](LoopsLater())["loops"].tolist() == [1, 1]


def test_13_every_harmless_kind_is_compared_by_itself_and_a_task_asked_thrice_is_drawn_once():
    names, wordings = definitions("13"), experiment.ASKED_KINDLY_AT_TEST
    tasks, edgy = ([Question(f"{name}-{n}", f"What is {n}?") for n in range(12)] for name in ("task", "edgy"))
    courteous = experiment.courteous(tasks, wordings)
    capitals = robustness.dressed(tasks, robustness.IN_CAPITALS)
    test = {"harmful": edgy, "benign": tasks, "edgy": edgy, "courteous": courteous, "capitals": capitals}
    names |= {"test": test, "HARMLESS": ("benign", "edgy", "courteous", "capitals"), "started": None}
    names["recovered"] = lambda *_: {10: np.zeros(3)}
    rows = names["costs"](LoopsLater())
    assert {name: len(values) for name, values in rows.items()} == dict.fromkeys(test, 12) | {
        "over_refusal": 48,
        "prefill10": 3,
    }
    names["matched"] = {"are": [rows] * 2, "other": [{name: 0 * values for name, values in rows.items()}] * 2}
    drawn = names["drawn_as_one"]("over_refusal")
    assert max(map(drawn.count, drawn)) == 3 and len(set(drawn)) == 24
    of_wordings = names["drawn_as_one"]("courteous")
    for one, question in zip(of_wordings, courteous, strict=True):
        assert question.text == wordings[one].format(tasks[int(question.id.split("-")[1])].text)
    for column in rows:
        assert len(names["drawn_as_one"](column)) == len(rows[column])
        assert names["paired"]("are", "other", column)[0] == rows[column].mean()


@pytest.mark.parametrize("seed", range(4))
def test_14_verdicts_and_one_question_by_hand(seed):
    lm, names = tiny(layers=3, seed=seed), definitions("14")
    names["lm"] = lm
    parts = [Fact("a", "snow is cold", "fish can fly"), Fact("b", "tea is a drink", "rain is dry")]
    statements = [statement for fact in parts for statement in (fact.true, fact.false)]
    scores = torch.stack([names["next_logits"](names["asking"](text)) for text in statements]).detach().numpy()
    words = (plain_tokens(lm.tokenizer, word)[0] for word in ("Yes", "No"))
    said, accuracy = names["fact_verdicts"](scores, *words)
    assert said.tolist() == says_true(lm, statements).tolist()
    np.testing.assert_array_equal(accuracy, truth_accuracy(lm, parts))
    scores = np.array([names["score_naive"]("why?", answer) for answer in ("so", "since then", "no")])
    backend, choice = LocalBackend(lm, "tiny"), Choice("q", "why?", "so", ("since then", "so"), ("no",))
    np.testing.assert_allclose(scores, backend.score("why?", ("so", "since then", "no")), atol=1e-3)
    found = multiple_choice(backend, [choice])
    mc1, mc2 = names["mc"](scores, np.array([True, True, False]))
    assert found.mc1.tolist() == [mc1]
    assert found.mc2[0] == pytest.approx(mc2, abs=1e-4)


def test_14_two_yardsticks_are_those_of_helpers():
    lm, names = tiny(layers=3), definitions("14")
    names |= {"lm": lm, "base": SimpleNamespace(perplexity=lambda given, texts: perplexity(lm, texts, given))}
    pairs = [
        StereotypePair("a", "the sun is warm", "the sun is cold and far"),
        StereotypePair("b", "tea is a drink of the rain", "tea is snow"),
    ]
    theirs = stereotypes(lm, pairs)
    per_token, whole = names["two_yardsticks"](*names["endings_of"](pairs))
    np.testing.assert_array_equal(per_token, theirs.stereotype)
    np.testing.assert_array_equal(whole, theirs.whole)


@pytest.mark.parametrize("seed", range(3))
def test_14_directions_of_verdicts(seed):
    names, generator = definitions("14"), torch.Generator().manual_seed(seed)
    target, plain = torch.randn(2, 8, 5, generator=generator)
    is_yes = torch.arange(8) % 3 == 0
    yes, no, cosine = names["directions_of_verdicts"](target, plain, is_yes)
    torch.testing.assert_close(yes, mean_difference(target[is_yes], plain[is_yes]))
    torch.testing.assert_close(no, mean_difference(target[~is_yes], plain[~is_yes]))
    assert cosine == pytest.approx(torch.nn.functional.cosine_similarity(yes, no, dim=0).item())


def test_14_the_loss_of_told_verdicts():
    lm, names, at = tiny(layers=3), definitions("14"), ReadOut((2, 3))
    names["lm"] = lm
    rows = Rows(lm, verdicts([Fact("a", "snow is cold", "snow is hot"), Fact("b", "fish swim", "fish fly")]), 1)
    naive = names["verdict_loss"](names["next_logits"], rows.plain, rows.answers)
    _, last = read_along(lm.model, rows.plain, at, rows.places)
    fast = answer_nll(lm.model, last, rows, np.arange(4))
    assert fast.item() == pytest.approx(naive.item(), abs=1e-4)
