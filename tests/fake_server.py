"""A real HTTP server in a thread that answers as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from helpers.larger_machines.client import ServerBackend


def completion(text: object) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


class Fake(ThreadingHTTPServer):
    """Answers with `reply(request, number)` -> (status, headers, body, text or bytes); remembers every request."""

    daemon_threads = True

    def __init__(self, reply: Callable) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.seen: list[dict] = []
        self.busy = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def asked(self) -> list[str]:
        """The last message of every request."""
        return [request["body"]["messages"][-1]["content"] for request in self.seen]

    def die(self) -> None:
        """Refuse connections from now on."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append({"path": self.path, "headers": dict(self.headers), "body": request})
            number = len(self.server.seen)
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
        status, headers, body = self.server.reply(request, number)
        with self.server.lock:
            self.server.busy -= 1
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        data = text.encode() if isinstance(text, str) else text
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_arguments) -> None:
        pass


def echo(request: dict, _number: int) -> tuple:
    return 200, {}, completion(f"{request['messages'][-1]['content']} {request['seed']}")


def broken_off(request: dict, number: int) -> tuple:
    """The beginning of a right answer, then the connection closes."""
    status, _, body = echo(request, number)
    data = json.dumps(body).encode()
    return status, {"Content-Length": str(len(data))}, data[:-20]


def backend(fake: Fake, **options) -> ServerBackend:
    return ServerBackend(fake.url, "some-model", **{"pause": 0.01, "timeout": 5.0} | options)
