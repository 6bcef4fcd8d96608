"""Other ways to bring a concept about, with the same data and no more steps: what an edit has to beat.

- A system message: no training, but its tokens are paid for in every prompt.
- Steering: a direction is added to the states after one block during generation. The direction is the mean difference
  between target and plain states (Rimsky et al. 2024), or the first principal component of the differences within
  pairs (Zou et al. 2023, a contrast vector).
- Supervised fine-tuning: the same adapter is trained on the answers to the target prompts (cross-entropy).
- A frozen discriminator: `EditSettings(frozen=True)`, the loop without an adversary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from helpers.are.editing import Answered, EditSettings, set_rate
from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.storage import CourseError
from helpers.language.adapters import trained_weights
from helpers.language.models import AdaptedModel, LoadedModel
from helpers.language.states import changed


def mean_difference(target: Float[Tensor, "target dim"], plain: Float[Tensor, "plain dim"]) -> Float[Tensor, " dim"]:
    """Mean target state minus mean plain state.

    Raises:
        ValueError: there are no states of one kind.
    """
    if not len(target) or not len(plain):
        raise ValueError(f"{len(target)} target and {len(plain)} plain states: a difference needs some of both")
    return target.mean(dim=0) - plain.mean(dim=0)


def contrast_vector(target: Float[Tensor, "text dim"], plain: Float[Tensor, "text dim"]) -> Float[Tensor, " dim"]:
    """First principal component of the differences within pairs, scaled to the length of their mean and with its sign.

    Raises:
        ValueError: the numbers of plain and target states differ, or there are none.
    """
    if target.shape != plain.shape or not len(target):
        raise ValueError(f"{tuple(target.shape)} and {tuple(plain.shape)}: a contrast needs pairs")
    differences = target - plain
    mean = differences.mean(dim=0)
    direction = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return direction * torch.sign(direction @ mean) * mean.norm()


def steered(lm: LoadedModel, layer: int, direction: Float[Tensor, " dim"], strength: float) -> AbstractContextManager:
    """A context in which `strength` times a direction is added to the states after block `layer`, at every token."""
    step = strength * direction.to(lm.model.device, lm.model.dtype)
    return changed(lm.model, layer, lambda states: states + step)


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
        steps: in a fair comparison as many as an edit may take, rounds x steps.
        checkpoint: file to save the result to, and to load it from.

    Returns:
        One row per step: `nll` and `retain_kl` in nats.

    Raises:
        CourseError: the loss is not finite; the checkpoint is damaged, or cannot be written.
    """
    optimiser = torch.optim.Adam(trained_weights(lm.model), lr=settings.learning_rate)
    facts = {"steps": steps, "seed": seed}
    if curve := load_checkpoint(checkpoint, lm.model, optimiser, facts):
        return curve
    rng = np.random.default_rng(seed)
    for number in range(steps):
        set_rate(optimiser, settings, number, steps)
        rows, kept = (
            rng.choice(len(part.texts), settings.batch, replace=len(part.texts) < settings.batch).tolist()
            for part in (targets, retain)
        )
        nll = targets.nll(lm.model, rows)
        cost = retain.kl(lm.model, kept) if settings.retain else torch.zeros_like(nll)
        loss = nll + settings.retain * cost
        if not torch.isfinite(loss):
            raise CourseError(f"the loss is not finite in step {number}: lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append({"nll": nll.item(), "retain_kl": cost.item()})
    save_checkpoint(checkpoint, lm.model, optimiser, facts, curve)
    return curve
