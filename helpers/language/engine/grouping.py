"""Which prompts are decoded together, and which of them share a prefix of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.language.engine.attention import common_length
from helpers.language.prompts import TokenIds

BATCH_ROWS = 64  # decoded together: more gain little, and memory grows with them
GROUP_COST = 16  # computing a group's prefix apart costs about as much as this many tokens


@dataclass(frozen=True)
class Group:
    """Rows that agree in their first `shared` tokens."""

    rows: tuple[int, ...]
    shared: int


def common_prefix(prompts: Sequence[TokenIds]) -> int:
    """Length of the prefix common to all rows, 0 if not worth it; the last token of a row is never part of it."""
    first, last = min(prompts), max(prompts)  # in the order of a dictionary these differ most
    prefix = min(common_length(first, last), *(len(prompt) - 1 for prompt in prompts))
    return prefix if prefix >= GROUP_COST else 0


def groups_of(prompts: Sequence[TokenIds]) -> list[Group]:
    """Split rows into groups that share more than the common prefix, so that most tokens are saved.

    In the order of a dictionary groups are stretches, and the best split of n rows extends one of fewer.
    """
    prefix = common_prefix(prompts)
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    common = [common_length(prompts[a], prompts[b]) - prefix for a, b in itertools.pairwise(order)]
    saved, begins = [0.0], [0]
    for end in range(1, len(order) + 1):
        best, begin, shared = saved[end - 1], end - 1, math.inf
        for start in range(end - 2, max(end - 1 - BATCH_ROWS, -1), -1):
            shared = min(shared, common[start])
            if (gain := saved[start] + (end - start - 1) * shared - GROUP_COST) > best:
                best, begin = gain, start
        saved.append(best)
        begins.append(begin)
    groups, end = [], len(order)
    while end:
        rows = tuple(order[begins[end] : end])
        shared = common_prefix([prompts[row] for row in rows]) if len(rows) > 1 else prefix
        groups.append(Group(rows, max(shared, prefix)))
        end = begins[end]
    return groups


def batches_of(prompts: Sequence[TokenIds], limit: int, most: int) -> list[list[Group]]:
    """Groups, longest first, in batches of at most `most` rows and `limit` places for tokens (or a single group)."""

    def longest(group: Group) -> int:
        return max(len(prompts[row]) for row in group.rows)

    batches: list[list[Group]] = []
    rows = width = 0
    for group in sorted(groups_of(prompts), key=longest, reverse=True):
        rows += len(group.rows)
        if not batches or rows > most or rows * width > limit:
            batches.append([])
            rows, width = len(group.rows), longest(group)
        batches[-1].append(group)
    return batches
