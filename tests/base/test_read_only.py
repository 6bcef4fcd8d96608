"""A cache that only its owner can write, as a class shares it: what is there is used, what is new is not kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sources import write_movielens

from helpers.base import settings, sources, storage
from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.storage import CourseError
from helpers.embedding import features
from helpers.language import gguf
from helpers.language.memo import Memo, default_memo

TEXTS = [f"text {number}" for number in range(features.CACHED_FROM)]
NOBODY = 65534


@pytest.fixture
def read_only(monkeypatch) -> Iterator[Callable[[], None]]:
    """A cache, and what makes this process one that may read it and write nothing (root becomes another user)."""
    place = Path(tempfile.mkdtemp(prefix="steer-"))  # pytest's own folders are closed to other users
    place.chmod(0o755)
    monkeypatch.setenv("STEER_CACHE", str(place / "cache"))
    monkeypatch.setattr(sources, "_verified", set())
    monkeypatch.setattr(storage, "_said", set())
    (place / "cache").mkdir()

    def close() -> None:
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        sources._verified.clear()
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        with pytest.raises(PermissionError):
            (place / "cache" / "new").touch()

    try:
        yield close
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(place)


def embed(compute=lambda texts: np.ones((len(texts), 2), np.float32)) -> list:
    return features.cached_features("kind", TEXTS, compute).tolist()


def answers() -> dict[str, str]:
    default_memo().put({"a": "1"})
    return default_memo().get(["a", "b"])


def trained() -> list[dict]:
    """The curve of a run that is kept, and goes on where it is there."""
    path, module = settings.cache_dir() / "edits" / "run.safetensors", torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(module.parameters())
    curve = load_checkpoint(path, module, optimiser, {}) or [{"loss": 1.0}]
    save_checkpoint(path, module, optimiser, {}, curve)
    return curve


@pytest.mark.parametrize("kept", [embed, answers, trained])
def test_new_results_are_used_and_not_kept(read_only, capsys, kept):
    read_only()
    assert kept() == kept()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "not kept; set STEER_CACHE" in said
    assert list(settings.cache_dir().iterdir()) == []


def test_features_that_are_there_are_read(read_only, capsys):
    first = embed()
    read_only()
    assert embed(lambda texts: pytest.fail("computed again")) == first
    assert capsys.readouterr().out == ""


def test_a_run_that_is_there_is_read(read_only):
    path, module = settings.cache_dir() / "edits" / "run.safetensors", torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(module.parameters())
    save_checkpoint(path, module, optimiser, {}, [{"loss": 0.25}])
    read_only()
    assert trained() == [{"loss": 0.25}]


@pytest.mark.parametrize("state", ["closed", "open elsewhere", "left by a killed writer"])
def test_answers_that_are_there_are_read(read_only, capsys, state):
    default_memo().put({"a": "1"})
    path = default_memo().path
    with closing(sqlite3.connect(path)) as owner:
        if state != "closed":
            owner.execute("INSERT INTO answers VALUES ('b', '2')")
            owner.commit()
        if state == "left by a killed writer":
            shutil.copytree(path.parent, path.parent.with_name("copy"), ignore=shutil.ignore_patterns("*-shm", ".*"))
            path = path.parent.with_name("copy") / path.name
        read_only()
        found = Memo(path).get(["a", "b", "c"])
        assert found == ({"a": "1", "b": "2"} if state == "open elsewhere" else {"a": "1"})
        Memo(path).put({})
        assert capsys.readouterr().out == ""
        Memo(path).put({"c": "3"})
        assert "not kept" in capsys.readouterr().out and Memo(path).get(["c"]) == {}


def test_sources_and_archives_that_are_there_are_read(tiny, read_only):
    place = settings.cache_dir().parent
    archive, manifest = write_movielens(place / "ml-tiny.zip"), Path(shutil.copy(tiny.manifest, place))
    other = write_movielens(place / "ml-other.zip")
    movielens, fetched = sources.fetch_movielens(str(archive)), sources.fetch("tiny", manifest=manifest)
    read_only()
    assert sources.fetch_movielens(str(archive)) == movielens
    assert sources.fetch("tiny", manifest=manifest) == fetched
    with pytest.raises(CourseError, match="cannot be written: set STEER_CACHE to a folder of your own"):
        sources.fetch_movielens(str(other))


def test_a_model_that_is_converted_is_read(read_only, monkeypatch):
    manifest = Path(shutil.copy(sources.MANIFEST, settings.cache_dir().parent))
    name = next(s.name for s in sources.read_manifest().values() if gguf.gguf_of(s))
    monkeypatch.setattr(sources, "fetch", lambda name, **_: settings.cache_dir())
    options = {"manifest": manifest, "build": lambda gguf, folder: (folder / "model").write_text("weights")}
    made = gguf.convert(name, **options)
    read_only()
    assert gguf.convert(name, **options) == made
