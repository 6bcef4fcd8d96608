"""Requests to one or more servers of the same model: each goes to the least busy one, and what fails is asked again.

A server that fails rests, longer each time, while the others take its requests. After a rest a single request finds
out whether the fault is over. Nothing is asked again once it is answered, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Protocol

from helpers.base.storage import CourseError
from helpers.language.prompts import Done

LONGEST_WAIT = 60.0  # seconds that a server rests at most, whatever it asks for


class PassingError(CourseError):
    """A fault that the next attempt may find gone, or that another server may not have.

    Attributes:
        wait: seconds for which the server asks to be left alone; None if it does not say.
    """

    def __init__(self, line: str, wait: float | None = None) -> None:
        super().__init__(line)
        self.wait = wait


class Server(Protocol):
    """What answers one request at a time; the numbers are those of `ServerBackend`."""

    attempts: int
    pause: float
    concurrency: int

    def attempt(self, body: dict) -> str:
        """The answer; raises `PassingError` for what may pass, anything else for what will not."""


@dataclass(eq=False)
class _Line:
    """How a server is doing: requests under way, failures in a row, and until when it rests."""

    server: Server
    busy: int = 0
    failures: int = 0
    until: float = 0.0

    @property
    def free(self) -> bool:
        # After a failure one request alone finds out whether it is over.
        return monotonic() >= self.until and self.busy < (1 if self.failures else self.server.concurrency)

    @property
    def given_up(self) -> bool:
        return self.failures >= self.server.attempts

    def failed(self, fault: PassingError, known: int) -> None:
        """Rest, unless a failure was counted since the request was sent, with `known` before it: nothing new then."""
        if known < self.failures:
            return
        self.failures += 1
        # Jitter, so that clients do not return at once.
        usual = min(self.server.pause * 2 ** (self.failures - 1), LONGEST_WAIT) * random.uniform(0.5, 1.5)
        rest = usual if fault.wait is None else min(fault.wait, LONGEST_WAIT)
        self.until = monotonic() + (LONGEST_WAIT if self.given_up else rest)


def answer_all(servers: Sequence[Server], bodies: Sequence[dict], done: Done) -> None:
    """Have every request answered by one of the servers; `done` is called in this thread as answers arrive.

    A server that has failed `attempts` times in a row is given up: it is asked again only after `LONGEST_WAIT`
    seconds and when no other is free, in case it was restarted.

    Raises:
        PassingError: the last fault, when all servers are given up, or when all attempts of all servers at one
            request have failed; what arrived before is done.
        CourseError: a server rejects a request, which no other attempt would mend; what arrived before is done.
    """
    lines = [_Line(server) for server in servers]
    left, tries = deque(range(len(bodies))), Counter()
    enough = sum(server.attempts for server in servers)
    under_way: dict[Future[str], tuple[int, _Line, int]] = {}
    threads = ThreadPoolExecutor(sum(server.concurrency for server in servers))
    try:
        while left or under_way:
            # Never more than can run: after a rejection no request is left to be sent.
            while left and (line := _least_busy(lines)):
                row = left.popleft()
                line.busy += 1
                under_way[threads.submit(line.server.attempt, bodies[row])] = row, line, line.failures
            ended = {future: under_way.pop(future) for future in _ended(under_way, lines if left else ())}
            if good := {row: future.result() for future, (row, *_) in ended.items() if not future.exception()}:
                done(sorted(good), [good[row] for row in sorted(good)])
            for future, (row, line, known) in ended.items():
                if fault := _settled(line, future, known):
                    left.appendleft(row)
                    tries[row] += 1
                    if tries[row] == enough or all(line.given_up for line in lines):
                        raise fault
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _least_busy(lines: Sequence[_Line]) -> _Line | None:
    """The free server with the fewest requests under way for its concurrency, those that work first."""
    free = [line for line in lines if line.free]
    return min(free, key=lambda line: (line.failures, line.busy / line.server.concurrency), default=None)


def _ended(under_way: Collection[Future[str]], lines: Sequence[_Line]) -> set[Future[str]]:
    """Wait until a request has ended or a rest of one of the lines is over; the requests that have ended."""
    rests = [rest for line in lines if (rest := line.until - monotonic()) > 0]
    if under_way:
        return wait(under_way, min(rests, default=None), FIRST_COMPLETED).done
    sleep(min(rests, default=0))
    return set()


def _settled(line: _Line, future: Future[str], known: int) -> PassingError | None:
    """Note on its server's line how a request has ended; the fault, if it may pass, else it is raised."""
    line.busy -= 1
    fault = future.exception()
    if fault is None:
        line.failures = 0
    elif isinstance(fault, PassingError):
        line.failed(fault, known)
    else:
        raise fault
    return fault
