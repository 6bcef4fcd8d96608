"""How probable a language model finds given texts; shared prefixes are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from helpers.language.engine import fitting
from helpers.language.engine.attention import (
    causal_mask,
    computed_prefix,
    needs_gradient,
    portions,
    shared_prefixes,
)
from helpers.language.models import LoadedModel
from helpers.language.prompts import Prompt, TokenIds, opening_tokens, plain_tokens, prompt_tokens


def log_likelihoods(lm: LoadedModel, prompt: Prompt, continuations: Sequence[str]) -> Float[Tensor, " continuation"]:
    """Log-likelihood in nats of each continuation as the answer to `prompt`, summed over its tokens.

    The tokens of a continuation follow those of the prompt as they are; the end of the answer is not scored. With
    gradients enabled the result is differentiable in whatever weights require them.

    Raises:
        ValueError: no continuation, an empty one, one too long for the model, or a model without a chat template.
    """
    start = prompt_tokens(lm.tokenizer, prompt)
    rows = [plain_tokens(lm.tokenizer, text) for text in continuations]
    if isinstance(continuations, str) or not rows or not all(rows):
        raise ValueError("give a list of one or more non-empty continuations")
    refuse_too_long(lm.model, len(start) + max(map(len, rows)), 0)
    return continuation_log_likelihoods(lm.model, start, rows)


@torch.no_grad()
def perplexity(
    lm: LoadedModel, texts: Sequence[str], given: Sequence[Prompt] | None = None
) -> Float[np.ndarray, " text"]:
    """Perplexity of each text: exp of minus the mean log-probability of its tokens.

    Args:
        given: the context of each text, which is not scored: a string, after the tokens that begin every text
            (`opening_tokens`), or messages of a chat whose answer is the text. Without it, and where it is empty, a
            text follows the token that begins every text, or else the one that ends every text.

    Raises:
        ValueError: no text, an empty one, another number of `given`, or a text too long for the model.
    """
    model, tokenizer = lm
    given = [""] * len(texts) if given is None else given
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if isinstance(texts, str) or not len(texts) or len(given) != len(texts):
        raise ValueError(f"{len(texts)} texts and {len(given)} givens: give a list of texts and one given for each")
    rows, opening = [], opening_tokens(tokenizer)
    for text, before in zip(texts, given, strict=True):
        if isinstance(before, str):
            context = opening + plain_tokens(tokenizer, before)
        else:
            context = prompt_tokens(tokenizer, before)
        rows.append((context or (first,), plain_tokens(tokenizer, text)))
    if not all(tokens for _, tokens in rows):
        raise ValueError("one of the texts is empty: leave it out")
    refuse_too_long(model, max(len(context) + len(tokens) for context, tokens in rows), 0)
    sums = text_log_likelihoods(model, rows).double().cpu().numpy()
    return np.exp(-sums / [len(tokens) for _, tokens in rows])


def refuse_too_long(model: PreTrainedModel, tokens: int, new: int) -> None:
    """A text must fit the positions that the model knows.

    Raises:
        ValueError: it does not.
    """
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit and tokens + new > limit:
        answer = f" and {new} new ones" if new else ""
        raise ValueError(f"a prompt of {tokens} tokens{answer} exceeds the {limit} of the model: shorten it")


# Of tokens ---------------------------------------------------------------------------------------------------------


def continuation_log_likelihoods(
    model: PreTrainedModel, prompt: TokenIds, continuations: Sequence[TokenIds]
) -> Float[Tensor, " continuation"]:
    """Sum of the log-probabilities of the tokens of each continuation of one prompt, which is computed once."""
    if fitting.scoring_way(model, len(prompt) + max(map(len, continuations))) != "engine":
        return text_log_likelihoods(model, [(prompt, tokens) for tokens in continuations])
    with _gradients_if_needed(model), shared_prefixes(model):
        shared = computed_prefix(model, prompt[:-1])

        def logits_of(ids: Int[Tensor, "row token"]) -> Float[Tensor, "row token vocabulary"]:
            place = torch.arange(ids.shape[1], device=model.device)[None] + len(prompt) - 1
            mask = causal_mask(ids.shape[1], model.dtype, model.device)
            options = {"attention_mask": mask, "position_ids": place, "use_cache": False, "shared": shared}
            return model(input_ids=ids, **options).logits

        # Each begins with the last token of the prompt, whose output predicts its first token.
        return _sums(logits_of, [(prompt[-1:], tokens) for tokens in continuations], model.device)


def text_log_likelihoods(model: PreTrainedModel, rows: Sequence[tuple[TokenIds, TokenIds]]) -> Float[Tensor, " row"]:
    """Sum of the log-probabilities of the tokens of each text after its own context: rows of (context, text)."""
    with _gradients_if_needed(model):
        alone = fitting.padding_way(model) == "one by one"
        return _sums(lambda ids: model(input_ids=ids, use_cache=False).logits, rows, model.device, alone)


def _gradients_if_needed(model: PreTrainedModel) -> AbstractContextManager[object]:
    return nullcontext() if needs_gradient(model) else torch.no_grad()


def _sums(
    logits_of: Callable[[Int[Tensor, "row token"]], Float[Tensor, "row token vocabulary"]],
    rows: Sequence[tuple[TokenIds, TokenIds]],
    device: torch.device,
    alone: bool = False,
) -> Float[Tensor, " row"]:
    """The sums of rows of (context, text), in batches of similar length or each alone."""
    sums: dict[int, Tensor] = {}
    lengths = [len(context) + len(text) for context, text in rows]
    for some in ([row] for row in range(len(rows))) if alone else portions(range(len(rows)), lengths.__getitem__):
        inputs = [torch.tensor(rows[row][0] + rows[row][1][:-1], device=device) for row in some]
        # Padding on the right needs no mask: no token looks ahead.
        for row, logits in zip(some, logits_of(pad_sequence(inputs, batch_first=True)), strict=True):
            context, text = rows[row]
            targets = torch.tensor(text, device=device)
            sums[row] = log_probabilities(logits[len(context) - 1 : lengths[row] - 1], targets).sum()
    return torch.stack([sums[row] for row in range(len(rows))])


def log_probabilities(logits: Float[Tensor, "place token"], targets: Int[Tensor, " place"]) -> Float[Tensor, " place"]:
    """Log-probability of one token per place, in float32."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)
