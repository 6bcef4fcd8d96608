"""Answers from the processes of a `ray` cluster, on this machine or on several: each worker holds a model of its own.

    with cluster():  # two processes of this machine
        world = build_world(backend=RayBackend(local_backend))
        expand(world, starts)

Answers arrive in the process that asks and are kept in its memo, as with any other backend; no worker opens the memo,
which is a file of one machine (SQLite is not safe on a network disk). A worker that dies loses nothing but the time
of its batch, which goes to another one.

On several machines: install the course with the same versions on each (`helpers` is imported there, and the models
lie in each cache), use one token (`ray get-auth-token --generate`, then copy `~/.ray/auth_token` to all machines: who
can reach a cluster without one can run any program on it), and start ray:

    RAY_AUTH_MODE=token ray start --head --port=6379                 # on the first, which prints its address
    RAY_AUTH_MODE=token ray start --address=FIRST:6379 --num-gpus=1  # on each other one
    RAY_AUTH_MODE=token jupyter lab                                  # on one of them; there `cluster("auto")`
    ray stop                                                         # on each, at the end
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import psutil
from jaxtyping import Float

from helpers.base.storage import CourseError
from helpers.language.prompts import Backend, Done, Prompt, Sampling

SHARED_MEMORY = 80 * 2**20  # bytes; texts need hardly any, and ray takes a third of the machine's memory unasked


@contextlib.contextmanager
def cluster(address: str | None = None, *, workers: int = 2) -> Iterator[None]:
    """Inside the block this process belongs to a cluster: a new one of its own, or a running one.

    A new cluster listens to this machine alone, wants a token that only its processes know, and is gone at the end.
    So is this process's part of a running one; that itself goes on.

    Args:
        address: `auto` for the cluster that this machine has joined, or `host:port`; without it a new one.
        workers: processes that a new cluster has room for.

    Raises:
        CourseError: no cluster answers, or none can be started.
    """
    local = address is None
    # A page of text about each dead worker, which `RayBackend` replaces; ray reads this when it is imported.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")
    if local:
        _keep_to_this_machine()
    import ray

    room = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": SHARED_MEMORY} if local else {}
    try:
        context = ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **room)
    except OSError as error:
        ray.shutdown()
        remedy = "set TMPDIR to a short path of your own" if local else "check the address"
        raise CourseError(f"no ray cluster ({_line(error)}): {remedy}") from error
    except ray.exceptions.RayError as error:
        raise CourseError(f"the ray cluster does not let us in ({_line(error)}): use its token") from error
    try:
        yield
    finally:
        ray.shutdown()
        if local:
            shutil.rmtree(context.address_info["session_dir"], ignore_errors=True)  # logs that ray leaves for ever


def _keep_to_this_machine() -> None:
    """For a cluster of this process: no reports, loopback addresses alone, and a token that is nowhere on disk."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # whatever the system: "no cluster" means loopback to ray
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class Worker:
    """A backend in a process of the cluster, made when it is first asked: then what goes wrong is an answer, too.

    `make` comes pickled, so that nothing is imported for it before the number of threads is set.
    """

    def __init__(self, make: bytes, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.make, self.backend = make, None

    def ask(self, what: str, *arguments) -> str | list[str] | np.ndarray:
        """`name`, or what `generate` or `score` answers."""
        self.backend = self.backend or pickle.loads(self.make)()
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
        batch: most prompts that a worker gets at once. Larger ones take less time each, and more is done again when
            a worker dies.
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
        if (
            min(self.workers, self.batch, self.attempts) < 1
            or min(self.num_cpus, self.patience) <= 0
            or self.num_gpus < 0
        ):
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
            CourseError: no worker can be had, they die again and again, or they differ; what arrived before is done.
            Exception: whatever the backend in a worker raises.
        """
        rounds = math.ceil(len(prompts) / (self.batch * self.workers))
        size = math.ceil(len(prompts) / (rounds * self.workers))  # all workers end at about the same time
        parts = [slice(first, first + size) for first in range(0, len(prompts), size)]
        calls = [("generate", list(prompts[part]), sampling, list(seeds[part])) for part in parts]
        for call, texts in self._results(calls):
            done(list(range(len(prompts))[parts[call]]), texts)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """As `Backend.score`, in one of the workers."""
        ((_, scores),) = self._results([("score", prompt, continuations)])
        return scores

    def _results(self, calls: Sequence[tuple]) -> Iterator[tuple[int, str | list[str] | np.ndarray]]:
        """(number, result) of each call (the arguments of `Worker.ask`) as it is finished, in any order.

        Ray could restart a worker and repeat its call itself (`max_restarts`, `max_task_retries`). But then the call
        waits until that worker has a new model while others are idle, and for ever if no machine has room for it.
        """
        import ray

        crew, todo, idle, deaths = self._crew(), deque(range(len(calls))), [], 0
        running = {worker.ask.remote("name"): (worker, None) for worker in crew}  # is it there, and like the others?
        while todo or any(call is not None for _, call in running.values()):
            while todo and idle:
                worker, call = idle.pop(), todo.popleft()
                running[worker.ask.remote(*calls[call])] = worker, call
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
        """The workers in the cluster of now; those of an earlier one went with it."""
        import ray

        if not ray.is_initialized():
            raise CourseError("no cluster: use a RayBackend inside `with cluster():`")
        context = ray.get_runtime_context()
        crew = self._known.setdefault((context.get_node_id(), context.get_job_id()), [])
        crew += [self._new_worker() for _ in range(self.workers - len(crew))]
        return crew

    def _new_worker(self):
        import ray

        there = ray.remote(Worker).options(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        return there.remote(ray.cloudpickle.dumps(self.make), max(1, int(self.num_cpus)))

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
        """Give up if a new worker would fare no better."""
        if getattr(error, "actor_init_failed", False):
            remedy = "install the same version of the course on every machine"
            raise CourseError(f"a worker cannot begin ({_line(error)}): {remedy}") from error
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


# A fault, on purpose ---------------------------------------------------------------------------------------------


class RayDrill(NamedTuple):
    """What became of prompts when one of their workers was killed under way.

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


def ray_drill(backend: RayBackend, prompts: Sequence[Prompt], sampling: Sampling, seed: int = 0) -> RayDrill:
    """Kill a worker (SIGKILL) when a third of the answers has arrived, in a cluster that this process has started."""
    seeds, answers, killed = range(seed, seed + len(prompts)), {}, []

    def done(rows: list[int], texts: list[str]) -> None:
        answers.update(zip(rows, texts, strict=True))
        if not killed and 3 * len(answers) >= len(prompts):
            workers = _worker_processes()
            killed.append((len(answers), max(process.memory_info().rss for process in workers)))
            workers[0].kill()

    clock = [time.perf_counter()]
    _ = backend.name
    clock.append(time.perf_counter())
    backend.generate(prompts, sampling, seeds, done)
    clock.append(time.perf_counter())
    alone, alone_seconds = _alone(backend.make(), prompts, sampling, seeds)
    same = np.mean([text == alone[row] for row, text in answers.items()])
    return RayDrill(len(prompts) - len(answers), float(same), *killed[0], *np.diff(clock).tolist(), alone_seconds)


def _worker_processes() -> list[psutil.Process]:
    """The workers of this process's cluster, those at work first."""
    named = [("".join(process.cmdline()[:1]), process) for process in psutil.Process().children(recursive=True)]
    workers = sorted((not name.endswith(".ask"), process.pid) for name, process in named if "ray::Worker" in name)
    if not workers:
        raise CourseError("no worker on this machine: use `with cluster():`, without an address")
    return [psutil.Process(pid) for _, pid in workers]


def _alone(
    backend: Backend, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> tuple[dict[int, str], float]:
    """The answers of a backend in this process by row, and its seconds."""
    texts, start = {}, time.perf_counter()
    backend.generate(prompts, sampling, seeds, lambda rows, new: texts.update(zip(rows, new, strict=True)))
    return texts, time.perf_counter() - start
