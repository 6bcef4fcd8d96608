"""The course's own server: what it accepts, that it decodes together, and a pool of real processes with one killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fake_world import FakeBackend
from tiny_models import tiny

from helpers.base.storage import CourseError
from helpers.language import models
from helpers.language.generation import Sampling, generate
from helpers.larger_machines import serve
from helpers.larger_machines.client import KEY, ServerBackend
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
        (413, {"body": body(x="x" * serve.REQUEST_BYTES)}),
        (415, {"body": body(), "Content-Type": "text/plain"}),
    ],
)
def test_what_it_cannot_do_is_refused(post, status, arguments):
    got, reply = post(**arguments)
    assert got == status and isinstance(reply["error"]["message"], str)
    assert post(body())[0] == 200


@pytest.mark.parametrize(
    ("status", "path", "kind"),
    [
        (413, "/v1/chat/completions", "application/json"),
        (404, "/v1/other", "application/json"),
        (415, None, "text/plain"),
    ],
)
def test_a_client_that_is_refused_while_it_sends_reads_why(served, status, path, kind):
    data = b"x" * (3 * serve.REQUEST_BYTES)
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=20)
    connection.putrequest("POST", path or "/v1/chat/completions")
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(len(data)))
    connection.endheaders()
    for start in range(0, len(data), len(data) // 4):
        time.sleep(0.05)  # meanwhile the server has refused
        connection.send(data[start : start + len(data) // 4])
    reply = connection.getresponse()
    assert reply.status == status and json.loads(reply.read())["error"]["message"]


def test_a_server_with_a_key_answers_those_who_have_it(monkeypatch):
    monkeypatch.setenv(serve.SERVE_KEY, "the-key\r\n")
    with ModelServer(Echo(), "m") as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for key in ("", "another", "the-key "):
            monkeypatch.setenv(KEY, key)
            if key.strip() == "the-key":
                assert generate(ServerBackend(server.url, "m"), ["a"], seeds=1) == ["('user', 'a') 1"]
            else:
                with pytest.raises(CourseError, match=r"answered 401 \(this server wants a key\): set STEER_API_KEY"):
                    generate(ServerBackend(server.url, "m"), ["a"])
        for sent in ("Bearer the-keyé", "the-key", "Bearer"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            connection.request("GET", "/v1/models", headers={"Authorization": sent.encode("latin-1")})
            assert connection.getresponse().status == 401
        server.shutdown()


def test_a_request_that_takes_too_long_is_refused_and_not_answered_later(served, post, monkeypatch):
    monkeypatch.setattr(serve, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(serve, "GATHER", 0.6)
    status, reply = post(body())
    assert status == 503 and "no answer in 0.2 s" in reply["error"]["message"]
    monkeypatch.setattr(serve, "ANSWER_SECONDS", 20)
    assert post(body(seed=2))[0] == 200
    assert sum(served.backend.batches) == 1, "the request that was given up is not decoded"


def test_a_client_that_sends_drop_by_drop_is_left(served, monkeypatch):
    monkeypatch.setattr(serve, "RECEIVE_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", served.server_port), timeout=20) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        client.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                client.sendall(b" ")
                time.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""


def test_settings_that_are_missing_are_openais():
    prompt, sampling, seed = serve.request_of(body())
    assert prompt == (("user", "Hi."),) and seed == 1
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, Sampling().top_k)


def test_the_newer_name_of_the_length_counts_too():
    assert serve.request_of({**body(), "max_tokens": None, "max_completion_tokens": 5})[1].max_new_tokens == 5
    with pytest.raises(ValueError, match="max_new_tokens"):  # and not the default
        serve.request_of({**body(), "max_tokens": 0})


@pytest.mark.parametrize("asked", [{"stop": ["."]}, {"n": 3}, {"logprobs": True}, {"tools": [{"type": "function"}]}])
def test_what_the_server_cannot_do_is_refused_and_not_ignored(asked):
    with pytest.raises(ValueError, match=f"cannot do {next(iter(asked))}: leave it out"):
        serve.request_of({**body(), **asked})
    serve.request_of({**body(), "n": 1, "stop": None, "logprobs": False, "tools": []})  # what clients send unasked


# Processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_servers_end_when_their_standard_input_closes_as_at_the_end_of_their_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "convert", lambda name: name)
    lm = tiny()
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    with local_servers(1, str(tmp_path)) as (server,):
        assert server.process.poll() is None
        server.process.stdin.close()
        server.process.wait(20)


def test_a_server_that_does_not_start_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "convert", lambda name: name)
    assert serve.main(["--model", "/no/such/folder"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: could not load") and said.count("\n") == 1
    monkeypatch.setenv("STEER_MODEL", "/no/other/folder")
    assert serve.main([]) == 1 and "/no/other/folder" in capsys.readouterr().err
    (tmp_path / "python").write_text(f"#!/bin/sh\necho '{said.strip()}' >&2; exit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with (
        pytest.raises(CourseError, match=r"a local server did not start \(error: could not load .*\): try `python"),
        local_servers(1, "/no/such/folder"),
    ):
        pass


@pytest.mark.slow
def test_no_answer_is_lost_when_one_of_two_real_servers_is_killed():
    result = pool_drill(8, sampling=Sampling(max_new_tokens=8))
    assert (result.lost, result.twice, result.different) == (0, 0, 0)
    assert result.interrupted > 0 and sum(result.by_server) == 8
