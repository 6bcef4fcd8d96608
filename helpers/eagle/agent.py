"""The small agent: it learns from labelled rows first, and then from its own episodes.

Every option of a state has features (`steering.FEATURES`), so one small model scores them all, also aims that it has
never tried. Two stages, as in Tennenholtz et al. 2024, section 4.2:

1. *Supervised.* Some aims are tried on the training starts and on what came of them. A ridge regression of the measured
   gain on the features says what an option is worth, Q(s, a). An unusable answer has gained 0, and STOP is worth 0.
   The policy is softmax(Q / temperature).
2. *Reinforcement.* REINFORCE with generalised advantages and a KL penalty to the policy of stage 1: what whole episodes
   return moves the weights of Q, and its temperature.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut
from torch import Tensor, nn

from helpers.base.checkpoints import load_checkpoint, save_checkpoint, trainable_state
from helpers.base.sharing import ALONE, Share
from helpers.base.storage import CourseError
from helpers.eagle.aims import Aim, most_promising
from helpers.eagle.learning import fitting_threads, frozen_copy, gae, kl_of
from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.steering import FEATURES, Options, State, Steering, Support, Table, shares, weighted
from helpers.eagle.trajectories import SideBySide, StatePolicy, Trajectories, play

GAIN_PENALTIES = np.logspace(-1, 4, 11)


class LabelledRows(NamedTuple):
    """Aims that were tried: what was known of each, and its measured gain.

    Attributes:
        gain: utility after the step minus before it, in stars, by the paid and by the second encoder.
        start: number of the start that a row belongs to.
        valid: whether the answer could be used.
        states, aims: where it was tried, and which.
    """

    features: Float[np.ndarray, "row feature"]
    gain: Float[np.ndarray, "row encoder"]
    start: Int[np.ndarray, " row"]
    valid: Bool[np.ndarray, " row"]
    states: list[State]
    aims: Int[np.ndarray, " row"]

    def resampled(self, seed: int) -> LabelledRows:
        """Rows of as many starts, drawn with replacement (a bootstrap sample of the training starts)."""
        starts = np.unique(self.start)
        drawn = np.random.default_rng([seed, 3]).choice(starts, len(starts))
        rows = np.concatenate([np.flatnonzero(self.start == start) for start in drawn])
        numbers = self.features[rows], self.gain[rows], self.start[rows], self.valid[rows]
        return LabelledRows(*numbers, [self.states[row] for row in rows], self.aims[rows])


PROMISING, RANDOM, DEEPER = 8, 12, 2  # aims that are tried on a start, and results that are gone on from
ROWS_A_START = PROMISING + RANDOM + DEEPER * (PROMISING // 2 + RANDOM // 2)


def label_rows(
    task: Steering,
    starts: Sequence[Start],
    promising: int = PROMISING,
    random: int = RANDOM,
    deeper: int = DEEPER,
    seed: int = 0,
) -> LabelledRows:
    """Try aims on starts, some that promise most and some at random, and half as many on `deeper` results of each.

    There are as many aims of each kind.
    """
    states = [State(start, start.text) for start in starts]
    first, results = _tried(task, states, np.arange(len(starts)), promising, random, seed)
    rng = np.random.default_rng(seed)
    picked = np.concatenate([rng.choice(np.flatnonzero(first.start == n), deeper, False) for n in range(len(starts))])
    then = [results[row] for row in picked]
    second, _ = _tried(task, then, first.start[picked], promising // 2, random // 2, seed + 1)
    return joined(first, second)


def joined(one: LabelledRows, other: LabelledRows) -> LabelledRows:
    """The rows of both."""

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name), getattr(other, name)])

    numbers = both("features"), both("gain"), both("start"), both("valid")
    return LabelledRows(*numbers, one.states + other.states, both("aims"))


def _tried(
    task: Steering, states: Sequence[State], numbers: np.ndarray, promising: int, random: int, seed: int
) -> tuple[LabelledRows, list[State]]:
    """Rows of aims that were tried in some states, and the resulting states."""
    task.embedded([state.text for state in states])
    features, before, chosen, owner = [], [], [], []
    for number, state in zip(numbers, states, strict=True):
        table = task.table(state)
        aims = _aims_to_try(table, task.aims, promising, random, seed_of(seed, *state.start, state.text))
        features.append(task.in_time(state, aims, table.features[aims])[:-1])
        chosen.append(aims)
        before += [state] * len(aims)
        owner += [number] * len(aims)
    aims = np.concatenate(chosen)
    worlds = [seed_of("label", seed, aim) for aim in aims]
    rewrites = task.follow([state.text for state in before], aims, worlds)
    after = [state.after(*found) for state, *found in zip(before, rewrites.texts, aims, strict=True)]
    gain = _gains_of_steps(task, before, after)
    return LabelledRows(np.concatenate(features), gain, np.array(owner), rewrites.valid, before, aims), after


def _aims_to_try(table: Table, aims: Sequence[Aim], promising: int, random: int, seed: int) -> Int[np.ndarray, " k"]:
    """The aims of a state that promise most, best first, and others at random; as many of each kind."""
    kinds, promised = np.array([aim.kind for aim in aims]), table.features[:, :2].sum(axis=1)
    present = list(dict.fromkeys(kinds))
    chosen: list[np.ndarray] = []
    for kind, n_best, n_others in zip(present, *(shares(n, len(present)) for n in (promising, random)), strict=True):
        best = most_promising(np.where(kinds == kind, promised, -np.inf), aims, n_best)
        others = np.random.default_rng(seed).permutation(np.setdiff1d(np.flatnonzero(kinds == kind), best))
        chosen += [best, others[:n_others]]
    return np.concatenate(chosen)


def _gains_of_steps(
    task: Steering, before: Sequence[State], after: Sequence[State]
) -> Float[np.ndarray, "row encoder"]:
    """Utility after steps minus before them, in stars, by the paid and by the second encoder."""
    task.embedded([state.text for state in after])
    gained = [task.gained(old.start, [old.text, new.text]) for old, new in zip(before, after, strict=True)]
    return np.diff(np.stack(gained), axis=2)[..., 0]


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with all weights 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def features_of(options: Sequence[Options]) -> Float[Tensor, "state option feature"]:
    """The features of the options of several states."""
    return torch.as_tensor(np.stack([option.features for option in options]), dtype=torch.float32)


class OptionPolicy(StatePolicy):
    """pi(option | state) = softmax(Q / temperature), with Q linear in the features, in stars, and 0 for STOP.

    A weight for each feature, an intercept and the temperature: a network in their place overfits the noise of a few
    hundred episodes.
    """

    center: Float[Tensor, " feature"]
    spread: Float[Tensor, " feature"]

    def __init__(self, temperature: float = 0.01) -> None:
        super().__init__()
        self.linear = zeroed(nn.Linear(len(FEATURES), 1))
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(temperature))))
        self.register_buffer("center", torch.zeros(len(FEATURES)))
        self.register_buffer("spread", torch.ones(len(FEATURES)))

    def values(self, features: Float[Tensor, "*state option feature"]) -> Float[Tensor, "*state option"]:
        """Q of every option, in stars."""
        aimed = 1 - features[..., FEATURES.index("stop")]
        return aimed * self.linear((features - self.center) / self.spread)[..., 0]

    def scores(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, "state option"]:
        """Q over the temperature, from the features of a state alone."""
        return self.values(features_of(options)) / self.log_temperature.exp()


def fit_offline(
    rows: LabelledRows,
    gain: Float[np.ndarray, " row"],
    temperature: float = 0.01,
    penalties: Sequence[float] | Float[np.ndarray, " penalty"] = GAIN_PENALTIES,
) -> OptionPolicy:
    """The policy of stage 1: ridge regression of a gain, in stars, on the features of all rows.

    An answer that cannot be used is a row like any other: it has cost a call and gained nothing.

    Args:
        penalties: candidates; the one that predicts the rows of left-out starts best is used. Rows of one start are
            alike, and so are its copies in a bootstrap sample: they are left out together.

    Raises:
        ValueError: all rows belong to one start, so that none can be left out.
    """
    policy = OptionPolicy(temperature)
    center, spread = rows.features.mean(axis=0), rows.features.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    x = (rows.features - center) / spread
    others = LeaveOneGroupOut().split(x, groups=rows.start)
    model = RidgeCV(penalties, cv=others, scoring="neg_mean_squared_error").fit(x, gain)
    with torch.no_grad():
        policy.center.copy_(torch.as_tensor(center))
        policy.spread.copy_(torch.as_tensor(spread))
        policy.linear.weight.copy_(torch.as_tensor(model.coef_)[None])
        policy.linear.bias.fill_(float(model.intercept_))
    return policy


# Reinforcement -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentSettings:
    """Sizes of `reinforce`.

    Attributes:
        episodes: per iteration; group: of them from the same start, whose mean return is part of the baseline.
        draws: different answers of the environment to the same question; each seed begins with another one.
        second: weight of the second encoder in the reward; the rest is the paid one's.
        entropy: weight of the policy's entropy.
    """

    iterations: int = 10
    episodes: int = 30
    group: int = 3
    learning_rate: float = 2e-3
    kl: float = 0.1
    entropy: float = 0.0
    gae_lambda: float = 0.9
    second: float = 0.5
    draws: int = 6

    def __post_init__(self) -> None:
        if self.group < 1 or self.episodes < 2 or self.episodes % self.group:
            raise ValueError(f"{self.episodes} episodes in groups of {self.group}: give two or more, and whole groups")


class OptionValue(nn.Module):
    """V(s): what the policy of stage 1 expects of its next step, corrected by a network on the features."""

    def __init__(self, policy: OptionPolicy, hidden: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.expected = copy.deepcopy(policy).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(len(FEATURES), hidden), nn.Tanh(), zeroed(nn.Linear(hidden, 1)))

    def forward(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, " state"]:
        features = features_of(options)
        expected = (self.expected.log_probs(states, options).exp() * self.expected.values(features)).sum(dim=-1)
        seen = ((features - self.expected.center) / self.expected.spread)[..., :-1, :].mean(dim=-2)
        return expected + self.network(seen)[..., 0]


def loss_of_episodes(
    policy: StatePolicy,
    value: OptionValue,
    reference: StatePolicy,
    episodes: Trajectories,
    settings: AgentSettings,
    share: Share = ALONE,
) -> tuple[Tensor, dict[str, float]]:
    """REINFORCE loss of finished episodes, and its parts for the learning curve; steps after a STOP do not count.

    Tennenholtz et al. 2024, algorithm 1, print an objective to maximise. This is its negative:

        L = - mean_t A_t log pi(a_t | s_t) + alpha mean_t KL(pi(. | s_t) || pi_ref(. | s_t)) + value loss

    with A the generalised advantage, scaled to unit standard deviation so that alpha means the same everywhere.

    Args:
        share: with several processes these are the episodes of one; the mean over the processes is the loss of all.
    """
    running = torch.as_tensor(episodes.running)
    utility = torch.as_tensor(weighted(episodes.gained, settings.second), dtype=torch.float32)
    values = torch.stack([value(*seen) for seen in zip(episodes.states, episodes.options, strict=True)]) * running
    with torch.no_grad():
        advantages = gae(utility.diff(dim=0), values, settings.gae_lambda)
        advantages = advantages - of_the_others(utility[-1] - values[0], settings.group)
        everywhere = share.gather(running.float()) > 0
        of_all = share.gather(advantages)[everywhere]
        scaled = (advantages[running] - of_all.mean()) / (of_all.std() + 1e-4)
    log_probs, others = (seen_by(one, episodes) for one in (policy, reference))
    taken = log_probs.gather(-1, torch.as_tensor(episodes.chosen)[running][:, None])[:, 0]
    kl = kl_of(log_probs, others.detach()).mean()
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1).mean()
    value_loss = ((values - (utility[-1] - utility[:-1]))[running] ** 2).mean()
    loss = -(scaled * taken).mean() + settings.kl * kl - settings.entropy * entropy + value_loss
    # A process whose episodes run for more steps counts for more, as its steps would among those of all.
    weight = float(running.sum() * share.processes / everywhere.sum())
    of_steps = {"kl": kl, "entropy": entropy, "value_loss": value_loss}
    facts = {name: weight * float(number.detach()) for name, number in of_steps.items()}
    return weight * loss, {**facts, "gain": float(utility[-1].mean())}


def of_the_others(surprise: Float[Tensor, " episode"], group: int) -> Float[Tensor, " episode"]:
    """Mean of a number over the other episodes of the same start; 0 where there are none.

    The features do not show how good a start is, but its other episodes do, and they do not depend on the actions of
    this one.
    """
    if group == 1:
        return torch.zeros_like(surprise)
    groups = surprise.reshape(-1, group)
    return ((groups.sum(dim=1, keepdim=True) - groups) / (group - 1)).reshape(-1)


def seen_by(policy: StatePolicy, episodes: Trajectories) -> Float[Tensor, "running option"]:
    """Log-probabilities in all states of episodes that were still running, step by step."""
    rows = []
    for states, options, running in zip(episodes.states, episodes.options, episodes.running, strict=True):
        going = np.flatnonzero(running).tolist()
        if going:
            rows.append(policy.log_probs([states[row] for row in going], [options[row] for row in going]))
    return torch.cat(rows)


def paces(policy: StatePolicy, value: OptionValue, rate: float) -> list[dict]:
    """Weights to train; a temperature gets ten times the learning rate, since Adam's steps all have one size."""
    weights = [w for part in (policy, value) for w in part.parameters() if w.requires_grad and w.ndim]
    scales = [w for w in policy.parameters() if w.requires_grad and not w.ndim]
    return [{"params": weights, "lr": rate}, {"params": scales, "lr": 10 * rate}]


