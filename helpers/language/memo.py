"""Answers kept on disk, so that a notebook run twice computes them once."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from helpers.base import settings, storage
from helpers.base.storage import CourseError
from helpers.language.prompts import Prompt, Sampling, messages_of

VERSION = 1  # part of every key: raise it when the same request is answered differently
LOCK_SECONDS = 30.0  # seconds to wait for another process that is writing


@dataclass(frozen=True)
class Memo:
    """A table of answers by key in one SQLite file; several processes may use it at once.

    A connection lives for one call only, so a memo can be shared by threads and survives a fork.
    """

    path: Path

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """The known answers among `keys`.

        Raises:
            CourseError: the file cannot be read.
        """
        found: dict[str, str] = {}
        if not self._is_there():
            return found
        with self._connection() as connection:
            for start in range(0, len(keys), 500):  # SQLite limits the number of `?`
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, text FROM answers WHERE key IN ({marks})", some))
        return found

    def put(self, answers: Mapping[str, str]) -> None:
        """Keep answers under their keys, all in one transaction: after a crash either all or none are there.

        Nothing is kept in a cache that this user may not write.

        Raises:
            CourseError: the disk is full, or the file cannot be written.
        """
        if not answers or not storage.can_keep(self.path):
            return
        with self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", answers.items())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._one_line():
            writable = storage.is_writable(self.path)
            if writable and not self._is_there():
                self._create()
            made = self._connected() if writable else self._reading()
            with contextlib.closing(made) as connection, connection:  # commits at its end
                yield connection

    def _is_there(self) -> bool:
        """Whether there is a table; an empty file is none: a tool that only looked, or a full disk, leaves one."""
        return os.path.exists(self.path) and os.path.getsize(self.path) > 0

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=LOCK_SECONDS)
        connection.execute("PRAGMA synchronous=NORMAL")  # what was committed outlives this process
        return connection

    def _reading(self) -> sqlite3.Connection:
        """A connection for a reader who cannot create SQLite's own files (`-wal`, `-shm`) beside the table.

        They exist while the owner is writing; if they do not, nobody writes.
        """
        uri = self.path.resolve().as_uri()
        connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=LOCK_SECONDS)
        try:
            connection.execute("SELECT 1 FROM answers LIMIT 1")
        except sqlite3.OperationalError:
            connection.close()
            connection = sqlite3.connect(f"{uri}?immutable=1", uri=True, timeout=LOCK_SECONDS)
        return connection

    def _create(self) -> None:
        with storage.explained("make the memo of answers"), storage.locked(self.path):
            if self._is_there():
                return
            with storage.atomic_file(self.path) as new, contextlib.closing(sqlite3.connect(new)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # stays so: readers need not wait for a writer
                connection.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            reason = str(error)
            if "full" in reason:
                remedy = "free some disk space, or set STEER_CACHE to a folder on another disk"
            elif "locked" in reason:
                remedy = "another program holds it; wait for that, or set STEER_CACHE to a folder on a local disk"
            elif "no such" in reason:
                remedy = "it is not one of this course: delete the file, it is made again"
            else:
                remedy = "set STEER_CACHE to a folder of your own on a local disk"
            raise CourseError(f"could not use the memo of answers {self.path} ({reason}): {remedy}") from error
        except sqlite3.DatabaseError as error:
            remedy = "delete the file, it is made again"
            raise CourseError(f"the memo of answers {self.path} is damaged ({error}): {remedy}") from error


def default_memo() -> Memo:
    """The memo in the course's cache."""
    return Memo(settings.cache_dir() / "memo.sqlite")


def memo_key(name: str, prompt: Prompt, sampling: Sampling, seed: int) -> str:
    """SHA-256 of everything an answer depends on: the backend's name, the messages, the settings and the seed.

    A greedy answer depends on neither the seed nor top-k and top-p, so they are left out of its key.
    """
    how: list[float | str] = [int(sampling.max_new_tokens)]
    if not sampling.greedy:
        how += [float(sampling.temperature), int(sampling.top_k), float(sampling.top_p), int(seed)]
    if sampling.stop:
        how += ["stop", sampling.stop.name]
    return sha256(json.dumps([VERSION, name, messages_of(prompt), how]).encode()).hexdigest()
