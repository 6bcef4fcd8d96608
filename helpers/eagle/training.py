"""Training: a supervised reference policy, then REINFORCE with a value baseline, GAE and a KL penalty.

Tennenholtz et al. 2024, section 4.2 and algorithm 1. The paper prints an objective to maximise; `loss_of` is its
negative, to minimise:

    L = - mean_t A_t log pi(a_t | x_t) + alpha mean_t KL(pi(. | x_t) || pi_ref(. | x_t)) + value loss

with A the generalised advantage (Schulman et al. 2016), scaled to unit spread so that alpha means the same for
every user. The KL is exact, because all K actions can be enumerated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.sharing import ProcessShare, Share
from helpers.base.storage import CourseError
from helpers.eagle.design import optimal_design
from helpers.eagle.effects import Effects
from helpers.eagle.environment import Episodes, Expansion, Observation, World, run_episodes
from helpers.eagle.policy import Policy, fitting_threads, sampling_from
from helpers.eagle.rewriting import Start, seed_of

if TYPE_CHECKING:
    from accelerate import Accelerator

# The reference policy --------------------------------------------------------------------------------------------


TARGETS = ("uniform", "optimistic", "goptimal")


def reference_targets(
    kind: str, expansion: Expansion, effects: Effects, k: int = 10
) -> Float[np.ndarray, "start action"]:
    """The target of a reference policy on each start, one distribution over the actions per row (paper, section 4).

    - `uniform`: every action alike.
    - `optimistic`: the k actions after which the utility was highest, alike.
    - `goptimal`: the weights of the G-optimal design over the expected displacements. The expectation comes from
      `effects`: single rewrites are noisy, and a design made for them would pick the outliers of the noise.

    Raises:
        ValueError: unknown kind.
    """
    n_starts, n_actions = expansion.utility.shape[:2]
    if kind == "uniform":
        return np.full((n_starts, n_actions), 1 / n_actions)
    if kind == "optimistic":
        ranks = np.argsort(np.argsort(-expansion.utility.mean(axis=2), axis=1), axis=1)
        return (ranks < k) / min(k, n_actions)
    if kind == "goptimal":
        moves = [
            effects.displacement(z, start.user) for z, start in zip(expansion.origin, expansion.starts, strict=True)
        ]
        return np.stack([optimal_design(move).weights for move in moves])
    raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(TARGETS)}")


def fit_reference(
    policy: nn.Module,
    expansion: Expansion,
    targets: Float[np.ndarray, "start action"],
    *,
    steps: int = 300,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-3,
    batch: int | None = None,
    seed: int = 0,
) -> list[float]:
    """Fit a policy to `targets` (one distribution over the actions per start) by cross-entropy, in place.

    Args:
        batch: starts per step, drawn anew each time; all of them when not given.

    Returns:
        The loss of every step, in nats above the entropy of its targets (their Kullback-Leibler divergence).

    Raises:
        ValueError: `targets` are not one distribution over the actions per start.
        CourseError: the loss is not finite.
    """
    target = torch.as_tensor(targets, dtype=torch.float32)
    proper = (target >= 0).all() and ((target.sum(dim=-1) - 1).abs() < 1e-3).all()
    if len(target) != len(expansion.starts) or not proper:
        raise ValueError("targets need one row per start: probabilities of all actions, which sum to 1")
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    rng = np.random.default_rng(seed)
    losses = []
    with fitting_threads(policy):
        for step in range(steps):
            rows = np.arange(len(target)) if batch is None else rng.permutation(len(target))[:batch]
            log_probs = policy(_starting(expansion, rows))
            wanted = target[rows].to(log_probs.device)
            loss = (torch.xlogy(wanted, wanted) - wanted * log_probs).sum(dim=1).mean()
            _refuse_not_finite(loss.item(), f"step {step} of the reference policy")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses


def _starting(expansion: Expansion, rows: Int[np.ndarray, " row"]) -> Observation:
    starts = [expansion.starts[row] for row in rows]
    return Observation([s.text for s in starts], expansion.origin[rows], np.array([s.user for s in starts]), 0)


def _refuse_not_finite(loss: float, place: str) -> None:
    if not np.isfinite(loss):
        raise CourseError(f"the loss is not finite in {place}: lower the learning rate")


# The agent -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Settings of the training loop; `kl` is alpha of the paper, `gae_lambda` = 1 is plain REINFORCE."""

    iterations: int = 12
    episodes: int = 24
    learning_rate: float = 1e-2
    value_learning_rate: float = 1e-2
    kl: float = 0.1
    gae_lambda: float = 0.95
    group: int = 0  # episodes per start that are compared with each other; 0 uses the value network

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.group < 0 or self.group == 1 or self.episodes % max(1, self.group):
            raise ValueError(
                f"{self.episodes} episodes in groups of {self.group}: two or more episodes, whole groups of 2 or more"
            )


