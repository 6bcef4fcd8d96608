"""What an agent has to beat: a control that only rephrases, and searches without aims.

Each is `method(task, starts, calls, seed) -> Visited`. Which of the visited texts count is a rule of the table
(`emission.py`) and not the method's own. The paper compares EAGLE with its reference policies and with ELM; the other
methods are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from helpers.domains.wording import CLOTHES, MOVIES, Wording
from helpers.eagle.actions import accepted, instantiate, propose
from helpers.eagle.banks import BANK, CATEGORIES, CLOTHING_BANK, Action
from helpers.eagle.emission import Visited
from helpers.eagle.idea_prompts import N_SHOWN, blend_prompt, ideas_written, opro_prompt, refuse_other_than_movies
from helpers.eagle.rewriting import Start, copies, ranked_ideas, seed_of
from helpers.eagle.steering import Steering, shares, weighted
from helpers.eagle.utility import best_in_reach
from helpers.language.generation import Backend

SearchMethod = Callable[[Steering, Sequence[Start], int, int], Visited]

NEUTRAL = (
    "Say the same in other words.",
    "Rewrite it without changing what happens.",
    "Keep the story and change only the wording.",
    "Tell the same with different words.",
    "Rephrase it and keep everything else.",
)
NEUTRAL_FOR_ITEMS = (
    "Say the same in other words.",
    "Rewrite it without changing what it is.",
    "Keep the item and change only the wording.",
    "Tell the same with different words.",
    "Rephrase it and keep everything else.",
)


def neutral_for(wording: Wording) -> tuple[str, ...]:
    """The instructions of a domain that ask for the same in other words: only movies have a story to keep."""
    return NEUTRAL if wording == MOVIES else NEUTRAL_FOR_ITEMS


def bank_for(wording: Wording) -> tuple[Action, ...]:
    """The instructions of a domain that were written by hand.

    Raises:
        ValueError: there are none.
    """
    banks = {MOVIES.system: BANK, CLOTHES.system: CLOTHING_BANK}
    if wording.system not in banks:
        raise ValueError(f"no bank of instructions for texts that open with {wording.field!r}: write one first")
    return banks[wording.system]


def by_start(texts: Sequence[str], per_start: int) -> list[list[str]]:
    """Texts of several starts, one after the other, as a list for each start."""
    return [list(texts[row : row + per_start]) for row in range(0, len(texts), per_start)]


def once(task: Steering, starts: Sequence[Start], instructions: Sequence[Sequence[str]], seed: int) -> Visited:
    """Every instruction tried on its start, one step each; everything is emitted.

    Raises:
        ValueError: no instruction, or not as many for each start.
    """
    if len({len(some) for some in instructions}) != 1 or not len(instructions[0]):
        raise ValueError("give one instruction or more, and as many to each start")
    rows = [
        (start, instruction, seed_of(seed, "once", *start, number))
        for start, some in zip(starts, instructions, strict=True)
        for number, instruction in enumerate(some)
    ]
    found = task.rewrite([start.text for start, *_ in rows], [said for _, said, _ in rows], [s for *_, s in rows])
    n = len(instructions[0])
    return Visited(by_start(found.texts, n), np.ones((len(starts), n), dtype=bool))


def neutral(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """The control: the same in other words. What this gains, any rewrite gains."""
    said = neutral_for(task.rewrite.wording)
    return once(task, starts, [[said[n % len(said)] for n in range(calls)]] * len(starts), seed)


def random_templates(
    task: Steering, starts: Sequence[Start], n: int, seed: int, bank: Sequence[Action] | None = None
) -> list[list[str]]:
    """n different random instructions from a bank for each start; by default the bank of the domain.

    Raises:
        ValueError: the bank has fewer, or the domain has none.
    """
    bank = bank_for(task.rewrite.wording) if bank is None else bank
    if n > len(bank):
        raise ValueError(f"{n} different instructions from a bank of {len(bank)}: ask for no more than it has")
    order = [np.random.default_rng(seed_of(seed, "bank", *start)).permutation(len(bank))[:n] for start in starts]
    every = [instantiate(bank, task.profile(start.user)) for start in starts]
    return [[texts[i] for i in rows] for texts, rows in zip(every, order, strict=True)]


def templates(
    task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, bank: Sequence[Action] | None = None
) -> Visited:
    """One step each: different random instructions from a bank, by default that of the domain.

    With the best chosen by U, this is greedy search.
    """
    return once(task, starts, random_templates(task, starts, calls, seed, bank), seed)


def random_edits(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """Episodes of random instructions of the bank, each to its end, until the calls are spent."""
    n_episodes = -(-calls // task.horizon)
    some = random_templates(task, starts, task.horizon * n_episodes, seed)
    return _episodes(task, starts, some, calls, seed)


def neutral_edits(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """The control for methods of several steps: episodes that only rephrase."""
    n, said = task.horizon * -(-calls // task.horizon), neutral_for(task.rewrite.wording)
    return _episodes(task, starts, [[said[i % len(said)] for i in range(n)]] * len(starts), calls, seed)


def _episodes(
    task: Steering, starts: Sequence[Start], instructions: Sequence[Sequence[str]], calls: int, seed: int
) -> Visited:
    """Episodes of given instructions, side by side; the ends of those that fit into the calls are emitted."""
    if calls < task.horizon:
        raise ValueError(f"{calls} calls for episodes of {task.horizon} steps: give at least as many")
    said = [part for some in instructions for part in by_start(some, task.horizon)]
    n_episodes = len(said) // len(starts)
    rows = [start for start in starts for _ in range(n_episodes)]
    texts, visited = [start.text for start in rows], []
    for step, some in enumerate(zip(*said, strict=True)):
        seeds = [seed_of(seed, "edits", *start, step, row % n_episodes) for row, start in enumerate(rows)]
        texts = task.rewrite(texts, some, seeds).texts
        visited.append(texts)
    in_order = [text for episode in zip(*visited, strict=True) for text in episode]
    found = [own[:calls] for own in by_start(in_order, task.horizon * n_episodes)]
    emitted = np.arange(calls) % task.horizon == task.horizon - 1
    return Visited(found, np.tile(emitted, (len(starts), 1)))


def tree_search(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seed: int = 0,
    *,
    depth: int = 2,
    width: int = 2,
    second: float = 0.5,
) -> Visited:
    """Beam search with random templates, from the `width` best texts of a depth to the next; the last is emitted.

    Args:
        second: weight of the second encoder in the ranking, as for `guided`.

    Raises:
        ValueError: fewer than four rewrites per depth, with which nothing would be pruned.
    """
    parts = shares(calls, depth)
    if parts[-1] < 4:
        raise ValueError(f"{parts[-1]} rewrites per depth prune nothing: ask for {4 * depth} calls or more")
    beams = [[start.text] for start in starts]
    visited: list[list[str]] = [[] for _ in starts]
    for level, rewrites in enumerate(parts):
        parents = [beam[i % len(beam)] for beam in beams for i in range(rewrites)]
        said = [text for some in random_templates(task, starts, rewrites, seed_of(seed, level)) for text in some]
        seeds = [seed_of(seed, "tree", *start, level, i) for start in starts for i in range(rewrites)]
        children = by_start(task.rewrite(parents, said, seeds).texts, rewrites)
        beams = [
            best_first(some, weighted(task.gained(start, some), second))[:width]
            for start, some in zip(starts, children, strict=True)
        ]
        visited = [old + new for old, new in zip(visited, children, strict=True)]
    return Visited(visited, np.tile(np.arange(calls) >= calls - parts[-1], (len(starts), 1)), planned=True)


def best_first(texts: Sequence[str], utility: Float[np.ndarray, " text"]) -> list[str]:
    """Different texts, the one of highest utility first."""
    return list(dict.fromkeys(texts[i] for i in np.argsort(-utility, kind="stable")))


# Other instructions --------------------------------------------------------------------------------------------------


def proposed(
    task: Steering,
    starts: Sequence[Start],
    calls: int,
    seed: int = 0,
    *,
    backend: Backend | None = None,
    tries: int = 6,
) -> Visited:
    """One step each: instructions that a language model writes for this text and viewer, as in the paper.

    The model proposes `tries` for every category; those that pass the filters of `actions.accepted` are used in turn.
    The proposals cost extra calls, which are not among the `calls`.
    """
    kept = proposals(task, starts, seed, backend=backend, tries=tries)[0]
    return once(task, starts, [[some[i % len(some)] for i in range(calls)] for some in kept], seed)


def proposals(
    task: Steering, starts: Sequence[Start], seed: int = 0, *, backend: Backend | None = None, tries: int = 6
) -> tuple[list[list[str]], float]:
    """Usable instructions for each start, a neutral one where there are none; and the share that was usable."""
    rewriter, kept, n_usable = task.rewrite, [], 0
    for start in starts:
        some = [
            action
            for category in CATEGORIES
            for action in propose(
                backend or rewriter.backend, category, [start.text], tries,
                profile=task.profile(start.user), seed=seed_of(seed, "propose", *start), memo=rewriter.memo,
            )
        ]  # fmt: skip
        usable = [action.template for action in accepted(some)[0]]
        n_usable += len(usable)
        kept.append(usable or [NEUTRAL[0]])
    return kept, n_usable / (tries * len(CATEGORIES) * len(starts))


# Without instructions ----------------------------------------------------------------------------------------------


def opro_search(
    task: Steering, starts: Sequence[Start], calls: int, seed: int = 0, *, rounds: int = 2, second: float = 0.5
) -> Visited:
    """Show the best ideas so far with their scores and ask for a better one; the ideas of the last round are emitted.

    After OPRO (Yang et al. 2024, "Large language models as optimizers"), at our number of calls and with a model far
    smaller than theirs. The first round shows the start alone.

    Args:
        second: weight of the second encoder in what a text has gained, which its score shows.
    """
    refuse_other_than_movies(task.rewrite, "opro_search")
    found = [{start.text: _stars(task, start, [start.text], second)[0]} for start in starts]
    visited: list[list[str]] = [[] for _ in starts]
    parts = shares(calls, rounds)
    for number, share in enumerate(parts):
        best = [dict(sorted(known.items(), key=lambda pair: -pair[1])[:N_SHOWN]) for known in found]
        prompts = [opro_prompt(task.profile(start.user), pairs) for start, pairs in zip(starts, best, strict=True)]
        ideas = by_start(ideas_written(task.rewrite, starts, prompts, share, seed_of(seed, "opro", number)), share)
        found = [
            known | dict(zip(some, _stars(task, start, some, second), strict=True))
            for known, start, some in zip(found, starts, ideas, strict=True)
        ]
        visited = [old + new for old, new in zip(visited, ideas, strict=True)]
    return Visited(visited, np.tile(np.arange(calls) >= calls - parts[-1], (len(starts), 1)), planned=True)


def _stars(task: Steering, start: Start, texts: Sequence[str], second: float) -> list[float]:
    """Utility of texts in stars: that of the start by the paid encoder, and what they gain by both."""
    own = float(task.gaps(start)[0](task.embedded([start.text])[0]).total[0])
    return (own + weighted(task.gained(start, texts), second)).tolist()


def without_copies(start: Start, texts: Sequence[str], shown: Sequence[str]) -> list[str]:
    """The texts, with the start's own in place of those that copy one of the ideas shown."""
    return [start.text if any(copies(text, idea) for idea in shown) else text for text in texts]


