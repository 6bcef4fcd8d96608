"""How probable a language model finds given texts; what they share is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from helpers.language.engine import attention
from helpers.language.engine.attention import (
    KeysValues,
    Tokens,
    beginning,
    causal_mask,
    needs_gradient,
    shared_beginnings,
)


def continuation_log_likelihoods(
    model: PreTrainedModel, prompt: Tokens, continuations: Sequence[Tokens]
) -> Float[Tensor, " continuation"]:
    """Sum of the log-probabilities of the tokens of each continuation behind one prompt.

    The prompt is computed once; continuations lie one behind the other in one row, each attending to the prompt
    and itself. Each begins with the last token of the prompt, whose output predicts its first token.
    """
    with contextlib.nullcontext() if needs_gradient(model) else torch.no_grad(), shared_beginnings(model):
        shared = beginning(model, prompt[:-1])
        sums = [_packed(model, shared, prompt, some) for some in _portions(continuations)]
    return torch.cat(sums)


def _portions(continuations: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Consecutive continuations of together at most `attention.PIECE` tokens (or one longer)."""
    some: list[Tokens] = []
    for tokens in continuations:
        if some and sum(map(len, some)) + len(tokens) > attention.PIECE:
            yield some
            some = []
        some.append(tokens)
    yield some


def _packed(
    model: PreTrainedModel, shared: KeysValues | None, prompt: Tokens, continuations: Sequence[Tokens]
) -> Float[Tensor, " continuation"]:
    device, lengths = model.device, [len(tokens) for tokens in continuations]
    inputs = [token for tokens in continuations for token in (prompt[-1], *tokens[:-1])]
    targets = torch.tensor([token for tokens in continuations for token in tokens], device=device)
    owner = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))
    position = torch.cat([torch.arange(length, device=device) for length in lengths]) + len(prompt) - 1
    foreign = owner[:, None] != owner
    mask = causal_mask(len(inputs), model.dtype, device).masked_fill(foreign, torch.finfo(model.dtype).min)
    logits = model(
        input_ids=torch.tensor([inputs], device=device),
        attention_mask=mask,
        position_ids=position[None],
        use_cache=False,
        shared=shared,
    ).logits[0]
    return logits.new_zeros(len(lengths), dtype=torch.float32).index_add(0, owner, log_probabilities(logits, targets))


def log_probabilities(logits: Float[Tensor, "place token"], targets: Int[Tensor, " place"]) -> Float[Tensor, " place"]:
    """Log-probability of one token per place, in float32."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)


def mean_log_probabilities(model: PreTrainedModel, rows: Sequence[tuple[Tokens, Tokens]]) -> Float[Tensor, " row"]:
    """Mean log-probability of the tokens of each text behind its own context: rows of (context, text)."""
    result = torch.zeros(len(rows))
    for some in attention.portions(range(len(rows)), lambda row: sum(map(len, rows[row]))):
        whole = [torch.tensor(rows[row][0] + rows[row][1]) for row in some]
        # Padding on the right needs no mask: no token looks ahead.
        logits = model(input_ids=pad_sequence(whole, batch_first=True).to(model.device), use_cache=False).logits
        for index, row in enumerate(some):
            start, targets = len(rows[row][0]), whole[index][len(rows[row][0]) :].to(model.device)
            places = logits[index, start - 1 : start - 1 + len(targets)]
            result[row] = log_probabilities(places, targets).mean()
    return result