def reinforce(
    task: Steering,
    policies: Sequence[StatePolicy],
    values: Sequence[OptionValue],
    support: Support,
    starts: Sequence[Start],
    settings: AgentSettings,
    *,
    seeds: Sequence[int] = (0,),
    on_iteration: Callable[[list[dict[str, float]]], None] | None = None,
    checkpoint: Path | None = None,
    share: Share = ALONE,
) -> list[list[dict[str, float]]]:
    """Train policies in place from their present weights, one for each seed and independently of one another.

    They play side by side, since a language model answers many questions at once in less time than one after the other.

    Args:
        values: the baseline of each policy, trained with it.
        checkpoint: a file that is written after every iteration, and from which a killed run resumes: every iteration
            draws from its own generators, so it ends where an undisturbed run ends.
        share: how several processes divide the episodes of every policy, in whole groups. The main process alone calls
            `on_iteration` and writes the checkpoint, which all of them must be able to read.

    Returns:
        A learning curve for each policy, with one row per iteration.

    Raises:
        CourseError: the loss is not finite; or the checkpoint is damaged, from a run with other settings, data or
            initial weights, or cannot be written.
        ValueError: the processes cannot share the groups evenly.
    """
    own = own_episodes(settings, share)
    references = [frozen_copy(policy) for policy in policies]
    trained = nn.ModuleList([*policies, *values])
    groups = [group for pair in zip(policies, values, strict=True) for group in paces(*pair, settings.learning_rate)]
    optimiser = torch.optim.Adam(groups)  # one for all: Adam looks at each weight alone
    run = run_of(task, policies, values, support, starts, settings, seeds) if checkpoint else {}
    done = [row["policies"] for row in load_checkpoint(checkpoint, trained, optimiser, run)]
    if len(done) > settings.iterations:
        raise CourseError(f"the checkpoint has {len(done)} iterations already: ask for as many, or choose another")
    for iteration in range(len(done), settings.iterations):
        played = _played(task, policies, support, starts, settings, seeds, iteration, own)
        optimiser.zero_grad()
        parts = zip(policies, values, references, played, strict=True)
        done.append([{"iteration": iteration, **_learnt(*part, settings, share, iteration)} for part in parts])
        share.average_gradients(trained.parameters())
        optimiser.step()
        if share.is_main:
            save_checkpoint(checkpoint, trained, optimiser, run, [{"policies": row} for row in done])
            if on_iteration:
                on_iteration(done[-1])
    share.wait()
    return [list(curve) for curve in zip(*done, strict=True)] or [[] for _ in policies]


