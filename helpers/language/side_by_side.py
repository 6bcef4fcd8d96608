"""Programs that ask a language model now and then, played side by side: their prompts are answered together.

An agent in training asks for a few rewrites, learns, and asks again; small batches leave a processor idle. Several
agents, or several methods that are compared, can share batches without knowing of each other. Answers depend on
prompt, settings and seed alone, so the results are those of one program after the other.
"""

from __future__ import annotations

import contextvars
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from helpers.language.prompts import Backend, Done, Message, Prompt, Sampling, messages_of

T = TypeVar("T")


class Request(NamedTuple):
    """The arguments of `Backend.generate`, and the backend."""

    backend: Backend
    prompts: Sequence[Prompt]
    sampling: Sampling
    seeds: Sequence[int]
    done: Done


class Stopped(BaseException):
    """Ends a program whose neighbour failed; like `KeyboardInterrupt` it is nothing to recover from."""


class Job:
    """A program in a thread of its own, which runs only while `advance` waits for it."""

    def __init__(self, program: Callable[[], T]) -> None:
        self.request: Request | None = None
        self.result: T | None = None
        self.error: BaseException | None = None
        self.stopping = False
        self._resume, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()  # a notebook knows by it in which cell a program prints
        self._thread = threading.Thread(target=context.run, args=(self._run, program), daemon=True)
        self._thread.start()

    def _run(self, program: Callable[[], T]) -> None:
        _current.set(self)
        self._resume.acquire()
        try:
            if not self.stopping:
                self.result = program()
        except BaseException as error:  # raised again by `advance`
            self.error = error
        self._paused.release()

    def advance(self) -> None:
        """Let the program run up to its next request, or to its end."""
        self.request = None
        self._resume.release()
        self._paused.acquire()
        if self.error:
            raise self.error

    def ask(self, request: Request) -> None:
        """Called by the program: wait until the request is answered."""
        self.request = request
        self._paused.release()
        self._resume.acquire()
        if self.stopping:
            raise Stopped

    def stop(self) -> None:
        """End the program where it is."""
        self.stopping = True
        self._resume.release()
        self._thread.join()


_current: contextvars.ContextVar[Job | None] = contextvars.ContextVar("job", default=None)


def answer(request: Request) -> None:
    """Answer a request: at once, or together with those of its neighbours when a program of several asks."""
    if job := _current.get():
        job.ask(request)
    else:
        request.backend.generate(*request[1:])


def side_by_side(programs: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all programs. What they ask a language model through `generate` is answered in common batches.

    Only one program runs at any time, so they may share what they like.

    Raises:
        BaseException: whatever a program raises; the others are stopped.
    """
    jobs = [Job(program) for program in programs]
    try:
        waiting = jobs
        while waiting:
            for job in waiting:
                job.advance()
            waiting = [job for job in waiting if job.request]
            _answer_together([job.request for job in waiting])
    finally:
        for job in jobs:
            job.stop()
    return [job.result for job in jobs]


def _answer_together(requests: Sequence[Request]) -> None:
    alike: dict[tuple, list[Request]] = defaultdict(list)
    for request in requests:
        alike[id(request.backend), request.sampling].append(request)
    for some in alike.values():
        _answer_alike(some)


def _answer_alike(requests: Sequence[Request]) -> None:
    """One call of the backend for requests that differ in prompts and seeds only; what two of them share, once."""
    askers: dict[tuple[tuple[Message, ...], int], list[tuple[Request, int]]] = defaultdict(list)
    for request in requests:
        for row, (prompt, seed) in enumerate(zip(request.prompts, request.seeds, strict=True)):
            askers[messages_of(prompt), seed].append((request, row))
    owners = list(askers.values())
    prompts = [request.prompts[row] for (request, row), *_ in owners]
    seeds = [seed for _, seed in askers]

    def done(rows: list[int], texts: list[str]) -> None:
        for request in requests:
            answered = zip(rows, texts, strict=True)
            mine = [(own, text) for row, text in answered for asker, own in owners[row] if asker is request]
            if mine:
                request.done(*map(list, zip(*mine, strict=True)))

    requests[0].backend.generate(prompts, requests[0].sampling, seeds, done)
