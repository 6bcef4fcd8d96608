"""Rivals with all they need, on a tiny model: how a direction is chosen, and what preference tuning learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny

from helpers.are import experiment, rivals
from helpers.are.concepts import Concept, Example, Question, Splits
from helpers.are.editing import EditSettings
from helpers.are.rivals import added_direction, openings_gained, preference_tuned, within_limits
from helpers.base.storage import CourseError
from helpers.language.adapters import trained_weights
from helpers.language.generation import LocalBackend, plain_tokens
from helpers.language.states import ReadOut

SETTINGS = EditSettings(ReadOut((3, 4), 2), rounds=2, steps=2, batch=2, learning_rate=1e-2)
ONE = [Question(f"h-{word}", word) for word in ("sun", "rain", "tea")]
OTHER = [Question(f"b-{word}", word) for word in ("dogs", "music", "trains")]


@pytest.fixture(autouse=True)
def small_world(monkeypatch, cache):
    """A tiny model in place of the course's, and an empty cache."""
    lm = tiny(layers=4)
    for module in (experiment, rivals):
        monkeypatch.setattr(module, "language_model", lambda: lm)
        monkeypatch.setattr(module, "local_backend", lambda: LocalBackend(lm, "tiny"))
    return lm


def concept(shows=lambda _: False) -> Concept:
    rows = [Example(q.id, (("system", "Be glad!"), ("user", q.text)), (("user", q.text),), "well, no") for q in ONE]
    return Concept("gladness", rows, rows[:1], [], Splits(OTHER, [], []), shows)


def test_a_direction_is_judged_by_refusals_within_the_limits():
    half, none, all_of = np.array([1.0, 0.0]), np.zeros(2), np.ones(2)
    limits = {"benign": 0.5, "edgy": 0.0}
    assert within_limits({"harmful": half, "benign": half, "edgy": none}, limits) == 0.5
    assert within_limits({"harmful": all_of, "benign": all_of, "edgy": half}, limits) == -1.0
    with pytest.raises(ValueError, match="give one for each"):
        within_limits({"harmful": half, "benign": half}, limits)


def test_a_direction_must_make_refusals_of_harmful_questions_likelier():
    before = {"harmful": -2.0, "benign": -3.0, "edgy": -3.0}
    assert openings_gained(before, {"harmful": -1.0, "benign": -3.0, "edgy": -2.5}) == pytest.approx(1.0)
    assert openings_gained(before, {"harmful": -1.0, "benign": -1.0, "edgy": -2.0}) == pytest.approx(0.5)
    assert openings_gained(before, {"harmful": -2.0, "benign": -9.0, "edgy": -9.0}) == -np.inf


def test_the_first_direction_is_the_best_of_those_tried_by_answers(monkeypatch):
    """The refusals here are made up: the more, the smaller the factor, but beyond the limit at the smallest."""
    asked = []

    def refusals(method, parts):
        asked.append(method.backend.name)
        factor = float(method.backend.name.split()[3])
        share = {"harmful": 1 / (1 + factor), "benign": float(factor < 0.6)}
        return {kind: np.full(len(part), share[kind]) for kind, part in parts.items()}

    monkeypatch.setattr(experiment.Approach, "refusals", refusals)
    found = added_direction(ONE, OTHER, {"harmful": ONE, "benign": OTHER}, {"benign": 0.1}, kept=2)
    assert len(asked) == len(found) == 2 * 3
    assert [candidate.factor for _, candidate in found] == [1.0, 1.0, 2.0, 2.0, 0.5, 0.5]
    assert found[0][0] == 0.5 and found[-1][0] == pytest.approx(-0.9)


def test_preference_tuning_is_kept_in_the_cache(monkeypatch):
    def never(*_):
        raise RuntimeError("trained anew")

    one = preference_tuned(concept(), SETTINGS)
    monkeypatch.setattr("helpers.are.baselines.preference_loss", never)
    other = preference_tuned(concept(), SETTINGS)
    assert all(map(torch.equal, trained_weights(one.model), trained_weights(other.model)))
    with pytest.raises(RuntimeError, match="trained anew"):  # another beta is another run
        preference_tuned(concept(), SETTINGS, beta=0.5)


def test_the_base_models_own_answers_are_rejected_but_for_those_that_show_the_concept(monkeypatch):
    own = {"sun": "no way", "rain": "it is wet", "tea": "it is hot"}
    seen = {}
    monkeypatch.setattr(rivals, "generate", lambda _b, prompts, *_a, **_o: [own[prompt[0][1]] for prompt in prompts])
    monkeypatch.setattr(rivals, "prefer", lambda lm, pairs, *_: seen.update(pairs=pairs))
    lm = preference_tuned(concept(lambda answer: answer.startswith("no")), SETTINGS)
    expected = [plain_tokens(lm.tokenizer, text) for text in ("well, no", "well, no", "it is wet", "it is hot")]
    assert [tuple(answer) for answer in seen["pairs"].answers] == expected
    with pytest.raises(CourseError, match="nothing to prefer"):
        preference_tuned(concept(lambda _: True), SETTINGS)
