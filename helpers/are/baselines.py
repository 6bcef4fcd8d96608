"""Other ways to bring a concept about, at the same data and no more steps: what an edit has to beat.

- A system message: no training, and it costs its tokens in every prompt.
- Steering: a direction is added to the states after one block, while the model writes. The direction is the mean
  difference of target and plain states (Rimsky et al. 2024), or the first principal component of the differences of
  pairs (Zou et al. 2023, a contrast vector).
- Directional addition: steering with the mean difference of harmful and harmless prompts, where layer and position are
  chosen among all (Arditi et al. 2024, section 2.4). The direction is added, which makes a model refuse more; taking it
  out of the states would take refusals away, and is not built here.
- Supervised fine-tuning: the same adapter learns the answers of the target prompts by heart (cross-entropy).
- Preference tuning: the same adapter learns to prefer the target answers to the model's own (Rafailov et al. 2023).
- A frozen discriminator: `EditSettings(frozen=True)`; the loop without an adversary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from helpers.are.concepts import Question
from helpers.are.editing import Answered, EditSettings
from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.storage import CourseError
from helpers.language.adapters import trained_weights
from helpers.language.engine.attention import common_length
from helpers.language.generation import prompt_tokens
from helpers.language.models import AdaptedModel, LoadedModel
from helpers.language.states import (
    READ_BATCH,
    ReadOut,
    TokenSequence,
    blocks,
    changed,
    ending_states,
    in_batches,
    log_probs_of,
    read_all,
)

# Directions --------------------------------------------------------------------------------------------------------


def mean_difference(
    target: Float[Tensor, "target *place dim"], plain: Float[Tensor, "plain *place dim"]
) -> Float[Tensor, "*place dim"]:
    """Mean target state minus mean plain state.

    Raises:
        ValueError: a kind without states.
    """
    if not len(target) or not len(plain):
        raise ValueError(f"{len(target)} target and {len(plain)} plain states: a difference needs some of both")
    return target.mean(dim=0) - plain.mean(dim=0)


def contrast_vector(target: Float[Tensor, "text dim"], plain: Float[Tensor, "text dim"]) -> Float[Tensor, " dim"]:
    """First principal component of the differences of pairs, as long as their mean and pointing its way.

    Raises:
        ValueError: not one plain state for every target state.
    """
    if target.shape != plain.shape or not len(target):
        raise ValueError(f"{tuple(target.shape)} and {tuple(plain.shape)}: a contrast needs pairs")
    differences = target - plain
    mean = differences.mean(dim=0)
    direction = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return direction * torch.sign(direction @ mean) * mean.norm()


def steered(lm: LoadedModel, layer: int, direction: Float[Tensor, " dim"], strength: float) -> AbstractContextManager:
    """Inside the block, `strength` times a direction is added to the states after a block, at every token."""
    step = strength * direction.to(lm.model.device, lm.model.dtype)
    return changed(lm.model, layer, lambda states: states + step)


class Candidate(NamedTuple):
    """A direction that may be added to the states of a model.

    Attributes:
        layer: the block behind which it was found and is added, counted from 1.
        position: the token at which it was found; -1 is the last of the prompt.
        factor: how many times it is added (`steered`).
    """

    layer: int
    position: int
    direction: Float[Tensor, " dim"]
    factor: float = 1.0


def template_tail(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a chat template puts behind a question: there a model has read it all and says nothing yet.

    Raises:
        ValueError: the model has no chat template.
    """
    one, other = (prompt_tokens(tokenizer, text)[::-1] for text in ("Yes", "42"))
    return common_length(one, other)


def direction_candidates(
    lm: LoadedModel, harmful: Sequence[Question], harmless: Sequence[Question], positions: int | None = None
) -> list[Candidate]:
    """Mean differences of the states of harmful and harmless questions, after every block and at the last tokens.

    Questions are asked without a system message of ours.

    Args:
        positions: how many of the last tokens; those of the template (`template_tail`) when not given.

    Raises:
        ValueError: a kind without questions, or a prompt with fewer tokens.
    """
    at = ReadOut(tuple(range(1, len(blocks(lm.model)) + 1)), positions or max(1, template_tail(lm.tokenizer)))
    if not harmful or not harmless:
        raise ValueError(f"{len(harmful)} harmful and {len(harmless)} harmless questions: give some of both")
    states = (
        read_all(lm.model, [prompt_tokens(lm.tokenizer, question.text) for question in part], at)
        for part in (harmful, harmless)
    )
    found = mean_difference(*states)
    places = [(layer, place) for layer in at.layers for place in range(at.positions)]
    return [Candidate(layer, place - at.positions, found[layer - 1, place]) for layer, place in places]


