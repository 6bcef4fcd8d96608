"""Answers from a language model behind an OpenAI-compatible server (vLLM, llama.cpp, `transformers serve`, ...).

`answer_all` spreads requests over servers of the same model: each goes to the least busy one, and failed ones are
retried. A server that fails is left alone, longer each time, while the others take its requests; then a single request
tests whether the fault is over. An answered request is never repeated: nothing is lost or counted twice.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import html
import json
import logging
import os
import random
import re
import ssl
import time
import unicodedata
import urllib.parse
from collections import Counter, deque
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic, sleep

import httpx
import numpy as np
from jaxtyping import Float

from helpers.base.storage import CourseError
from helpers.language.prompts import Done, Prompt, Sampling, messages_of

KEY = "STEER_API_KEY"
PASSING = (408, 425, 429, 500, 502, 503, 504)  # status codes of faults that may pass
LONGEST_WAIT = 60.0  # seconds that a server is left alone at most, whatever it asks for
REPLY_BYTES = 1_000_000  # of a reply; a longer one is not an answer
CHARACTERS_PER_TOKEN = 32  # of an answer at most: a server may not keep to `max_tokens`
SECRET_LENGTH = 12  # a shorter key ("EMPTY", "token") may occur in an answer by chance


class PassingError(CourseError):
    """A fault that may be gone at the next attempt, or on another server.

    Attributes:
        wait: seconds for which the server asks to be left alone; None if it does not say.
    """

    def __init__(self, line: str, wait: float | None = None) -> None:
        super().__init__(line)
        self.wait = wait


@dataclass(frozen=True)
class ServerBackend:
    """A model on a server; the key, if it wants one, comes from the environment variable STEER_API_KEY alone.

    `top_k` is not part of this interface and is not sent. Whether a seed repeats an answer is up to the server.

    An empty answer is returned like any other, as `LocalBackend` does: one in ten thousand should not stop a run. If
    many are empty, the model may spend all `max_new_tokens` on reasoning.

    Attributes:
        url: including the version, as in `http://localhost:8000/v1`.
        model: its name on the server.
        timeout: seconds of silence after which an attempt is given up.
        attempts: failures in a row before giving up; the pauses double, beginning with `pause` seconds, with jitter.
        concurrency: requests in flight at once.
        prefill: whether the server can continue a prefilled answer (vLLM and SGLang can).
        identity: what else it runs, in words, as in `bfloat16, vLLM 0.11`: part of the memo's keys. A server that is
            restarted with other weights or another number format under the same name gives other answers.

    Raises:
        ValueError: a url that is not http(s), or that holds a user name, a password or a query.
    """

    url: str
    model: str
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 0.5
    concurrency: int = 8
    prefill: bool = False
    identity: str = ""

    def __post_init__(self) -> None:
        if not _is_plain_url(self.url):  # never shown: it may hold a password
            raise ValueError(f"the url must look like http://localhost:8000/v1; put the key into {KEY}")
        if self.attempts < 1 or self.concurrency < 1 or self.timeout <= 0:
            raise ValueError("attempts and concurrency must be at least 1, timeout above 0")

    @property
    def name(self) -> str:
        """The model and where it runs: the same name on two servers need not be the same model."""
        return f"{self.model}{', ' * bool(self.identity)}{self.identity} at {self.url.rstrip('/')}"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """Answer all prompts; `done` is called in this thread for each answer that has arrived.

        Raises:
            CourseError: the server cannot be reached, refuses, or sends no answer; earlier answers are kept.
            ValueError: a prefilled answer, if the server cannot continue one.
        """
        answer_all([self], self.requests(prompts, sampling, seeds), done)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """Not possible: the interface gives no probabilities of a given text.

        Raises:
            CourseError: always.
        """
        raise CourseError("a server gives no probabilities of a given text: score with generation.local_backend()")

    def requests(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[dict]:
        """The body of each request, as JSON.

        Raises:
            ValueError: a prefilled answer, if the server cannot continue one.
        """
        return [self._request(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _request(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict:
        messages = messages_of(prompt)
        body = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in messages],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,
            "stream": False,
        }
        if messages[-1][0] == "assistant":
            if not self.prefill:
                raise ValueError(
                    "this server may not continue a prefilled answer: end with the user's, or set `prefill`"
                )
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body

    def attempt(self, body: dict) -> str:
        """One attempt at one request. The answer has no control characters and a limited length.

        Raises:
            PassingError: another attempt may succeed.
            CourseError: the server rejects the request, or the key or the proxy cannot be used.
        """
        # An empty answer may be a hiccup, and the memo would keep it: ask once more.
        text = self._answer(body) or self._answer(body)
        return text[: CHARACTERS_PER_TOKEN * body["max_tokens"]]

    def _answer(self, body: dict) -> str:
        answer = self._exchange(body)
        if isinstance(answer, CourseError):
            raise answer  # here, where a traceback has neither the request with the key nor a reply that repeats it
        return answer

    def _exchange(self, body: dict) -> str | CourseError:
        """Send a request; the answer, or what went wrong."""
        address = self.url.rstrip("/") + "/chat/completions"
        data = json.dumps(body)  # not httpx's `json`, which fails on half of a surrogate pair
        client = _client(address.startswith("https:"))
        try:
            with client.stream("POST", address, content=data, headers=_headers(), timeout=self.timeout) as response:
                reply = _reply(response)
                return self._text(reply) if response.is_success else self._refusal(response, reply)
        except httpx.TimeoutException:
            return PassingError(f"{self.url} sent nothing for {self.timeout:g} s: raise `timeout`, or ask a faster one")
        except httpx.HTTPError as error:
            return PassingError(f"{self.url} cannot be reached ({_line(error)}): start the server, or check the url")

    def _text(self, reply: bytes) -> str | CourseError:
        """The answer in a reply; empty for only spaces, or null, as after a refusal or unfinished reasoning."""
        if len(reply) > REPLY_BYTES:
            return ""
        text: object = False
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            text = json.loads(reply)["choices"][0]["message"]["content"]
        if text is None or isinstance(text, str):
            return _clean(text) if text and text.strip() else ""
        return PassingError(f"{self.url} sent no chat completion: check that it is an OpenAI-compatible server's /v1")

    def _refusal(self, response: httpx.Response, reply: bytes) -> CourseError:
        status = response.status_code
        why = _line(_message_of(reply) or response.reason_phrase)
        line = f"{self.url} answered {status} ({why}): {self._remedy(status)}"
        if status in PASSING:
            return PassingError(line, _asked_pause(response.headers.get("Retry-After")))
        return CourseError(line)

    def _remedy(self, status: int) -> str:
        known = {
            400: "check the model's name and its longest prompt",
            401: f"set {KEY} to a valid key",
            403: f"set {KEY} to a key that may use {self.model}",
            404: f"check the url (it ends in /v1 as a rule) and that the server has the model {self.model}",
            429: "lower `concurrency`, or wait for the quota",
        }
        return known.get(status, "try later, or look into the server's log" if status in PASSING else "check the url")


# The wire ----------------------------------------------------------------------------------------------------------


@functools.cache
def _client(proxied: bool) -> httpx.Client:
    """Connections of this process; redirects, which would carry the key elsewhere, are not followed.

    A proxy would read the key of a plain http request; https goes through it encrypted.
    """
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # below, they log what a server repeats
    with contextlib.suppress(ValueError, ImportError, httpx.InvalidURL):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx.Client(trust_env=proxied, verify=ssl.create_default_context(), limits=limits)
    raise CourseError("the proxy in HTTPS_PROXY or ALL_PROXY cannot be used: give http://host:port")


def _is_plain_url(url: str) -> bool:
    with contextlib.suppress(httpx.InvalidURL, ValueError):
        parts = httpx.URL(url)
        return parts.scheme in ("http", "https") and bool(parts.host) and not set("@?#") & set(url)
    return False


def server_key(variable: str = KEY) -> str:
    """The key in an environment variable without what copying adds (spaces, line ends, quotes); empty if there is none.

    Raises:
        CourseError: it cannot be sent in a header; the message does not show it.
    """
    if not re.fullmatch("[!-~]*", _copied_key(variable)):  # nowhere a local variable, which some tracebacks show
        raise CourseError(f"{variable} holds a space, a line end or a character that is not ASCII: copy the key again")
    return _copied_key(variable)


def _copied_key(variable: str) -> str:
    return os.environ.get(variable, "").strip(" \t\r\n\"'")


def _headers() -> dict[str, str]:
    key = server_key()
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    return headers | ({"Authorization": f"Bearer {key}"} if key else {})


def _reply(response: httpx.Response) -> bytes:
    """What the server sends, up to a little more than `REPLY_BYTES`."""
    reply = bytearray()
    for part in response.iter_raw():
        reply += part
        if len(reply) > REPLY_BYTES:
            break
    return bytes(reply)


def _asked_pause(asked: str | None) -> float | None:
    """The seconds of a Retry-After header; None if there are none."""
    if asked:
        with contextlib.suppress(ValueError):
            return max(0.0, float(asked))  # in this order NaN becomes 0
        with contextlib.suppress(TypeError, ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return None


def _message_of(reply: bytes) -> str:
    """The server's error message, if it has one of the usual forms; empty if the reply was cut off."""
    body = reply.decode("utf-8", "replace") if len(reply) <= REPLY_BYTES else ""
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(body)
        said = said.get("error", said.get("detail", said)) if isinstance(said, dict) else said
        return str(said.get("message", said) if isinstance(said, dict) else said)
    return body


