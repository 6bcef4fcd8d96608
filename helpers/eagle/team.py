"""Who trains an agent: this process alone, or several that share the episodes of every iteration.

`training.train` asks its team and need not know which it is. Advantages are scaled and facts are averaged over all
processes, so their number changes neither weights nor curve but for rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from helpers.eagle.rewriting import Start

if TYPE_CHECKING:
    from accelerate import Accelerator


class Team:
    """One process alone."""

    is_main = True

    def place(self, agent: nn.Module, n_groups: int) -> None:
        """Put the agent where it is trained, before an optimiser's state is loaded.

        Raises:
            ValueError: the processes cannot share so many groups of episodes evenly.
        """

    def prepare(self, agent: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Agent and optimiser as they are called in the loop."""
        return agent, optimiser

    def share(self, batch: list[Start], seeds: list[int], group: int) -> tuple[list[Start], list[int]]:
        """The episodes that this process plays."""
        return batch, seeds

    def spread(self, advantages: Tensor) -> Tensor:
        """Standard deviation of the advantages of all episodes."""
        return advantages.std()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean loss of all episodes."""
        loss.backward()

    def average(self, facts: dict[str, float]) -> dict[str, float]:
        """Means over all episodes, from those of this process's."""
        return facts

    def wait(self) -> None:
        """Wait until all processes are here."""


class Processes(Team):
    """The processes that `accelerate launch` started; each plays every n-th group of the episodes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.is_main = accelerator, accelerator.is_main_process

    def place(self, agent: nn.Module, n_groups: int) -> None:
        n_processes = self.accelerator.num_processes
        if n_groups % n_processes:
            raise ValueError(
                f"{n_processes} processes cannot share the episodes evenly: choose a multiple of that number"
            )
        agent.to(self.accelerator.device)

    def prepare(self, agent: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self.accelerator.prepare(agent, optimiser)

    def share(self, batch: list[Start], seeds: list[int], group: int) -> tuple[list[Start], list[int]]:
        turn = np.arange(len(seeds)) // max(1, group) % self.accelerator.num_processes
        mine = np.flatnonzero(turn == self.accelerator.process_index)
        return [batch[i] for i in mine], [seeds[i] for i in mine]

    def spread(self, advantages: Tensor) -> Tensor:
        return self.accelerator.gather(advantages.contiguous()).std()

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def average(self, facts: dict[str, float]) -> dict[str, float]:
        numbers = torch.tensor([list(facts.values())], dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(facts, self.accelerator.gather(numbers).mean(dim=0).tolist(), strict=True))

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
