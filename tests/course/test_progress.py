"""Progress of a learner: what is counted, where it is kept, what happens to the file, and the table of a class."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.base.storage import CourseError
from helpers.course import check, editions, progress
from helpers.course.exercises import EXERCISES
from helpers.course.progress import Page, Progress, Tried

RIGHT = EXERCISES["00.1"].reference


def mine(a, b):
    return RIGHT(a, b)


def wrong(a, b):
    return a @ b


def blank(a, b):
    raise NotImplementedError


def hand_out(folder: Path, edit=editions.student) -> None:
    """One notebook of an edition in a folder."""
    nbformat.write(edit(v4.new_notebook(cells=[v4.new_code_cell("x = 1")])), folder / "00_start.ipynb")


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A learner's folder, where the kernel runs; no message has been said yet."""
    for name in ("STEER_PROGRESS", "STEER_GRADING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "_said", set())
    progress._has_student_edition.cache_clear()
    monkeypatch.chdir(tmp_path)
    hand_out(tmp_path)
    return tmp_path


def kept(folder: Path) -> dict[str, Tried]:
    return progress.read_progress(folder / progress.FILE).exercises


# What is counted -----------------------------------------------------------------------------------------------


def test_tries_are_counted_up_to_the_first_right_answer(desk, capsys):
    for answer in (blank, None, wrong, wrong, mine):
        check.exercise("00.1", answer)
    first = kept(desk)
    assert first["00.1"].tries == 3 and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", first["00.1"].passed)
    for answer in (wrong, mine):
        check.exercise("00.1", answer)
    assert kept(desk) == first
    check.exercise("00.2", wrong)
    assert kept(desk)["00.2"] == Tried(1, "")


def test_a_reference_that_the_check_handed_out_is_no_answer(desk, capsys):
    answer = check.exercise("00.1", wrong)
    assert answer is RIGHT
    assert check.exercise("00.1", answer) is RIGHT
    assert f"[TODO] 00.1 {check.HANDED_OUT}" in capsys.readouterr().out
    assert kept(desk)["00.1"] == Tried(1, "")
    with pytest.raises(AssertionError, match="handed out"):
        check.assert_right("00.1", answer)


def test_the_examples_of_notebook_00_are_no_tries(desk, capsys):
    cells = nbformat.read(next(PROJECT.glob("notebooks/00_*.ipynb")), as_version=4).cells
    (shown,) = (cell.source for cell in cells if cell.source.startswith('check.exercise("00.1", lambda'))
    exec(shown, {"check": check})
    assert "[WRONG] 00.1" in capsys.readouterr().out and kept(desk) == {}
    check.exercise("00.1", lambda a, b: RIGHT(a, b))
    assert kept(desk)["00.1"].passed


# Where it is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edit", [lambda book: book, editions.for_tests, editions.for_nbgrader, editions.for_otter])
def test_no_other_edition_keeps_anything(desk, edit, capsys):
    hand_out(desk, edit)
    check.exercise("00.1", mine)
    progress.overview()
    assert progress.NOT_KEPT in capsys.readouterr().out
    with pytest.raises(CourseError, match="no progress is kept here"):
        progress.sign("Ada")
    assert [path.name for path in desk.iterdir()] == ["00_start.ipynb"]


@pytest.mark.parametrize(("setting", "value"), [("STEER_PROGRESS", "0"), ("STEER_GRADING", "1")])
def test_a_setting_turns_it_off(desk, setting, value, monkeypatch, capsys):
    monkeypatch.setenv(setting, value)
    check.exercise("00.1", mine)
    assert [path.name for path in desk.iterdir()] == ["00_start.ipynb"]


def test_the_tests_and_the_course_run_without_it():
    makefile = (PROJECT / "Makefile").read_text("utf-8")
    assert re.search(r"^PYTEST := .*\bSTEER_PROGRESS=0 ", makefile, re.MULTILINE)
    assert '"STEER_PROGRESS": "0"' in (PROJECT / "helpers/course/run.py").read_text("utf-8")
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        assert not progress.EDITION.search(path.read_text("utf-8")), f"{path.name} is a student notebook"


def test_what_learners_wrote_outlives_a_clean(tmp_path):
    (tmp_path / "Makefile").write_text((PROJECT / "Makefile").read_text("utf-8"))
    for name in (".venv/bin/python", "build/results.json", "build/.hidden", "build/student/notebooks/00_start.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):
        subprocess.run(["make", "-C", str(tmp_path), "clean"], check=True, capture_output=True)
    left = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert left == ["Makefile", "build/student/notebooks/00_start.ipynb"]


def test_checks_with_exercises_of_their_own_are_not_kept(desk, capsys):
    check.exercise("00.1", mine, dict(EXERCISES))
    assert kept(desk) == {}


# What happens to the file --------------------------------------------------------------------------------------

NOTE = "from helpers.course import progress\nfor n in range(20):\n    progress.note(f'{i:02d}.{n}', passed=n % 2 == 0)"


@pytest.mark.slow
def test_kernels_that_write_at_once_lose_nothing(desk):
    codes = [NOTE.replace("{i:02d}", f"{i:02d}") for i in range(4)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    kernels = [subprocess.Popen([sys.executable, "-c", code], cwd=desk, env=environment) for code in codes]
    assert [kernel.wait(120) for kernel in kernels] == [0] * 4
    found = kept(desk)
    assert sorted(found) == sorted(f"{i:02d}.{n}" for i in range(4) for n in range(20))
    assert all(tried.tries == 1 for tried in found.values()) and sum(bool(t.passed) for t in found.values()) == 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"student": "Ada", "exercises": {"00.1": {"tries": 2, "pas',
        "[]",
        '{"exercises": {}}',
        '{"student": 3, "exercises": {}}',
        '{"student": "", "exercises": {"00.1": {"tries": "many", "passed": ""}}}',
        '{"student": "", "exercises": {"00.1": {"tries": 1, "passed": "", "more": 1}}}',
        '{"student": "", "exercises": {"00.1": 3}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_is_set_aside_with_one_line(desk, text, capsys):
    content = text if isinstance(text, bytes) else text.encode()
    (desk / progress.FILE).write_bytes(content)
    progress.overview()
    assert capsys.readouterr().out == "progress.json is not a record of progress, or damaged\n"
    check.exercise("00.2", wrong)
    check.exercise("00.1", mine)
    said = [line for line in capsys.readouterr().out.splitlines() if "progress" in line]
    assert len(said) == 1 and "it was renamed to progress-damaged-1.json, and a new record begins" in said[0]
    assert (desk / "progress-damaged-1.json").read_bytes() == content
    assert kept(desk)["00.1"].passed and kept(desk)["00.2"].tries == 1
    (desk / progress.FILE).write_text("again")
    check.exercise("00.1", mine)
    assert (desk / "progress-damaged-2.json").read_text() == "again"
    assert (desk / "progress-damaged-1.json").read_bytes() == content


@pytest.fixture
def closed(monkeypatch) -> Iterator[Path]:
    """A folder with a student notebook that this process may read and not write (root becomes another user)."""
    folder = Path(tempfile.mkdtemp(prefix="steer-"))  # pytest's own folders are closed to other users
    hand_out(folder)
    for name in ("STEER_PROGRESS", "STEER_GRADING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "_said", set())
    monkeypatch.chdir(folder)
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_read_only_folder_is_one_line_and_the_notebook_goes_on(closed, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check.exercise("00.1", mine) is mine
        check.exercise("00.2", wrong)
    said = [line for line in capsys.readouterr().out.splitlines() if "progress" in line]
    assert said == [
        "your progress is not kept (Permission denied): copy your notebooks to a folder where you can write"
    ]
    with pytest.raises(CourseError, match=r"progress\.json could not be written \(Permission denied\)"):
        progress.sign("Ada")
    progress.overview()
    assert f"0 of {len(EXERCISES)} checks passed" in capsys.readouterr().out
    assert [path.name for path in closed.iterdir()] == ["00_start.ipynb"]


def test_a_kernel_that_holds_the_lock_stops_nobody(desk, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_FOR_LOCK", 0.1)
    with FileLock(desk / f".{progress.FILE}.lock"):
        check.exercise("00.1", mine)
    assert "your progress is not kept (" in capsys.readouterr().out
    check.exercise("00.1", mine)
    assert kept(desk)["00.1"].tries == 1


def test_a_write_that_breaks_off_leaves_the_file_as_it_was(desk, monkeypatch, capsys):
    check.exercise("00.2", wrong)
    before = (desk / progress.FILE).read_bytes()

    def full(self, *arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    check.exercise("00.1", mine)
    assert "your progress is not kept (No space left on device)" in capsys.readouterr().out
    assert (desk / progress.FILE).read_bytes() == before
    assert not [
        path.name for path in desk.iterdir() if path.name.startswith(f".{progress.FILE}.") and "lock" not in path.name
    ]


# A name --------------------------------------------------------------------------------------------------------


def test_a_name_is_what_the_learner_types_and_stays(desk, capsys):
    progress.sign("  Ada   Lovelace ")
    assert capsys.readouterr().out == "progress.json now carries the name Ada Lovelace\n"
    check.exercise("00.1", mine)
    found = progress.read_progress(desk / progress.FILE)
    assert found.student == "Ada Lovelace" and found.passed == ["00.1"]
    text = (desk / progress.FILE).read_text()
    assert str(Path.home()) not in text and str(desk) not in text


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\x00b"])
def test_what_is_no_name_is_refused(desk, name):
    with pytest.raises(CourseError, match="1 to 60 characters"):
        progress.sign(name)


# The page ------------------------------------------------------------------------------------------------------

TITLES = {"01.2": "factors", "01.1": "the level", "14.10": "last", "14.9": "before <last>"}
TAKEN = Progress("Ada <b>", {"01.1": Tried(2, "2026-03-04 10:12"), "14.9": Tried(1), "14.10": Tried(3)})


def test_the_page_as_text():
    assert repr(Page(TAKEN, TITLES)).splitlines() == [
        "Ada <b>: 1 of 4 checks passed",
        "01  #.         1 of 2",
        "14  ..         0 of 2  14.9 (1 try), 14.10 (3 tries)",
    ]
    assert repr(Page(Progress(), TITLES)).splitlines()[0] == "0 of 4 checks passed"


def test_the_page_in_a_notebook():
    page = Page(TAKEN, TITLES)._repr_html_()
    assert "<p><b>Ada &lt;b&gt;: 1 of 4 checks passed</b></p>" in page and "before &lt;last&gt;" in page
    assert '<tr><th scope="row">01</th><td>1 of 2</td>' in page and "width: 50%" in page
    assert '<tr><th scope="row">01.1</th><td>the level</td><td>2026-03-04 10:12</td><td>2</td></tr>' in page
    assert page.index(">14.9<") < page.index(">14.10<")
    assert "http" not in page and "<script" not in page
    colours = set(re.findall(r"#[0-9a-f]{3,6}\b", progress.STYLE))
    assert colours == {"#009e73"}, "text and lines take the colour of the theme, light or dark"


def test_the_overview_names_every_exercise(desk, capsys):
    check.exercise("00.1", mine)
    capsys.readouterr()
    progress.overview()
    assert f"1 of {len(EXERCISES)} checks passed" in capsys.readouterr().out


# A class -------------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_in(tmp_path) -> Path:
    """Files of three learners, one damaged; one typed a formula as a name."""
    folder = tmp_path / "class"
    for name, found in {"ada": TAKEN, "bob/progress": Progress("=1+1", {"01.1": Tried(1, "2026-03-04 11:00")})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        progress._write(folder / f"{name}.json", found)
    (folder / "eve.json").write_text('{"student"')
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/ada.json").write_text("{}")
    return folder


def test_a_class_becomes_one_table_and_unreadable_files_are_named(handed_in, tmp_path, capsys):
    table = tmp_path / "class.csv"
    assert progress.main([str(handed_in), "--table", str(table)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{table}: 2 learners, 4 exercises\n"
    assert said.err == "eve.json: is not a record of progress, or damaged\n"
    with table.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("Ada <b>", "ada.json", "01.1", "2026-03-04 10:12", "2"),
        ("Ada <b>", "ada.json", "14.10", "", "3"),
        ("Ada <b>", "ada.json", "14.9", "", "1"),
        ("'=1+1", "bob/progress.json", "01.1", "2026-03-04 11:00", "1"),
    ]


def test_without_a_file_the_table_is_printed(handed_in, capsys):
    (handed_in / "eve.json").unlink()
    assert progress.main([str(handed_in)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("student,file,exercise,passed,tries\nAda <b>,ada.json,01.1,") and said.err == ""


def test_an_empty_folder_and_a_table_that_cannot_be_written(handed_in, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert progress.main([str(tmp_path / "none")]) == 1
    assert "no record of progress below" in capsys.readouterr().err
    (handed_in / "eve.json").unlink()
    (tmp_path / "file").write_text("")
    assert progress.main([str(handed_in), "--table", str(tmp_path / "file/class.csv")]) == 1
    assert "could not be written" in capsys.readouterr().err


def test_a_table_that_cannot_be_printed_is_called_so(handed_in, monkeypatch, capsys):
    (handed_in / "eve.json").unlink()

    class Closed:
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert progress.main([str(handed_in)]) == 1
    assert capsys.readouterr().err == "the table could not be written (Broken pipe)\n"
