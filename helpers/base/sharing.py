"""How the processes of a training run divide its work: this one alone, or those that `accelerate launch` started.

Each process draws every batch as if it were alone, computes its own part, and averages gradients and facts over all
processes. So their number changes weights and learning curve by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class Share:
    """The share of one process that does all of the work."""

    processes = 1
    is_main = True

    def prepare(self, model: nn.Module) -> bool:
        """Place a model before it is trained; returns whether states of blocks must be recomputed to save memory."""
        return False

    def main_first(self) -> AbstractContextManager:
        """A context that the main process enters first."""
        return nullcontext()

    def part(self, numbers: Int[np.ndarray, "number ..."]) -> Int[np.ndarray, "own ..."]:
        """This process's rows of a batch."""
        return numbers

    def gather(self, values: Float[Tensor, "own ..."]) -> Float[Tensor, "all ..."]:
        """The values of all processes, one after the other."""
        return values

    def average_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes."""

    def mean(self, facts: dict[str, float]) -> dict[str, float]:
        """The mean of every fact over the processes."""
        return facts

    def wait(self) -> None:
        """Wait until all processes get here."""


ALONE = Share()
"""Of a run in one process."""


class ProcessShare(Share):
    """The share of one of several processes: every n-th row of a batch.

    Tensors may be on any device: they are moved to the accelerator's device and back.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.processes = accelerator.num_processes
        self.is_main = accelerator.is_main_process

    def prepare(self, model: nn.Module) -> bool:
        model.to(self.accelerator.device)
        return False

    def main_first(self) -> AbstractContextManager:
        return self.accelerator.main_process_first()

    def part(self, numbers: Int[np.ndarray, "number ..."]) -> Int[np.ndarray, "own ..."]:
        return numbers[self.accelerator.process_index :: self.processes]

    def gather(self, values: Float[Tensor, "own ..."]) -> Float[Tensor, "all ..."]:
        return self.accelerator.gather(values.to(self.accelerator.device).contiguous()).to(values.device)

    def average_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        for weight in weights:
            if weight.grad is not None:
                mean = self.accelerator.reduce(weight.grad.to(self.accelerator.device), "mean")
                weight.grad = mean.to(weight.device)

    def mean(self, facts: dict[str, float]) -> dict[str, float]:
        numbers = torch.tensor(list(facts.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(facts, self.accelerator.reduce(numbers, "mean").tolist(), strict=True))

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
