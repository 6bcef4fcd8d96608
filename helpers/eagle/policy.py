"""Policies: which instruction to give next. A small network over embeddings, the default on a CPU.

The paper's policy is a fine-tuned language model. On two cores a network of a few thousand weights has to do: it
sees where the text lies, who the user is, how far the episode has come, and what each action is expected to do
(`effects.Effects`), and scores all K actions at once. The language-model policy of `language_policy.py` has the
same interface.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.base.compute import one_thread
from helpers.eagle.effects import Effects
from helpers.eagle.environment import Choose, Integers, Observation, World

# Adam moves every weight at one pace, and a single weight would lag behind thousands that pull together.
PACE = 5.0


@runtime_checkable
class Policy(Protocol):
    """Anything that gives the log-probability of every action in a batch of observations."""

    def __call__(self, observation: Observation) -> Float[Tensor, "episode action"]: ...


class EmbeddingPolicy(nn.Module):
    """pi(a | x, u): one score per action from state, user, time and the action's expected effect; softmax over K.

    The same two-layer network scores every action, so that what is learnt of one action carries over to others
    that do the same; a bias per action holds what the network cannot express. One more weight, `trust`, says how far
    to follow what a linear model would: the change of the predicted rating that the expected effect promises.
    """

    scales: Float[Tensor, "5 dim"]

    def __init__(self, world: World, effects: Effects, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.world, self.effects = world, effects
        dim = world.space.items.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, last = nn.Linear(5 * dim + 1, hidden), nn.Linear(hidden, 1, bias=False)
        self.network = nn.Sequential(first, nn.Tanh(), last)
        nn.init.zeros_(last.weight)  # starts as the uniform policy
        self.bias = nn.Parameter(torch.zeros(len(world.actions)))
        self.trust = nn.Parameter(torch.zeros(()))
        self.register_buffer("scales", torch.as_tensor(_scales(world, effects), dtype=torch.float32))

    def features(self, observation: Observation) -> Float[Tensor, "episode action feature"]:
        """State, user, effect, user * effect, state * effect (each of the space's dimension) and time."""
        center, spread, user_center, user_spread, effect_spread = self.scales
        state = (_like(self.scales, observation.z) - center) / spread
        user = (_like(self.scales, self.world.user_embeddings(observation.users)) - user_center) / user_spread
        effect = _like(self.scales, self.effects.of_users(observation.users)) / effect_spread
        state, user = (part[:, None].expand_as(effect) for part in (state, user))
        time = torch.full_like(effect[..., :1], observation.step / self.world.horizon)
        return torch.cat([state, user, effect, user * effect, state * effect, time], dim=-1)

    def promise(self, users: Integers) -> Float[Tensor, "episode action"]:
        """<z_user, effect>: change of the predicted rating, in standard deviations over the actions."""
        change = np.einsum("ed,ead->ea", self.world.user_embeddings(users), self.effects.of_users(users))
        return _like(self.scales, (change - change.mean(1, keepdims=True)) / (change.std(1, keepdims=True) + 1e-9))

    def scores(self, observation: Observation) -> Float[Tensor, "episode action"]:
        """One number per action; softmax turns them into probabilities."""
        of_network = self.network(self.features(observation))[..., 0]
        return of_network + self.bias + PACE * self.trust * self.promise(observation.users)

    def forward(self, observation: Observation) -> Float[Tensor, "episode action"]:
        """Log-probabilities of all actions."""
        return torch.log_softmax(self.scores(observation), dim=-1)


def _like(tensor: Tensor, array: np.ndarray) -> Tensor:
    """The array in the dtype and on the device of `tensor`."""
    return torch.as_tensor(array, dtype=tensor.dtype, device=tensor.device)


def _scales(world: World, effects: Effects) -> Float[np.ndarray, "5 dim"]:
    """Centre and spread of items and users, spread of effects: the network wants numbers around 1."""
    items, users = world.space.items, world.space.model.user_embeddings
    sample = effects.of_users(range(min(20, len(users))))
    spreads = [np.maximum(part.reshape(-1, part.shape[-1]).std(axis=0), 1e-6) for part in (items, users, sample)]
    return np.stack([items.mean(axis=0), spreads[0], users.mean(axis=0), spreads[1], spreads[2]])


class ValueNetwork(nn.Module):
    """V(x, u, t) as the gain in utility still to come, in stars; it starts at 0 everywhere.

    The utility of the present text is known exactly, so only what is added to it has to be learnt.
    """

    scales: Float[Tensor, "4 dim"]

    def __init__(self, world: World, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.world = world
        dim = world.space.items.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first, last = nn.Linear(3 * dim + 1, hidden), nn.Linear(hidden, 1)
        self.network = nn.Sequential(first, nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        items, users = world.space.items, world.space.model.user_embeddings
        scales = np.stack([items.mean(0), items.std(0) + 1e-6, users.mean(0), users.std(0) + 1e-6])
        self.register_buffer("scales", torch.as_tensor(scales, dtype=torch.float32))

    def forward(self, observation: Observation) -> Float[Tensor, " episode"]:
        center, spread, user_center, user_spread = self.scales
        state = (_like(self.scales, observation.z) - center) / spread
        user = (_like(self.scales, self.world.user_embeddings(observation.users)) - user_center) / user_spread
        time = torch.full_like(state[:, :1], observation.step / self.world.horizon)
        left = 1 - observation.step / self.world.horizon
        return left * self.network(torch.cat([state, user, state * user, time], dim=-1))[:, 0]


SomePolicy = TypeVar("SomePolicy", bound=nn.Module)


def frozen_copy(policy: SomePolicy) -> SomePolicy:
    """The policy as it is now, to stay so: the reference of the KL penalty. World and frozen weights are shared."""
    shared = [getattr(policy, name, None) for name in ("world", "effects", "allowed")]
    shared += [weight for weight in policy.parameters() if not weight.requires_grad]
    return copy.deepcopy(policy, {id(part): part for part in shared}).requires_grad_(False)


def fitting_threads(policy: Policy | nn.Module) -> contextlib.AbstractContextManager:
    """One torch thread for a small network (`one_thread` says why), all of them for a language model."""
    size = sum(weight.numel() for weight in policy.parameters()) if isinstance(policy, nn.Module) else 0
    return one_thread() if size < 1_000_000 else contextlib.nullcontext()


def sampling_from(policy: Policy, temperature: float = 1.0) -> Choose:
    """Draw each episode's action from the policy with the episode's own generator; temperature 0 takes the best.

    Raises:
        ValueError: negative temperature.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}: give 0 (the best action) or a positive number")

    def choose(observation: Observation, generators: Sequence[np.random.Generator]) -> np.ndarray:
        with torch.no_grad(), fitting_threads(policy):
            log_probs = policy(observation).double().cpu().numpy()
        if temperature == 0:
            return log_probs.argmax(axis=1)
        p = np.exp((log_probs - log_probs.max(axis=1, keepdims=True)) / temperature)
        cumulative = np.cumsum(p, axis=1)
        draws = np.array([generator.random() for generator in generators]) * cumulative[:, -1]
        return (cumulative <= draws[:, None]).sum(axis=1)  # an action of probability 0 is never drawn

    return choose


def uniform(observation: Observation, generators: Sequence[np.random.Generator], n_actions: int) -> np.ndarray:
    """A random action for each episode."""
    return np.array([generator.integers(n_actions) for generator in generators])
