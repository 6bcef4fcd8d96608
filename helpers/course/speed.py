"""How much faster the engine and the editing step are than plain implementations: ratios measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from helpers.eagle.rewriting import rewrite_prompt
from helpers.language.adapters import with_adapter
from helpers.language.engine.attention import forget_prefixes
from helpers.language.engine.decoding import decode_prompts
from helpers.language.engine.plain import own_generate, prefix_generate
from helpers.language.generation import LocalBackend
from helpers.language.likelihood import log_probabilities
from helpers.language.models import LoadedModel
from helpers.language.prompts import Prompt, Sampling, TokenIds, plain_tokens, prompt_tokens
from helpers.language.states import ReadOut, blocks, inputs_of, padded, read, states_below

PLOT_PARTS = {
    "who": ("A retired detective", "The youngest of three sisters", "A clumsy wizard", "Two rival cooks"),
    "does": ("must find a stolen painting", "inherits a farm in ruins", "loses a bet against the mayor"),
    "where": ("in a town by the sea", "on a ship to Mars", "during the last winter of the war", "in Paris"),
    "while": (
        "while an old friend hides the truth from everybody",
        "and learns that the letters were never sent by the person they trusted most",
        "before the festival begins and the whole village hears what happened that night",
    ),
}
CHANGES = ("darker", "funnier", "slower", "more romantic", "more mysterious", "shorter", "more hopeful", "stranger")
ASPECTS = ("the ending", "the hero's past", "the place where it happens", "the villain's reasons")


def measure_speedups(
    backend: LocalBackend,
    *,
    n_prompts: int = 64,
    n_instructions: int = 32,
    new_tokens: int = 48,
    n_loop: int = 4,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Tokens or scores per second of the engine, divided by those of three rivals and of full prompts.

    The rivals are `transformers.generate` prompt by prompt, the same with all prompts in one padded batch, and
    `prefix_generate`, which also computes the common prefix only once.

    Prompts are those of the course's rewrites (three worked examples in front) about plots of one to four
    sentences. No answer ends early, so that all do the same work; the gain from retiring finished rows is not counted.

    Args:
        n_loop: how many prompts, spread over the lengths, the loop is timed on; its time grows in proportion.
        clock: seconds; `time.process_time` beside other busy programs, with one thread.

    Returns:
        `loop`, `batched` and `prefix_generate`: prompts of mixed length, against each rival. `expand` and
        `prefix_generate_expand`: the instructions on one plot, against a padded batch and against `prefix_generate`.
        `prefix`: scoring the instructions after one plot, against scoring them as full prompts.
    """
    random = np.random.default_rng(0)
    tokenizer = backend.lm.tokenizer
    sampling = Sampling(new_tokens, temperature=0.8)
    mixed = [rewrite_prompt(_plot(random), _instruction(i)) for i in range(n_prompts)]
    rows = sorted((prompt_tokens(tokenizer, prompt) for prompt in mixed), key=len)
    sample = [rows[i] for i in np.linspace(0, n_prompts - 1, n_loop).astype(int)]
    plot = _plot(random, sentences=4)
    instructions = [_instruction(i) for i in range(n_instructions)]
    expanded = [prompt_tokens(tokenizer, rewrite_prompt(plot, text)) for text in instructions]
    _generate(backend, rows[:1], Sampling(2))  # the first call of anything is slower
    engine = _seconds(clock, lambda: _engine(backend, rows, sampling))
    loop = _seconds(clock, lambda: [_generate(backend, [row], sampling) for row in sample]) * n_prompts / n_loop
    batched = _seconds(clock, lambda: _generate(backend, rows, sampling))
    shared = _seconds(clock, lambda: _prefix_generate(backend, rows, sampling))
    expansion = _seconds(clock, lambda: _engine(backend, expanded, sampling))
    expansion_batched = _seconds(clock, lambda: _generate(backend, expanded, sampling))
    expansion_shared = _seconds(clock, lambda: _prefix_generate(backend, expanded, sampling))
    question = f"{plot}\n\nWhich change does this plot need?"
    scored = _seconds(clock, lambda: backend.score(question, instructions))
    scored_in_full = _seconds(clock, lambda: score_in_full(backend, question, instructions))
    return {
        "loop": loop / engine,
        "batched": batched / engine,
        "prefix_generate": shared / engine,
        "expand": expansion_batched / expansion,
        "prefix_generate_expand": expansion_shared / expansion,
        "prefix": scored_in_full / scored,
    }


