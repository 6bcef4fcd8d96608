"""Downloads: through pip, which knows the user's index, mirror and proxy, or from an address."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

from tqdm.auto import tqdm

from helpers.base.storage import CourseError

COPIED = 1 << 20  # bytes copied at a time
MARGIN = 50_000_000  # bytes of disk to leave free


def check_space(folder: Path, needed: int, action: str) -> None:
    """Raise if the disk of `folder` does not have `needed` bytes and a margin free, before they are written.

    Raises:
        CourseError: too little space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise CourseError(
            f"could not {action} ({megabytes(needed + MARGIN)} of disk must be free, {megabytes(free)} are free): "
            "free some space or set STEER_CACHE to a folder on another disk"
        )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def write_chunks(chunks: Iterable[bytes], path: Path) -> str:
    """Write chunks to a new file; returns the SHA-256 of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


# Through pip


def pip_download(files: Mapping[str, str], size: int, folder: Path) -> None:
    """Download wheels (`name==version` to file name, `size` bytes together) with pip to `folder`.

    Raises:
        CourseError: no network, no such wheel, or no pip.
        OSError: the disk is full.
    """
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), *files]
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))}
    code, output = _run_with_bar(command, environment, folder, size)
    shutil.rmtree(scratch, ignore_errors=True)
    if code:
        raise _pip_failure(output, files.values())


def _run_with_bar(command: list[str], env: dict[str, str], folder: Path, total: int) -> tuple[int, str]:
    """Run a command that fills `folder` with `total` bytes, with a progress bar; its exit code and output."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, errors="replace"
    )
    try:
        with _bar(total) as bar:
            while True:
                try:
                    # Keeps what it has read when it times out, so it can be called again.
                    output, _ = process.communicate(timeout=0.2)
                    return process.returncode, output
                except subprocess.TimeoutExpired:
                    bar.update(min(_bytes_in(folder), total) - bar.n)
    finally:
        process.kill()
        process.wait()


def _bar(total: int | None) -> tqdm:
    # disable=None: no bar where output is not a terminal.
    return tqdm(total=total, unit="B", unit_scale=True, desc="downloading", leave=False, disable=None)


def _bytes_in(folder: Path) -> int:
    total = 0
    for where, _, files in os.walk(folder):  # skips folders that vanish: pip cleans up while we look
        for name in files:
            with suppress(OSError):
                total += os.stat(os.path.join(where, name)).st_size
    return total


def _pip_failure(output: str, files: Iterable[str]) -> Exception:
    if f"[Errno {errno.ENOSPC}]" in output:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in output:
        return CourseError("this Python has no pip: run `python -m ensurepip`")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (errors or lines or ["pip said nothing"])[-1]
    return CourseError(
        f"could not download {', '.join(files)} ({reason}): "
        "connect to the network and try again, or set STEER_WHEELS to a folder with this file"
    )


# From an address


def download(url: str, path: Path) -> None:
    """Download a file; redirects are followed. The caller has to remove what a failed download leaves.

    Disk space is checked while the file grows, since a server need not say how much it sends.

    Raises:
        CourseError: no such address or file, no network, a broken download, or too little space.
    """
    parsed = urlparse(url)
    shown = parsed._replace(query="", fragment="").geturl()  # a query may hold a key
    remedy = "check the address and the network, or give the path of a copy on this machine"
    if parsed.scheme not in ("http", "https", "file"):
        raise CourseError(f"{shown} is not an http, https or file address: {remedy}")
    if "@" in parsed.netloc:
        raise CourseError(f"an address with a user name or password is not used ({parsed.path}): {remedy}")
    try:
        response = urllib.request.urlopen(url, timeout=30)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())  # circular redirects give three lines
        raise CourseError(f"could not download {shown} ({reason}): {remedy}") from error
    with response:
        said = response.headers.get("Content-Length") or ""
        total = int(said) if said.isdecimal() else 0
        check_space(path.parent, total, f"download {shown}")
        with _bar(total or None) as bar:
            write_chunks(_chunks(response.read, shown, path.parent, bar), path)
    if total and path.stat().st_size != total:
        raise CourseError(f"the download of {shown} was cut short: try again")


def _chunks(read: Callable[[int], bytes], shown: str, folder: Path, bar: tqdm) -> Iterator[bytes]:
    try:
        while chunk := read(COPIED):
            check_space(folder, len(chunk), f"download {shown}")
            yield chunk
            bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise CourseError(f"the download of {shown} broke off ({error}): try again") from error
