"""Fetch data and models of the course: `python -m helpers.course.fetch`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from helpers.base import sources
from helpers.base.downloads import megabytes
from helpers.base.storage import CourseError


def _download_all(names: Iterable[str]) -> None:
    for name in names:
        _say_terms(sources.find(name))
        sources.fetch(name)


def _say_terms(source: sources.Source) -> None:
    """One line before a first download: where to read the terms that one accepts by using a source."""
    if source.terms and not sources.is_intact(source):
        print(f"{source.name}: read its terms before you use it: {source.terms}", flush=True)


def _fetch_all(names: Iterable[str]) -> None:
    from helpers.language import gguf  # heavy, and not needed to list, to collect or to download

    for name in names:
        source = sources.find(name)
        state = "cached" if sources.is_intact(source) else "done"
        _say_terms(source)
        sources.fetch(name)
        print(f"{name:24} {megabytes(source.size):>9}  {state}", flush=True)
        if gguf.gguf_of(source):
            gguf.convert(name)


def _list_all() -> None:
    for source in sources.read_manifest().values():
        state = "cached" if sources.is_intact(source) else "absent"
        print(f"{source.name:24} {megabytes(source.size):>9}  {state:6} {source.title}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m helpers.course.fetch`: 0, or 1 after one line that says what went wrong."""
    parser = argparse.ArgumentParser(
        "python -m helpers.course.fetch", description="Fetch data and models of the course."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="sources to fetch (all of them if none is named)")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="only put the wheels in DIR, for a lab")
    parser.add_argument("--download-only", action="store_true", help="leave converting for later: needs no PyTorch")
    parser.add_argument("--list", action="store_true", help="list the sources")
    chosen = parser.parse_args(arguments)
    try:
        names = chosen.names or list(sources.read_manifest())
        if chosen.list:
            _list_all()
        elif chosen.wheels:
            for name in names:
                _say_terms(sources.find(name))
            sources.collect_wheels(names, chosen.wheels)
        elif chosen.download_only:
            _download_all(names)
        else:
            _fetch_all(names)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing half-written is kept, run it again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
