"""What the tests found, as results: counted from pytest's reports and the clock, never typed in.

    python -m helpers.course.report check STARTED               after `make check`: how long it took
    python -m helpers.course.report test STARTED REPORT.xml...  after `make test`: that, and what the tests counted
    python -m helpers.course.report classroom                   what the notebooks ask of a learner; runs no notebook
    python -m helpers.course.report page                        the rows into notebooks/RESULTS.md

STARTED is when make began, in seconds since 1970; the report is in JUnit's format (`--junitxml`).
"""

from __future__ import annotations

import os
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import nbformat

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.course import editions, results, run
from helpers.course.exercises import EXERCISES
from helpers.course.judge import verdict_on

AXE = "axe_serious"  # the property in which a test stores the number of serious findings
# What the column "notebook" holds for rows of tests, of counts in the notebooks, and of bench_release.py:
ROWS = "tests"
COUNTED = "notebooks"
OFFLINE = "release"
SECTION_TITLES = {  # in RESULTS.md
    COUNTED: "The classroom",
    OFFLINE: "A class without network",
    ROWS: "The course's own tests",
}
COUNTED_BY_TESTS = {  # properties of tests, added up, and their units
    "book.pages": "pages",
    "book.build_seconds": "s to build it",
    "book.external_requests": "requests to a network, by the pages that the browser opened",
    "book.axe_serious": "serious findings on these pages, light and dark",
    "classroom.prose_numbers_checked": "figures in prose, held against outputs and results",
}
BUILD_STEP = re.compile(r"^### Build step (\d\d\.\d+):", re.MULTILINE)


def cases(report: Path) -> list[ElementTree.Element]:
    """The test cases of a report.

    Raises:
        CourseError: the report is missing, damaged or empty.
    """
    try:
        found = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise CourseError(f"{report.name} is not a report of pytest: run `make test` again") from error
    if not found:
        raise CourseError(f"{report.name} has no tests in it: run `make test` again")
    return found


def passed(case: ElementTree.Element) -> bool:
    """Whether a test neither failed nor was skipped."""
    return not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))


def in_browser(case: ElementTree.Element) -> bool:
    """Whether this is a test in a browser; all others in the report are cells of notebooks."""
    return ".browser." in (case.get("classname") or "")


def notebooks(report: Path) -> dict[str, tuple[bool, float]]:
    """For each notebook in a report: whether all its cells passed, and the seconds that they took together."""
    files: dict[str, tuple[bool, float]] = {}
    for case in cases(report):
        if in_browser(case):
            continue
        # nbval names the class of a case after its file; a notebook that could not be collected has no class.
        file = (case.get("classname") or case.get("name") or "").removesuffix(".ipynb").rpartition(".")[2]
        whole, seconds = files.get(file, (True, 0.0))
        files[file] = whole and passed(case), seconds + float(case.get("time") or 0)
    return files


def rejected() -> tuple[int, int]:
    """The number of known wrong answers that the checks reject, and of all known wrong answers."""
    verdicts = [verdict_on(chosen, answer) for chosen in EXERCISES.values() for answer in chosen.wrong]
    return sum(verdict is not None for verdict in verdicts), len(verdicts)


def learner_lines(book: nbformat.NotebookNode) -> tuple[int, int]:
    """Lines of code that the learner writes (solutions), and all lines, without comments, imports and folded cells."""
    own = total = 0
    for cell in book.cells:
        if cell.cell_type != "code" or "hide-input" in cell.metadata.get("tags", []):
            continue
        solutions = editions.regions(cell)
        for number, line in enumerate(cell.source.split("\n")):
            if line.strip() and not re.match(r"\s*#|import |from ", line):
                total += 1
                own += any(first < number < last for first, last in solutions)
    return own, total


def record_exercises(folder: Path) -> None:
    """Record the rows of `classroom.*` that follow from the notebooks in a folder and the exercises, without a run."""
    right, wrong = rejected()
    books = {path.stem.split("_")[0]: nbformat.read(path, as_version=4) for path in sorted(folder.glob("*.ipynb"))}
    prose = "\n\n".join(c.source for book in books.values() for c in book.cells if c.cell_type == "markdown")
    steps = set(BUILD_STEP.findall(prose)) & set(EXERCISES)
    rows = {
        "exercises": (len(EXERCISES), len(EXERCISES), "exercises with a check"),
        "build_steps": (len(steps), len(EXERCISES), "of the exercises, in the course of a lesson"),
        "checks_wrong_answers_rejected": (right / wrong, wrong, "share of known wrong answers"),
    }
    for number, book in books.items():
        own, total = learner_lines(book)
        if own:
            rows[f"learner_lines_share.{number}"] = (own / total, total, "share of code lines that the learner writes")
    for name, (value, n, unit) in rows.items():
        results.record(f"classroom.{name}", value, n=n, seeds=[], unit=unit, notebook=COUNTED)


