"""The course's experiment in one place: which movies, users and budgets notebooks 04 to 08 share.

Movies and users of the test starts never occur in training: neither the design data, nor the reference policies,
nor the agents have seen them, and settings are chosen on training starts (notebooks 06 and 07).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.base.settings import by_profile
from helpers.domains.movies import load_movies
from helpers.eagle.actions import BANK, Action
from helpers.eagle.comparison import HIGH, LOW, users_by_liking
from helpers.eagle.effects import Effects, fit_effects
from helpers.eagle.environment import Expansion, World, expand
from helpers.eagle.policy import EmbeddingPolicy, ValueNetwork
from helpers.eagle.rewriting import Rewriter, Start, start_items, start_of
from helpers.eagle.training import Agent, Settings, fit_reference, reference_targets, train
from helpers.embedding.space import EmbeddingSpace, build_space
from helpers.language.generation import Backend, default_memo, local_backend

if TYPE_CHECKING:
    from accelerate import Accelerator

# Early stopping: more steps learn the training starts by heart. Chosen by leaving out a quarter of the full profile's
# training starts at a time (notebook 06 shows the curve).
REFERENCE_STEPS, REFERENCE_RATE = 60, 1e-3


@dataclass(frozen=True)
class SteeringPlan:
    """Sizes of the experiment. `budget` counts environment calls per test start, seed and method."""

    train_items: int
    test_items: int
    seeds: tuple[int, ...]
    training: Settings
    budget: int


STEERING_PLANS = {
    "small": SteeringPlan(4, 3, (0,), Settings(iterations=4, episodes=4, learning_rate=0.03, kl=0.03), budget=5),
    "full": SteeringPlan(
        18, 12, (0, 1, 2), Settings(iterations=15, episodes=8, learning_rate=0.03, kl=0.03), budget=10
    ),
}


def steering_plan() -> SteeringPlan:
    """The sizes of the current profile."""
    return by_profile(**STEERING_PLANS)


def build_world(
    space: EmbeddingSpace | None = None,
    actions: tuple[Action, ...] = BANK,
    backend: Backend | None = None,
    progress: bool = False,
) -> World:
    """Movies, the bank of actions, and the course's chat model as the environment; every answer is kept in the memo."""
    space = space or build_space(load_movies())
    rewriter = Rewriter(
        backend or local_backend(), memo=default_memo(), progress=progress, wording=space.domain.wording
    )
    return World(space, actions, rewriter)


def split_starts(
    world: World, n_train: int, n_test: int, seed: int = 0, low: float = LOW, high: float = HIGH
) -> tuple[list[Start], list[Start]]:
    """Training and test starts: different movies with different plots, different users.

    Every test movie has two users, one who is predicted to give it at most `low` stars and one who is predicted to
    give it at least `high`. Training movies have one user each, of either kind in turn.
    """
    domain, model = world.space.domain, world.space.model
    rng = np.random.default_rng(seed)
    users = rng.permutation(domain.n_users)
    pools = {"test": users[: domain.n_users // 2], "train": users[domain.n_users // 2 :]}
    starts: dict[str, list[Start]] = {"test": [], "train": []}
    plots, used = domain.items["plot_text"], set()  # some films are listed twice
    for item in rng.permutation(start_items(domain)):
        part = "test" if len(starts["test"]) < 2 * n_test else "train"
        if len(starts["train"]) == n_train:
            break
        kinds = users_by_liking(model, pools[part], item, low, high)
        if min(map(len, kinds)) == 0 or plots[item] in used:
            continue
        used.add(plots[item])
        wanted = kinds if part == "test" else [kinds[len(starts["train"]) % 2]]
        starts[part] += [start_of(domain, item, rng.choice(kind)) for kind in wanted]
    return starts["train"], starts["test"]


@dataclass(frozen=True)
class Experiment:
    """World, starts and sizes, and what is learnt from the training starts, each computed once and when needed."""

    world: World
    plan: SteeringPlan
    train: list[Start]
    test: list[Start]

    @cached_property
    def expansion(self) -> Expansion:
        """Every action tried once on every training start."""
        return expand(self.world, self.train)

    @cached_property
    def effects(self) -> Effects:
        """What each action is expected to do."""
        return fit_effects(self.world, self.expansion)

    def reference(self, kind: str) -> EmbeddingPolicy:
        """The reference policy fitted to `uniform`, `optimistic` or `goptimal` targets, the same every time."""
        policy = EmbeddingPolicy(self.world, self.effects)
        if kind != "uniform":  # a new policy is uniform
            targets = reference_targets(kind, self.expansion, self.effects)
            fit_reference(policy, self.expansion, targets, steps=REFERENCE_STEPS, learning_rate=REFERENCE_RATE)
        return policy.requires_grad_(False)

    def agent(
        self,
        kind: str,
        seed: int,
        on_iteration: Callable[[dict], None] | None = None,
        *,
        checkpoint: Path | None = None,
        accelerator: Accelerator | None = None,
    ) -> tuple[EmbeddingPolicy, list[dict]]:
        """A policy trained from the reference of that kind, and its learning curve (arguments as for `train`)."""
        reference = self.reference(kind)
        policy = EmbeddingPolicy(self.world, self.effects)
        policy.load_state_dict(reference.state_dict())
        curve = train(
            self.world,
            Agent(policy, ValueNetwork(self.world)),
            reference,
            self.train,
            self.plan.training,
            seed=seed,
            on_iteration=on_iteration,
            checkpoint=checkpoint,
            accelerator=accelerator,
        )
        return policy.requires_grad_(False), curve


def load_experiment(train_movies: int | None = None, **options) -> Experiment:
    """The experiment of the current profile, or with fewer training movies (options as for `build_world`)."""
    world, sizes = build_world(**options), steering_plan()
    if train_movies is not None:
        sizes = replace(sizes, train_items=train_movies)
    return Experiment(world, sizes, *split_starts(world, sizes.train_items, sizes.test_items))
