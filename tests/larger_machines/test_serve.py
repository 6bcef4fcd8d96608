"""The course's own server: what it accepts, that it decodes together, and a pool of real processes with one killed."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest
from fake_world import FakeBackend

from helpers.base.storage import CourseError
from helpers.language import models
from helpers.language.generation import Sampling, generate
from helpers.larger_machines import serve
from helpers.larger_machines.client import ServerBackend
from helpers.larger_machines.drills import local_servers, pool_drill
from helpers.larger_machines.serve import ModelServer


class Echo(FakeBackend):
    """Answers with its prompt, settings and seed; refuses prompts that say so."""

    def answer(self, prompt, seed: int) -> str:
        if "too long" in str(prompt):
            raise ValueError("this prompt is too long")
        return f"{prompt[-1]} {seed}"


@pytest.fixture
def served() -> Iterator[ModelServer]:
    with ModelServer(Echo(), "m") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def post(served) -> Callable:
    def ask(body: object, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=20)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json"} | headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())

    return ask


def body(**changes) -> dict:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi."}], "seed": 1} | changes


def test_a_completion_has_the_usual_form(post):
    status, reply = post(body())
    assert status == 200 and reply["object"] == "chat.completion" and reply["model"] == "m" and reply["id"]
    (choice,) = reply["choices"]
    assert choice["message"] == {"role": "assistant", "content": "('user', 'Hi.') 1"} and choice["index"] == 0


def test_requests_that_come_together_are_decoded_together(served, monkeypatch):
    monkeypatch.setattr(serve, "GATHER", 0.3)
    backend = ServerBackend(served.url, "m", concurrency=16, prefill=True)
    prompts = [(("user", f"p{number}"), ("assistant", "So")) for number in range(16)]
    assert generate(backend, prompts) == [f"('assistant', 'So') {number}" for number in range(16)]
    assert max(served.backend.batches) > 4


def test_a_prompt_that_cannot_be_answered_does_not_spoil_the_others(served, monkeypatch):
    monkeypatch.setattr(serve, "GATHER", 0.3)
    backend, answers = ServerBackend(served.url, "m"), {}
    with pytest.raises(CourseError, match=r"answered 400 \(ValueError: this prompt is too long\)"):
        backend.generate(
            ["a", "too long", "b"],
            Sampling(),
            [1, 2, 3],
            lambda rows, texts: answers.update(zip(rows, texts, strict=True)),
        )
    assert generate(backend, ["a", "b"], seeds=[1, 3]) == ["('user', 'a') 1", "('user', 'b') 3"]


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (400, {"body": b"{"}),
        (400, {"body": b"[" * 100_000}),
        (400, {"body": [1]}),
        (400, {"body": {"model": "m"}}),
        (400, {"body": body(messages=[])}),
        (400, {"body": body(messages=[{"role": "root", "content": "x"}])}),
        (400, {"body": body(messages=[{"role": "user", "content": [{"type": "text"}]}])}),
        (400, {"body": body(messages=[{"role": "assistant", "content": "begun"}])}),
        (400, {"body": body(stream=True)}),
        (400, {"body": body(temperature=-1)}),
        (400, {"body": body(max_tokens="many")}),
        (400, {"body": body(seed=-1)}),
        (404, {"body": body(model="other")}),
        (404, {"body": body(), "path": "/v1/other"}),
        (413, {"body": body(x="x" * serve.MAX_BYTES)}),
        (415, {"body": body(), "Content-Type": "text/plain"}),
    ],
)
def test_what_it_cannot_do_is_refused(post, status, arguments):
    got, reply = post(**arguments)
    assert got == status and isinstance(reply["error"]["message"], str)
    assert post(body())[0] == 200


def test_settings_that_are_missing_are_openais():
    prompt, sampling, seed = serve.request_of(body())
    assert prompt == (("user", "Hi."),) and seed == 1
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, Sampling().top_k)


# Processes ---------------------------------------------------------------------------------------------------------


def test_servers_end_with_the_process_that_started_them():
    program = (
        "from helpers.larger_machines.drills import local_servers\n"
        "with local_servers(1) as (server,):\n    print(server.process.pid, flush=True)\n    input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(20)


def test_a_server_that_does_not_start_is_one_line(monkeypatch):
    monkeypatch.setattr(models, "convert", lambda name: name)
    with (
        pytest.raises(CourseError, match=r"a local server did not start \(error: could not load .*\): try `python"),
        local_servers(1, "/no/such/folder"),
    ):
        pass


def test_no_answer_is_lost_when_one_of_two_real_servers_is_killed():
    result = pool_drill(8, sampling=Sampling(max_new_tokens=8))
    assert (result.lost, result.twice, result.different) == (0, 0, 0)
    assert result.interrupted > 0 and sum(result.by_server) == 8
