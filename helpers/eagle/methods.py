"""Steering with aims: without learning, with a policy, and with a search guided by a policy.

Each is `method(task, starts, calls, seed) -> Visited`, as the rivals are (`rivals.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from helpers.eagle.agent import OptionPolicy
from helpers.eagle.aims import Kind, in_order_of_promise, most_promising
from helpers.eagle.emission import Visited
from helpers.eagle.rewriting import Start, seed_of
from helpers.eagle.rivals import by_start
from helpers.eagle.steering import State, Steering, Support, Table, shares, weighted
from helpers.eagle.trajectories import SideBySide, StatePolicy, play


def each_once(task: Steering, starts: Sequence[Start], aims: Sequence[Int[np.ndarray, " call"]], seed: int) -> Visited:
    """Every aim tried on its start, one step each; everything is emitted."""
    rows = [(start, aim, number) for start, some in zip(starts, aims, strict=True) for number, aim in enumerate(some)]
    seeds = [seed_of(seed, "once", *start, number) for start, _, number in rows]
    found = task.follow([start.text for start, *_ in rows], [aim for _, aim, _ in rows], seeds)
    return Visited(by_start(found.texts, n := len(aims[0])), np.ones((len(starts), n), dtype=bool))


def random_aims(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, kind: Kind = "named") -> Visited:
    """One step each: different random aims of a kind."""
    task = task.of_kind(kind)
    order = [np.random.default_rng(seed_of(seed, "aims", *s)).permutation(len(task.aims))[:calls] for s in starts]
    return each_once(task, starts, order, seed)


def promising(
    task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, kind: Kind = "named", both: bool = False
) -> Visited:
    """One step each: different aims of highest promise, by the paid encoder or by both; only the reach was fitted."""
    task, columns = task.of_kind(kind), slice(0, 4) if both else slice(0, 2)
    scores = [task.table(State(start, start.text)).features[:, columns].sum(axis=1) for start in starts]
    return each_once(task, starts, [in_order_of_promise(score, task.aims, calls) for score in scores], seed)


# Agents ------------------------------------------------------------------------------------------------------------


def followed(
    task: Steering, starts: Sequence[Start], calls: int, seed: int, policy: StatePolicy | None, support: Support
) -> Visited:
    """Episodes of a policy until the calls are spent; the ends of the first `calls` / H episodes are emitted.

    That many always fit. If every episode that ends in time were emitted, short ones would be overrepresented.

    Raises:
        ValueError: fewer calls than an episode may take.
    """
    return followed_each(task, starts, calls, [seed], None if policy is None else [policy], support)[0]


def followed_each(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seeds: Sequence[int],
    policies: Sequence[StatePolicy] | None,
    support: Support,
) -> list[Visited]:
    """`followed` with a policy for each seed, all played side by side and in the same worlds."""
    n_emitted = calls // task.horizon
    if not n_emitted:
        raise ValueError(f"{calls} calls for episodes of up to {task.horizon} steps: give at least as many")
    rows = [(seed, start) for seed in seeds for start in starts]
    visited: list[list[str]] = [[] for _ in rows]
    emitted: list[list[bool]] = [[] for _ in rows]
    played = [0] * len(rows)
    while min(map(len, visited)) < calls:
        # Each row plays no more episodes than it will need, and none once its calls are spent.
        needed = [-(-(calls - len(own)) // task.horizon) for own in visited]
        todo = [(row, played[row] + n) for row, several in enumerate(needed) for n in range(several)]
        sizes = np.maximum(needed, 0).reshape(len(seeds), -1).sum(axis=1).tolist()
        episodes = play(
            task,
            [rows[row][1] for row, _ in todo],
            support,
            None if policies is None else SideBySide(policies, sizes),
            [seed_of(rows[row][0], "follow", *rows[row][1], n) for row, n in todo],
            [seed_of("follow", *rows[row][1], n) for row, n in todo],
        )
        for (row, n), texts, n_calls in zip(todo, episodes.texts, episodes.calls, strict=True):
            visited[row] += texts[1 : n_calls + 1]
            emitted[row] += [False] * (n_calls - 1) + [n < n_emitted]
            played[row] += 1
    marks = np.array([own[:calls] for own in emitted])
    parts = [slice(first, first + len(starts)) for first in range(0, len(rows), len(starts))]
    return [Visited([own[:calls] for own in visited[part]], marks[part]) for part in parts]


def guided(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seed: int,
    policy: OptionPolicy | None,
    rounds: int = 5,
    alike: int = 2,
    second: float = 0.5,
) -> Visited:
    """`guided_each` with one policy."""
    return guided_each(task, starts, calls, seed, [policy], rounds, alike, second)[0]


def guided_each(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seed: int,
    policies: Sequence[OptionPolicy | None],
    rounds: int = 5,
    alike: int = 2,
    second: float = 0.5,
) -> list[Visited]:
    """Search guided by a policy: the calls go where utility so far plus Q is highest.

    There is one search for each policy, all side by side. In each round all visited texts compete, each with all its
    aims, so that good results are developed further and bad ones are not. Both encoders measure the utility so far,
    with weight `second` for the second one. The texts of the last round are emitted.

    Args:
        policies: their Q must be in stars, as the supervised stage leaves it; None takes the mean promise of both
            encoders for Q, and learns nothing from tries.

    Raises:
        ValueError: fewer calls than rounds.
    """
    if calls < rounds:
        raise ValueError(f"{calls} calls in {rounds} rounds: give at least one to each")
    parts, owners = shares(calls, rounds), [policy for policy in policies for _ in starts]
    known: list[list[State]] = [[State(start, start.text)] for _ in policies for start in starts]
    tried: list[set] = [set() for _ in owners]
    visited: list[list[str]] = [[] for _ in owners]
    for round_number, share in enumerate(parts):
        task.embedded([state.text for states in known for state in states])
        searches = zip(owners, known, tried, strict=True)
        plans = [_best_pairs(task, *search, share, alike, second) for search in searches]
        rows = [(number, state, aim) for number, plan in enumerate(plans) for state, aim in plan]
        texts = task.follow(
            [state.text for _, state, _ in rows],
            [aim for *_, aim in rows],
            [seed_of(seed, "guided", *state.start, round_number, i % share) for i, (_, state, _) in enumerate(rows)],
        ).texts
        for (number, state, aim), text in zip(rows, texts, strict=True):
            visited[number].append(text)
            tried[number].add((state.text, aim))
            if text not in {other.text for other in known[number]} and state.step + 1 < task.horizon:
                known[number].append(state.after(text, aim))
    emitted = np.zeros((len(starts), calls), dtype=bool)
    emitted[:, -parts[-1] :] = True
    return [
        Visited(visited[first : first + len(starts)], emitted, planned=True)
        for first in range(0, len(visited), len(starts))
    ]


def _best_pairs(
    task: Steering, policy: OptionPolicy | None, states: Sequence[State], tried: set, n: int, alike: int, second: float
) -> list[tuple[State, int]]:
    """The n pairs of a visited text and an aim that are expected to end highest."""
    scores = []
    for state in states:
        table = task.table(state)
        value = weighted(table.gained[:, None], second) + worth(task, policy, state, table)
        value[[aim for text, aim in tried if text == state.text]] = -np.inf
        scores.append(value)
    best = most_promising(np.concatenate(scores), list(task.aims) * len(states), n, alike)
    return [(states[row // len(task.aims)], int(row % len(task.aims))) for row in best]


def worth(task: Steering, policy: OptionPolicy | None, state: State, table: Table) -> Float[np.ndarray, " aim"]:
    """Q of every aim in a state, in stars: what a policy says, or the mean promise of both encoders."""
    if policy is None:
        return table.features[:, :4].sum(axis=1) / 2
    features = task.in_time(state, np.arange(len(task.aims)), table.features)[:-1]
    with torch.no_grad():
        return policy.values(torch.as_tensor(features, dtype=torch.float32)).double().numpy()
