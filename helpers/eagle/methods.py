"""The methods of the comparison: each spends the same number of calls on every start and leaves what it visited.

A method is `method(task, starts, calls, seed) -> Visited`. Which of the visited texts count is a rule of the table
(`emission.py`) and not the method's own: all are measured unselected, and all by the same choice among what they saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from helpers.eagle.actions import instantiate
from helpers.eagle.agent import OptionPolicy, probabilities
from helpers.eagle.aims import most_promising
from helpers.eagle.banks import BANK, Action
from helpers.eagle.emission import Visited
from helpers.eagle.environment import Integers
from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.steering import State, Steering, Support, Table
from helpers.eagle.trajectories import play
from helpers.embedding.profiles import ProfileWriter

Method = Callable[[Steering, Sequence[Start], int, int], Visited]

NEUTRAL = (
    "Say the same in other words.",
    "Rewrite it without changing what happens.",
    "Keep the story and change only the wording.",
    "Tell the same with different words.",
    "Rephrase it and keep everything else.",
)


def once(task: Steering, starts: Sequence[Start], instructions: Sequence[Sequence[str]], seed: int) -> Visited:
    """Every instruction tried on its start, one step each; everything is emitted."""
    rows = [(start, text) for start, some in zip(starts, instructions, strict=True) for text in some]
    seeds = [seed_of(seed, "once", *start, number) for start, some in zip(starts, instructions, strict=True)
             for number in range(len(some))]  # fmt: skip
    found = task.rewrite([start.text for start, _ in rows], [text for _, text in rows], seeds).texts
    n = len(instructions[0])
    return Visited([found[i : i + n] for i in range(0, len(found), n)], np.ones((len(starts), n), dtype=bool))


def neutral(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """The control: the same said in other words. What this gains, any rewrite gains."""
    return once(task, starts, [[NEUTRAL[n % len(NEUTRAL)] for n in range(calls)]] * len(starts), seed)


def templates(
    task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, bank: Sequence[Action] = BANK
) -> Visited:
    """One step each: different random instructions of the bank. Chosen among by U, this is greedy search."""
    writer = ProfileWriter(task.encoders.paid.domain)
    every = [instantiate(bank, writer(start.user)) for start in starts]
    order = [np.random.default_rng(seed_of(seed, "bank", *start)).permutation(len(bank))[:calls] for start in starts]
    return once(task, starts, [[texts[i] for i in rows] for texts, rows in zip(every, order, strict=True)], seed)


def random_aims(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """One step each: different random aims."""
    order = [np.random.default_rng(seed_of(seed, "aims", *s)).permutation(len(task.aims))[:calls] for s in starts]
    return once(task, starts, [_said(task, rows) for rows in order], seed)


def promising(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, both: bool = False) -> Visited:
    """One step each: the aims of highest promise that differ, by the paid encoder or by both; nothing is learnt."""
    columns = slice(0, 4) if both else slice(0, 2)
    scores = [task.table(State(start, start.text)).features[:, columns].sum(axis=1) for start in starts]
    alike = max(2, calls // 5)
    return once(task, starts, [_said(task, most_promising(s, task.aims, calls, alike)) for s in scores], seed)


def _said(task: Steering, aims: Integers) -> list[str]:
    return [task.aims[aim].instruction(task.rewrite.wording) for aim in aims]


def tree(
    task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, depth: int = 2, width: int = 2,
    bank: Sequence[Action] = BANK,
) -> Visited:  # fmt: skip
    """Beam search with random templates: `calls` / `depth` rewrites a depth, of the `width` texts of highest paid U.

    Raises:
        ValueError: fewer than four rewrites a depth, with which nothing would be pruned.
    """
    rewrites = calls // depth
    if rewrites < 4:
        raise ValueError(f"{rewrites} rewrites a depth: nothing would be pruned, ask for {4 * depth} calls or more")
    writer = ProfileWriter(task.encoders.paid.domain)
    every = [instantiate(bank, writer(start.user)) for start in starts]
    beams = [[start.text] for start in starts]
    visited: list[list[str]] = [[] for _ in starts]
    for level in range(depth):
        parents = [[beam[i % len(beam)] for i in range(rewrites)] for beam in beams]
        order = [
            np.random.default_rng(seed_of(seed, "tree", *s, level)).permutation(len(bank))[:rewrites] for s in starts
        ]
        instructions = [texts[i] for texts, rows in zip(every, order, strict=True) for i in rows]
        seeds = [seed_of(seed, "tree", *start, level, i) for start in starts for i in range(rewrites)]
        found = task.rewrite([text for some in parents for text in some], instructions, seeds).texts
        for number, start in enumerate(starts):
            children = found[number * rewrites : (number + 1) * rewrites]
            visited[number] += children
            paid = task.gained(start, children)[:2].sum(axis=0)
            beams[number] = list(dict.fromkeys(children[i] for i in np.argsort(-paid, kind="stable")))[:width]
    emitted = np.zeros((len(starts), rewrites * depth), dtype=bool)
    emitted[:, -rewrites:] = True
    return Visited(visited, emitted)


# Agents ------------------------------------------------------------------------------------------------------------


def follow(
    task: Steering, starts: Sequence[Start], calls: int, seed: int, policy: OptionPolicy | None, support: Support
) -> Visited:
    """Episodes of a policy, one after the other, until the calls are spent; the end of each episode is emitted.

    An episode that the budget cuts off emits nothing.
    """
    visited: list[list[str]] = [[] for _ in starts]
    emitted: list[list[bool]] = [[] for _ in starts]
    number = 0
    while left := [row for row in range(len(starts)) if len(visited[row]) < calls]:
        seeds = [seed_of(seed, "follow", *starts[row], number) for row in left]
        worlds = [seed_of("follow", *starts[row], number) for row in left]
        episodes = play(task, [starts[row] for row in left], support, probabilities(policy), seeds, worlds)
        for row, texts, n_calls in zip(left, episodes.texts, episodes.calls, strict=True):
            visited[row] += texts[1 : n_calls + 1]
            emitted[row] += [False] * (n_calls - 1) + [True]
        number += 1
    return Visited([texts[:calls] for texts in visited], np.array([marks[:calls] for marks in emitted]))


def guided(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seed: int,
    policy: OptionPolicy,
    rounds: int = 2,
    alike: int = 2,
    second: float = 0.5,
) -> Visited:
    """Search that a policy proposes to: the calls go where utility so far plus Q is highest.

    In each round all texts that were visited compete, each with all its aims, so that a good result is worked on
    further and a bad one is not. Both encoders say what has been reached, with weight `second` for the second one.
    What is emitted are the texts of the last round.
    """
    shares = [len(part) for part in np.array_split(np.arange(calls), rounds)]
    known: list[list[State]] = [[State(start, start.text)] for start in starts]
    tried: list[set] = [set() for _ in starts]
    visited: list[list[str]] = [[] for _ in starts]
    for round_number, share in enumerate(shares):
        task.embedded([state.text for states in known for state in states])
        plans = [_best_pairs(task, policy, *row, share, alike, second) for row in zip(known, tried, strict=True)]
        rows = [(number, state, aim) for number, plan in enumerate(plans) for state, aim in plan]
        texts = task.rewrite(
            [state.text for _, state, _ in rows],
            _said(task, [aim for *_, aim in rows]),
            [seed_of(seed, "guided", *state.start, round_number, i % share) for i, (_, state, _) in enumerate(rows)],
        ).texts
        for (number, state, aim), text in zip(rows, texts, strict=True):
            visited[number].append(text)
            tried[number].add((state.text, aim))
            if text not in {other.text for other in known[number]} and state.step + 1 < task.horizon:
                known[number].append(State(state.start, text, state.step + 1, (*state.asked, aim)))
    emitted = np.zeros((len(starts), calls), dtype=bool)
    emitted[:, -shares[-1] :] = True
    return Visited(visited, emitted)


def _best_pairs(
    task: Steering, policy: OptionPolicy, states: Sequence[State], tried: set, n: int, alike: int, second: float
) -> list[tuple[State, int]]:
    """The n pairs of a visited text and an aim that are expected to end highest."""
    scores = []
    for state in states:
        table = task.table(state)
        gained = (1 - second) * table.gained[0] + second * table.gained[1]
        value = gained + worth(task, policy, state, table)
        value[[aim for text, aim in tried if text == state.text]] = -np.inf
        scores.append(value)
    best = most_promising(np.concatenate(scores), list(task.aims) * len(states), n, alike)
    return [(states[row // len(task.aims)], int(row % len(task.aims))) for row in best]


def worth(task: Steering, policy: OptionPolicy, state: State, table: Table) -> Float[np.ndarray, " aim"]:
    """Q of every aim in a state, in stars."""
    features = task.in_time(state, np.arange(len(task.aims)), table.features)[:-1]
    with torch.no_grad():
        return policy.values(torch.as_tensor(features, dtype=torch.float32)).double().numpy()
