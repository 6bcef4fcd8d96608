"""Damage that shows before anything is generated: how far an edit shifts the first token of harmless answers.

Refusal rates count answers, so thirty questions say little about a change of a few percent. A divergence is a number
per question, from one forward pass and without generating an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.are.concepts import Question
from helpers.language.generation import Message, prompt_tokens
from helpers.language.models import AnyModel
from helpers.language.states import READ_BATCH, ending_states, in_batches, log_probs_of


def first_token_log_probs(
    lm: AnyModel, questions: Sequence[Question], before: Sequence[Message] = ()
) -> Float[Tensor, "question token"]:
    """Log-probabilities of the first token of the answer to each question, after the messages `before` it, if any.

    Raises:
        ValueError: no question, or a model without a chat template.
    """
    texts = [prompt_tokens(lm.tokenizer, (*before, ("user", question.text))) for question in questions]
    if not texts:
        raise ValueError("no question: give one or more")

    def of_rows(rows: list[int]) -> Float[Tensor, "row token"]:
        states = ending_states(lm.model, [texts[row] for row in rows], [1] * len(rows))
        return log_probs_of(lm.model, torch.cat(states))

    return torch.stack(in_batches(texts, READ_BATCH, of_rows))


def kl_between(
    base: Float[Tensor, "question token"], edited: Float[Tensor, "row word"]
) -> Float[np.ndarray, " question"]:
    """KL(base || edited) of log-probabilities in nats, one number per question; their mean is the damage.

    Raises:
        ValueError: the shapes differ: other vocabularies, or other numbers of questions.
    """
    if base.shape != edited.shape:
        raise ValueError(f"shapes {tuple(base.shape)} and {tuple(edited.shape)}: ask both models the same questions")
    apart = nn.functional.kl_div(edited, base, reduction="none", log_target=True)
    return apart.sum(dim=-1).double().cpu().numpy()