def own_episodes(settings: AgentSettings, share: Share) -> list[int]:
    """Numbers of the episodes of a policy that this process plays, in whole groups.

    Raises:
        ValueError: the processes cannot share the groups evenly.
    """
    groups = np.arange(settings.episodes).reshape(-1, settings.group)
    if len(groups) % share.processes:
        raise ValueError(
            f"{share.processes} processes cannot share {len(groups)} groups of {settings.group} episodes evenly: "
            f"choose episodes in a multiple of {share.processes * settings.group}, or fewer processes"
        )
    return share.part(groups).ravel().tolist()


def _played(
    task: Steering,
    policies: Sequence[StatePolicy],
    support: Support,
    starts: Sequence[Start],
    settings: AgentSettings,
    seeds: Sequence[int],
    iteration: int,
    own: Sequence[int],
) -> list[Trajectories]:
    """The episodes with the given numbers of one iteration, for every policy, all played side by side."""
    batches = [drawn_starts(starts, settings, seed, iteration) for seed in seeds]
    rows = [batch[number] for batch, _ in batches for number in own]
    numbers = [some[number] for _, some in batches for number in own]
    worlds = [(seed + number) % settings.draws for seed in seeds for number in own]
    played = play(task, rows, support, SideBySide(policies), numbers, worlds)
    return [played.part(slice(first, first + len(own))) for first in range(0, len(rows), len(own))]


