"""What every trained policy needs, whatever its form: advantages, the KL penalty, a frozen reference, and threads."""

from __future__ import annotations

import contextlib
import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.base.compute import one_thread

LARGE = 1_000_000  # weights from which a pass keeps several threads busy

SomePolicy = TypeVar("SomePolicy", bound=nn.Module)


def gae(
    rewards: Float[Tensor, "step episode"], values: Float[Tensor, "step episode"], gae_lambda: float
) -> Float[Tensor, "step episode"]:
    """Generalised advantages with gamma = 1; the value after the last step is 0 (Schulman et al. 2016, eq. 16)."""
    advantage, result = torch.zeros_like(rewards[0]), []
    following = torch.cat([values[1:], torch.zeros_like(values[:1])])
    for delta in (rewards + following - values).flip(0):
        advantage = delta + gae_lambda * advantage
        result.append(advantage)
    return torch.stack(result[::-1])


def kl_of(
    log_probs: Float[Tensor, "*batch action"], reference_log_probs: Float[Tensor, "*batch action"]
) -> Float[Tensor, "*batch"]:
    """KL(pi || pi_ref) in nats, exact, because all actions can be enumerated."""
    return (log_probs.exp() * (log_probs - reference_log_probs)).sum(-1)


def own_copy(policy: SomePolicy) -> SomePolicy:
    """A copy of the policy, to be trained separately. World and frozen weights are shared."""
    shared = [getattr(policy, "world", None)]
    shared += [weight for weight in policy.parameters() if not weight.requires_grad]
    return copy.deepcopy(policy, {id(part): part for part in shared})


def frozen_copy(policy: SomePolicy) -> SomePolicy:
    """A frozen copy of the policy: the reference of the KL penalty (shared: as for `own_copy`)."""
    return own_copy(policy).requires_grad_(False)


def fitting_threads(policy: nn.Module) -> contextlib.AbstractContextManager:
    """One torch thread for a small network (`one_thread` says why), all of them for a language model."""
    size = sum(weight.numel() for weight in policy.parameters())
    return one_thread() if size < LARGE else contextlib.nullcontext()
