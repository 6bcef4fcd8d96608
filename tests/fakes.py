"""A small agent in the fake world: its policy knows what every instruction does."""

from __future__ import annotations

import numpy as np
import torch
from fake_world import ACTIONS, N_USERS, encode, fake_starts, walk
from sklearn.linear_model import Ridge, RidgeCV

from helpers.eagle.effects import Effects
from helpers.eagle.environment import Expansion, World
from helpers.eagle.policy import EmbeddingPolicy, ValueNetwork
from helpers.eagle.training import Agent


class TrueEffects(Effects):
    """What `effects.Effects` estimates, as it is."""

    def __init__(self, world: World) -> None:
        super().__init__(world, Ridge(), RidgeCV(), 1.0)  # the regressions are never asked

    def __call__(self, user: int) -> np.ndarray:
        return self.world.once(
            ("walks", user), lambda: np.array([walk(instruction) for instruction in self.world.instructions(user)])
        )


def small_agent(world: World, seed: int = 0) -> Agent:
    """An agent that starts with the uniform policy."""
    policy = EmbeddingPolicy(world, TrueEffects(world), hidden=8, seed=seed)
    return Agent(policy, ValueNetwork(world, hidden=8, seed=seed))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def best_action(world: World, user: int) -> int:
    """The action that raises the rating most; the instructions of the fake world move every text alike."""
    return int((TrueEffects(world)(user) @ world.user_embeddings([user])[0]).argmax())


def expansion(n: int) -> Expansion:
    """Starts alone: what actions do plays no part in `fit_reference`."""
    starts, empty = fake_starts(n), np.zeros((n, len(ACTIONS), 1))
    return Expansion(starts, encode([start.text for start in starts]), empty[..., None], empty, empty == 0)


def wanted(n: int) -> np.ndarray:
    """A distribution for each of the users, far from uniform."""
    of_user = np.random.default_rng(8).dirichlet([0.5] * len(ACTIONS), size=N_USERS)
    return of_user[[start.user for start in fake_starts(n)]]