def _learnt(
    policy: StatePolicy,
    value: OptionValue,
    reference: StatePolicy,
    episodes: Trajectories,
    settings: AgentSettings,
    share: Share,
    iteration: int,
) -> dict[str, float]:
    """Facts about the episodes of all processes; leaves the gradients of this process's own.

    Raises:
        CourseError: the loss is not finite, in all processes alike, since the others would wait for one that stops.
    """
    with fitting_threads(policy):
        loss, known = loss_of_episodes(policy, value, reference, episodes, settings, share)
        loss.backward()
    facts = share.mean({"loss": float(loss.detach()), "calls": float(episodes.calls.mean()), **known})
    if not np.isfinite(facts.pop("loss")):
        raise CourseError(f"the loss is not finite in iteration {iteration}: lower the learning rate")
    return facts


def run_of(
    task: Steering,
    policies: Sequence[StatePolicy],
    values: Sequence[OptionValue],
    support: Support,
    starts: Sequence[Start],
    settings: AgentSettings,
    seeds: Sequence[int],
) -> dict:
    """What a checkpoint and the run that resumes it must agree on: everything but the number of iterations."""
    known = {name: value for name, value in asdict(settings).items() if name != "iterations"}
    parts = [*policies, *values]
    weights = [weight.tolist() for part in parts for weight in trainable_state(part).values()]
    rewriter = task.rewrite
    sizes = str((task.reach.tolist(), task.horizon, task.k, task.novelty_weight))
    world = str(task.aims), sizes, rewriter.backend.name, str(rewriter.sampling)
    of_starts = str([(start.text, int(start.user), int(start.item)) for start in starts])
    return {
        "settings": known, "seeds": [int(seed) for seed in seeds], "support": support,
        "task": seed_of(*world, of_starts), "first weights": seed_of(str(weights)),
    }  # fmt: skip


def drawn_starts(
    starts: Sequence[Start], settings: AgentSettings, seed: int, iteration: int
) -> tuple[list[Start], list[int]]:
    """Starts of one iteration, each `group` times in a row, and a seed for each episode."""
    rng, n = np.random.default_rng([seed, iteration]), settings.episodes // settings.group
    rows = np.concatenate([rng.permutation(len(starts)) for _ in range(-(-n // len(starts)))])[:n]
    seeds = rng.integers(2**31, size=settings.episodes).tolist()
    return [starts[row] for row in rows for _ in range(settings.group)], seeds