class Agent(nn.Module):
    """A policy and its value baseline, in one module, so that one optimiser and one checkpoint hold both."""

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(
        self, steps: Sequence[Observation]
    ) -> tuple[Float[Tensor, "step episode action"], Float[Tensor, "step episode"]]:
        """Log-probabilities of all actions, and values, at every step."""
        return torch.stack([self.policy(step) for step in steps]), torch.stack([self.value(step) for step in steps])


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


def group_advantages(gain: Float[Tensor, " episode"], group: int) -> Float[Tensor, " episode"]:
    """Gain of each episode against the others from the same start, in their standard deviations (GRPO)."""
    groups = gain.reshape(-1, group)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).reshape(-1)


def advantages_of(
    episodes: Episodes, values: Float[Tensor, "step episode"], settings: Settings
) -> Float[Tensor, "step episode"]:
    """How much better each action did than expected, in stars; with groups, in standard deviations of the gain."""
    if settings.group:
        return group_advantages(values.new_tensor(episodes.gain), settings.group).expand_as(values)
    # A terminal reward U(x_H) and differences U(x_t+1) - U(x_t) have the same gains; `values` predicts what is
    # still to come on top of U(x_t), so the differences are what it is compared with.
    return gae(values.new_tensor(np.diff(episodes.utility, axis=0)), values, settings.gae_lambda)


def kl_of(
    log_probs: Float[Tensor, "*batch action"], reference_log_probs: Float[Tensor, "*batch action"]
) -> Float[Tensor, "*batch"]:
    """KL(pi || pi_ref) in nats, exact."""
    return (log_probs.exp() * (log_probs - reference_log_probs)).sum(-1)


def loss_of(
    agent: nn.Module,
    reference: Policy,
    episodes: Episodes,
    settings: Settings,
    spread: Callable[[Tensor], Tensor] = torch.std,
) -> tuple[Tensor, dict[str, float]]:
    """REINFORCE loss of a batch of finished episodes, and what a learner wants to see of it.

    Args:
        spread: standard deviation of the advantages; with several processes, of those of all.
    """
    steps = [episodes.observation(t) for t in range(len(episodes.actions))]
    log_probs, values = agent(steps)
    with torch.no_grad():
        reference_log_probs = torch.stack([reference(step) for step in steps]).to(log_probs.device)
        advantages = advantages_of(episodes, values, settings).to(log_probs.device)
        scaled = advantages / (spread(advantages) + 1e-4)
    chosen = torch.as_tensor(episodes.actions, device=log_probs.device)[..., None]
    taken = log_probs.gather(-1, chosen)[..., 0]
    kl = kl_of(log_probs, reference_log_probs).mean()
    value_loss = ((values - values.new_tensor(episodes.utility[-1] - episodes.utility[:-1])) ** 2).mean()
    loss = -(scaled * taken).mean() + settings.kl * kl + value_loss.to(log_probs.device)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    facts = {"loss": loss, "kl": kl, "entropy": entropy, "value_loss": value_loss}
    return loss, {name: number.item() for name, number in facts.items()}


