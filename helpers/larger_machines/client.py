"""Answers from a language model behind an OpenAI-compatible server (vLLM, llama.cpp, `transformers serve`, ...)."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from helpers.base.storage import CourseError
from helpers.language.prompts import Done, Prompt, Sampling, messages_of
from helpers.larger_machines.dispatch import PassingError, answer_all

KEY = "STEER_API_KEY"
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states that another attempt may find gone
MAX_BYTES = 1_000_000  # of a reply; a longer one is no answer
MAX_CHARACTERS = 32  # of an answer, per token that was asked for: a server may not keep to `max_tokens`


@dataclass(frozen=True)
class ServerBackend:
    """A model on a server; the key, if it wants one, comes from the environment variable STEER_API_KEY alone.

    `top_k` is not part of this interface and is not sent. Whether a seed repeats an answer is up to the server.

    An empty answer is handed back like any other, as `LocalBackend` does: one of ten thousand should not stop a run.
    If many are empty, the model may be thinking past `max_new_tokens`.

    Attributes:
        url: up to and with the version, as in `http://localhost:8000/v1`.
        model: its name on the server.
        timeout: seconds of silence after which an attempt is given up.
        attempts: failures in a row before giving up; the pauses double from `pause` seconds on, with jitter.
        concurrency: requests under way at once.
        begun: whether the server can continue a begun answer (vLLM and SGLang can).

    Raises:
        ValueError: a url that is not http(s), or that holds a user name or a password.
    """

    url: str
    model: str
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 0.5
    concurrency: int = 8
    begun: bool = False

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"the url must look like http://localhost:8000/v1; a key belongs into {KEY}")
        if self.attempts < 1 or self.concurrency < 1 or self.timeout <= 0:
            raise ValueError("attempts and concurrency must be at least 1, timeout above 0")

    @property
    def name(self) -> str:
        """The model and where it runs: the same name on two servers need not be the same model."""
        return f"{self.model} at {self.url.rstrip('/')}"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """Answer all prompts; `done` is called in this thread for each answer that has arrived.

        Raises:
            CourseError: the server cannot be reached, refuses, or sends no answer; what arrived before is done.
            ValueError: a begun answer, if the server cannot continue one.
        """
        bodies = [self.request(prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        answer_all([self], bodies, done)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """Not possible: the interface gives no probabilities of a given text.

        Raises:
            CourseError: always.
        """
        raise CourseError("a server gives no probabilities of a given text: score with generation.local_backend()")

    def request(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict:
        """The body of a request, as JSON.

        Raises:
            ValueError: a begun answer, if the server cannot continue one.
        """
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
            if not self.begun:
                raise ValueError("this server may not continue a begun answer: end with a user message, or set begun")
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body

    def attempt(self, body: dict) -> str:
        """One attempt at one request. The answer is without control characters, and no longer than it can be.

        Raises:
            PassingError: another attempt may find the fault gone.
            CourseError: the server rejects the request.
        """
        try:
            # An empty answer may be a hiccup, and the memo would keep it: ask once more.
            text = self._answer(body) or self._answer(body)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            status = getattr(error, "code", None)
            passing = status is None or status in PASSING
            fault = PassingError(self._explained(error), _asked_pause(error)) if passing else None
            raise fault or CourseError(self._explained(error)) from None  # a chain would show the request's headers
        return text[: MAX_CHARACTERS * body["max_tokens"]]

    def _answer(self, body: dict) -> str:
        reply = self._post(body)
        return "" if len(reply) > MAX_BYTES else _text_of(reply, self.url)

    def _post(self, body: dict) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
        with _opener(address).open(request, timeout=self.timeout) as response:
            return response.read(MAX_BYTES + 1)

    def _explained(self, error: Exception) -> str:
        status = getattr(error, "code", None)
        if status is None:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                return f"{self.url} sent nothing for {self.timeout:g} s: raise `timeout`, or ask a faster server"
            return f"{self.url} cannot be reached ({_line(reason)}): start the server, or check the url"
        remedy = {
            400: "check the model's name and its longest prompt",
            401: f"set {KEY} to a valid key",
            403: f"set {KEY} to a key that may use {self.model}",
            404: f"check the url (it ends in /v1 as a rule) and that the server has the model {self.model}",
            429: "lower `concurrency`, or wait for the quota",
        }.get(status, "try later, or look into the server's log" if status in PASSING else "check url and model")
        return f"{self.url} answered {status} ({_line(_message_of(error))}): {remedy}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another address."""

    def redirect_request(self, *_arguments, **_options) -> None:
        return None


def _opener(address: str) -> urllib.request.OpenerDirector:
    # A proxy would read the key of a plain http request; https goes through it encrypted.
    proxies = urllib.request.ProxyHandler({} if address.startswith("http:") else None)
    return urllib.request.build_opener(_NoRedirect, proxies)


def _asked_pause(error: Exception) -> float | None:
    """Seconds that the server asks to be left alone; None if it does not say."""
    asked = (getattr(error, "headers", None) or {}).get("Retry-After")
    if asked:
        with contextlib.suppress(TypeError, ValueError):
            return max(0.0, float(asked))  # in this order NaN becomes 0
        with contextlib.suppress(TypeError, ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return None


def _text_of(reply: bytes, url: str) -> str:
    """The answer in a reply; empty where there are only spaces, or null, as for a refusal or a cut thought."""
    try:
        text = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = False
    if not (text is None or isinstance(text, str)):
        raise PassingError(f"{url} sent no chat completion: check that it is an OpenAI-compatible server's /v1")
    return _clean(text) if text and text.strip() else ""


def _clean(text: str) -> str:
    """Control characters and halves of surrogate pairs, which no file can keep, become U+FFFD."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r" else c for c in text)


def _message_of(error: urllib.error.HTTPError) -> str:
    """What the server says went wrong, if it says so in one of the usual forms."""
    with contextlib.suppress(Exception):
        body = error.read(10_000).decode("utf-8", "replace")
        with contextlib.suppress(ValueError):
            said = json.loads(body)
            said = said.get("error", said.get("detail", said)) if isinstance(said, dict) else said
            return str(said.get("message", said) if isinstance(said, dict) else said)
        return body
    return str(error)


def _line(text: object) -> str:
    """One short line, without the key should a server repeat it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:200].rstrip(".: ")
    key = os.environ.get(KEY)
    return line.replace(key, "...") if key else line
