"""Serve a language model of the course on this machine: `python -m helpers.larger_machines.serve --model NAME`.

The smallest server that `ServerBackend` and other clients of OpenAI's chat completions can talk to, for a class that
shares one GPU (through JupyterHub or an SSH tunnel) and for trying out faults. Requests that come in together are
decoded together; an answer depends on its prompt, settings and seed alone (in bfloat16 also on rounding, which differs
with what is decoded beside it), and a prefilled answer is continued. (`transformers serve` does neither: it sets one
seed for all that runs, starts a new answer, and is greedy with a model whose settings do not say `do_sample`, as
SmolLM2's.)

It listens on localhost only and stores nothing. Other users of the machine can use it, unless STEER_SERVE_KEY is set
when it starts: then clients need the same key (in STEER_API_KEY). It is not made for an open network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import torch

from helpers.base.settings import model_name
from helpers.base.storage import CourseError
from helpers.language import models
from helpers.language.generation import LocalBackend, generate
from helpers.language.prompts import Backend, Prompt, Sampling
from helpers.larger_machines.client import server_key

SERVE_KEY = "STEER_SERVE_KEY"
TOGETHER = 32  # requests that are decoded together at most
GATHER = 0.05  # seconds to wait for more of them
REQUEST_BYTES = 1_000_000
MOST_THROWN_AWAY = 8 * REQUEST_BYTES  # of a request that was refused before it was read
RECEIVE_SECONDS, ANSWER_SECONDS = 60, 600  # for a client to send its request, and for the model to answer it


class Asked(NamedTuple):
    """One request, and a future for its answer."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    text: Future[str]


