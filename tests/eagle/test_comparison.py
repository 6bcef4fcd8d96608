"""The comparison on real movies: parts that share nothing, and users of both kinds."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from fake_steering import blind_judge, fake_task, task_starts
from fake_world import place
from tiny_models import tiny

from helpers.domains.clothing import load_clothing
from helpers.domains.wording import CLOTHES
from helpers.eagle import comparison, idea_prompts, rewriting, rivals
from helpers.eagle.agent import AgentSettings
from helpers.eagle.aims import KINDS
from helpers.eagle.comparison import (
    CLOTHING_COMPARISON_PLANS,
    CLOTHING_HIGH,
    CLOTHING_LOW,
    COMPARISON_PLANS,
    METHOD_NAMES,
    Comparison,
    comparison_starts,
    load_clothing_comparison,
    load_comparison,
)
from helpers.eagle.language_agent import LanguageAgent
from helpers.embedding.factorization import fit_als
from helpers.embedding.judges import halves


@pytest.fixture(scope="module")
def parts(movies):
    own = halves(movies)[0]
    model = fit_als(*own.triplets, own.n_users, own.n_items)
    return model, comparison_starts(movies, model, 20, 6, 8)


def test_parts_share_no_movie_no_plot_and_no_user(movies, parts):
    plots = movies.items["plot_text"]
    assert [len(part) for part in parts[1]] == [20, 12, 16]
    for of in (lambda s: s.item, lambda s: plots[s.item], lambda s: s.text, lambda s: s.user):
        for one, other in combinations(parts[1], 2):
            assert not set(map(of, one)) & set(map(of, other))
    assert len({start.user for part in parts[1] for start in part}) == 48  # nobody twice
    assert [len({start.item for start in part}) for part in parts[1]] == [20, 6, 8]


def test_no_start_has_a_twin_among_the_movies(movies):
    own = halves(movies)[0]
    found = comparison_starts(movies, fit_als(*own.triplets, own.n_users, own.n_items), 60, 24, 24)
    assert [len(part) for part in found] == [60, 48, 48]
    times = movies.items["plot_text"].value_counts()
    assert {times[movies.items["plot_text"][start.item]] for part in found for start in part} == {1}


def test_every_test_movie_has_a_user_who_dislikes_it_and_one_who_likes_it(parts):
    model, (train, trial, test) = parts

    def stars(start) -> float:
        return model.user_level[start.user] + model.user_embeddings[start.user] @ model.item_embeddings[start.item]

    assert all(
        stars(a) <= 3 and stars(b) >= 4 for part in (trial, test) for a, b in zip(part[::2], part[1::2], strict=True)
    )
    assert [stars(start) >= 4 for start in train] == [False, True] * 10


def test_the_same_starts_again_and_more_of_them_begin_alike(movies, parts):
    model, found = parts
    assert comparison_starts(movies, model, 20, 6, 8) == found
    assert comparison_starts(movies, model, 30, 6, 8).train[:20] == found.train


def test_more_starts_than_there_are_movies_are_refused(movies, parts):
    with pytest.raises(ValueError, match=r"too few movies for 900 \+ 2 \+ 2 starts"):
        comparison_starts(movies, parts[0], 900, 2, 2)


def test_ages_may_have_several_starts_but_none_of_both_kinds():
    clothes = load_clothing()
    own = halves(clothes)[0]
    model = fit_als(*own.triplets, own.n_users, own.n_items)
    plan, liking = CLOTHING_COMPARISON_PLANS["full"], {"low": CLOTHING_LOW, "high": CLOTHING_HIGH}
    sizes = plan.train_items, plan.trial_items, plan.test_items
    train, trial, test = comparison_starts(clothes, model, *sizes, **liking, again=True)
    assert [len(train), len(trial), len(test)] == [sizes[0], 2 * sizes[1], 2 * sizes[2]]
    assert not {start.user for start in train} & {start.user for start in trial + test}
    assert not {start.item for start in train + trial} & {start.item for start in test}
    stars = [model.user_level[s.user] + model.user_embeddings[s.user] @ model.item_embeddings[s.item] for s in test]
    assert max(stars[::2]) <= CLOTHING_LOW and min(stars[1::2]) >= CLOTHING_HIGH
    with pytest.raises(ValueError, match="too few movies"):
        comparison_starts(clothes, model, *sizes, **liking)


def test_no_encoder_and_no_aim_knows_a_test_movie(movies, monkeypatch, unchecked):
    seen = {}

    def encoders(domain, left_out):
        seen["left_out"] = set(left_out)
        return "encoders"

    monkeypatch.setattr(comparison, "independent_encoders", encoders)
    monkeypatch.setattr(comparison, "local_backend", lambda: "backend")
    monkeypatch.setattr(comparison, "Steering", lambda encoders, aims, *rest: aims)
    monkeypatch.setattr(comparison, "with_reach", lambda aims, train, n: aims)
    monkeypatch.setattr(comparison, "Rewriter", lambda *arguments, **options: None)
    monkeypatch.setattr(comparison, "Comparison", lambda *parts: parts)
    aims, plan, train, trial, test = load_comparison(domain=movies)
    items = {int(movies.text_items[row]) for aim in aims for row in aim.items}
    assert plan == COMPARISON_PLANS["small"] and len(test) == 2 * plan.test_items and len(train) == plan.train_items
    assert seen["left_out"] == {start.item for start in trial + test} and not items & seen["left_out"]
    assert {aim.kind for aim in aims} == set(KINDS)
    assert {start.item for start in train} <= items


def test_clothes_have_aims_and_starts_of_their_own(monkeypatch, unchecked):
    monkeypatch.setattr(comparison, "independent_encoders", lambda domain, left_out: left_out)
    monkeypatch.setattr(comparison, "local_backend", lambda: "backend")
    monkeypatch.setattr(comparison, "Steering", lambda left_out, aims, reach, rewriter, *_: (left_out, aims, rewriter))
    monkeypatch.setattr(comparison, "with_reach", lambda task, train, n: task)
    found = load_clothing_comparison()
    left_out, aims, rewriter = found.task
    assert found.plan == CLOTHING_COMPARISON_PLANS["small"] and rewriter.wording == CLOTHES
    assert set(left_out) == {start.item for start in found.trial + found.test}
    assert {aim.kind for aim in aims} == set(KINDS)
    said = [aim.instruction(CLOTHES) for aim in aims]
    assert any("towards clothes with" in text for text in said) and any("idea: Kind:" in text for text in said)
    assert all(start.text.startswith("Kind: ") for start in found.train + found.trial + found.test)


@pytest.fixture
def on_the_map(monkeypatch) -> Comparison:
    """The comparison on the small map, which has no ratings and no genres."""
    monkeypatch.setattr(rewriting, "start_of", lambda domain, item, user: task_starts(20)[item])
    monkeypatch.setattr(
        rivals, "proposals", lambda task, starts, *_, **__: ([["Add tea.", "Add rain."]] * len(starts), 1.0)
    )
    monkeypatch.setattr(
        idea_prompts,
        "generate",
        lambda backend, prompts, *_, **__: [f" Drama.\n{place((0.1, n / 10, 0.2))[8:]}" for n in range(len(prompts))],
    )
    monkeypatch.setattr(comparison, "language_model", tiny)
    plan = replace(COMPARISON_PLANS["small"], settings=AgentSettings(iterations=1, episodes=4, group=2))
    starts = task_starts(14)
    return Comparison(blind_judge(fake_task(borrowed=12)), plan, starts[:8], starts[11:], starts[8:])


def test_every_method_is_there_and_trained_ones_once_for_each_seed(on_the_map):
    for name in METHOD_NAMES:
        found = on_the_map.visited(name, 8)
        trained = (name.startswith("agent") or name == "supervised") and "language" not in name
        assert len(found) == (len(on_the_map.plan.seeds) if trained else 1), name
        assert all([len(texts) for texts in one.texts] == [8] * 6 for one in found), name
    with pytest.raises(ValueError, match="unknown method 'agent_best': choose one of neutral"):
        on_the_map.visited("agent_best")


def test_agents_are_trained_once_from_the_supervised_policy(on_the_map):
    policies, curves = on_the_map.agents("uniform")
    assert on_the_map.agents("uniform")[0] is policies and len(curves) == len(on_the_map.plan.seeds)
    for seed, policy in zip(on_the_map.plan.seeds, policies, strict=True):
        torch.testing.assert_close(policy.center, on_the_map.supervised(seed).center)
        assert not torch.equal(policy.log_temperature, on_the_map.supervised(seed).log_temperature)
    assert not torch.equal(policies[0].center, policies[1].center)  # each seed has training starts of its own


def test_language_agents_are_taught_first_and_then_paid(on_the_map):
    (taught,), (paid,) = on_the_map.reference_language, on_the_map.agent_language
    assert on_the_map.agent_language[0] is paid is not taught is on_the_map.reference_language[0]
    fresh = LanguageAgent(on_the_map.task, tiny(), temperature=0.2)
    weights = [{n: w for n, w in one.named_parameters() if "lora_B" in n} for one in (fresh, taught, paid)]
    for name, before in weights[0].items():
        assert not torch.equal(before, weights[1][name]) and not torch.equal(weights[1][name], weights[2][name])


@pytest.mark.parametrize(("rewarded", "expected"), [(1, 1), (2, 2)])
def test_as_many_agents_are_rewarded_as_the_plan_says(on_the_map, rewarded, expected):
    few = replace(on_the_map, plan=replace(on_the_map.plan, rewarded=rewarded), _kept={})
    assert len(few.agents("uniform")[0]) == len(few.visited("agent_uniform", 8)) == expected


def test_nobody_writes_and_reads_as_the_second_encoder(movies, unchecked):
    with pytest.raises(ValueError, match="gemma-3-270m is the second encoder's"):
        load_comparison(SimpleNamespace(name="gemma-3-270m"), movies)


def test_a_supervised_policy_is_fitted_once_and_handed_out_as_copies(on_the_map, monkeypatch):
    own, fitted = replace(on_the_map, _kept={}), []
    fit = comparison.fit_offline
    monkeypatch.setattr(comparison, "fit_offline", lambda *given: fitted.append(1) or fit(*given))
    first, second, other = own.supervised(0), own.supervised(0), own.supervised(1)
    assert len(fitted) == 2 and not torch.equal(first.linear.weight, other.linear.weight)
    torch.nn.init.zeros_(first.linear.weight)  # as training in place would
    assert second.linear.weight.any() and torch.equal(own.supervised(0).linear.weight, second.linear.weight)


def test_the_bill_of_an_agent_has_all_calls_of_its_training(on_the_map):
    backend = on_the_map.task.rewrite.backend
    assert on_the_map.training_calls() == on_the_map.reach_calls + len(backend.asked)
    assert on_the_map.reach_calls == 2 * 4 * 8
    assert on_the_map.training_calls() == replace(on_the_map.plan, train_items=8).label_calls  # known before a call
    on_the_map.labelled  # noqa: B018 (known by now: it asks for nothing more)
    before, (_, curves) = len(backend.asked), on_the_map.agents("optimistic")
    per_agent = on_the_map.training_calls("optimistic") - on_the_map.training_calls()
    assert per_agent * len(curves) >= len(backend.asked) - before > 0  # a question is asked once for all agents
    assert per_agent == round(sum(4 * row["calls"] for curve in curves for row in curve) / len(curves))
