"""Zip archives, read safely: nothing is written outside the target folder, and a damaged entry is named."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from helpers.base.downloads import COPIED, check_space, write_chunks
from helpers.base.storage import CourseError


def extract_zip(archive: Path, target: Path, wanted: Sequence[str]) -> None:
    """Write the files named in `wanted` (at the top of a zip archive or one folder down) to `target`.

    Raises:
        CourseError: not a readable zip, a file is missing, or an entry would land outside its folder.
    """
    with open_zip(archive) as opened:
        for name in wanted:
            found = [i for i in opened.infolist() if re.fullmatch(rf"([^/]+/)?{re.escape(name)}", i.filename)]
            if not found:
                raise CourseError(f"there is no {name} in {archive}: use the official zip archive")
            check_space(target, found[0].file_size, f"extract {archive.name}")
            write_chunks(read_member(opened, found[0].filename), target / name)


def open_zip(path: Path) -> zipfile.ZipFile:
    """An archive in which every entry stays inside its folder.

    Raises:
        CourseError: it is not a whole zip archive, or has an entry outside its folder.
    """
    try:
        opened = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise CourseError(f"{path} is not a whole zip archive: download it again") from error
    escaping = [name for name in opened.namelist() if escapes(name)]
    if escaping:
        opened.close()
        raise CourseError(f"{path} has an entry outside its folder ({escaping[0]}): use the official file")
    return opened


def escapes(name: str) -> bool:
    """Whether a path leaves the folder that it is relative to, on any operating system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]


def read_member(archive: zipfile.ZipFile, member: str) -> Iterator[bytes]:
    """The bytes of an entry, in chunks.

    Raises:
        CourseError: it is damaged, encrypted, or packed in a way that Python cannot unpack.
    """
    try:
        with archive.open(member) as part:
            while chunk := part.read(COPIED):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CourseError(f"{archive.filename} is damaged at {member}: download it again") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a newer way
        raise CourseError(
            f"{member} in {archive.filename} cannot be unpacked ({error}): use the official file"
        ) from error