class ModelServer(ThreadingHTTPServer):
    """Answers chat completions on localhost with a backend; port 0 means any free one."""

    daemon_threads = True

    def __init__(self, backend: Backend, model: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.backend = backend
        self.model = model
        self.key = server_key(SERVE_KEY)
        self.asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        threading.Thread(target=self._answer_all, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def _answer_all(self) -> None:
        while True:
            batch = [self.asked.get()]
            time.sleep(GATHER)
            with contextlib.suppress(queue.Empty):
                while len(batch) < TOGETHER:
                    batch.append(self.asked.get_nowait())
            alike: dict[Sampling, list[Asked]] = defaultdict(list)
            for asked in batch:
                alike[asked.sampling].append(asked)
            for some in alike.values():
                self._answer_together(some)

    def _answer_together(self, some: Sequence[Asked]) -> None:
        some = [asked for asked in some if not asked.text.cancelled()]  # whoever waited for them has given up
        if not some:
            return
        try:
            prompts = [asked.prompt for asked in some]
            seeds = [asked.seed for asked in some]
            for asked, text in zip(some, generate(self.backend, prompts, some[0].sampling, seeds), strict=True):
                with contextlib.suppress(InvalidStateError):  # given up in the meantime
                    asked.text.set_result(text)
        except Exception as error:
            if len(some) == 1:
                with contextlib.suppress(InvalidStateError):
                    some[0].text.set_exception(error)
            else:  # one that cannot be answered must not spoil the others
                for asked in some:
                    self._answer_together([asked])


class _Handler(BaseHTTPRequestHandler):
    timeout = RECEIVE_SECONDS  # between two parts of it
    server: ModelServer
    unread = 0  # bytes of the request's body

    def do_GET(self) -> None:
        self._reply(*(self._unknown() or self._models()))

    def do_POST(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # the client has gone
            length = self.headers.get("Content-Length", "")
            self.unread = int(length) if length.isdecimal() else 0
            self._reply(*(self._unknown() or self._completion()))
            self.wfile.flush()
            # Closed while a refused client is still sending, the connection would break before it reads why.
            self._received(min(self.unread, MOST_THROWN_AWAY))

    def _unknown(self) -> tuple[int, dict] | None:
        """The refusal of a client without the server's key, if it has one."""
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if self.server.key and not secrets.compare_digest(given, f"Bearer {self.server.key}".encode()):
            return _refused(401, "this server wants a key")
        return None

    def _models(self) -> tuple[int, dict]:
        known = {"object": "list", "data": [{"id": self.server.model, "object": "model"}]}
        return (200, known) if self.path == "/v1/models" else _refused(404, "no such path")

    def _completion(self) -> tuple[int, dict]:
        length = self.headers.get("Content-Length", "")
        if self.path != "/v1/chat/completions":
            return _refused(404, "no such path: POST to /v1/chat/completions")
        # A page in a browser cannot send this type elsewhere than to its own server.
        if self.headers.get_content_type() != "application/json":
            return _refused(415, "send application/json")
        if not length.isdecimal() or int(length) > REQUEST_BYTES:
            return _refused(413, f"a request may have {REQUEST_BYTES:,} bytes")
        try:
            body = json.loads(self._received(int(length)))
            if body["model"] != self.server.model:
                return _refused(404, f"this server has the model {self.server.model}")
            asked = Asked(*request_of(body), Future())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return _refused(400, f"{type(error).__name__}: {error}")
        return self._answered(asked)

    def _received(self, length: int) -> bytes:
        """The request; a client that sends it too slowly is disconnected."""
        end = time.monotonic() + RECEIVE_SECONDS
        parts = b""
        while len(parts) < length and (part := self.rfile.read1(length - len(parts))):
            parts += part
            self.unread -= len(part)
            if time.monotonic() > end:
                raise TimeoutError
        return parts

    def _answered(self, asked: Asked) -> tuple[int, dict]:
        self.server.asked.put(asked)
        try:
            return 200, _completed(asked.text.result(ANSWER_SECONDS), self.server.model)
        except TimeoutError:
            asked.text.cancel()
            return _refused(503, f"no answer in {ANSWER_SECONDS} s: ask for fewer at once, or for shorter ones")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            return _refused(400, f"{type(error).__name__}: {error}")
        except Exception as error:
            return _refused(500, f"{type(error).__name__}: {error}")

    def _reply(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments) -> None:
        pass


CANNOT = ("stop", "logprobs", "top_logprobs", "logit_bias", "tools", "response_format")  # of what clients may ask for


def request_of(body: dict) -> tuple[Prompt, Sampling, int]:
    """Prompt, settings and seed of a chat completion; settings that are missing are those of OpenAI.

    `top_k`, which their interface does not have, is that of the course.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is malformed, or asks for what this server cannot do.
    """
    prompt = tuple((message["role"], message["content"]) for message in body["messages"])
    if body.get("stream"):
        raise ValueError("this server does not stream: set stream to false")
    if asked := [name for name in CANNOT if body.get(name)] + ["n"] * (body.get("n") not in (None, 1)):
        raise ValueError(f"this server cannot do {', '.join(asked)}: leave it out")
    if prompt and prompt[-1][0] == "assistant" and not body.get("continue_final_message"):
        raise ValueError("the last message is the assistant's: set continue_final_message, or end with the user's")
    lengths = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    top_k = int(body.get("top_k", Sampling.top_k))
    sampling = Sampling(
        int(lengths[0]) if lengths else Sampling.max_new_tokens,
        float(body.get("temperature", 1.0)),
        top_k,
        float(body.get("top_p", 1.0)),
    )
    return prompt, sampling, int(body.get("seed", secrets.randbelow(2**31)))


def _completed(text: str, model: str) -> dict:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    known = {"object": "chat.completion", "created": int(time.time()), "model": model}
    return {"id": f"chatcmpl-{secrets.token_hex(8)}", **known, "choices": [choice]}


def _refused(status: int, why: str) -> tuple[int, dict]:
    return status, {"error": {"message": why}}


def _end_with_parent() -> None:
    """End this process when its standard input is closed, as happens when the parent ends for whatever reason."""

    def watch() -> None:
        while os.read(0, 1000):  # not through sys.stdin, whose lock this thread would hold when Python ends
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line: prints the URL when the model is loaded, and serves until Ctrl-C."""
    parser = argparse.ArgumentParser(
        "python -m helpers.larger_machines.serve", description="Serve a language model on localhost."
    )
    parser.add_argument("--model", default=model_name(), help="name in the course, hub name or folder (STEER_MODEL)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: bfloat16 if the device has it",
    )
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    chosen = parser.parse_args(arguments)
    if chosen.with_parent:
        _end_with_parent()
    try:
        lm = models.load_language_model(chosen.model, dtype=getattr(torch, chosen.dtype) if chosen.dtype else None)
        with ModelServer(LocalBackend(lm, chosen.model), chosen.model, chosen.port) as server:
            print(f"{server.url} serves {chosen.model}", flush=True)
            server.serve_forever()
    except (CourseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
