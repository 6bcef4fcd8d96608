"""The classroom's numbers are counted from the reports of pytest."""

from __future__ import annotations

import pytest

from helpers.base.storage import CourseError
from helpers.course import report, results
from helpers.course.exercises import EXERCISES

STUDENT = """<testsuites><testsuite>
<testcase classname="student.01" name="a"/><testcase classname="student.01" name="b"/>
<testcase classname="student.02" name="a"><failure/></testcase><testcase classname="student.02" name="b"/>
</testsuite></testsuites>"""
BROWSER = """<testsuites><testsuite>
<testcase name="a"><properties><property name="axe_serious" value="2"/></properties><failure/></testcase>
<testcase name="b"><properties><property name="axe_serious" value="0"/></properties></testcase>
<testcase name="c"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_RESULTS", str(tmp_path / "results.json"))
    paths = [tmp_path / "student.xml", tmp_path / "browser.xml"]
    for path, text in zip(paths, (STUDENT, BROWSER), strict=True):
        path.write_text(text)
    return paths


def test_what_passed_failed_and_was_skipped_is_counted(reports, tmp_path):
    assert report.main(list(map(str, reports))) == 0
    rows = results.load(tmp_path / "results.json")
    values = {name.removeprefix("classroom."): (row["value"], row["n"]) for name, row in rows.items()}
    assert values["student_blank_pass"] == (0.5, 2)
    assert values["browser_tests"] == (1, 3)
    assert values["axe_serious"] == (2, 2)
    assert values["exercises"] == (len(EXERCISES), len(EXERCISES))
    assert values["checks_wrong_answers_rejected"] == (1.0, sum(len(e.wrong) for e in EXERCISES.values()))


def test_without_a_browser_no_page_counts_as_clean(reports, tmp_path):
    reports[1].write_text("<testsuite><testcase name='c'><skipped/></testcase></testsuite>")
    report.record(*reports)
    assert "classroom.axe_serious" not in results.load(tmp_path / "results.json")


@pytest.mark.parametrize("text", [None, "<testsuite>", "<testsuite/>"])
def test_a_report_that_is_missing_cut_off_or_empty(reports, text, capsys):
    reports[0].unlink() if text is None else reports[0].write_text(text)
    with pytest.raises(CourseError, match="make test"):
        report.cases(reports[0])
    assert report.main(list(map(str, reports))) == 1
    assert "student.xml" in capsys.readouterr().err


def test_a_row_of_an_older_run_goes(reports, tmp_path):
    report.record(*reports)
    reports[1].write_text("<testsuite><testcase name='c'><skipped/></testcase></testsuite>")
    report.record(*reports)
    assert "classroom.axe_serious" not in results.load(tmp_path / "results.json")


def test_two_notebooks_that_cannot_be_read_are_two(tmp_path):
    path = tmp_path / "student.xml"
    path.write_text('<testsuite><testcase classname="" name="a"><error/></testcase><testcase name="b"/></testsuite>')
    assert report.whole_notebooks(path) == (1, 2)
    assert report.main([]) == 2
