"""JSON objects one after the other, from files larger than memory: one per line, or pretty-printed over many lines.

A file is read in chunks, and no more of it is kept than the object that is being read.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.base.reading import DOWNLOAD, encoding_of, open_unpacked
from helpers.base.storage import CourseError

READ = 1 << 18  # characters read at a time
LONGEST = 1 << 24  # characters of one object; more than that is a broken file, not a product
TAIL = 16  # characters from the end within which an error may be due to the cut (`-Infinity`, `\ud83d`)
SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


class BrokenObject(ValueError):
    """Something that is not an object, with the number of its line (from 1)."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line} {reason}")


def read_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number (from 1) and content of every object in a file, plain or packed, in order.

    Files whose first object is a Python literal (`{'asin': ...`, the metadata of 2014) are read as such, one a
    line, with `ast.literal_eval`: it builds values and runs nothing. Text is UTF-8 or UTF-16.

    Raises:
        CourseError: the file does not exist, is damaged or truncated, or holds something else; the message names the
            file and, where there is one, the line.
    """
    try:
        with open_unpacked(path) as file:
            start = file.peek(TAIL)
            encoding = encoding_of(start)
            literal = start.decode(encoding, "ignore").lstrip("\ufeff \t\r\n").startswith(("{'", "{u'"))
            text = io.TextIOWrapper(file, encoding=encoding, newline="")
            yield from read_literals(text) if literal else decode_objects(iter(lambda: text.read(READ), ""))
    except UnicodeDecodeError as error:
        raise CourseError(
            f"{path} is not text in UTF-8 or UTF-16: give a file of JSON objects, plain or packed"
        ) from error
    except BrokenObject as error:
        raise CourseError(f"{path}: {error}: {DOWNLOAD}, or fix that line") from error


def decode_objects(chunks: Iterable[str]) -> Iterator[tuple[int, dict]]:
    """Line number (from 1) and content of every JSON object in a text that comes in chunks of any size.

    Raises:
        BrokenObject: something else than objects and white space, or an object longer than `LONGEST`.
    """
    chunks, buffer, start, line = iter(chunks), "", 0, 1
    while True:
        space = SPACE.match(buffer, start)
        begin = space.end() if space else start
        line, start = line + buffer.count("\n", start, begin), begin
        found, end = _decode_one(buffer, start, line)
        if found is not None:
            yield line, found
            line, start = line + buffer.count("\n", start, end), end
            continue
        more = next(chunks, None)
        if more is None and start == len(buffer):
            return
        if more is None or len(buffer) - start > LONGEST:
            raise BrokenObject(line, "begins an object that has no end, or is broken")
        buffer, start = buffer[start:] + more, 0


def _decode_one(buffer: str, start: int, line: int) -> tuple[dict | None, int]:
    """The object at `start` and where it ends; None if the buffer ends before it does."""
    if start == len(buffer):
        return None, start
    if buffer[start] != "{":
        raise BrokenObject(line, "is no JSON object")
    try:
        return DECODER.raw_decode(buffer, start)
    except json.JSONDecodeError as error:
        if may_go_on(error, len(buffer)):
            return None, start
        line += buffer.count("\n", start, error.pos)
        raise BrokenObject(line, f"is broken ({error.msg})") from error
    except (RecursionError, ValueError) as error:  # a number of thousands of digits is a ValueError
        raise BrokenObject(line, "begins an object that is nested too deeply or has too long a number") from error


def may_go_on(error: json.JSONDecodeError, length: int) -> bool:
    """Whether the error may be due only to the end of the buffer, so that more text could fix it."""
    return error.msg.startswith("Unterminated string") or error.pos >= length - TAIL


def read_literals(file: io.TextIOBase) -> Iterator[tuple[int, dict]]:
    """Line number (from 1) and content of every line, a dict written as Python writes it; empty lines are passed over.

    Raises:
        BrokenObject: a line is something else.
    """
    for number, line in enumerate(iter(lambda: file.readline(LONGEST), ""), start=1):
        if line.strip():
            try:
                found = ast.literal_eval(line.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise BrokenObject(number, f"is broken or cut off ({type(error).__name__})") from error
            if not isinstance(found, dict):
                raise BrokenObject(number, "is no object")
            yield number, found
