"""Episodes with a STOP: a policy picks an aim or ends the episode, and only an aim costs a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from helpers.eagle.learning import fitting_threads
from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.steering import Options, State, Steering, Support

NEVER = -1e4  # a score: instead of minus infinity, with which KL and entropy would not be finite


class StatePolicy(nn.Module):
    """Any policy over the options of a state, STOP as the last one. Subclasses define `scores`."""

    def scores(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, "state option"]:
        """One number for each option; softmax turns them into probabilities."""
        raise NotImplementedError

    def log_probs(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, "state option"]:
        """Log-probabilities of all options; an episode makes at least one step before it may stop."""
        scores = self.scores(states, options)
        stops = torch.zeros_like(scores, dtype=torch.bool)
        stops[[state.step == 0 for state in states], -1] = True
        return torch.log_softmax(scores.masked_fill(stops, NEVER), dim=-1)


class SideBySide(StatePolicy):
    """Several policies in one: each sees its share of the states, in their order.

    So their episodes are played in one batch, which takes less time than one after the other.

    Args:
        sizes: how many states each policy sees; equal shares where not given.
    """

    def __init__(self, policies: Sequence[StatePolicy], sizes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.policies, self.sizes = nn.ModuleList(policies), sizes

    def scores(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, "state option"]:
        sizes = self.sizes or [len(states) // len(self.policies)] * len(self.policies)
        rows, first = [], 0
        for own, size in zip(self.policies, sizes, strict=True):
            assert isinstance(own, StatePolicy)  # for the type checker: a ModuleList does not keep the type
            if size:
                rows.append(own.scores(states[first : first + size], options[first : first + size]))
            first += size
        return torch.cat(rows)


class Trajectories(NamedTuple):
    """n episodes side by side, T steps long; where `running` is False an episode had stopped before.

    Attributes:
        texts: for each episode the start's text and then one for each step; a stopped episode keeps its text.
        gained: utility over the start by the paid and by the second encoder, in stars, before each step and at the end.
        states, options: what the policy saw before each step.
        chosen: the option's number, the last one is STOP.
    """

    starts: list[Start]
    texts: list[list[str]]
    gained: Float[np.ndarray, "encoder time episode"]
    states: list[list[State]]
    options: list[list[Options]]
    chosen: Int[np.ndarray, "step episode"]
    running: Bool[np.ndarray, "step episode"]

    def part(self, rows: slice) -> Trajectories:
        """Some of the episodes."""
        seen, offered = [step[rows] for step in self.states], [step[rows] for step in self.options]
        steps = (array[:, rows] for array in (self.chosen, self.running))
        return Trajectories(self.starts[rows], self.texts[rows], self.gained[..., rows], seen, offered, *steps)

    @property
    def calls(self) -> Int[np.ndarray, " episode"]:
        """Calls of the language model that each episode cost."""
        return (self.running & (self.chosen < len(self.options[0][0].aims))).sum(axis=0)


def play(
    task: Steering,
    starts: Sequence[Start],
    support: Support,
    policy: StatePolicy | None,
    seeds: Sequence[int],
    worlds: Sequence[int] | None = None,
) -> Trajectories:
    """Play one episode from each start, all side by side: one batched rewrite a step.

    Args:
        policy: chooses; None draws an aim at random in every step.
        seeds: one per episode, for the agent's choices.
        worlds: one per episode, for the environment's answers; by default `seeds`. Agents that are compared in the same
            worlds differ only by what they do, and the same question about the same text in the same world is answered
            from the memo.
    """
    if not len(starts) == len(seeds) > 0:
        raise ValueError(f"{len(starts)} starts and {len(seeds)} seeds: give one seed to each of one or more starts")
    states = [State(start, start.text) for start in starts]
    texts = [[start.text] for start in starts]
    generators = [np.random.default_rng([seed, 2]) for seed in seeds]
    running, steps, gained = np.ones(len(starts), dtype=bool), [], [np.zeros((2, len(starts)))]
    for _ in range(task.horizon):
        options = [task.options(state, support) for state in states]
        chosen = _drawn(_probabilities(policy, states, options), generators)
        going = running & (chosen < len(options[0].aims))
        steps.append((states, options, chosen, running))
        states = _stepped(task, states, options, chosen, going, seeds if worlds is None else worlds)
        task.embedded([state.text for state in states])  # all at once, before they are looked at one by one
        gained.append(np.concatenate([task.gained(state.start, [state.text]) for state in states], axis=1))
        for row, state in zip(texts, states, strict=True):
            row.append(state.text)
        running = going
    seen, offered, *known = zip(*steps, strict=True)
    return Trajectories(list(starts), texts, np.stack(gained, axis=1), list(seen), list(offered), *map(np.stack, known))


def _probabilities(
    policy: StatePolicy | None, states: Sequence[State], options: Sequence[Options]
) -> Float[np.ndarray, "episode option"]:
    """Of all options of each state."""
    if policy is None:
        return np.tile(np.append(np.ones(len(options[0].aims)), 0.0), (len(options), 1))
    with torch.no_grad(), fitting_threads(policy):
        return policy.log_probs(states, options).exp().double().cpu().numpy()


def _drawn(p: Float[np.ndarray, "episode option"], generators: Sequence[np.random.Generator]) -> np.ndarray:
    """One option per episode, with the episode's own generator."""
    cumulative = np.cumsum(p, axis=1)
    draws = np.array([generator.random() for generator in generators]) * cumulative[:, -1]
    return (cumulative <= draws[:, None]).sum(axis=1)


def _stepped(
    task: Steering,
    states: Sequence[State],
    options: Sequence[Options],
    chosen: Int[np.ndarray, " episode"],
    going: Bool[np.ndarray, " episode"],
    seeds: Sequence[int],
) -> list[State]:
    """The states after one step; those that have stopped stay as they were."""
    rows, after = np.flatnonzero(going).tolist(), list(states)
    if not rows:
        return after
    aims = [int(options[row].aims[chosen[row]]) for row in rows]
    worlds = [seed_of("step", states[row].step, seeds[row]) for row in rows]
    texts = task.follow([states[row].text for row in rows], aims, worlds).texts
    for row, aim, text in zip(rows, aims, texts, strict=True):
        after[row] = states[row].after(text, aim)
    return after
