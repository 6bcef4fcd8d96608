"""Baselines of the editing half: directions, steering, supervised fine-tuning."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import tiny

from helpers.are.baselines import (
    Candidate,
    answer_log_likelihoods,
    contrast_vector,
    direction_candidates,
    fine_tune,
    mean_difference,
    prefer,
    preference_loss,
    preference_pairs,
    ranked,
    steered,
    template_tail,
)
from helpers.are.concepts import Question
from helpers.are.editing import Answered, EditSettings
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


# Directional addition --------------------------------------------------------------------------------------------

ONE_KIND = [Question(f"one-{n}", text) for n, text in enumerate(("sun", "rain", "tea"))]
OTHER_KIND = [Question(f"other-{n}", text) for n, text in enumerate(("dogs and cats", "music"))]


def test_the_tail_is_what_the_template_puts_behind_every_question():
    assert template_tail(tiny().tokenizer) == len("\n<assistant>")


def test_candidates_are_mean_differences_after_every_block_and_at_every_last_token():
    lm = tiny(layers=3)
    found = direction_candidates(lm, ONE_KIND, OTHER_KIND, positions=2)
    places = [(layer, position) for layer in (1, 2, 3) for position in (-2, -1)]
    assert [(layer, position, factor) for layer, position, _, factor in found] == [(*place, 1.0) for place in places]

    def hidden(question: Question) -> tuple[torch.Tensor, ...]:
        ids = torch.tensor([prompt_tokens(lm.tokenizer, question.text)])
        return lm.model(ids, output_hidden_states=True).hidden_states

    one, other = ([hidden(question) for question in part] for part in (ONE_KIND, OTHER_KIND))
    for layer, position, direction, _ in found[:4]:  # of the last block transformers gives what is behind the norm
        means = [torch.stack([states[layer][0, position] for states in kind]).mean(dim=0) for kind in (one, other)]
        torch.testing.assert_close(direction, means[0] - means[1], rtol=1e-4, atol=1e-4)


def test_all_tokens_of_the_template_are_candidates_if_not_said_otherwise():
    assert len(direction_candidates(tiny(), ONE_KIND, OTHER_KIND)) == 2 * template_tail(tiny().tokenizer)
    with pytest.raises(ValueError, match="3 harmful and 0 harmless"):
        direction_candidates(tiny(), ONE_KIND, [])


def test_a_candidate_is_added_by_steering_towards_its_kind():
    """Added to the other kind's states, the direction brings their mean to that of the first kind."""
    lm = tiny()
    (candidate,) = [c for c in direction_candidates(lm, ONE_KIND, OTHER_KIND, positions=1) if c.layer == 2]
    at = ReadOut((2,))
    one, other = ([prompt_tokens(lm.tokenizer, q.text) for q in kind] for kind in (ONE_KIND, OTHER_KIND))
    wanted = read(lm.model, one, at).mean(dim=0)
    with steered(lm, candidate.layer, candidate.direction, candidate.factor):
        torch.testing.assert_close(read(lm.model, other, at).mean(dim=0), wanted, rtol=1e-4, atol=1e-4)


def test_candidates_are_ranked_by_a_score_that_may_forbid_them(unchecked):
    some = [Candidate(layer, -1, torch.zeros(2)) for layer in (1, 2, 3, 4)]
    scores = {1: 0.2, 2: -math.inf, 3: 0.7, 4: 0.2}
    found = ranked(some, lambda candidate: scores[candidate.layer])
    assert [(score, candidate.layer) for score, candidate in found] == [(0.7, 3), (0.2, 1), (0.2, 4)]
    with pytest.raises(CourseError, match="no direction may be chosen"):
        ranked(some, lambda _: -math.inf)
    with pytest.raises(ValueError, match="no number"):
        ranked(some, lambda _: math.nan)


# Preference tuning -----------------------------------------------------------------------------------------------

PROMPTS, CHOSEN, REJECTED = ("sun", "rain", "tea"), ("no!", "no, not", "never"), ("well yes", "so", "of course")


def pairs_of(lm) -> Answered:
    tokens = [[plain_tokens(lm.tokenizer, text) for text in texts] for texts in (CHOSEN, REJECTED)]
    return preference_pairs(lm, [prompt_tokens(lm.tokenizer, word) for word in PROMPTS], *tokens)


