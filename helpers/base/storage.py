"""Files that are whole or absent: atomic writes, locks between processes, and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


class CourseError(RuntimeError):
    """A failure that a user can mend; its one line says how."""


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turn an operating-system error during `action` into one line that names the remedy.

    Raises:
        CourseError: for a full disk, a folder that cannot be written, or another OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full: free some space or set STEER_CACHE to a folder on another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
            remedy = "the folder cannot be written: set STEER_CACHE to a folder of your own"
        else:
            remedy = "set STEER_CACHE to another folder and try again"
        raise CourseError(f"could not {action} ({error.strerror or error}): {remedy}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place if the block succeeds and is removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes private files; a class may share one cache
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like `atomic_file` for a folder: a new folder beside `path`, renamed to it when the block succeeds.

    Remains of a killed run (`.name.*` beside `path`) are swept first: hold `locked(path)` around this.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left_over in path.parent.glob(f".{path.name}.*.partial"):
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield temporary
        for made in (temporary, *temporary.rglob("*")):  # as in `atomic_file`: libraries make private files, too
            made.chmod(0o755 if made.is_dir() else 0o644)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` (a file beside it), so that two processes do not build it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock"):
        yield


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
