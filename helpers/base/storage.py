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
    """A failure that a user can fix; its message is one line that says how."""


@contextmanager
def explained(action: str, elsewhere: str = "set STEER_CACHE to a folder") -> Iterator[None]:
    """Turn an operating-system error during `action` into one line that names the remedy.

    Args:
        elsewhere: how to choose another place to write to.

    Raises:
        CourseError: for a full disk, a folder that cannot be written, or another OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"the disk is full: free some space or {elsewhere} on another disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT):
            remedy = f"the folder cannot be written: {elsewhere} of your own"
        else:
            remedy = f"{elsewhere} on another disk and try again"
        raise CourseError(f"could not {action} ({error.strerror or error}): {remedy}") from error


_said: set[Path] = set()


def is_writable(path: Path) -> bool:
    """Whether this user may write the file `path`, which need not exist yet."""
    folder = path.parent
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    effective = os.access in os.supports_effective_ids
    return all(os.access(p, os.W_OK, effective_ids=effective) for p in (folder, path) if os.path.exists(p))


def can_keep(path: Path) -> bool:
    """Whether a new result can be kept at `path`; if not, one line says so, once per process and folder.

    A class may share a cache that only its owner can write: existing results are used, new ones are not kept.
    """
    writable, folder = is_writable(path), path.parent
    if not writable and folder not in _said:
        _said.add(folder)
        print(f"{folder} is read-only: new results are not kept; set STEER_CACHE to a folder of your own to keep them")
    return writable


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it if the block succeeds and is removed if not."""
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

    What a killed run left (`.name.*` beside `path`) is removed first: hold `locked(path)` around this.
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
def locked(path: Path, seconds: float = -1) -> Iterator[None]:
    """Hold the lock of `path` (a file beside it), so that two processes do not build it at once.

    Raises:
        TimeoutError: another process has held it for that many `seconds` (-1: wait forever).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f".{path.name}.lock", timeout=seconds):
        yield


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
