"""Which checks a learner has passed: `progress.overview()` in a notebook; `python -m helpers.course.progress FOLDER`.

The checks keep a small file, `progress.json`, beside the notebooks of the student edition and nowhere else: not where
the notebooks with solutions run, not in tests or while grading, and never with STEER_PROGRESS=0. It lists exercises
with the number of tries and the time of the first right answer, and a name only if the learner has typed one
(`progress.sign("Ada")`). Nothing is sent.

    python -m helpers.course.progress FOLDER --table class.csv    the files of a class, all `*.json` below FOLDER
"""

from __future__ import annotations

import argparse
import csv
import datetime
import html
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.base.storage import CourseError, atomic_file, locked

FILE = "progress.json"
EDITION = re.compile(r'"edition": "student"')  # in the metadata of a notebook, see `editions.student`
NO_RECORD = "is not a record of progress, or damaged"
SECONDS_FOR_LOCK = 10.0
CLASS_COLUMNS = ("student", "file", "exercise", "passed", "tries")


@dataclass
class Tried:
    """One exercise: the number of tries up to the first right answer, and when that was (empty: not yet)."""

    tries: int = 0
    passed: str = ""


@dataclass
class Progress:
    """What one learner has done, by exercise number; `student` is a name that they typed, or empty."""

    student: str = ""
    exercises: dict[str, Tried] = field(default_factory=dict)

    @property
    def passed(self) -> list[str]:
        """Numbers of the exercises with a right answer."""
        return [number for number, tried in self.exercises.items() if tried.passed]


# The file ------------------------------------------------------------------------------------------------------


def read_progress(path: Path) -> Progress:
    """The record in a file; an empty one if there is no file.

    Raises:
        CourseError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        exercises = {str(number): Tried(**tried) for number, tried in content["exercises"].items()}
        found = Progress(content["student"], exercises)
    except FileNotFoundError:
        return Progress()
    except OSError as error:
        raise CourseError(f"{path.name} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CourseError(f"{path.name} {NO_RECORD}") from error
    if not _is_whole(found):
        raise CourseError(f"{path.name} {NO_RECORD}")
    return found


def _is_whole(found: Progress) -> bool:
    tried = found.exercises.values()
    fits = all(type(one.tries) is int and one.tries >= 0 and isinstance(one.passed, str) for one in tried)
    return isinstance(found.student, str) and fits


def _write(path: Path, found: Progress) -> None:
    content = {"student": found.student, "exercises": {n: vars(t) for n, t in sorted(found.exercises.items())}}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _set_aside(path: Path) -> Path:
    """Rename a file that cannot be read, so that a new one can begin and nothing is lost."""
    names = (path.with_name(f"{path.stem}-damaged-{count}.json") for count in range(1, 1000))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def kept_at() -> Path | None:
    """The progress file of the folder that the kernel runs in; None where no progress is kept."""
    off = os.environ.get("STEER_PROGRESS") == "0" or os.environ.get("STEER_GRADING") == "1"
    folder = Path.cwd()
    return None if off or not _has_student_edition(folder) else folder / FILE


@cache
def _has_student_edition(folder: Path) -> bool:
    """Whether a folder holds a notebook of the student edition; looked up once per kernel."""
    return any(EDITION.search(path.read_text(encoding="utf-8", errors="replace")) for path in folder.glob("*.ipynb"))


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line not in _said:
        _said.add(line)
        print(line)


def _amend(path: Path, number: str | None, *, passed: bool = False, student: str | None = None) -> None:
    """Count one try, or write a name, in a file that several kernels may write at the same time."""
    with locked(path, SECONDS_FOR_LOCK):
        try:
            found = read_progress(path)
        except CourseError as error:
            _say_once(f"{error}: it was renamed to {_set_aside(path).name}, and a new record begins")
            found = Progress()
        if student is not None:
            found.student = student
        if number is not None:
            tried = found.exercises.setdefault(number, Tried())
            if tried.passed:
                return  # tries after a right answer do not count
            tried.tries += 1
            tried.passed = datetime.datetime.now().isoformat(" ", "minutes") if passed else ""
        _write(path, found)


def note(number: str, *, passed: bool) -> None:
    """Count a try at an exercise where progress is kept; a failure is one line of text and never stops a notebook."""
    try:
        if path := kept_at():
            _amend(path, number, passed=passed)
    except (OSError, NotImplementedError) as error:  # the second: a file system without locks
        reason = getattr(error, "strerror", None) or error
        _say_once(f"your progress is not kept ({reason}): copy your notebooks to a folder where you can write")


def sign(name: str) -> None:
    """Put a name into the progress file, for the instructor: one line of at most 60 characters.

    Raises:
        CourseError: no progress is kept here, the name is empty or too long, or the file cannot be written.
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= 60 or not name.isprintable():
        raise CourseError("type a name of 1 to 60 characters, on one line")
    if (path := kept_at()) is None:
        raise CourseError(NOT_KEPT)
    try:
        _amend(path, None, student=name)
    except (OSError, NotImplementedError) as error:
        raise CourseError(f"{FILE} could not be written ({getattr(error, 'strerror', None) or error})") from error
    print(f"{FILE} now carries the name {name}")


# The page ------------------------------------------------------------------------------------------------------

