"""Fixtures that several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import sources
from helpers.domains import Domain
from helpers.domains.movies import load_movies


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own for the test, in a process that has verified nothing yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STEER_CACHE", str(folder))
    monkeypatch.setattr(sources, "_verified", set())
    return folder


@pytest.fixture(scope="session")
def movies() -> Domain:
    """The real movie domain, from the cache of whoever runs the tests."""
    return load_movies()
