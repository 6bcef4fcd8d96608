"""The rows of the tests are counted from pytest's report and from the clock."""

from __future__ import annotations

import os
import time

import nbformat
import pytest
from nbformat import v4

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.course import report, results, run
from helpers.course.exercises import EXERCISES

AXE = '<testcase classname="tests.browser.test_pages" name="a"><properties><property name="axe_serious" value="{}"/>'
NOTEBOOK = "build.tests.notebooks"
REPORT = f"""<testsuites><testsuite>
<testcase classname="{NOTEBOOK}.01_first.ipynb" name="a" time="2.5"/>
<testcase classname="{NOTEBOOK}.01_first.ipynb" name="b" time="0.5"/>
<testcase classname="{NOTEBOOK}.02_second.ipynb" name="a" time="9"><failure/></testcase>
<testcase classname="{NOTEBOOK}.02_second.ipynb" name="b"/>
{AXE.format(2)}</properties><failure/></testcase>{AXE.format(0)}</properties></testcase>
<testcase classname="tests.browser.test_lab" name="c"><skipped/></testcase>
</testsuite></testsuites>"""
NO_BROWSER = f"""<testsuite><testcase classname="{NOTEBOOK}.01_first.ipynb" name="a"/>
<testcase classname="tests.browser.test_lab" name="c"><skipped/></testcase></testsuite>"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_RESULTS", str(tmp_path / "results.json"))
    path = tmp_path / "notebooks.xml"
    path.write_text(REPORT)
    return path


def rows(written) -> dict:
    return results.load(written.with_name("results.json"))


def test_what_passed_failed_and_was_skipped_is_counted(written):
    report.record_classroom(written)
    values = {name.removeprefix("classroom."): (row["value"], row["n"]) for name, row in rows(written).items()}
    assert values["student_blank_pass"] == (0.5, 2)
    assert values["browser_tests"] == (1, 3)
    assert values["axe_serious"] == (2, 2)


def test_what_tests_counted_is_added_up_over_all_reports(written):
    unit = written.with_name("unit.xml")
    one = (
        '<property name="classroom.prose_numbers_checked" value="{}"/><property name="book.build_seconds" value="{}"/>'
    )
    some = "".join(
        f"<testcase name='t'><properties>{one.format(*row)}</properties></testcase>" for row in ((3, 0.5), (4, 0.25))
    )
    unit.write_text(f"<testsuite>{some}<testcase name='t'/></testsuite>")
    report.record_counted([written, unit])
    found = {name: (row["value"], row["n"]) for name, row in rows(written).items()}
    assert found == {"classroom.prose_numbers_checked": (7, 2), "book.build_seconds": (0.75, 2)}


def code(*lines: str, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    return v4.new_code_cell("\n".join(lines), metadata={"tags": list(tags)})


LESSON = v4.new_notebook(
    cells=[
        v4.new_markdown_cell("### Build step 01.1: the level (importance 4 of 5)\n\nAs in step 01.2."),
        v4.new_markdown_cell("### Exercise 01.2: another (easy)"),
        v4.new_markdown_cell("### Build step 99.1: not in the course"),
        code("import numpy as np", "from a import b", "", "# a comment", "x = 1"),
        code("plots.draw(x)", "plots.draw(y)", tags=("hide-input",)),
        code("def f(x):", "    # BEGIN SOLUTION", "    # why", "    y = x", "", "    return y", "    # END SOLUTION"),
    ]
)


def test_what_the_notebooks_ask_is_counted_without_a_run(written):
    nbformat.write(LESSON, written.with_name("01_first.ipynb"))
    nbformat.write(v4.new_notebook(cells=LESSON.cells[:5]), written.with_name("02_second.ipynb"))
    report.record_exercises(written.parent)
    values = {name.removeprefix("classroom."): (row["value"], row["n"]) for name, row in rows(written).items()}
    assert values == {
        "exercises": (len(EXERCISES), len(EXERCISES)),
        "build_steps": (1, len(EXERCISES)),
        "checks_wrong_answers_rejected": (1.0, sum(len(e.wrong) for e in EXERCISES.values())),
        "learner_lines_share.01": (0.5, 4),
    }


def test_without_a_browser_no_page_counts_as_clean(written):
    report.record_classroom(written)
    assert "classroom.axe_serious" in rows(written)
    written.write_text(NO_BROWSER)
    report.record_classroom(written)
    assert "classroom.axe_serious" not in rows(written)


@pytest.mark.parametrize("text", [None, "<testsuite>", "<testsuite/>"])
def test_a_report_that_is_missing_cut_off_or_empty(written, text, capsys):
    written.unlink() if text is None else written.write_text(text)
    with pytest.raises(CourseError, match="make test"):
        report.cases(written)
    assert report.main(["test", "0", str(written)]) == 1
    assert "notebooks.xml" in capsys.readouterr().err


def test_a_report_without_notebooks(written, capsys):
    written.write_text('<testsuite><testcase classname="tests.browser.test_pages" name="axe"/></testsuite>')
    assert report.main(["test", "0", str(written)]) == 1
    assert "no notebook" in capsys.readouterr().err


def test_two_notebooks_that_cannot_be_read_are_two(written):
    written.write_text('<testsuite><testcase classname="" name="a"><error/></testcase><testcase name="b"/></testsuite>')
    assert report.notebooks(written) == {"a": (False, 0), "b": (True, 0)}
    assert report.main([]) == 2


@pytest.mark.parametrize(
    ("age", "name"), [(None, "cold"), (-5, "cold"), (500, "warm")], ids=["no file", "made since", "made before"]
)
def test_a_run_is_cold_when_all_of_its_cache_is_its_own(written, cache, age, name, monkeypatch, capsys):
    monkeypatch.setattr(report, "rejected", lambda: (1, 1))  # takes a while, which the minutes below would show
    started = time.time() - 120
    if age is not None:
        for file, when in {"memo.sqlite": time.time(), "sources/tiny/a.txt": started - age}.items():
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            (cache / file).touch()
            os.utime(cache / file, (when, when))
    assert report.main(["test", str(started), str(written)]) == 0
    assert report.main(["check", str(started + 60)]) == 0
    assert capsys.readouterr().out == f"{name}, seconds: 02_second 9 01_first 3\n"
    found = {key: row for key, row in rows(written).items() if key.startswith("tests.")}
    assert set(found) == {f"tests.{name}_minutes", "tests.check_minutes", f"tests.{name}_slowest_notebook"}
    assert found[f"tests.{name}_minutes"]["value"] == pytest.approx(2.0, abs=0.2)
    assert found["tests.check_minutes"]["value"] == pytest.approx(1.0, abs=0.2)
    assert found[f"tests.{name}_slowest_notebook"]["value"] == 9
    assert found[f"tests.{name}_slowest_notebook"]["unit"].endswith(": 02_second")
    unit = found["tests.check_minutes"]["unit"]
    assert unit.startswith("minutes, with") and f"{os.cpu_count()} cores, {run.processor()}" in unit


def test_the_lines_of_helpers_are_counted(written, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "checkout", lambda: tmp_path)
    for name, text in {"a.py": "one\ntwo\n\n", "room/b.py": "three\nfour", "room/c.txt": "no Python\n"}.items():
        (tmp_path / "helpers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "helpers" / name).write_text(text)
    report.record_lines()
    assert (rows(written)["helpers.lines"]["value"], rows(written)["helpers.lines"]["n"]) == (5, 2)


def test_the_rows_have_a_section_of_the_results_page(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(settings, "checkout", lambda: tmp_path)
    (tmp_path / "notebooks").mkdir()
    assert report.main(["page"]) == 1 and "run `make test` first" in capsys.readouterr().err
    report.record_classroom(written)
    results.record("eagle.utility", 1.0, n=1, seeds=[0], unit="stars", notebook="07")
    assert report.main(["page"]) == 0
    page = (tmp_path / "notebooks/RESULTS.md").read_text()
    assert "## The course's own tests" in page and "| classroom.browser_tests | 1 |" in page and "eagle" not in page
    nbformat.write(LESSON, tmp_path / "notebooks/01_first.ipynb")
    assert report.main(["classroom"]) == report.main(["page"]) == 0
    tests, classroom = (tmp_path / "notebooks/RESULTS.md").read_text().split("## The classroom")
    assert "| classroom.build_steps | 1 |" in classroom and "classroom.browser_tests" in tests
