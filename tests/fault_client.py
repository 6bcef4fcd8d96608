"""A program that a test kills: it asks a server for answers, or plays the fake world's episodes, and keeps a memo.

`python fault_client.py answers|episodes URL MEMO`; the test imports the same functions to resume and to compare.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from pathlib import Path

from fake_world import ACTIONS, fake_starts, fake_world

from helpers.base.storage import CourseError
from helpers.eagle.baselines import Outcome, follow
from helpers.eagle.policy import uniform
from helpers.eagle.rewriting import Rewriter
from helpers.language.generation import Backend, Memo, generate
from helpers.larger_machines.client import ServerBackend
from helpers.larger_machines.failover import ServerPool

PROMPTS = [f"p{number}" for number in range(40)]
ANSWERS = [f"p{number} {number}" for number in range(40)]


def pool(*urls: str) -> ServerPool:
    servers = [ServerBackend(url, "m", pause=0.01, attempts=2, concurrency=2, prefill=True) for url in urls]
    return ServerPool(tuple(servers), "the fake of the tests")


def answers(backend: Backend, memo: Memo | None) -> list[str]:
    return generate(backend, PROMPTS, memo=memo)


def episodes(backend: Backend, memo: Memo | None) -> Outcome:
    """Four starts, two episodes each of three steps: 24 rewrites."""
    world = fake_world()
    world = dataclasses.replace(world, rewrite=Rewriter(backend, memo=memo))
    return follow(world, fake_starts(4), partial(uniform, n_actions=len(ACTIONS)), budget=6, seed=1)


if __name__ == "__main__":
    try:
        {"answers": answers, "episodes": episodes}[sys.argv[1]](pool(sys.argv[2]), Memo(Path(sys.argv[3])))
    except CourseError as error:
        sys.exit(f"error: {error}")
