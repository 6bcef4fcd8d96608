"""First-token divergence against a plain computation with transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny

from helpers.are.baselines import steered
from helpers.are.concepts import Question
from helpers.are.damage import first_token_log_probs, kl_between
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.generation import prompt_tokens


def divergence(edited, base):
    return kl_between(*(first_token_log_probs(lm, QUESTIONS) for lm in (base, edited)))


QUESTIONS = [Question(f"q-{n}", text) for n, text in enumerate(("sun", "rain in the hills", "tea?", "a" * 70))]


@pytest.fixture
def edited():
    lm, generator = with_adapter(tiny(), rank=4), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trained_weights(lm.model):
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return lm


def plain_log_probs(lm, question: Question, system: str = "") -> torch.Tensor:
    before = (("system", system),) if system else ()
    ids = torch.tensor([prompt_tokens(lm.tokenizer, (*before, ("user", question.text)))])
    with torch.no_grad():
        return lm.model(ids).logits[0, -1].double().log_softmax(dim=-1)


def test_log_probabilities_are_those_of_the_whole_model(edited):
    for system in ("", "Be brief."):
        expected = torch.stack([plain_log_probs(edited, question, system) for question in QUESTIONS])
        found = first_token_log_probs(edited, QUESTIONS, (("system", system),) if system else ())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_divergence_is_that_of_plain_transformers(edited):
    base = tiny()
    expected = []
    for question in QUESTIONS:
        one, other = plain_log_probs(base, question), plain_log_probs(edited, question)
        expected.append((one.exp() * (one - other)).sum().item())
    found = divergence(edited, base)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert (found > 0.01).all()


def test_an_edit_that_changes_nothing_has_none():
    base = tiny()
    np.testing.assert_allclose(divergence(with_adapter(base), base), 0, atol=1e-6)


def test_a_context_is_measured_by_its_two_sides():
    base = tiny()
    before = first_token_log_probs(base, QUESTIONS)
    with steered(base, 1, torch.ones(32), 1.0):
        assert (kl_between(before, first_token_log_probs(base, QUESTIONS)) > 1e-4).all()
    np.testing.assert_allclose(kl_between(before, first_token_log_probs(base, QUESTIONS)), 0, atol=1e-6)


def test_it_needs_questions_and_the_same_ones():
    with pytest.raises(ValueError, match="no question"):
        first_token_log_probs(tiny(), [])
    found = first_token_log_probs(tiny(), QUESTIONS)
    for other in (found[:2], found[:, :9]):
        with pytest.raises(ValueError, match="ask both models the same questions"):
            kl_between(found, other)