def record_classroom(report: Path) -> None:
    """Record the rows of `classroom.*` that a run of the tests gives: blank notebooks, and tests in a browser.

    Raises:
        CourseError: no notebook was run.
    """
    if not (books := notebooks(report)):
        raise CourseError("no notebook is in the report of the tests: run `make test` for all of them")
    browser = [case for case in cases(report) if in_browser(case)]
    found = [int(p.get("value") or 0) for case in browser for p in case.iter("property") if p.get("name") == AXE]
    whole = sum(passed for passed, _ in books.values())
    rows = {
        "student_blank_pass": (whole / len(books), len(books), "share of notebooks that run blank to the end"),
        "browser_tests": (sum(map(passed, browser)), len(browser), "tests passed"),
    }
    if found:  # without a browser nothing was looked at
        rows[AXE] = (sum(found), len(found), "serious findings on all pages")
    elif path := settings.results_file():  # a row of an older run, with a browser, would look like one of this run
        results.amend(path, lambda older: older.pop(f"classroom.{AXE}", None))
    for name, (value, n, unit) in rows.items():
        results.record(f"classroom.{name}", value, n=n, seeds=[], unit=unit, notebook=ROWS)


def record_counted(reports: Sequence[Path]) -> None:
    """Record what the tests of all reports counted (`COUNTED_BY_TESTS`), each with the number of tests that did."""
    found: dict[str, list[float]] = {}
    for prop in (prop for path in reports for case in cases(path) for prop in case.iter("property")):
        if (name := prop.get("name") or "") in COUNTED_BY_TESTS:
            found.setdefault(name, []).append(float(prop.get("value") or 0))
    for name, values in found.items():
        results.record(name, sum(values), n=len(values), seeds=[], unit=COUNTED_BY_TESTS[name], notebook=ROWS)


def is_cold(started: float) -> bool:
    """Whether the cache was empty when make began: everything in it is newer."""
    files = (path for path in settings.cache_dir().rglob("*") if path.is_file())
    return all(path.stat().st_mtime >= started for path in files)


def with_installation(started: float) -> bool:
    """Whether this call of make installed the packages."""
    stamp = settings.PROJECT / ".venv" / "lab.stamp"
    return stamp.exists() and stamp.stat().st_mtime >= started


def record_minutes(name: str, started: float) -> None:
    """Record `tests.NAME`: the minutes since `started`, with or without installation, and the machine."""
    how = f"minutes, {'with' if with_installation(started) else 'without'} installation"
    where = f"{os.cpu_count()} cores, {run.processor()}"
    minutes = round((time.time() - started) / 60, 1)
    results.record(f"tests.{name}", minutes, n=1, seeds=[], unit=f"{how}; {where}", notebook=ROWS)


def record_lines() -> None:
    """Record how many lines `helpers` has."""
    files = sorted((settings.checkout() / "helpers").rglob("*.py"))
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in files)
    results.record("helpers.lines", lines, n=len(files), seeds=[], unit="lines of Python", notebook=ROWS)


def record_test(started: float, report: Path, *others: Path) -> None:
    """Record all that `make test` found, and print the seconds of each notebook, slowest first.

    Args:
        report: of the notebooks and the browser; `others` of the unit tests.
    """
    temperature = "cold" if is_cold(started) else "warm"
    record_minutes(f"{temperature}_minutes", started)
    record_classroom(report)
    record_counted([report, *others])
    record_exercises(settings.checkout() / "notebooks")
    record_lines()
    slowest = sorted(((seconds, name) for name, (_, seconds) in notebooks(report).items()), reverse=True)
    unit = f"s, the slowest notebook: {slowest[0][1]}"
    name = f"tests.{temperature}_slowest_notebook"
    results.record(name, round(slowest[0][0], 1), n=len(slowest), seeds=[], unit=unit, notebook=ROWS)
    print(f"{temperature}, seconds:", *(f"{name} {seconds:.0f}" for seconds, name in slowest))


def write_page() -> None:
    """Write the recorded rows on notebooks and tests into their sections of notebooks/RESULTS.md."""
    recorded = results.load(settings.results_file() or settings.checkout() / "build/results.json")
    if not {row["notebook"] for row in recorded.values()} & set(SECTION_TITLES):
        raise CourseError("no test has been recorded: run `make test` first")
    for kind, title in SECTION_TITLES.items():
        if rows := {name: row for name, row in recorded.items() if row["notebook"] == kind}:
            run.write_section(settings.checkout(), title, rows, [run.here(settings.checkout())])


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, or 1 or 2 with one line that says why."""
    try:
        match arguments:
            case ["check", started]:
                record_minutes("check_minutes", float(started))
            case ["test", started, *reports] if reports:
                record_test(float(started), *map(Path, reports))
            case ["classroom"]:
                record_exercises(settings.checkout() / "notebooks")
            case ["page"]:
                write_page()
            case _:
                usage = "(check STARTED | test STARTED REPORT.xml... | classroom | page)"
                print("usage: python -m helpers.course.report", usage)
                return 2
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
