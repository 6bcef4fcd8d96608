"""Fixtures that several test files need."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

if os.environ.get("STEER_CHECK_SHAPES") != "0":  # before anything of helpers is imported
    jaxtyping.install_import_hook("helpers", "shape_checker.check")

from fake_server import Fake

from helpers.base import sources
from helpers.domains.domain import Domain
from helpers.domains.movies import load_movies
from helpers.larger_machines import client

hypothesis.settings.register_profile("any pace", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any pace")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for the test, in a process that has verified nothing yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEER_CACHE", str(folder))
    monkeypatch.setattr(sources, "_verified", set())
    return folder


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For tests that hand over what annotations rule out: how the function itself refuses it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def movies() -> Domain:
    """The real movie domain, from the cache of whoever runs the tests."""
    return load_movies()


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Callable], Fake]]:
    monkeypatch.delenv(client.KEY, raising=False)
    started = []

    def start(reply: Callable) -> Fake:
        fake = Fake(reply)
        threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True).start()
        started.append(fake)
        return fake

    yield start
    for fake in started:
        fake.shutdown()
        fake.server_close()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """Pauses asked for while no request is under way; none is taken, the clock is put forward."""
    asked: list[float] = []
    monkeypatch.setattr(client, "monotonic", lambda: 1000.0 + sum(asked))
    monkeypatch.setattr(client, "sleep", asked.append)
    return asked
