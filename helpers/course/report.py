"""What the tests found out about the classroom part, as results: `make test` calls it after its last test.

pytest leaves a report in JUnit's format (`--junitxml`); the numbers are counted from it and not typed in.

    python -m helpers.course.report STUDENT.xml BROWSER.xml
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.course import results
from helpers.course.exercises import EXERCISES
from helpers.course.judge import verdict_on

AXE = "axe_serious"  # the property in which a test leaves the number of serious findings


def cases(report: Path) -> list[ElementTree.Element]:
    """The test cases of a report.

    Raises:
        CourseError: the report is not there, not whole, or empty.
    """
    try:
        found = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        raise CourseError(f"{report.name} is no report of pytest: run `make test` again") from error
    if not found:
        raise CourseError(f"{report.name} has no tests in it: run `make test` again")
    return found


def passed(case: ElementTree.Element) -> bool:
    """Neither failed nor skipped."""
    return not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))


def whole_notebooks(report: Path) -> tuple[int, int]:
    """Notebooks all of whose cells passed, and all notebooks (nbval names a case's class after its file)."""
    files: dict[str, bool] = {}
    for case in cases(report):
        file = case.get("classname") or case.get("name")  # a notebook that could not be collected has no class
        files[file] = files.get(file, True) and passed(case)
    return sum(files.values()), len(files)


def rejected() -> tuple[int, int]:
    """Wrong answers that the checks reject, and all wrong answers that are known."""
    verdicts = [verdict_on(chosen, answer) for chosen in EXERCISES.values() for answer in chosen.wrong]
    return sum(verdict is not None for verdict in verdicts), len(verdicts)


def record(student: Path, browser: Path) -> None:
    """Record `classroom.*` of two reports: the blank student edition, and the tests in a browser."""
    (whole, notebooks), (right, wrong) = whole_notebooks(student), rejected()
    in_browser = cases(browser)
    found = [int(p.get("value")) for case in in_browser for p in case.iter("property") if p.get("name") == AXE]
    rows = {
        "exercises": (len(EXERCISES), len(EXERCISES), "exercises with a check"),
        "checks_wrong_answers_rejected": (right / wrong, wrong, "share of known wrong answers"),
        "student_blank_pass": (whole / notebooks, notebooks, "share of notebooks that run blank to the end"),
        "browser_tests": (sum(map(passed, in_browser)), len(in_browser), "tests passed"),
    }
    if found:  # without a browser nothing was looked at
        rows[AXE] = (sum(found), len(found), "serious findings on all pages")
    if path := settings.results_file():
        results.forget(path, "tests")  # a row of an older run, with a browser, would look like one of this run
    for name, (value, n, unit) in rows.items():
        results.record(f"classroom.{name}", value, n=n, seeds=[], unit=unit, notebook="tests")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, or 1 or 2 with one line that says why."""
    if len(arguments) != 2:
        print("usage: python -m helpers.course.report STUDENT.xml BROWSER.xml", file=sys.stderr)
        return 2
    try:
        record(*map(Path, arguments))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
