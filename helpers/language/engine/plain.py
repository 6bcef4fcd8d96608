"""Decoding with transformers' own `generate`: easy to read, and right for every architecture that it supports.

`prefix_generate` is what the engine does, in twenty lines. `generate_padded` decodes what the engine does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from helpers.language.engine.attention import UnfitError, common_length
from helpers.language.models import LanguageModel, inner_model
from helpers.language.prompts import TokenIds


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
    """Prompts as one matrix, padded on the left, and a mask that is 1 for tokens and 0 for padding."""
    width = max(map(len, prompts))
    ids = torch.tensor([(0,) * (width - len(prompt)) + tuple(prompt) for prompt in prompts])
    real = torch.arange(width) >= width - torch.tensor([len(prompt) for prompt in prompts])[:, None]
    return ids, real.long()


@torch.no_grad()
def prefix_generate(
    model: LanguageModel, prompts: Sequence[TokenIds], max_new_tokens: int, **options
) -> Int[Tensor, "row token"]:
    """New tokens of every prompt; the prefix that all prompts share is computed once.

    Args:
        options: of `generate`, such as `do_sample`.
    """
    shared = min(common_length(min(prompts), max(prompts)), min(map(len, prompts)) - 1)
    prefix = torch.tensor(prompts[0][:shared], dtype=torch.long, device=model.device)
    cache = DynamicCache(config=model.config)
    if shared:
        model(prefix[None], past_key_values=cache)
        cache.batch_repeat_interleave(len(prompts))
    rest, real = (part.to(model.device) for part in left_padded([prompt[shared:] for prompt in prompts]))
    tokens = own_generate(
        model,
        torch.cat([prefix.expand(len(prompts), -1), rest], dim=1),
        attention_mask=torch.cat([real.new_ones(len(prompts), shared), real], dim=1),
        past_key_values=cache,
        max_new_tokens=max_new_tokens,
        **options,
    )
    return tokens[:, shared + rest.shape[1] :]


# Where the engine does not fit ----------------------------------------------------------------------------------------


@runtime_checkable
class Growing(Protocol):
    """The part of `Answers` that decoding needs: growing by a token."""

    ended: set[int]

    def grow(self, logits: Float[Tensor, "row token"], rows: list[int]) -> Int[Tensor, " row"]:
        """The next token of these rows."""


class _Choose(LogitsProcessor):
    """Leaves only the token that the course's own sampler chooses, so that seeds work as in the engine."""

    def __init__(self, answers: Growing) -> None:
        self.answers = answers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.answers.grow(scores, list(range(len(scores))))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class _Ended(StoppingCriteria):
    def __init__(self, answers: Growing) -> None:
        self.answers = answers

    def __call__(self, input_ids: Tensor, scores: Tensor | None, **_options) -> Bool[Tensor, " row"]:
        ended = [row in self.answers.ended for row in range(len(input_ids))]
        return torch.tensor(ended, device=input_ids.device)


def generate_padded(model: LanguageModel, prompts: Sequence[TokenIds], answers: Growing, max_new_tokens: int) -> None:
    """Let `answers` grow after prompts that are padded on the left."""
    ids, real = (part.to(model.device) for part in left_padded(prompts))
    base = inner_model(model)
    before, base.generation_config = base.generation_config, GenerationConfig()  # none of its own penalties
    try:
        own_generate(
            base,
            ids,
            attention_mask=real,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([_Choose(answers)]),
            stopping_criteria=StoppingCriteriaList([_Ended(answers)]),
        )
    finally:
        base.generation_config = before


def own_generate(model: LanguageModel, ids: Int[Tensor, "row token"], **options) -> Int[Tensor, "row longer"]:
    """The model's own `generate`, also inside an adapter: the prompts and what follows them.

    Raises:
        UnfitError: it has none.
    """
    base = inner_model(model)
    if not isinstance(base, GenerationMixin):
        raise UnfitError(f"{type(base).__name__} does not generate")
    tokens = base.generate(ids, **options)  # type: ignore[misc]  # it wants a protocol that no model of theirs fits
    assert isinstance(tokens, Tensor)  # a ModelOutput only if asked for
    return tokens
