"""Grading: checks that raise, and a whole round of nbgrader and of otter-grader, from the notebooks to the points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.course import check
from helpers.course import editions as build
from helpers.course.exercises import EXERCISES as REAL
from helpers.course.judge import Exercise

# Checks that raise ---------------------------------------------------------------------------------------------


def double(x):
    return 2 * x


EXERCISES = {
    "1": Exercise("doubled", double, lambda seed: (seed + 1,)),
    "2": Exercise("a number", 12),
}


@pytest.fixture
def grading(monkeypatch):
    monkeypatch.setenv("STEER_GRADING", "1")


def test_a_right_answer_passes(grading, capsys):
    assert check.exercise("1", again := (lambda x: x + x), EXERCISES) is again
    assert check.exercise("2", 12, EXERCISES) == 12
    assert capsys.readouterr().out == "[OK] 1 doubled\n[OK] 2 a number\n"


@pytest.mark.parametrize(
    ("name", "answer", "text"),
    [
        ("1", lambda x: None, r"^\[TODO\] 1 not finished yet: the hints above"),
        ("1", lambda x: 3 * x, r"^\[WRONG\] 1 case 0: value 3, expected 2$"),
        ("1", lambda x: x / 0, r"^\[ERROR\] 1 case 0: your code raised ZeroDivisionError"),
        ("2", ..., r"^\[TODO\] 2 not finished yet: the hints above"),
        ("2", 13, r"^\[WRONG\] 2 value 13, expected 12$"),
    ],
)
def test_any_other_answer_raises_its_verdict(name, answer, text, grading):
    with pytest.raises(AssertionError, match=text):
        check.exercise(name, answer, EXERCISES)


@pytest.mark.parametrize(("name", "wrong", "expected"), [("1", abs, double), ("1", None, double), ("2", 13, 12)])
def test_the_cell_behind_a_check_goes_on_with_the_reference(name, wrong, expected, grading, capsys):
    assert check.right_or_reference(name, wrong, EXERCISES) == expected
    assert check.right_or_reference("1", again := (lambda x: x + x), EXERCISES) is again
    assert capsys.readouterr().out == ""


def test_a_check_changes_no_name_of_its_caller(grading):
    names = {"check": check, "EXERCISES": EXERCISES, "answer": abs, "other": double}
    with pytest.raises(AssertionError):
        exec("answer = check.exercise('1', answer, EXERCISES)", names)
    assert names["answer"] is abs and names["other"] is double


def test_a_test_for_a_grader_raises_whatever_the_settings(monkeypatch, capsys):
    monkeypatch.delenv("STEER_GRADING", raising=False)
    check.assert_right("1", lambda x: x + x, EXERCISES)
    with pytest.raises(AssertionError, match=r"^\[WRONG\] 2 value 13, expected 12$"):
        check.assert_right("2", 13, EXERCISES)
    with pytest.raises(AssertionError, match=r"^\[TODO\] 1 this is the reference that a check handed out"):
        check.assert_right("1", check.exercise("1", abs, EXERCISES), EXERCISES)


def test_every_reference_is_told_from_an_answer():
    """A check hands out the reference itself, a function, so a test behind it knows; a value it could not tell."""
    assert [number for number, exercise in REAL.items() if not callable(exercise.reference)] == []


@pytest.mark.parametrize("value", ["", "0"])
def test_without_the_setting_nothing_raises(value, monkeypatch, capsys):
    monkeypatch.setenv("STEER_GRADING", value)
    assert check.exercise("1", None, EXERCISES) is double


# A round of nbgrader -------------------------------------------------------------------------------------------

LESSON = "01_lesson"
CHECKS = [*(f"05-{n}" for n in range(1, 8)), *(f"14-{n}" for n in range(1, 10))]
RIGHT, WRONG = "(z @ np.linalg.inv(sigma) * z).sum(axis=1)", "(z @ np.linalg.inv(sigma) * z).sum(axis=0)"
LEFT_BLANK = {"14-2", "14-5"}
EXPECTED = {number: float(number != "05-1" and number not in LEFT_BLANK) for number in CHECKS}  # of `mixed`


def lesson() -> nbformat.NotebookNode:
    """The exercises of two notebooks: in one an exercise calls the one before, in the other a check shows 0.5."""
    cells = [v4.new_code_cell("import re\n\nimport numpy as np\nimport torch\n\nfrom helpers.course import check")]
    for path in (*PROJECT.glob("notebooks/05_*.ipynb"), *PROJECT.glob("notebooks/14_*.ipynb")):
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            needed = build.CHECKED.search(cell.source) or cell.source.startswith("def volume(")  # an answer calls it
            if not build.regions(cell) and not (cell.cell_type == "code" and needed):
                continue
            cell.id = f"{path.stem[:2]}-{cell.id}"
            cells.append(cell)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def nbgrader(course: Path, *arguments: str) -> str:
    """Run a command of nbgrader in the course folder, with settings of its own; what it logged."""
    own = {name: str(course / ".own") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = {key: value for key, value in os.environ.items() if key != "STEER_GRADING"} | own
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stderr


def mixed(released: nbformat.NotebookNode, source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A submission: the first exercise wrong, two left blank, and the solutions of the source in the others."""
    numbers = iter(CHECKS)
    for cell, right in zip(released.cells, source.cells, strict=True):
        if build.regions(right) and next(numbers) not in LEFT_BLANK:
            cell.source = right.source.replace(RIGHT, WRONG)
    return released


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course folder in which a submission has been graded."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: `make test` installs it")
    project = tmp_path_factory.mktemp("project")
    folder = project / "grading"
    (project / "notebooks").mkdir()
    nbformat.write(lesson(), project / "notebooks" / f"{LESSON}.ipynb")
    build.write_nbgrader(project, folder)
    nbgrader(folder, "generate_assignment", LESSON)
    released, source = (nbformat.read(folder / part / LESSON / f"{LESSON}.ipynb", 4) for part in ("release", "source"))
    (submitted := folder / "submitted" / "learner" / LESSON).mkdir(parents=True)
    nbformat.write(mixed(released, source), submitted / f"{LESSON}.ipynb")
    nbgrader(folder, "autograde", LESSON)
    return folder


