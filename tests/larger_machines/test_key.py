"""The API key is in the request alone: in no error line, traceback, log, name or answer, whatever key and server."""

from __future__ import annotations

import html
import json
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable

import pytest
from fake_server import backend, broken_off, completion, echo

from helpers.base.storage import CourseError
from helpers.language.generation import generate
from helpers.larger_machines import client
from helpers.larger_machines.client import KEY, ServerBackend
from helpers.larger_machines.failover import ServerPool

SECRET = "Sekrit-7f3a9c/0b1+d8e2=5a64"
HALVES = ("Sekrit-7f3a9c", "0b1+d8e2=5a64")  # of it, as a part of a line might show it


@pytest.fixture
def said(caplog, capfd) -> Callable[[Callable], str]:
    """All that a call shows: output, logs, its result, and its exceptions with the variables of `helpers`."""
    caplog.set_level(logging.DEBUG)

    def run(call: Callable) -> str:
        caplog.clear()
        shown = []
        try:
            shown.append(repr(call()))
        except Exception as error:
            seen: BaseException | None = error
            while seen:  # also what `from None` hides
                trace = traceback.TracebackException.from_exception(seen, capture_locals=True)
                shown += [str(seen), repr(seen), "".join(traceback.format_exception(seen))]
                shown += [str(frame.locals) for frame in trace.stack if f"{os.sep}helpers{os.sep}" in frame.filename]
                seen = seen.__cause__ or seen.__context__
        records = [f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records]
        return "\n".join([*shown, *records, *capfd.readouterr()])

    return run


def leaks(text: str, *parts: str) -> list[str]:
    return [part for part in parts if part.lower() in text.lower()]


# Keys --------------------------------------------------------------------------------------------------------------

COPIED = [
    SECRET,
    f"{SECRET}\n",
    f"{SECRET}\r",
    f"{SECRET}\r\n",
    f"\n{SECRET}\n\n",
    f"  {SECRET}\t",
    f'"{SECRET}"',
    f"'{SECRET}'\r\n",
]
BAD = [
    "\n".join(HALVES),
    "\r".join(HALVES),
    "\r\nX-Other: ".join(HALVES),
    " ".join(HALVES),
    "\t".join(HALVES),
    "é".join(HALVES),
    "\u200b".join(HALVES),
    "\u2028".join(HALVES),
    "\udce9".join(HALVES),
    "\x1b".join(HALVES),
    "\x7f".join(HALVES),
    f"\ufeff{SECRET}",
    f"\u201c{SECRET}\u201d",
    f"{SECRET}\xa0",
]


@pytest.mark.parametrize("key", COPIED)
def test_what_copying_adds_to_a_key_is_taken_off(serve, monkeypatch, said, key):
    monkeypatch.setenv(KEY, key)
    fake = serve(echo)
    assert not leaks(said(lambda: generate(backend(fake), ["a"])), *HALVES)
    assert fake.seen[0]["headers"]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("key", ["", " ", "\r\n", '""'])
