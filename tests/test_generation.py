"""Decoding: batches equal single prompts, seeds decide, and the caller's random numbers are left alone."""

from __future__ import annotations

import copy

import pytest
import torch

from helpers import generation, models

PROMPTS = (
    "Name a colour.",
    "Write one sentence about a detective who is afraid of the dark and has to search a house without light.",
    "What is a film? Answer briefly, please.",
)


@pytest.fixture(scope="module")
def lm() -> models.LoadedModel:
    return models.load_language_model(device="cpu", dtype=torch.float32)


@pytest.fixture
def raw(monkeypatch) -> None:
    """Answers as they are, so that the token limit does not hide differences."""
    monkeypatch.setattr(generation, "whole_sentences", lambda text: text)


def one_by_one(lm: models.LoadedModel, prompt: str) -> str:
    chat = [{"role": "user", "content": prompt}]
    tokens = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = lm.model.generate(**tokens, max_new_tokens=12, do_sample=False)
    return lm.tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_greedy_batch_equals_single_prompts(lm, raw):
    answers = generation.generate(lm, PROMPTS, max_new_tokens=12)
    assert answers == [one_by_one(lm, prompt) for prompt in PROMPTS]
    assert len(set(answers)) == 3 and all(answers)


def test_sampling_depends_on_the_seed_alone(lm, raw):
    def sample(seed: int) -> list[str]:
        return generation.generate(lm, PROMPTS[:2], max_new_tokens=12, temperature=1.0, seed=seed)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert sample(3) == first and sample(4) != first
    assert generation.generate(lm, PROMPTS[:2], max_new_tokens=12) != first


def test_a_model_without_a_chat_template_is_refused(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template: load an instruction-tuned one"):
        generation.generate(models.LoadedModel(lm.model, tokenizer), PROMPTS)


def test_no_prompt_is_refused(lm):
    with pytest.raises(ValueError, match="at least one prompt"):
        generation.generate(lm, [])


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two! Three", "One. Two!"),
        ("One.\n\n  Two?\nThree.", "One. Two? Three."),
        ("It cost 3.5 million. He left with 2.5 mil", "It cost 3.5 million."),
        ('He says "Go." And then', 'He says "Go."'),
        ('He says "Go!"', 'He says "Go!"'),
        ("1. Add a dog 2", "1. Add a dog 2"),
        ("1. Add a dog. 2. Add a c", "1. Add a dog."),
        ("In 1999. Then", "In 1999."),
        ("Wait... what", "Wait..."),
        ("no end at all", "no end at all"),
        ("", ""),
    ],
)
def test_whole_sentences(text, whole):
    assert generation.whole_sentences(text) == whole


def test_the_rewriting_prompt_holds_plot_and_instruction(lm, monkeypatch):
    seen = []
    monkeypatch.setattr(
        generation, "generate", lambda *arguments, **options: seen.append((arguments, options)) or ["x"]
    )
    assert generation.rewrite_plot(lm, "A pig herds sheep.", "make it sad", max_new_tokens=40) == "x"
    ((model, (prompt,)), options) = seen[0]
    assert model is lm and options == {"max_new_tokens": 40}
    assert "A pig herds sheep." in prompt and "make it sad" in prompt


def test_answers_are_cut_after_a_sentence(lm):
    long, short = (generation.generate(lm, PROMPTS[2:], max_new_tokens=n)[0] for n in (60, 45))
    assert long.startswith(short) and long[-1] in ".!?"