@pytest.mark.slow
def test_what_nbgrader_hands_out_has_our_stubs(course):
    handed_out = nbformat.read(course / "release" / LESSON / f"{LESSON}.ipynb", as_version=4)
    source = nbformat.read(course / "source" / LESSON / f"{LESSON}.ipynb", as_version=4)
    assert [cell.source for cell in handed_out.cells] == [build.blank(cell) for cell in source.cells]
    assert sum(build.STUB in cell.source for cell in handed_out.cells) == len(CHECKS)


@pytest.mark.slow
def test_points_of_nbgrader(course, monkeypatch):
    from nbgrader.api import Gradebook

    # The gradebook starts `alembic`, which lies beside this Python.
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "steering-course") as book:
        (submitted,) = book.find_submission(LESSON, "learner").notebooks
        assert not any(grade.needs_manual_grade for grade in submitted.grades)
        assert submitted.max_score == len(CHECKS) and submitted.score == sum(EXPECTED.values())
        assert {grade.name.removeprefix("check-"): grade.score for grade in submitted.grades} == EXPECTED


def test_nbgrader_accepts_the_metadata_of_every_notebook():
    reason = "nbgrader is not installed: `make test` installs it"
    nbgraderformat = pytest.importorskip("nbgrader.nbgraderformat", reason=reason)
    for path in sorted((PROJECT / "notebooks").glob("*.ipynb")):
        nbgraderformat.MetadataValidator().validate_nb(build.for_nbgrader(nbformat.read(path, as_version=4)))


# A round of otter-grader ---------------------------------------------------------------------------------------


def otter(folder: Path, *arguments: str) -> None:
    """Run a command of otter-grader in a folder, with settings of its own and those of no learner."""
    own = {"PYTHONPATH": str(PROJECT), "IPYTHONDIR": str(folder / ".own"), "STEER_PROGRESS": "0"}
    environment = {key: value for key, value in os.environ.items() if key != "STEER_GRADING"} | own
    command = [sys.executable, "-m", "otter", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def without_tests(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A submission from which the places of the tests are gone, so that they run last, when all references are out."""
    for cell in book.cells:
        cell.metadata.pop("otter", None)
    return book


@pytest.fixture(scope="module")
def assigned(tmp_path_factory) -> Path:
    """What `otter assign` makes of the lesson: a notebook to hand out, one with solutions, and a grader."""
    pytest.importorskip("otter", reason="otter-grader is not installed: `make test` installs it")
    project = tmp_path_factory.mktemp("otter")
    (project / "notebooks").mkdir()
    nbformat.write(lesson(), project / "notebooks" / f"{LESSON}.ipynb")
    build.write_otter(project, project / "grading")
    otter(project / "grading", "assign", f"{LESSON}.ipynb", "dist", "--no-run-tests")
    return project / "grading" / "dist"


def otter_points(assigned: Path, book: nbformat.NotebookNode, name: str) -> dict[str, float]:
    """Points of each question of a submission."""
    folder = assigned / name
    folder.mkdir()
    nbformat.write(book, folder / f"{LESSON}.ipynb")
    (grader,) = (assigned / "autograder").glob("*.zip")
    otter(folder, "run", f"{LESSON}.ipynb", "-a", str(grader), "-o", str(folder), "--no-logo")
    tests = json.loads((folder / "results.json").read_text())["tests"]
    return {test["name"]: test["score"] for test in tests if test["name"].startswith("q")}


@pytest.mark.slow
def test_what_otter_hands_out_is_blank_and_needs_no_otter(assigned):
    handed_out = nbformat.read(assigned / "student" / f"{LESSON}.ipynb", as_version=4)
    source = nbformat.read(assigned / "autograder" / f"{LESSON}.ipynb", as_version=4)
    for blank, right in zip(handed_out.cells, source.cells, strict=True):
        assert (blank.source == right.source) == (not build.regions(right))
        assert not build.MARK.search(blank.source) and "otter" not in blank.source
        assert blank.metadata.get("editable", True)


@pytest.mark.slow
@pytest.mark.parametrize("tampered", [False, True], ids=["as_handed_in", "tests_taken_out"])
def test_points_of_otter(assigned, tampered):
    released, source = (
        nbformat.read(assigned / part / f"{LESSON}.ipynb", as_version=4) for part in ("student", "autograder")
    )
    book = without_tests(released) if tampered else mixed(released, source)
    expected = dict.fromkeys(EXPECTED, 0) if tampered else EXPECTED
    found = otter_points(assigned, book, "tampered" if tampered else "mixed")
    assert found == {f"q{number.replace('-', '_')}": points for number, points in expected.items()}