def test_an_empty_key_is_none(serve, monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    fake = serve(echo)
    assert generate(backend(fake), ["a"]) == ["a 0"] and "Authorization" not in fake.seen[0]["headers"]


@pytest.mark.parametrize("key", BAD)
@pytest.mark.parametrize("pooled", [False, True])
def test_any_other_bad_key_is_one_line_without_it(serve, monkeypatch, said, key, pooled):
    monkeypatch.setenv(KEY, key)
    fake = serve(echo)
    asked = ServerPool((backend(fake),), "echo") if pooled else backend(fake)
    with pytest.raises(CourseError, match=r"^STEER_API_KEY holds a space.*: copy the key again$"):
        generate(asked, ["a"])
    assert not leaks(said(lambda: generate(asked, ["a"])), *HALVES)
    assert fake.seen == [], "nothing is sent"


def test_the_key_is_not_part_of_the_backend(monkeypatch, said):
    monkeypatch.setenv(KEY, SECRET)
    remote = ServerBackend("http://localhost:1/v1/", "m")
    assert remote.name == "m at http://localhost:1/v1"
    assert (
        ServerBackend("http://localhost:1/v1", "m", identity="bfloat16").name == "m, bfloat16 at http://localhost:1/v1"
    )
    assert not leaks(said(lambda: (remote, remote.name, ServerPool((remote,), "x"))), *HALVES)


# Servers that repeat it ----------------------------------------------------------------------------------------------

KEYS = [SECRET, 'Sekrit"<0b1&d8e2>\\5a64', "Sekrit'%0b1\\n{d8e2}"]
"""As they come, and with what JSON, HTML and urls write otherwise."""


def replies(key: str) -> dict[str, tuple | Callable]:
    """What a server may answer that saw the key in the header."""
    header = f"Bearer {key}"
    return {
        "text": (401, {}, f"bad Authorization: {header}"),
        "json": (401, {}, {"error": {"message": f"bad {header}", "headers": {"Authorization": header}}}),
        "json without a message": (400, {}, {"headers": [["Authorization", header]]}),
        "json, cut off": (400, {}, json.dumps({"Authorization": header})[:-1]),
        "a list": (422, {}, {"detail": [{"input": header}]}),
        "python": (500, {}, f"KeyError: {header!r}"),
        "html": (403, {}, f"<pre>{html.escape(header)}</pre>"),
        "lower case": (401, {}, header.lower()),
        "cut at the end of a line": (401, {}, "x" * 180 + " " + header),
        "too long": (500, {}, " " * (client.REPLY_BYTES - 12) + key),
        "in a header": (302, {"Location": f"http://127.0.0.1:1/{key}", "WWW-Authenticate": header}, ""),
        "as a pause": (429, {"Retry-After": key}, header),
        "as an answer": (200, {}, completion(f"You are {header}.")),
        "no completion": (200, {}, {"you": header}),
    }


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", replies(""))
def test_a_server_that_repeats_the_key_is_not_repeated(serve, pauses, monkeypatch, said, key, kind):
    monkeypatch.setenv(KEY, key)
    fake = serve(lambda *_: replies(key)[kind])
    text = said(lambda: generate(backend(fake, attempts=2), ["a"]))
    assert fake.seen[0]["headers"]["Authorization"] == f"Bearer {key}"
    assert not leaks(text, key, *HALVES, key[:9], json.dumps(key)[1:-1], html.escape(key)), text


def test_a_reply_that_is_not_http_is_not_repeated(pauses, monkeypatch, said):
    monkeypatch.setenv(KEY, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                connection.recv(10_000)
                connection.sendall(f"Authorization: Bearer {SECRET}\r\n\r\n".encode())
                connection.close()

        threading.Thread(target=talk, daemon=True).start()
        remote = ServerBackend(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", "m", attempts=2)
        text = said(lambda: generate(remote, ["a"]))
    assert "cannot be reached" in text and not leaks(text, *HALVES)


@pytest.mark.parametrize("kind", ["gone", "silent", "broken off"])
def test_a_server_that_fails_shows_no_key(serve, pauses, monkeypatch, said, kind):
    monkeypatch.setenv(KEY, SECRET)
    stop = threading.Event()
    fake = serve(broken_off if kind == "broken off" else lambda *asked: (stop.wait(5), echo(*asked))[1])
    if kind == "gone":
        fake.die()
    text = said(lambda: generate(backend(fake, attempts=2, timeout=0.1), ["a"]))
    stop.set()
    assert "CourseError" in text or "PassingError" in text
    assert not leaks(text, *HALVES)


def test_a_short_key_is_kept_out_of_errors_and_changes_no_answer(serve, monkeypatch):
    monkeypatch.setenv(KEY, "EMPTY")
    fake = serve(lambda *_: (200, {}, completion("An empty house.")))
    assert generate(backend(fake), ["a"]) == ["An empty house."]


# Other addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_to_the_url_alone(serve, monkeypatch, status):
    monkeypatch.setenv(KEY, SECRET)
    other = serve(echo)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    client._client.cache_clear()
    fake = serve(lambda *_: (status, {"Location": f"{other.url}/chat/completions"}, ""))
    with pytest.raises(CourseError, match=f"answered {status}"):
        generate(backend(fake, attempts=2), ["a"])
    client._client.cache_clear()
    assert fake.seen[0]["headers"]["Authorization"] == f"Bearer {SECRET}"
    assert other.seen == []


@pytest.mark.parametrize("proxy", [f"http://me:{SECRET}@[", f"socks4://me:{SECRET}@host", f"me:{SECRET}@host:port"])
def test_a_proxy_that_cannot_be_used_is_one_line_without_its_password(monkeypatch, said, proxy):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    client._client.cache_clear()
    text = said(lambda: generate(ServerBackend("https://127.0.0.1:1/v1", "m"), ["a"]))
    client._client.cache_clear()
    assert "the proxy in HTTPS_PROXY or ALL_PROXY cannot be used" in text and not leaks(text, *HALVES)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "",
        f"https://me:{SECRET}@host/v1",
        f"https://{SECRET}@host/v1",
        f"https://me:{SECRET}@[::1/v1",
        f"https://me:{SECRET}@ho\u2100st/v1",
        f"https://me:{SECRET}@host:port/v1",
        f"https://host:{SECRET}/v1",
        f"https://host/v1?api_key={SECRET}",
        f"https://host/v1#{SECRET}",
        f"https://host/v1\n{SECRET}",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(said, url):
    with pytest.raises(ValueError, match="must look like http://localhost:8000/v1") as caught:
        ServerBackend(url, "m")
    assert caught.value.__context__ is None
    assert not leaks(str(caught.value), *HALVES)
