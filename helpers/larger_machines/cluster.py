"""Answers from the processes of a `ray` cluster, on this machine or on several: each worker holds a model of its own.

    with cluster():  # two processes of this machine
        world = build_world(backend=RayBackend(local_backend))
        expand(world, starts)

Answers arrive in the process that asks and are kept in its memo, as with any other backend; no worker opens the memo,
which is a file on one machine (SQLite is not safe on a network disk). A worker that dies loses only the time of its
batch, which goes to another one.

On several machines: install the course with the same versions on each (`helpers` is imported there, and the models
are in each cache), use one token (`ray get-auth-token --generate`, then copy `~/.ray/auth_token` to all machines:
whoever can reach a cluster without a token can run any program on it), and start ray:

    RAY_AUTH_MODE=token ray start --head --port=6379                 # on the first, which prints its address
    RAY_AUTH_MODE=token ray start --address=FIRST:6379 --num-gpus=1  # on each other one
    RAY_AUTH_MODE=token jupyter lab                                  # on one of them; there `cluster("auto")`
    ray stop                                                         # on each, at the end

Functions, prompts and answers travel between the processes as pickles, as ray sends everything: whoever is in a
cluster can run programs on all of its machines, so its token is for people you trust.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Float

from helpers.base.storage import CourseError
from helpers.language.prompts import Backend, Done, Prompt, Sampling

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

STARTS = 4  # tries to start a cluster
SHARED_MEMORY = 80 * 2**20  # bytes; texts need hardly any, and ray takes a third of the machine's memory unasked


@contextlib.contextmanager
def cluster(address: str | None = None, *, workers: int = 2) -> Iterator[None]:
    """A context in which this process belongs to a cluster: a new one of its own, or a running one.

    A new cluster listens on this machine only, requires a token that only its processes know, and ends with the block.
    A running one goes on without this process.

    Args:
        address: `auto` for the cluster that this machine has joined, or `host:port`; without it a new one.
        workers: processes that a new cluster has room for.

    Raises:
        CourseError: no cluster answers, or none can be started.
    """
    local = address is None
    with _environment(_this_machine_alone() if local else QUIET):
        context = _joined(address or "local", workers if local else 0)
        try:
            yield
        finally:
            import ray

            ray.shutdown()
            if local:
                shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)  # logs that ray never deletes


def _joined(address: str, workers: int):
    """Ray's context of a cluster; a new one if a number of workers is given.

    Ray's own processes have 15 seconds to start, which is too little on a busy machine; a second attempt is faster.
    """
    import ray

    for tries_left in reversed(range(STARTS if workers else 1)):
        try:
            return ray.init(
                address,
                num_cpus=workers or None,
                include_dashboard=False if workers else None,
                object_store_memory=SHARED_MEMORY if workers else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except OSError as error:
            ray.shutdown()
            remedy = "set TMPDIR to a short path of your own" if workers else "check the address"
            raise CourseError(f"no ray cluster ({_line(error)}): {remedy}") from error
        except ray.exceptions.RayError as error:
            raise CourseError(f"the ray cluster does not let us in ({_line(error)}): use its token") from error
        except Exception as error:  # ray has no kind of its own for a start that took too long
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            if not tries_left:
                raise CourseError(
                    f"ray did not start {STARTS} times: try again when the machine is less busy"
                ) from error


# No page of text about each dead worker, which `RayBackend` replaces; ray reads this when it is imported.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed"}


def _this_machine_alone() -> dict[str, str]:
    """Variables for a cluster of this process: no usage reports, loopback only, and a token that is not on disk."""
    return QUIET | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # whatever the system: "no cluster" means loopback to ray
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or _token(),
    }


@functools.cache
def _token() -> str:
    return secrets.token_hex(32)  # one for the life of this process: ray keeps the first


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables as given inside the block, and as they were after it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


class Worker:
    """A backend in a process of the cluster, made at its first call, so that a failure is returned like an answer."""

    def __init__(self, make: Callable[[], Backend]) -> None:
        self.make = make
        self.backend: Backend | None = None

    def ask(self, what: str, *arguments) -> str | list[str] | np.ndarray:
        """`name`, or what `generate` or `score` answers."""
        self.backend = self.backend or self.make()
        if what == "name":
            return self.backend.name
        if what == "score":
            return self.backend.score(*arguments)
        prompts, sampling, seeds = arguments
        texts: dict[int, str] = {}
        self.backend.generate(prompts, sampling, seeds, lambda rows, new: texts.update(zip(rows, new, strict=True)))
        return [texts[row] for row in range(len(prompts))]


@dataclass(frozen=True)
class RayBackend:
    """A backend in each of several workers of a cluster, to be used within `cluster(...)`.

    Attributes:
        make: makes the backend in a worker, as `generation.local_backend`; a function all machines can import.
        workers: processes, which are started when first needed and kept until the cluster ends.
        num_cpus: cores of a worker, which computes with as many threads; below 1 several share one.
        num_gpus: GPUs of a worker; below 1 several share one.
        batch: most prompts that a worker gets at once. Larger batches are faster, but more is repeated when a worker
            dies.
        attempts: how often each worker may be replaced without an answer in between.
        patience: seconds to wait for a first worker when none is at work.
    """

    make: Callable[[], Backend]
    workers: int = 2
    num_cpus: float = 1
    num_gpus: float = 0
    batch: int = 32
    attempts: int = 3
    patience: float = 300.0
    _known: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        positive = self.num_cpus > 0 and self.patience > 0 and self.num_gpus >= 0
        if not positive or min(self.workers, self.batch, self.attempts) < 1:
            raise ValueError("workers, batch and attempts must be at least 1, num_cpus and patience above 0")

    @property
    def name(self) -> str:
        """That of the backends in the workers, so that the memo is the one of a run without a cluster.

        It holds their dtype: machines that choose different ones do not work together.
        """
        if "name" not in self._known:
            next(self._results([("name",)]))
        return self._known["name"]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """As `Backend.generate`; `done` is called in this thread for each batch that has arrived.

        Raises:
            CourseError: no worker starts, workers keep dying, or they differ; earlier answers are kept.
            Exception: whatever the backend in a worker raises.
        """
        rounds = math.ceil(len(prompts) / (self.batch * self.workers))
        size = math.ceil(len(prompts) / (rounds * self.workers))  # all workers end at about the same time
        parts = [slice(first, first + size) for first in range(0, len(prompts), size)]
        calls = [("generate", list(prompts[part]), sampling, list(seeds[part])) for part in parts]
        for call, texts in self._results(calls):
            done(list(range(len(prompts))[parts[call]]), cast("list[str]", texts))  # as `Worker.ask` for `generate`

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """As `Backend.score`, in one of the workers."""
        ((_, scores),) = self._results([("score", prompt, continuations)])
        return cast(np.ndarray, scores)  # as `Worker.ask` for `score`

    def _results(self, calls: Sequence[tuple]) -> Iterator[tuple[int, str | list[str] | np.ndarray]]:
        """(number, result) of each call (the arguments of `Worker.ask`) as it is finished, in any order.

        Ray could restart a worker and repeat its call itself (`max_restarts`, `max_task_retries`). But then the call
        waits until that worker has a new model while others are idle, and forever if no machine has room for it.
        """
        import ray

        crew = self._crew()
        todo = deque(range(len(calls)))
        idle: list[ActorHandle] = []
        deaths = 0
        running: dict[ObjectRef, tuple[ActorHandle, int | None]]
        running = {worker.ask.remote("name"): (worker, None) for worker in crew}  # is it there, and like the others?
        while todo or any(call is not None for _, call in running.values()):
            while todo and idle:
                number = todo.popleft()
                worker = idle.pop()
                running[worker.ask.remote(*calls[number])] = worker, number
            for reference in self._finished(running):
                worker, call = running.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from (None if isinstance(error.cause, ValueError | CourseError) else error)
                except ray.exceptions.RayError as error:  # the worker is gone, and with it what it was doing
                    deaths += 1
                    self._refuse(error, deaths)
                    todo.extend([] if call is None else [call])
                    crew[crew.index(worker)] = new = self._new_worker()
                    running[new.ask.remote("name")] = new, None
                    continue
                idle.append(worker)
                if call is None:
                    self._refuse_others(result)
                else:
                    deaths = 0
                    yield call, result

    def _crew(self) -> list:
        """The workers in the present cluster; those of an earlier one ended with it."""
        import ray

        if not ray.is_initialized():
            raise CourseError("no cluster: use a RayBackend inside `with cluster():`")
        context = ray.get_runtime_context()
        crew = self._known.setdefault((context.get_node_id(), context.get_job_id()), [])
        crew += [self._new_worker() for _ in range(self.workers - len(crew))]
        return crew

    def _new_worker(self):
        import ray

        threads = {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(self.num_cpus)))}}  # before torch is imported
        there = ray.remote(Worker).options(num_cpus=self.num_cpus, num_gpus=self.num_gpus, runtime_env=threads)
        return there.remote(self.make)

    def _finished(self, running: dict) -> list:
        import ray

        finished, _ = ray.wait(list(running), timeout=self.patience)
        if not finished and all(call is None for _, call in running.values()):
            there = ray.cluster_resources()
            raise CourseError(
                f"no worker in {self.patience:g} s: each wants {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs, the "
                f"cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}: add machines, or ask for less"
            )
        return finished

    def _refuse(self, error: Exception, deaths: int) -> None:
        """Give up if a new worker would fail as well."""
        if getattr(error, "actor_init_failed", False):
            remedy = "install the same version of the course on every machine"
            raise CourseError(f"a worker cannot start ({_line(error)}): {remedy}") from error
        if deaths > self.attempts * self.workers:
            remedy = "give workers more memory, or lower `workers` or `batch`"
            raise CourseError(f"workers died {deaths} times without an answer in between: {remedy}") from error

    def _refuse_others(self, name: str) -> None:
        known = self._known.setdefault("name", name)
        if name != known:
            raise CourseError(f"one worker is {known!r}, another {name!r}: let `make` load the same in the same dtype")


def _line(error: BaseException) -> str:
    """The last line of what ray says, which holds the reason."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[-1].split())[:200].rstrip(".: ") if lines else type(error).__name__