def truncated_speedup(lm: LoadedModel) -> float:
    """How much faster a step of an adapter is when the pass runs only where it must (`states.read`).

    The states of the block at half depth are read, and the adapter sits on the third of the blocks below it. The plain
    way computes all blocks, and the loss from the same states; the other one starts after the blocks that never
    change and ends at the one that is read.
    """
    depth = len(blocks(lm.model))
    at = ReadOut((depth // 2,))
    adapted = with_adapter(lm, layers=range(depth // 3 + 1, depth // 2 + 1)).model
    generator = torch.Generator().manual_seed(0)
    vocabulary = lm.model.config.get_text_config().vocab_size
    rows = torch.randint(100, vocabulary, (16, 64), generator=generator).tolist()
    below = states_below(adapted, rows, depth // 3)

    def in_full() -> None:
        ids, real = padded(rows, adapted.device)
        states = adapted(**inputs_of(ids, real), output_hidden_states=True).hidden_states[depth // 2]
        states[:, -1:].float().square().mean().backward()

    def truncated() -> None:
        read(adapted, rows, at, below).square().mean().backward()

    def seconds(work: Callable[[], None]) -> float:
        work()  # the first call of anything is slower
        return sum(_seconds(time.perf_counter, work) for _ in range(2))

    return seconds(in_full) / seconds(truncated)


def score_in_full(backend: LocalBackend, prompt: Prompt, continuations: Sequence[str]) -> list[float]:
    """The scores of `backend.score`, computed plainly: each continuation after the whole prompt, one by one."""
    model, tokenizer = backend.lm
    start = prompt_tokens(tokenizer, prompt)
    scores = []
    with torch.inference_mode():
        for text in continuations:
            tokens = plain_tokens(tokenizer, text)
            logits = model(torch.tensor([start + tokens], device=model.device), use_cache=False).logits[0]
            targets = torch.tensor(tokens, device=model.device)
            scores.append(log_probabilities(logits[len(start) - 1 : -1], targets).sum().item())
    return scores


def _seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def _engine(backend: LocalBackend, rows: Sequence[TokenIds], sampling: Sampling) -> None:
    forget_prefixes()  # what earlier calls computed would make this one look too good
    decode_prompts(backend.lm.model, rows, sampling, range(len(rows)), set(), lambda *_: None)


def _generate(backend: LocalBackend, rows: Sequence[TokenIds], sampling: Sampling) -> torch.Tensor:
    model, tokenizer = backend.lm
    batch = tokenizer.pad({"input_ids": [list(row) for row in rows]}, padding_side="left", return_tensors="pt")
    inputs, options = batch.to(model.device), _options(backend, sampling)
    return own_generate(model, inputs.pop("input_ids"), **inputs, max_new_tokens=sampling.max_new_tokens, **options)


def _prefix_generate(backend: LocalBackend, rows: Sequence[TokenIds], sampling: Sampling) -> None:
    prefix_generate(backend.lm.model, rows, sampling.max_new_tokens, **_options(backend, sampling))


def _options(backend: LocalBackend, sampling: Sampling) -> dict[str, Any]:
    """Options with which `generate` samples as the engine does, and ends no answer early."""
    settings = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    ends = {"min_new_tokens": sampling.max_new_tokens, "pad_token_id": backend.lm.tokenizer.pad_token_id}
    return {"do_sample": True, **settings, **ends}


def _plot(random: np.random.Generator, sentences: int | None = None) -> str:
    count = sentences or int(random.integers(1, 5))
    return " ".join(" ".join(random.choice(part) for part in PLOT_PARTS.values()) + "." for _ in range(count))


def _instruction(number: int) -> str:
    change, aspect = CHANGES[number % len(CHANGES)], ASPECTS[number // len(CHANGES) % len(ASPECTS)]
    return f"Make {aspect} {change}, and say why in passing."