def train(
    world: World,
    agent: Agent,
    reference: Policy,
    starts: Sequence[Start],
    settings: Settings,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_iteration: Callable[[dict], None] | None = None,
    reward: Callable[[Episodes], Float[np.ndarray, "time episode"]] | None = None,
    accelerator: Accelerator | None = None,
) -> list[dict]:
    """Train `agent` in place and return one row of the learning curve per iteration.

    With a `checkpoint` file the run is saved after every iteration and continues from there; every iteration draws
    from a generator of its own, so a run that was killed ends where an undisturbed one ends.

    Args:
        starts: each iteration draws its episodes' starts from them.
        on_iteration: gets the new row of the curve, in the main process.
        reward: the utility that the agent learns from, in place of the true one, which the curve still reports;
            for controls and for keeping the episodes. A checkpoint does not remember it.
        accelerator: shares the episodes of an iteration among its processes (`sharing.ProcessShare`). The main process
            alone writes the checkpoint, which all processes must be able to read.

    Raises:
        ValueError: the episodes, or their groups, cannot be shared evenly by the processes.
        CourseError: the loss is not finite, or the checkpoint is damaged, another run's, or cannot be written.
    """
    share = ProcessShare(accelerator) if accelerator else Share()
    groups = np.arange(settings.episodes).reshape(-1, max(1, settings.group))
    if len(groups) % share.processes:
        raise ValueError(
            f"{share.processes} processes cannot share the episodes evenly: choose a multiple of that number"
        )
    share.prepare(agent)
    optimiser = optimiser_of(agent, settings)
    run = run_identity(world, starts, settings, seed)
    curve = load_checkpoint(checkpoint, agent, optimiser, run)
    if len(curve) > settings.iterations:
        raise CourseError(f"the checkpoint has {len(curve)} iterations already: ask for as many, or choose another")
    own = share.part(groups).ravel()

    for iteration in range(len(curve), settings.iterations):
        batch, seeds = draw_starts(starts, settings, seed, iteration)
        sampling = sampling_from(agent.policy)
        episodes = run_episodes(world, [batch[row] for row in own], sampling, [seeds[row] for row in own])
        paid = episodes._replace(utility=reward(episodes)) if reward else episodes
        with fitting_threads(agent):
            loss, facts = loss_of(agent, reference, paid, settings, lambda advantages: share.gather(advantages).std())
            facts = share.mean({"gain": float(episodes.gain.mean()), **facts, **trouble(episodes)})
            _refuse_not_finite(facts["loss"], f"iteration {iteration}")  # in all processes, or the others would wait
            optimiser.zero_grad()
            loss.backward()
            share.average_gradients(agent.parameters())
            optimiser.step()
        curve.append({"iteration": iteration, **facts})
        if share.is_main:
            save_checkpoint(checkpoint, agent, optimiser, run, curve)
            if on_iteration:
                on_iteration(curve[-1])
    share.wait()
    return curve


def optimiser_of(agent: Agent, settings: Settings) -> torch.optim.Adam:
    """Adam over the weights that may change, with a learning rate of its own for the value network."""
    rates = ((agent.policy, settings.learning_rate), (agent.value, settings.value_learning_rate))
    return torch.optim.Adam(
        [{"params": [p for p in part.parameters() if p.requires_grad], "lr": rate} for part, rate in rates]
    )


def draw_starts(
    starts: Sequence[Start], settings: Settings, seed: int, iteration: int
) -> tuple[list[Start], list[int]]:
    """Starts and episode seeds of one iteration; with groups, each start `group` times in a row."""
    rng = np.random.default_rng([seed, iteration])
    group = max(1, settings.group)
    picked = rng.choice(len(starts), settings.episodes // group, replace=settings.episodes // group > len(starts))
    seeds = rng.integers(2**31, size=len(picked) * group)
    return [starts[i] for i in picked for _ in range(group)], seeds.tolist()


def trouble(episodes: Episodes) -> dict:
    """Share of answers that could not be used, and utility at the end."""
    problems = [problem for step in episodes.problems for problem in step]
    return {"invalid": float(np.mean([bool(p) for p in problems])), "utility": float(episodes.utility[-1].mean())}


def run_identity(world: World, starts: Sequence[Start], settings: Settings, seed: int) -> dict:
    """What a checkpoint must agree on with the run that goes on from it: all but the number of iterations."""
    known = {name: value for name, value in asdict(settings).items() if name != "iterations"}
    places = [(start.text, int(start.user)) for start in starts]
    return {"settings": known, "seed": seed, "task": seed_of(str(places), str(world.actions), world.horizon)}