def ranked(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> list[tuple[float, Candidate]]:
    """Candidates with their scores, the best first; equal ones stay in their order, and those at -inf are left out.

    Raises:
        ValueError: a score that is no number.
        CourseError: none is left.
    """
    scored = [(float(score(candidate)), candidate) for candidate in candidates]
    if any(np.isnan(value) for value, _ in scored):
        raise ValueError("the score of a direction is no number: give -inf for one that may not be chosen")
    left = [pair for pair in scored if pair[0] > -np.inf]
    if not left:
        raise CourseError("no direction may be chosen: allow more, or try smaller factors")
    return sorted(left, key=lambda pair: -pair[0])


# Training ----------------------------------------------------------------------------------------------------------

Losses = tuple[Tensor, dict[str, float]]
"""What a step lowers, and its facts."""


def fine_tune(
    lm: AdaptedModel,
    targets: Answered,
    retain: Answered,
    settings: EditSettings,
    steps: int,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Supervised fine-tuning of the adapter of `lm`, in place: cross-entropy of the target answers, same retain term.

    Args:
        targets: plain prompts with the answers that the target prompts got.
        steps: as many as an edit may take: rounds x steps.
        checkpoint: file to keep the result in, and to load it from.

    Returns:
        One row per step: `nll` and `retain_kl` in nats.

    Raises:
        CourseError: the loss is not finite; the checkpoint is damaged, or cannot be written.
    """

    def taught(rows: list[int]) -> Losses:
        nll = targets.nll(lm.model, rows)
        return nll, {"nll": nll.item()}

    run = {"steps": steps, "seed": seed}
    return _trained(lm, taught, len(targets.texts), retain, settings, run, checkpoint)


def _trained(
    lm: AdaptedModel,
    taught: Callable[[list[int]], Losses],
    size: int,
    retain: Answered,
    settings: EditSettings,
    run: dict,
    checkpoint: Path | None,
) -> list[dict[str, float]]:
    """Train the adapter by what is taught on `size` rows and by the retain term; `run` has the steps and the seed."""
    optimiser = torch.optim.Adam(trained_weights(lm.model), lr=settings.learning_rate)
    if curve := load_checkpoint(checkpoint, lm.model, optimiser, run):
        return curve
    rng = np.random.default_rng(run["seed"])
    for number in range(run["steps"]):
        some, kept = (
            rng.choice(n, settings.batch, replace=n < settings.batch).tolist() for n in (size, len(retain.texts))
        )
        value, facts = taught(some)
        cost = retain.kl(lm.model, kept) if settings.retain else torch.zeros_like(value)
        loss = value + settings.retain * cost
        if not torch.isfinite(loss):
            raise CourseError(f"the loss is not finite in step {number}: lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(facts | {"retain_kl": cost.item()})
    save_checkpoint(checkpoint, lm.model, optimiser, run, curve)
    return curve


def preference_pairs(
    lm: AdaptedModel,
    prompts: Sequence[TokenSequence],
    chosen: Sequence[TokenSequence],
    rejected: Sequence[TokenSequence],
) -> Answered:
    """Prompts twice: first all with the chosen answers, then all with the rejected ones, so that one pass reads both.

    Prompts that lack one of the two, or have the same answer twice, say nothing and are left out.

    Raises:
        CourseError: none is left.
    """
    pairs = [
        (prompt, good, bad)
        for prompt, good, bad in zip(prompts, chosen, rejected, strict=True)
        if good and bad and list(good) != list(bad)
    ]
    if not pairs:
        raise CourseError("no prompt with two different answers: there is nothing to prefer")
    texts, good, bad = zip(*pairs, strict=True)
    return Answered(lm, [*texts, *texts], [*good, *bad])


def answer_log_likelihoods(answered: Answered, model: PeftModel, rows: Sequence[int]) -> Float[Tensor, " row"]:
    """Log-likelihood in nats of some of the answers behind their prompts, each summed over its tokens."""
    counts = [len(answered.answers[row]) for row in rows]
    below = answered.below and answered.below.of(rows)
    states = ending_states(model, [answered.texts[row] for row in rows], counts, below)
    tokens = torch.tensor([token for row in rows for token in answered.answers[row]], device=model.device)
    found = log_probs_of(model, torch.cat(states)).gather(1, tokens[:, None])[:, 0]
    return torch.stack([part.sum() for part in found.split(counts)])


def preference_loss(chosen: Float[Tensor, " pair"], rejected: Float[Tensor, " pair"], beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)), averaged over pairs (Rafailov et al. 2023, equation 7).

    Args:
        chosen, rejected: log p - log p_ref of the answers, in nats.
        beta: how soon a preference counts as learnt; the smaller, the further the model may go from where it was.
    """
    return -nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


def prefer(
    lm: AdaptedModel,
    pairs: Answered,
    retain: Answered,
    settings: EditSettings,
    steps: int,
    beta: float = 0.1,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Preference tuning (DPO) of the adapter of `lm`, in place, with the retain term, steps and batches of `fine_tune`.

    The reference is the model without the adapter. It stays, so its likelihoods are computed once, when first needed.

    Args:
        pairs: as `preference_pairs` makes them; a batch of them has `settings.batch` prompts.

    Returns:
        One row per step: `preference`, the loss; `chosen` and `rejected`, by how many nats their answers have become
        likelier on average; and `retain_kl`.

    Raises:
        ValueError: beta is not positive, or prompts do not come twice.
        CourseError: the loss is not finite; the checkpoint is damaged, or cannot be written.
    """
    half, odd = divmod(len(pairs.texts), 2)
    if not beta > 0 or odd:
        raise ValueError(f"beta {beta}, {len(pairs.texts)} texts: give a positive number, and two answers per prompt")

    @functools.cache
    def reference() -> Float[Tensor, " row"]:
        with lm.model.disable_adapter():
            found = in_batches(pairs.texts, READ_BATCH, lambda rows: answer_log_likelihoods(pairs, lm.model, rows))
        return torch.stack(found)

    def taught(rows: list[int]) -> Losses:
        both = [*rows, *(row + half for row in rows)]
        chosen, rejected = (answer_log_likelihoods(pairs, lm.model, both) - reference()[both]).chunk(2)
        loss = preference_loss(chosen, rejected, beta)
        moved = {"chosen": chosen.mean().item(), "rejected": rejected.mean().item()}
        return loss, {"preference": loss.item()} | moved

    run = {"steps": steps, "seed": seed, "beta": beta}
    return _trained(lm, taught, half, retain, settings, run, checkpoint)
