"""The environment of the EAGLE agent: episodes of editing, paid by the utility of the last text.

Tennenholtz et al. 2024, section 3: the state is a text, an action is an editing instruction, a step is one
rewrite by a frozen language model (`rewriting.py`), and the reward comes at the end of an episode of H = 5 steps:
the utility of the text that stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from helpers.eagle.actions import Action, instantiate
from helpers.eagle.rewriting import Rewriter, Rewrites, Start, seed_of
from helpers.eagle.utility import ContentGap, UtilityParts
from helpers.embedding.profiles import Profile, ProfileWriter
from helpers.embedding.space import EmbeddingSpace

HORIZON = 5

Integers = Sequence[int] | Int[np.ndarray, " _"]
"""Whole numbers, such as users or actions, in a list, a range or an array."""


@dataclass(frozen=True)
class World:
    """What stays the same over all episodes: embedding space, actions, and the language model that rewrites.

    The K actions are templates; `instructions(user)` fills them with the user's profile.
    """

    space: EmbeddingSpace
    actions: tuple[Action, ...]
    rewrite: Rewriter
    horizon: int = HORIZON
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _profiles(self) -> ProfileWriter:
        return ProfileWriter(self.space.domain)

    def profile(self, user: int) -> Profile:
        """What the user likes, in words (`Profile`)."""
        return self.once(("profile", user), lambda: self._profiles(user))

    def instructions(self, user: int) -> list[str]:
        """The K instructions of a user, in the order of `actions`."""
        return self.once(("instructions", user), lambda: instantiate(self.actions, self.profile(user)))

    def gap(self, user: int) -> ContentGap:
        """The utility of new texts for a user."""
        return self.once(("gap", user), lambda: ContentGap.of_user(self.space, user))

    def utility(self, z: Float[np.ndarray, "text dim"], users: Integers) -> UtilityParts:
        """Utility of each embedding for the user in the same place."""
        if len(users) != len(z):
            raise ValueError(f"{len(z)} embeddings and {len(users)} users: give one user to each")
        # Row by row: products of several rows round differently, and an episode must not depend on its neighbours.
        parts = [self.gap(int(user))(row) for row, user in zip(z, users, strict=True)]
        return UtilityParts(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def user_embeddings(self, users: Integers) -> Float[np.ndarray, "user dim"]:
        return self.space.model.user_embeddings[np.asarray(users, dtype=int)]

    def once(self, key, make: Callable):
        """`make()`, computed once per world and key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


class Observation(NamedTuple):
    """What a policy sees of n running episodes."""

    texts: list[str]
    z: Float[np.ndarray, "episode dim"]
    users: Int[np.ndarray, " episode"]
    step: int


class Episodes(NamedTuple):
    """n finished episodes of H steps; index 0 of `texts`, `z` and `utility` is the start.

    `problems[t][i]` says what was wrong with the answer of step t ("" if nothing).
    """

    starts: list[Start]
    texts: list[list[str]]
    z: Float[np.ndarray, "time episode dim"]
    actions: Int[np.ndarray, "step episode"]
    utility: Float[np.ndarray, "time episode"]
    problems: list[list[str]]

    @property
    def gain(self) -> Float[np.ndarray, " episode"]:
        """Utility of the last text minus that of the start, in stars."""
        return self.utility[-1] - self.utility[0]

    @property
    def calls(self) -> int:
        """Environment steps taken."""
        return self.actions.size

    def observation(self, step: int) -> Observation:
        """What the policy saw before `step`."""
        return Observation(self.texts[step], self.z[step], np.array([s.user for s in self.starts]), step)


Choose = Callable[[Observation, Sequence[np.random.Generator]], Int[np.ndarray, " episode"]]


def step_texts(
    world: World, texts: Sequence[str], users: Integers, actions: Integers, seeds: Sequence[int]
) -> Rewrites:
    """One step of n episodes side by side: each text rewritten under its user's instruction, in one batch.

    Raises:
        ValueError: an action is not an integer from 0 to K - 1, or there is not one for each text.
    """
    chosen, n_actions = np.asarray(actions), len(world.actions)
    whole = np.issubdtype(chosen.dtype, np.integer) and ((chosen >= 0) & (chosen < n_actions)).all()
    if chosen.shape != (len(texts),) or not whole:
        raise ValueError(f"actions {chosen}: give each of {len(texts)} episodes an integer from 0 to {n_actions - 1}")
    instructions = [world.instructions(int(user))[action] for user, action in zip(users, chosen, strict=True)]
    return world.rewrite(texts, instructions, seeds)


def run_episodes(world: World, starts: Sequence[Start], choose: Choose, seeds: Sequence[int]) -> Episodes:
    """Play one episode from each start, all side by side: one batched rewrite a step.

    Args:
        choose: picks an action per episode from the observation, with one random generator per episode, so
            that an episode is the same whatever runs beside it.
        seeds: one per episode; it seeds both the agent's and the environment's draws.
    """
    if not len(starts) == len(seeds) > 0:
        raise ValueError(f"{len(starts)} starts and {len(seeds)} seeds: give one seed to each of one or more starts")
    users = np.array([start.user for start in starts])
    generators = [np.random.default_rng([seed, 1]) for seed in seeds]
    texts, actions, problems = [[start.text for start in starts]], [], []
    z = [world.space.encoder(texts[0])]
    for step in range(world.horizon):
        actions.append(np.asarray(choose(Observation(texts[-1], z[-1], users, step), generators)))
        rewrites = step_texts(world, texts[-1], users, actions[-1], [seed_of(seed, step) for seed in seeds])
        texts.append(rewrites.texts)
        problems.append(rewrites.problems)
        z.append(world.space.encoder(rewrites.texts))
    utility = np.stack([world.utility(now, users).total for now in z])
    return Episodes(list(starts), texts, np.stack(z), np.stack(actions), utility, problems)


class Expansion(NamedTuple):
    """Every action tried on every start, `sample` times: where the texts landed.

    `valid` is False where the answer could not be used and the text stayed.
    """

    starts: list[Start]
    origin: Float[np.ndarray, "start dim"]
    z: Float[np.ndarray, "start action sample dim"]
    utility: Float[np.ndarray, "start action sample"]
    valid: Bool[np.ndarray, "start action sample"]

    @property
    def mean(self) -> Float[np.ndarray, "start action dim"]:
        """z_a = E[E(x')]: the mean landing point of each action on each start."""
        return self.z.mean(axis=2)

    @property
    def displacement(self) -> Float[np.ndarray, "start action dim"]:
        """Mean landing point minus the start's own embedding."""
        return self.mean - self.origin[:, None]


def expand(world: World, starts: Sequence[Start], n_samples: int = 1, seed: int = 0) -> Expansion:
    """Take every action from every start: what a design chooses from (paper, section 4)."""
    rows = [(s, a, m) for s in range(len(starts)) for a in range(len(world.actions)) for m in range(n_samples)]
    instructions = [world.instructions(start.user) for start in starts]
    rewrites = world.rewrite(
        [starts[s].text for s, _, _ in rows],
        [instructions[s][a] for s, a, _ in rows],
        [seed_of(seed, "expand", m) for _, _, m in rows],
    )
    z = world.space.encoder(rewrites.texts)
    utility = world.utility(z, [starts[s].user for s, _, _ in rows]).total
    shape = (len(starts), len(world.actions), n_samples)
    origin = world.space.encoder([start.text for start in starts])
    return Expansion(list(starts), origin, z.reshape(*shape, -1), utility.reshape(shape), rewrites.valid.reshape(shape))
