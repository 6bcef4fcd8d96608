"""Baselines of the editing half: directions, steering, supervised fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

from helpers.are import baselines
from helpers.are.baselines import contrast_vector, fine_tune, mean_difference, steered
from helpers.are.editing import Answered, EditSettings, set_rate
from helpers.base.storage import CourseError
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.generation import plain_tokens, prompt_tokens
from helpers.language.states import ReadOut, read

SETTINGS = EditSettings(ReadOut((2,)), batch=3, learning_rate=1e-2, retain=0.0)


def answered(lm, words, answer) -> Answered:
    texts = [prompt_tokens(lm.tokenizer, word) for word in words]
    return Answered(lm, texts, [plain_tokens(lm.tokenizer, answer)] * len(texts))


@pytest.fixture
def lm():
    return with_adapter(tiny(), rank=4)


def test_both_directions_find_a_shift():
    generator = torch.Generator().manual_seed(0)
    shift = torch.zeros(12)
    shift[3] = -4.0
    plain = torch.randn(200, 12, generator=generator)
    target = plain + shift + 0.3 * torch.randn(200, 12, generator=generator)
    for direction in (mean_difference(target, plain), contrast_vector(target, plain)):
        assert torch.nn.functional.cosine_similarity(direction, shift, dim=0) > 0.99
        assert direction.norm() == pytest.approx(4.0, rel=0.05)


def test_directions_need_states(unchecked):
    states = torch.ones(3, 2)
    with pytest.raises(ValueError, match="0 plain states"):
        mean_difference(states, states[:0])
    with pytest.raises(ValueError, match="a contrast needs pairs"):
        contrast_vector(states, states[:2])


def test_steering_adds_the_direction_at_every_token_and_stops():
    lm = tiny()
    text, direction = [list(b"some words")], torch.linspace(-1, 1, 32)
    before = read(lm.model, text, ReadOut((1,), positions=5))
    with steered(lm, 1, direction, 2.0):
        after = read(lm.model, text, ReadOut((1,), positions=5))
    torch.testing.assert_close(after - before, (2 * direction).expand_as(before))
    torch.testing.assert_close(read(lm.model, text, ReadOut((1,), positions=5)), before)


def test_fine_tuning_teaches_the_answers_and_keeps_what_is_retained(lm):
    taught = answered(lm, ["sun", "rain", "tea"], "no!")
    first = taught.nll(lm.model, [0, 1, 2]).item()
    curve = fine_tune(lm, taught, answered(lm, ["dogs"], "yes"), SETTINGS, steps=60)
    assert len(curve) == 60
    assert taught.nll(lm.model, [0, 1, 2]).item() < first / 3

    other, harmless = with_adapter(tiny(), rank=4), ["dogs", "music", "books"]
    kept = answered(other, harmless, "yes")
    fine_tune(other, answered(other, ["sun", "rain", "tea"], "no!"), kept, replace(SETTINGS, retain=3.0), steps=60)
    with torch.no_grad():
        assert kept.kl(other.model, [0, 1, 2]) < 0.5 * answered(lm, harmless, "yes").kl(lm.model, [0, 1, 2])


def test_the_seed_decides(lm):
    found = []
    for seed in (0, 0, 1):
        model = with_adapter(tiny(), rank=2)
        taught = answered(model, ["sun", "rain", "tea", "dogs", "music"], "no!")
        fine_tune(model, taught, taught, SETTINGS, steps=3, seed=seed)
        found.append(trained_weights(model.model)[1].detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_loss_that_is_not_finite_is_told(lm):
    taught = answered(lm, ["sun", "rain", "tea"], "no!")
    with torch.no_grad():
        trained_weights(lm.model)[1].fill_(torch.nan)
    with pytest.raises(CourseError, match="not finite in step 0: lower the learning rate"):
        fine_tune(lm, taught, taught, SETTINGS, steps=5)


def test_the_learning_rate_falls_to_0_over_its_own_steps(lm, monkeypatch):
    """Not over those of an edit with the same settings, of which there are more here."""
    rates = []

    def watched(optimiser, *arguments):
        set_rate(optimiser, *arguments)
        rates.append(optimiser.param_groups[0]["lr"] / SETTINGS.learning_rate)

    monkeypatch.setattr(baselines, "set_rate", watched)
    taught = answered(lm, ["sun", "rain", "tea"], "no!")
    fine_tune(lm, taught, taught, replace(SETTINGS, decay=True, rounds=2, steps=40), steps=4)
    assert rates == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
