"""The discriminator S: does a hidden state show the concept? (Zhang et al. 2024, section 3.2)

A small network, Linear -> ReLU -> Linear, trained by cross-entropy on states of target and plain prompts. The paper
has one. Here there may be several, each with its own initialisation and its own order of examples: a generator that
has to fool all of them cannot exploit a quirk of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.base.storage import CourseError

States = Float[Tensor, "text layer position dim"]


@dataclass(frozen=True)
class Scaling:
    """Mean and spread of each feature of a state: late layers are tens of times longer than early ones."""

    center: Float[Tensor, "layer position dim"]
    spread: Float[Tensor, "layer position dim"]

    def __call__(self, states: States) -> Float[Tensor, "text feature"]:
        """Standardised states, one row of features per text."""
        return ((states - self.center) / self.spread).flatten(start_dim=1)


def scaling_of(states: States) -> Scaling:
    """The scaling that gives these states mean 0 and standard deviation 1, or less where there are few of them.

    In a few states some features hardly differ by chance, and divided by that spread they would be huge in any other
    state. So no spread of n states is below 1/sqrt(n) of the median of all features at the same layer and position.

    Raises:
        CourseError: a state is not finite.
    """
    if not torch.isfinite(states).all():
        raise CourseError("a hidden state is not finite: load the model in float32 or bfloat16")
    spread = states.std(dim=0, correction=0)
    floor = spread.median(dim=-1, keepdim=True).values / len(states) ** 0.5
    return Scaling(states.mean(dim=0), spread.maximum(floor) + 1e-4)


class Discriminator(nn.Module):
    """An ensemble of `members` networks, each with two logits per text: plain, target."""

    def __init__(self, features: int, hidden: int = 512, members: int = 1, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(
                nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2)) for _ in range(members)
            )

    def forward(self, features: Float[Tensor, "text feature"]) -> Float[Tensor, "member text 2"]:
        return torch.stack([member(features) for member in self.members])


@dataclass(frozen=True)
class DiscriminatorTraining:
    """How a discriminator is trained; the defaults are the paper's.

    Attributes:
        noise: standard deviation of the normal noise added to every state in training (instance noise, Sonderby et
            al. 2017). A few hundred states in thousands of dimensions can be separated in countless ways; with noise as
            large as their own standard deviation, only differences that many features share remain useful.
    """

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    noise: float = 0.0


def train_discriminator(
    discriminator: Discriminator,
    target: Float[Tensor, "target feature"],
    plain: Float[Tensor, "plain feature"],
    training: DiscriminatorTraining = DiscriminatorTraining(),
    seed: int = 0,
) -> float:
    """Train in place by cross-entropy and return the accuracy on these states; both kinds have the same weight.

    Raises:
        ValueError: there are no states of one kind.
        CourseError: the loss is not finite.
    """
    learning = Learning(discriminator, training, seed)
    for _ in range(training.epochs):
        learning.epoch(target, plain)
    return accuracy(discriminator, target, plain)


class Learning:
    """The training of a discriminator, epoch by epoch, so that it can continue while the states change."""

    def __init__(self, discriminator: Discriminator, training: DiscriminatorTraining, seed: int = 0) -> None:
        self.discriminator, self.training = discriminator, training
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW(
            discriminator.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )

    @torch.enable_grad()
    def epoch(self, target: Float[Tensor, "target feature"], plain: Float[Tensor, "plain feature"]) -> None:
        """One epoch: every member sees all states once, in an order and with noise of its own.

        Raises:
            ValueError, CourseError: as `train_discriminator`.
        """
        if not len(target) or not len(plain):
            raise ValueError(f"{len(target)} target and {len(plain)} plain states: a discriminator needs some of both")
        states = torch.cat([target, plain]).detach()
        kinds = torch.tensor([1] * len(target) + [0] * len(plain), device=states.device)
        weight, members = len(states) / (2 * torch.bincount(kinds).float()), self.discriminator.members
        orders = [torch.randperm(len(states), generator=self.generator) for _ in members]
        for first in range(0, len(states), self.training.batch):
            parts = [order[first : first + self.training.batch] for order in orders]
            losses = (
                nn.functional.cross_entropy(member(self._seen(states[rows])), kinds[rows], weight=weight)
                for member, rows in zip(members, parts, strict=True)
            )
            loss = sum(losses, start=states.new_zeros(()))
            if not torch.isfinite(loss):
                raise CourseError("the discriminator's loss is not finite: lower its learning rate")
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def _seen(self, states: Float[Tensor, "text feature"]) -> Float[Tensor, "text feature"]:
        if not self.training.noise:
            return states
        return states + self.training.noise * torch.randn(states.shape, generator=self.generator).to(states.device)


def accuracy(
    discriminator: Discriminator, target: Float[Tensor, "target feature"], plain: Float[Tensor, "plain feature"]
) -> float:
    """Balanced accuracy: share of states that are classified correctly, averaged over both kinds and over members."""
    return (taken_for(discriminator, target, 1) + taken_for(discriminator, plain, 0)) / 2


@torch.no_grad()
def taken_for(discriminator: Discriminator, states: Float[Tensor, "text feature"], kind: int) -> float:
    """Share of states that are classified as `kind` (1 is target, 0 plain), averaged over members."""
    return (discriminator(states).argmax(dim=-1) == kind).float().mean().item()


def fooling_loss(discriminator: Discriminator, features: Float[Tensor, "text feature"], kind: int = 1) -> Tensor:
    """L_G of the paper (equation 4): cross-entropy of the discriminator's verdicts with the wanted kind as label."""
    logits = discriminator(features)
    wanted = torch.full(logits.shape[:-1], kind, device=logits.device)
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