NOT_KEPT = "no progress is kept here: it is kept beside the student notebooks that `make lab EDITION=student` opens"
STYLE = """<style>
.progress-page table { border-collapse: collapse; font-size: 0.95em; color: inherit; }
.progress-page th, .progress-page td { text-align: left; padding: 2px 14px 2px 0; background: none; color: inherit; }
.progress-page th { font-weight: normal; }
.progress-page thead th { font-weight: bold; }
.progress-page .bar { width: 9em; height: 0.7em; border: 1px solid currentColor; border-radius: 3px; }
.progress-page .bar div { height: 100%; background: #009e73; border-radius: 2px; }
</style>"""


@dataclass(frozen=True)
class Page:
    """A learner's progress as HTML for a notebook and as plain text; `titles` are those of all exercises, by number."""

    progress: Progress
    titles: dict[str, str]

    def notebooks(self) -> dict[str, list[str]]:
        """Numbers of the exercises of each notebook."""
        found: dict[str, list[str]] = {}
        for number in sorted(self.titles, key=lambda number: [int(part) for part in number.split(".")]):
            found.setdefault(number.split(".")[0], []).append(number)
        return found

    def summary(self) -> str:
        """One line: who, and how many checks are passed."""
        by = f"{self.progress.student}: " if self.progress.student else ""
        return f"{by}{self.done(list(self.titles))} checks passed"

    def done(self, numbers: list[str]) -> str:
        """How many of some exercises are passed, as in `2 of 5`."""
        return f"{self._passed(numbers)} of {len(numbers)}"

    def _passed(self, numbers: list[str]) -> int:
        return sum(number in self.progress.passed for number in numbers)

    def begun(self, numbers: list[str]) -> str:
        """Those of some exercises that were tried and are not right yet."""
        tried = ((number, self.progress.exercises.get(number, Tried())) for number in numbers)
        return ", ".join(f"{number} ({_tries(one.tries)})" for number, one in tried if one.tries and not one.passed)

    def __repr__(self) -> str:
        lines = [self.summary()]
        for notebook, numbers in self.notebooks().items():
            bar = ("#" * self._passed(numbers)).ljust(len(numbers), ".")
            lines.append(f"{notebook}  {bar:10} {self.done(numbers)}  {self.begun(numbers)}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for notebook, numbers in self.notebooks().items():
            width = 100 * self._passed(numbers) // len(numbers)
            bar = f'<div class="bar" aria-hidden="true"><div style="width: {width}%"></div></div>'
            rows.append(
                f'<tr><th scope="row">{notebook}</th><td>{self.done(numbers)}</td><td>{bar}</td>'
                f"<td>{self.begun(numbers)}</td></tr>"
            )
        head = _head("notebook", "passed", "", "tried, not right yet")
        each = "".join(self._row(number) for numbers in self.notebooks().values() for number in numbers)
        every = f"<table>{_head('exercise', '', 'passed', 'tries')}<tbody>{each}</tbody></table>"
        return (
            f'{STYLE}<div class="progress-page"><p><b>{html.escape(self.summary())}</b></p>'
            f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
            f"<details><summary>Every check, with tries and times</summary>{every}</details></div>"
        )

    def _row(self, number: str) -> str:
        tried = self.progress.exercises.get(number, Tried())
        cells = (self.titles[number], tried.passed, str(tried.tries or ""))
        return f'<tr><th scope="row">{number}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


def _head(*names: str) -> str:
    cells = (f'<th scope="col">{name}</th>' if name else "<td></td>" for name in names)
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def overview() -> None:
    """Show which checks are passed, after how many tries and when; or print one line that says why not."""
    from IPython.display import display

    from helpers.course.exercises import EXERCISES  # loads torch: not when a notebook starts

    try:
        if (path := kept_at()) is None:
            raise CourseError(NOT_KEPT)
        display(Page(read_progress(path), {number: exercise.name for number, exercise in EXERCISES.items()}))
    except (CourseError, OSError) as error:
        print(error)


# A class -------------------------------------------------------------------------------------------------------


def gather(folder: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """Rows (see CLASS_COLUMNS) of all `*.json` below a folder, and a line for each file that cannot be read."""
    rows: list[tuple[str, ...]] = []
    problems: list[str] = []
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        try:
            found = read_progress(path)
        except CourseError as error:
            problems.append(f"{name.as_posix()}: {str(error).removeprefix(path.name + ' ')}")
            continue
        start = (_plain(found.student), _plain(name.as_posix()))
        rows += [(*start, n, tried.passed, str(tried.tries)) for n, tried in found.exercises.items()]
    return rows, problems


def _plain(text: str) -> str:
    """The text of a cell, so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def class_table(rows: list[tuple[str, ...]]) -> str:
    """The rows of a class as CSV, with a header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([CLASS_COLUMNS, *rows])
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 if there is no file or one cannot be read or written; each such file is named."""
    parser = argparse.ArgumentParser("python -m helpers.course.progress", description="The progress of a class.")
    parser.add_argument("folder", type=Path, help=f"where the files lie, each a learner's {FILE}, under any name")
    parser.add_argument("--table", type=Path, metavar="FILE.csv", help="where to write the table (default: here)")
    chosen = parser.parse_args(arguments)
    rows, problems = gather(chosen.folder)
    try:
        if chosen.table is None:
            print(class_table(rows), end="")
        else:
            with atomic_file(chosen.table) as temporary:
                temporary.write_text(class_table(rows), encoding="utf-8")
            print(f"{chosen.table}: {len({row[:2] for row in rows})} learners, {len(rows)} exercises")
    except OSError as error:
        problems.append(f"{chosen.table or 'the table'} could not be written ({error.strerror or error})")
    if not rows and not problems:
        problems = [f"no record of progress below {chosen.folder}"]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
