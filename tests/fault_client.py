"""A program that a test kills: it asks a server for answers, or plays episodes on the small map, and keeps a memo.

`python fault_client.py answers|episodes URL MEMO`; the test imports the same functions to resume and to compare.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from fake_steering import fake_task, task_starts

from helpers.base.storage import CourseError
from helpers.eagle.rewriting import Rewriter
from helpers.eagle.trajectories import Trajectories, play
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


def episodes(backend: Backend, memo: Memo | None) -> Trajectories:
    """Four starts, two episodes each of three steps: 24 rewrites."""
    task = dataclasses.replace(fake_task(), rewrite=Rewriter(backend, memo=memo))
    return play(task, task_starts(4) * 2, "uniform", None, seeds=range(8))


if __name__ == "__main__":
    try:
        {"answers": answers, "episodes": episodes}[sys.argv[1]](pool(sys.argv[2]), Memo(Path(sys.argv[3])))
    except CourseError as error:
        sys.exit(f"error: {error}")
