"""Fixtures for fetching."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_sources import FILES, MEMBERS, Tiny, digest, write_wheel


@pytest.fixture
def tiny(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("STEER_WHEELS", str(folder))
    wheel = folder / "steering_tiny-1.0-py3-none-any.whl"
    write_wheel(wheel, MEMBERS)
    files = []
    for path, members in FILES.items():
        data = b"".join(MEMBERS[member] for member in members)
        files.append({"path": path, "members": members, "sha256": digest(data), "size": len(data)})
    entry = {"title": "Tiny", "licence": "CC0", "citation": "None", "origin": "here"}
    entry["wheels"] = [{"name": "steering-tiny", "version": "1.0", "file": wheel.name}]
    made = Tiny(wheel, tmp_path / "sources.toml", {**entry, "files": files})
    made.describe_wheel()
    return made


@pytest.fixture
def pip_only(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The same source, through pip, which sees only the folder of the wheel."""
    monkeypatch.delenv("STEER_WHEELS")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tiny.wheel.parent)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tiny