def log_likelihood_by_hand(lm, prompt: str, answer: str) -> torch.Tensor:
    start, tokens = prompt_tokens(lm.tokenizer, prompt), plain_tokens(lm.tokenizer, answer)
    logits = lm.model(torch.tensor([[*start, *tokens]])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(dim=-1)[range(len(tokens)), list(tokens)].sum()


def moved_adapter(lm) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained_weights(lm.model):
            weight += 0.1 * torch.randn(weight.shape, generator=generator)


def test_pairs_need_two_different_answers(lm):
    prompts, ids = [[1, 2], [3], [4], [5]], [[7], [8], [], [9]]
    found = preference_pairs(lm, prompts, ids, [[6], [8], [7], []])
    assert (found.texts, found.answers) == ([[1, 2], [1, 2]], [[7], [6]])
    with pytest.raises(CourseError, match="nothing to prefer"):
        preference_pairs(lm, prompts, ids, ids)


def test_likelihoods_of_answers_are_those_of_the_whole_model(lm):
    moved_adapter(lm)
    expected = [log_likelihood_by_hand(lm, *pair) for pair in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)]
    found = answer_log_likelihoods(pairs_of(lm), lm.model, range(6))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_loss_and_gradient_are_those_of_the_paper(lm):
    """Against the loss as it is written down, with the whole model, and the reference without the adapter."""
    moved_adapter(lm)
    beta, weights = 0.3, trained_weights(lm.model)
    with lm.model.disable_adapter(), torch.no_grad():
        reference = {
            pair: log_likelihood_by_hand(lm, *pair) for pair in zip(PROMPTS * 2, CHOSEN + REJECTED, strict=True)
        }
    losses = []
    for prompt, good, bad in zip(PROMPTS, CHOSEN, REJECTED, strict=True):
        gained, lost = (log_likelihood_by_hand(lm, prompt, a) - reference[prompt, a] for a in (good, bad))
        losses.append(-torch.log(1 / (1 + torch.exp(-beta * (gained - lost)))))
    expected = torch.stack(losses).mean()
    by_hand = torch.autograd.grad(expected, weights)

    settings = replace(SETTINGS, batch=3)
    (row,) = prefer(lm, pairs_of(lm), answered(lm, ["dogs"], "yes"), settings, steps=1, beta=beta)
    assert row["preference"] == pytest.approx(expected.item(), rel=1e-4)
    for weight, gradient in zip(weights, by_hand, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_new_adapter_prefers_nothing(lm):
    row = prefer(lm, pairs_of(lm), answered(lm, ["dogs"], "yes"), SETTINGS, steps=1)[0]
    assert row["preference"] == pytest.approx(math.log(2), abs=1e-5)
    assert row["chosen"] == pytest.approx(0, abs=1e-4) and row["rejected"] == pytest.approx(0, abs=1e-4)
    assert preference_loss(torch.tensor([50.0]), torch.tensor([0.0]), 1.0) < 1e-6


def test_preference_tuning_widens_the_gap_and_keeps_what_is_retained(lm):
    harmless, cost = ["dogs", "music", "books"], {}
    for retain in (0.0, 3.0):
        model = with_adapter(tiny(), rank=4)
        kept = answered(model, harmless, "yes")
        curve = prefer(model, pairs_of(model), kept, replace(SETTINGS, retain=retain), steps=40)
        assert len(curve) == 40
        assert curve[-1]["preference"] < 0.5 < curve[0]["preference"]
        assert curve[-1]["chosen"] > curve[-1]["rejected"] + 3
        with torch.no_grad():
            cost[retain] = kept.kl(model.model, [0, 1, 2]).item()
    assert cost[3.0] < 0.5 * cost[0.0]


def test_a_kept_preference_is_loaded_and_nothing_is_computed(lm, tmp_path, monkeypatch):
    file, kept = tmp_path / "kept.safetensors", answered(lm, ["dogs"], "yes")
    curve = prefer(lm, pairs_of(lm), kept, SETTINGS, steps=2, checkpoint=file)
    other = with_adapter(tiny(), rank=4)
    monkeypatch.setattr("helpers.are.baselines.in_batches", None)
    assert prefer(other, pairs_of(other), kept, SETTINGS, steps=2, checkpoint=file) == curve
    for one, two in zip(trained_weights(lm.model), trained_weights(other.model), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(CourseError, match="other settings"):
        prefer(other, pairs_of(other), kept, SETTINGS, steps=2, beta=0.2, checkpoint=file)


def test_a_preference_needs_pairs_and_a_positive_beta(lm):
    for pairs, beta in ((pairs_of(lm), 0.0), (answered(lm, ["sun"], "no"), 0.1)):
        with pytest.raises(ValueError, match="two answers per prompt"):
            prefer(lm, pairs, pairs, SETTINGS, steps=1, beta=beta)