def elm_search(task: Steering, starts: Sequence[Start], calls: int, seed: int = 0) -> Visited:
    """Find the optimum of U in the embedding space, and let the language model write a text for it.

    The paper's ELM baseline decodes the optimal embedding with a model that was trained to; ours shows the items
    nearest to it and asks for a new one between them. An answer that copies one of them counts as unusable.
    """
    refuse_other_than_movies(task.rewrite, "elm_search")
    shown = [_to_blend(task, start) for start in starts]
    prompts = [blend_prompt(ideas) for ideas in shown]
    ideas = by_start(ideas_written(task.rewrite, starts, prompts, calls, seed_of(seed, "elm")), calls)
    texts = [without_copies(*row) for row in zip(starts, ideas, shown, strict=True)]
    return Visited(texts, np.ones((len(starts), calls), dtype=bool))


def _to_blend(task: Steering, start: Start) -> list[str]:
    """The items nearest to the best point in reach of a start, as ideas, nearest first; never the start's own."""
    space, known = task.encoders.paid, [aim for aim in task.aims if aim.idea]
    if not known:
        raise ValueError("the task has no ideas to show: give it those of aims.borrowing_aims as well")
    goal = best_in_reach(task.gaps(start)[0], task.embedded([start.text])[0][0], space.items)
    usable = np.array([space.domain.text_items[aim.items[0]] for aim in known])
    return ranked_ideas(space, usable, start, lambda at: np.linalg.norm(at - goal, axis=1), N_SHOWN)
