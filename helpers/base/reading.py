"""Text files from users, as other programs write them: compressed or not, in the encodings of Excel and Windows."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.base.storage import CourseError

PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DOWNLOAD = "download the file again"
NO_TEXT = "no text in UTF-8, UTF-16 or Windows' cp1252: save the file as UTF-8, or download it again"


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, decompressed if its first bytes say gzip, bzip2 or xz, whatever its name.

    Raises:
        CourseError: (also while it is read) the file does not exist, is damaged, truncated or a zip archive, or this
            user may not read it; the message names it.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start.startswith(b"PK\3\4"):
            raise CourseError(f"{path} is a zip archive or a spreadsheet: unpack it, or save it as text (CSV)")
        opener: Callable[..., Any] = next((opener for mark, opener in PACKED.items() if start.startswith(mark)), open)
        with opener(path, "rb") as unpacked:
            yield io.BufferedReader(unpacked)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CourseError(f"there is no file {path}: give the path of a file (plain, .gz, .bz2 or .xz)") from error
    except EOFError as error:
        raise CourseError(f"{path} is cut short, its packed data end too early: {DOWNLOAD}") from error
    except (OSError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CourseError(f"{path} cannot be read ({reason}): check that you may read it, or {DOWNLOAD}") from error


def encoding_of(start: bytes) -> str:
    """The encoding of a text that begins with an ASCII character, from its first bytes; UTF-8 by default."""
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start[:2]:
        return "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
    return "utf-8"


def read_text(path: Path) -> str:
    """The whole text of a file in UTF-8, UTF-16, UTF-32, or Windows' own encoding of Western languages (cp1252).

    Raises:
        CourseError: as `open_unpacked`; or the file is not such a text: the message names the line.
    """
    with open_unpacked(path) as file:
        data = file.read()
    encoding = encoding_of(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        broken = CourseError(f"{path}, line {line}: {NO_TEXT}")
        if encoding != "utf-8":
            raise broken from error
    replaced = data.decode("utf-8", "replace")
    wrong = replaced.count("\N{REPLACEMENT CHARACTER}")
    if sum(not character.isascii() for character in replaced) > 2 * wrong:  # UTF-8 for the most part, so it is damaged
        raise broken
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        raise broken from None


def read_table(path: Path, columns: set[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, separated by commas, semicolons or tabs, with at least these columns.

    Raises:
        CourseError: as `read_text`; or columns are missing, or a row is short, long or broken: the line is named.
    """
    text = read_text(path)
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    rows = []
    try:
        if not columns <= set(reader.fieldnames or ()):
            raise CourseError(f"{path} lacks columns: give a CSV file with {', '.join(sorted(columns))}")
        for row in reader:
            if any(row[name] is None for name in columns) or None in row:
                length = "long" if None in row else "short"
                raise CourseError(f"{path}, line {reader.line_num}: the row is {length}: {DOWNLOAD}, or fix that line")
            rows.append(row)
    except csv.Error as error:
        raise CourseError(f"{path}, line {reader.reader.line_num}: {error}: {DOWNLOAD}, or fix that line") from error
    return rows
