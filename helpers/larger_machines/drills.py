"""Real servers on this machine, and what happens to the answers when one of them is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import numpy as np
import psutil

from helpers.base import sources
from helpers.base.settings import model_name
from helpers.base.storage import CourseError
from helpers.domains.movies import load_movies
from helpers.eagle.actions import BANK
from helpers.eagle.rewriting import SAMPLING, rewrite_prompt, seed_of, start_items, start_of
from helpers.language import gguf
from helpers.language.generation import exact_backend, generate
from helpers.language.prompts import Backend, Prompt, Sampling
from helpers.larger_machines.client import ServerBackend
from helpers.larger_machines.cluster import RayBackend
from helpers.larger_machines.failover import ServerPool
from helpers.larger_machines.serve import SERVE_KEY

START_SECONDS = 120.0  # seconds for a server to load its model
SETTLED = 2.0  # seconds within which ray changes the title of a worker that has answered


class LocalServer(NamedTuple):
    """A server process and its url, up to `/v1`."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def local_servers(count: int = 2, model: str | None = None) -> Iterator[list[LocalServer]]:
    """Servers of one model in float32 (`serve`) on free ports of localhost, killed at the end of the block.

    They have one torch thread each and no access to the hub; they end when this process ends, for whatever reason.

    Args:
        model: the course's when not given.

    Raises:
        CourseError: one of them does not start within `START_SECONDS` seconds.
    """
    model = model or model_name()
    if model in sources.read_manifest():
        gguf.convert(model)  # here, so that the servers neither wait for each other nor need the network
    command = [sys.executable, "-m", "helpers.larger_machines.serve", "--model", model, "--dtype", "float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", SERVE_KEY: ""}
    with tempfile.TemporaryFile("w+") as log, contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(
                [*command, "--port", "0", "--with-parent"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
            processes.append(stack.enter_context(process))  # waits for it, and closes its pipes
            stack.callback(process.kill)
        yield [LocalServer(_url(process, log), process) for process in processes]


def _url(process: subprocess.Popen[str], log: IO[str]) -> str:
    """The url that a server prints when it is ready."""
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    line = process.stdout.readline() if process.stdout else ""  # empty when the process has ended
    timer.cancel()
    if not line:
        log.seek(0)
        said = (log.read().strip().splitlines() or ["it said nothing"])[-1]
        raise CourseError(
            f"a local server did not start ({said}): try `python -m helpers.larger_machines.serve` in a terminal"
        )
    return line.split()[0]


def rewrite_prompts(count: int) -> list[Prompt]:
    """Prompts of the environment: ideas of the movie catalogue, each under another instruction of the bank."""
    domain = load_movies()
    items = start_items(domain)
    instructions = [action.template for action in BANK if not action.personalised]
    return [
        rewrite_prompt(start_of(domain, items[i % len(items)], 0).text, instructions[i % len(instructions)])
        for i in range(count)
    ]


@dataclass(frozen=True)
class _Counted(ServerBackend):
    """A server that counts its requests."""

    asked: list[dict] = field(default_factory=list, compare=False)
    answered: list[dict] = field(default_factory=list, compare=False)

    def attempt(self, body: dict) -> str:
        self.asked.append(body)
        text = super().attempt(body)
        self.answered.append(body)
        return text

    @property
    def under_way(self) -> int:
        return len(self.asked) - len(self.answered)


class PoolDrill(NamedTuple):
    """What happened to a batch of prompts when one of the servers was killed.

    Attributes:
        lost: prompts without an answer.
        twice: answers to a prompt that had one already.
        different: answers that are not those of the same model in this process.
        killed: number of the server that was killed; it had `interrupted` requests under way.
        by_server: answers that each server gave.
    """

    lost: int
    twice: int
    different: int
    killed: int
    interrupted: int
    by_server: list[int]


def pool_drill(n_prompts: int = 24, sampling: Sampling = SAMPLING) -> PoolDrill:
    """Ask a pool of two local servers for rewrites, kill the busiest when a third is answered, and compare.

    All models compute in float32, where an answer does not depend on the others in its batch.

    Raises:
        CourseError: as `local_servers`.
    """
    prompts = rewrite_prompts(n_prompts)
    seeds = [seed_of("pool", row) % 2**31 for row in range(n_prompts)]
    arrived: list[tuple[int, str]] = []
    killed: list[tuple[int, int]] = []
    with local_servers() as servers:
        backends = tuple(_Counted(server.url, model_name(), prefill=True, concurrency=6) for server in servers)

        def done(rows: list[int], texts: list[str]) -> None:
            arrived.extend(zip(rows, texts, strict=True))
            if len(arrived) >= n_prompts / 3 and not killed:
                busiest = max(range(len(backends)), key=lambda number: backends[number].under_way)
                killed.append((busiest, backends[busiest].under_way))
                servers[busiest].kill()

        ServerPool(backends, "float32").generate(prompts, sampling, seeds, done)
    expected = generate(exact_backend(), prompts, sampling, seeds)
    answers = dict(arrived)
    return PoolDrill(
        lost=n_prompts - len(answers),
        twice=len(arrived) - len(answers),
        different=sum(text != expected[row] for row, text in answers.items()),
        killed=killed[0][0],
        interrupted=killed[0][1],
        by_server=[len(backend.answered) for backend in backends],
    )


# A cluster -----------------------------------------------------------------------------------------------------------


class RayDrill(NamedTuple):
    """What happened to a batch of prompts when one of the workers was killed.

    Attributes:
        lost: prompts without an answer.
        same: share of the answers that are those of one process; in bfloat16 the shape of a batch can change a text.
        killed_after: answers that had arrived when the worker was killed.
        memory: bytes of the largest worker.
        start_seconds: until a worker was there.
        seconds: from then until all was answered, the killed worker's replacement included.
        alone_seconds: what this process needs for the same prompts, once it has the model.
    """

    lost: int
    same: float
    killed_after: int
    memory: int
    start_seconds: float
    seconds: float
    alone_seconds: float


def ray_drill(backend: RayBackend, prompts: Sequence[Prompt], sampling: Sampling) -> RayDrill:
    """Kill a worker at work (SIGKILL) once a third of the answers has arrived, in a cluster of this process.

    Raises:
        CourseError: this process has started no cluster, or no worker was at work when answers arrived.
    """
    seeds = range(len(prompts))
    answers: dict[int, str] = {}
    killed: list[tuple[int, int]] = []

    def done(rows: list[int], texts: list[str]) -> None:
        answers.update(zip(rows, texts, strict=True))
        if not killed and 3 * len(answers) >= len(prompts):
            workers, at_work = _settled_workers(backend.workers)
            if at_work:  # an idle one has no batch to lose
                killed.append((len(answers), max(process.memory_info().rss for process in workers)))
                at_work[0].kill()

    start = time.perf_counter()
    _ = backend.name
    ready = time.perf_counter()
    backend.generate(prompts, sampling, seeds, done)
    end = time.perf_counter()
    if not killed:
        raise CourseError("no worker was at work when answers arrived: ask more prompts, or use a smaller `batch`")
    alone, alone_seconds = _alone(backend.make(), prompts, sampling, seeds)
    return RayDrill(
        lost=len(prompts) - len(answers),
        same=float(np.mean([text == alone[row] for row, text in answers.items()])),
        killed_after=killed[0][0],
        memory=killed[0][1],
        start_seconds=ready - start,
        seconds=end - ready,
        alone_seconds=alone_seconds,
    )


def _settled_workers(crew: int) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The workers of this process's cluster, and those of them at work, when one of a crew has just answered.

    Ray writes into a worker's title what it does, and does so a moment after its answer has arrived: we wait until
    fewer than the crew are at work, and count who still is at a second look. Other crews may rest in the cluster.
    """
    end = time.monotonic() + SETTLED
    before: set[psutil.Process] | None = None
    while True:
        workers = _worker_titles()
        if not workers:
            raise CourseError("no worker on this machine: use `with cluster():`, without an address")
        at_work = {process for process, title in workers.items() if title.endswith(".ask")}
        if len(at_work) < crew and at_work == before:
            return list(workers), list(at_work)
        if time.monotonic() > end:
            return list(workers), []
        before = at_work
        time.sleep(0.1)


def _worker_titles() -> dict[psutil.Process, str]:
    workers = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may end while we look, or have ended already
            if "ray::Worker" in (title := "".join(process.cmdline()[:1])):
                workers[process] = title
    return workers


def _alone(
    backend: Backend, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> tuple[dict[int, str], float]:
    """The answers of a backend in this process by row, and its seconds."""
    texts: dict[int, str] = {}
    start = time.perf_counter()
    backend.generate(prompts, sampling, seeds, lambda rows, new: texts.update(zip(rows, new, strict=True)))
    return texts, time.perf_counter() - start