def _clean(text: str) -> str:
    """Control characters and halves of surrogate pairs, which no file can keep, become U+FFFD; the key is left out."""
    text = _without_key(text) if len(server_key()) >= SECRET_LENGTH else text
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" else c for c in text)


def _line(text: object) -> str:
    """One short line, without the key in case a server repeats it."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return _without_key(" ".join(printable.split()))[:200].rstrip(".: ")


def _without_key(text: str) -> str:
    key = server_key()
    forms = {key, json.dumps(key)[1:-1], repr(key)[1:-1], html.escape(key), urllib.parse.quote(key, safe="")}
    return re.sub("|".join(map(re.escape, forms)), "[key]", text, flags=re.IGNORECASE) if key else text


# Which server is asked next ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Line:
    """The state of a server: requests in flight, failures in a row, and until when it is left alone."""

    server: ServerBackend
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


def answer_all(servers: Sequence[ServerBackend], bodies: Sequence[dict], done: Done) -> None:
    """Have every request answered by one of the servers; `done` is called in this thread as answers arrive.

    A server that has failed `attempts` times in a row is given up: it is tried again only after `LONGEST_WAIT` seconds
    and when no other is free, in case it was restarted.

    Raises:
        PassingError: the last fault, when all servers are given up, or when all attempts of all servers at one
            request have failed; earlier answers are kept.
        CourseError: a server rejects a request, so that retrying would not help; earlier answers are kept.
    """
    lines = [_Line(server) for server in servers]
    left = deque(range(len(bodies)))
    tries: Counter[int] = Counter()
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
    """The free server with the fewest requests in flight relative to its concurrency, working servers first."""
    free = [line for line in lines if line.free]
    return min(free, key=lambda line: (line.failures, line.busy / line.server.concurrency), default=None)


def _ended(under_way: Collection[Future[str]], lines: Sequence[_Line]) -> set[Future[str]]:
    """Wait until a request has ended or a server's rest is over; returns the requests that have ended."""
    rests = [rest for line in lines if (rest := line.until - monotonic()) > 0]
    if under_way:
        return wait(under_way, min(rests, default=None), FIRST_COMPLETED).done
    sleep(min(rests, default=0))
    return set()


def _settled(line: _Line, future: Future[str], known: int) -> PassingError | None:
    """Record in its server's state how a request has ended; returns a fault that may pass and raises any other."""
    line.busy -= 1
    fault = future.exception()
    if fault is None:
        line.failures = 0
        return None
    if not isinstance(fault, PassingError):
        raise fault
    line.failed(fault, known)
    return fault
