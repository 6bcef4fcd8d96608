"""The small agent: it learns from labelled rows first, and then from its own episodes.

Every option of a state has features (`steering.FEATURES`), so one small model scores them all, also aims that it has
never tried. Two stages, as in Tennenholtz et al. 2024, section 4.2:

1. *Supervised.* Some aims are tried on the training starts and on what came of them. A ridge regression of the measured
   gain on the features says what an option is worth, Q(s, a); STOP is worth 0. The policy is softmax(Q / temperature).
2. *Reinforcement.* REINFORCE with generalised advantages and a KL penalty to the policy of stage 1. A network that
   starts at 0 may add to Q whatever the returns of whole episodes show.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from helpers.base.compute import one_thread
from helpers.eagle.aims import most_promising
from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.steering import FEATURES, State, Steering, Support
from helpers.eagle.training import gae, kl_of
from helpers.eagle.trajectories import Decide, Trajectories, play

PENALTIES = np.logspace(-1, 4, 11)
NEVER = -1e4  # instead of minus infinity, with which KL and entropy would not be finite


class Labelled(NamedTuple):
    """Aims that were tried: what was known of each, and what it brought.

    Attributes:
        gain: utility after the step minus before it, in stars, by the paid and by the second encoder.
        start: number of the start that a row belongs to.
        valid: whether the answer could be used.
    """

    features: Float[np.ndarray, "row feature"]
    gain: Float[np.ndarray, "row encoder"]
    start: Int[np.ndarray, " row"]
    valid: Bool[np.ndarray, " row"]


def label_rows(
    task: Steering, starts: Sequence[Start], promising: int = 8, random: int = 12, deeper: int = 2, seed: int = 0
) -> Labelled:
    """Try aims on starts, some that promise most and some at random, and half as many on `deeper` results of each."""
    states = [State(start, start.text) for start in starts]
    first, results = _tried(task, states, np.arange(len(starts)), promising, random, seed)
    rng = np.random.default_rng(seed)
    picked = np.concatenate([rng.choice(np.flatnonzero(first.start == n), deeper, False) for n in range(len(starts))])
    then = [results[row] for row in picked]
    second, _ = _tried(task, then, first.start[picked], promising // 2, random // 2, seed + 1)
    return Labelled(*(np.concatenate(both) for both in zip(first, second, strict=True)))


def _tried(
    task: Steering, states: Sequence[State], numbers: np.ndarray, promising: int, random: int, seed: int
) -> tuple[Labelled, list[State]]:
    """Labelled rows of some states, and the states that came of them."""
    task.embedded([state.text for state in states])
    features, chosen, owner = [], [], []
    for number, state in enumerate(states):
        table = task.table(state)
        best = most_promising(table.features[:, :2].sum(axis=1), task.aims, promising)
        rng = np.random.default_rng(seed_of(seed, *state.start, state.text))
        some = rng.permutation(np.setdiff1d(np.arange(len(task.aims)), best))[:random]
        aims = np.concatenate([best, some])
        features.append(task.in_time(state, aims, table.features[aims])[:-1])
        chosen += [int(aim) for aim in aims]
        owner += [number] * len(aims)
    rewrites = task.rewrite(
        [states[n].text for n in owner],
        [task.aims[aim].instruction(task.rewrite.wording) for aim in chosen],
        [seed_of("label", seed, aim) for aim in chosen],
    )
    task.embedded(rewrites.texts)
    after = [
        states[n]._replace(text=text, step=states[n].step + 1, asked=(*states[n].asked, aim))
        for n, text, aim in zip(owner, rewrites.texts, chosen, strict=True)
    ]
    gained = np.array(
        [
            task.gained(s.start, [states[n].text, s.text]).reshape(2, 2, 2).sum(1)
            for n, s in zip(owner, after, strict=True)
        ]
    )
    return Labelled(np.concatenate(features), gained[..., 1] - gained[..., 0], numbers[owner], rewrites.valid), after


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with all weights 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def small_network(hidden: int) -> nn.Sequential:
    """One number from features, 0 for all of them before it is trained."""
    return nn.Sequential(nn.Linear(len(FEATURES), hidden), nn.Tanh(), zeroed(nn.Linear(hidden, 1)))


class OptionPolicy(nn.Module):
    """pi(option | state) = softmax(Q / temperature): Q is linear in the features, plus a network that starts at 0."""

    center: Float[Tensor, " feature"]
    spread: Float[Tensor, " feature"]

    def __init__(self, temperature: float = 0.05, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.temperature = temperature
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = zeroed(nn.Linear(len(FEATURES), 1))
            self.network = small_network(hidden)
        self.register_buffer("center", torch.zeros(len(FEATURES)))
        self.register_buffer("spread", torch.ones(len(FEATURES)))

    def values(self, features: Float[Tensor, "*state option feature"]) -> Float[Tensor, "*state option"]:
        """Q of every option, in stars; 0 for STOP, but for what its network has learnt."""
        standard = (features - self.center) / self.spread
        aimed = 1 - features[..., FEATURES.index("stop")]
        return aimed * self.linear(standard)[..., 0] + self.network(standard)[..., 0]

    def forward(self, features: Float[Tensor, "*state option feature"]) -> Float[Tensor, "*state option"]:
        """Log-probabilities of all options; an episode makes at least one step before it may stop."""
        first = features[..., FEATURES.index("stop")] * features[..., FEATURES.index("left")] == 1
        return torch.log_softmax((self.values(features) / self.temperature).masked_fill(first, NEVER), dim=-1)


def fit_offline(rows: Labelled, gain: Float[np.ndarray, " row"], temperature: float = 0.05) -> OptionPolicy:
    """The policy of stage 1: ridge regression of a gain, in stars, on the features of all usable rows."""
    policy = OptionPolicy(temperature)
    x, y = rows.features[rows.valid], gain[rows.valid]
    center, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    model = RidgeCV(PENALTIES).fit((x - center) / spread, y)
    with torch.no_grad():
        policy.center.copy_(torch.as_tensor(center))
        policy.spread.copy_(torch.as_tensor(spread))
        policy.linear.weight.copy_(torch.as_tensor(model.coef_)[None])
        policy.linear.bias.fill_(float(model.intercept_))
    return policy


def probabilities(policy: OptionPolicy | None) -> Decide:
    """What `play` asks of a policy; None is the uniform one over the aims, which never stops."""

    def decide(features: Float[np.ndarray, "episode option feature"]) -> Float[np.ndarray, "episode option"]:
        if policy is None:
            return 1.0 - features[..., FEATURES.index("stop")]
        with torch.no_grad(), one_thread():
            return policy(torch.as_tensor(features, dtype=torch.float32)).exp().double().numpy()

    return decide


# Reinforcement -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentSettings:
    """Sizes of `reinforce`.

    Attributes:
        episodes: per iteration, from as many starts; draws: ways in which the environment answers the same question.
        second: weight of the second encoder in the reward; the rest is the paid one's.
        entropy: weight of the policy's entropy.
    """

    iterations: int = 30
    episodes: int = 24
    learning_rate: float = 3e-3
    kl: float = 0.05
    entropy: float = 0.0
    gae_lambda: float = 0.9
    second: float = 0.0
    draws: int = 3


class OptionValue(nn.Module):
    """V(s): what the policy of stage 1 expects of its next step, corrected by a network over what one sees."""

    def __init__(self, policy: OptionPolicy, hidden: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.expected = copy.deepcopy(policy).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = small_network(hidden)

    def forward(self, features: Float[Tensor, "*state option feature"]) -> Float[Tensor, "*state"]:
        expected = (self.expected(features).exp() * self.expected.values(features)).sum(dim=-1)
        seen = ((features - self.expected.center) / self.expected.spread)[..., :-1, :].mean(dim=-2)
        return expected + self.network(seen)[..., 0]


def loss_of_episodes(
    policy: OptionPolicy, value: OptionValue, reference: OptionPolicy, episodes: Trajectories, settings: AgentSettings
) -> tuple[Tensor, dict[str, float]]:
    """REINFORCE loss of finished episodes, as `training.loss_of`; steps after a STOP do not count."""
    features = torch.as_tensor(episodes.features, dtype=torch.float32)
    running = torch.as_tensor(episodes.running, dtype=torch.float32)
    weights = np.array([1 - settings.second, settings.second])
    utility = torch.as_tensor(np.tensordot(weights, episodes.gained, axes=1), dtype=torch.float32)
    log_probs, values = policy(features), value(features) * running
    with torch.no_grad():
        advantages = gae(utility.diff(dim=0), values, settings.gae_lambda)
        scaled = (advantages - advantages[running > 0].mean()) / (advantages[running > 0].std() + 1e-4)
    taken = log_probs.gather(-1, torch.as_tensor(episodes.chosen)[..., None])[..., 0]
    mean = lambda x: (x * running).sum() / running.sum()  # noqa: E731
    kl = mean(kl_of(log_probs, reference(features).detach()))
    entropy = mean(-(log_probs.exp() * log_probs).sum(dim=-1))
    value_loss = mean((values - (utility[-1] - utility[:-1])) ** 2)
    loss = -mean(scaled * taken) + settings.kl * kl - settings.entropy * entropy + value_loss
    facts = {"kl": kl, "entropy": entropy, "value_loss": value_loss, "gain": utility[-1].mean()}
    return loss, {name: float(number.detach()) for name, number in facts.items()}


def reinforce(
    task: Steering,
    policy: OptionPolicy,
    support: Support,
    starts: Sequence[Start],
    settings: AgentSettings,
    *,
    seed: int = 0,
    on_iteration: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train `policy` in place from where it stands; one row of the learning curve per iteration."""
    reference, value = copy.deepcopy(policy).requires_grad_(False), OptionValue(policy, seed=seed)
    optimiser = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=settings.learning_rate)
    curve = []
    for iteration in range(settings.iterations):
        rng = np.random.default_rng([seed, iteration])
        batch = [starts[row] for row in rng.permutation(len(starts))[: settings.episodes]]
        seeds = rng.integers(2**31, size=len(batch)).tolist()
        worlds = [seed % settings.draws for seed in seeds]
        episodes = play(task, batch, support, probabilities(policy), seeds, worlds)
        with one_thread():
            loss, facts = loss_of_episodes(policy, value, reference, episodes, settings)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        curve.append({"iteration": iteration, "calls": float(episodes.calls.mean()), **facts})
        if on_iteration:
            on_iteration(curve[-1])
    return curve
