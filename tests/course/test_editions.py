"""The editions for a class: no solution is left, nothing else is lost, and a blank notebook runs to its end."""

from __future__ import annotations

import ast
import contextlib
import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.base.storage import CourseError
from helpers.course import editions as build
from helpers.course.exercises import EXERCISES

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def source(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@cache
def student(path: Path) -> nbformat.NotebookNode:
    return build.student(source(path))


def code(text: str, shown: str = "", number: int = 1) -> nbformat.NotebookNode:
    """A code cell that ran and printed `shown`."""
    outputs = [v4.new_output("stream", text=shown)] if shown else []
    return v4.new_code_cell(text, execution_count=number, outputs=outputs)


def notebook(*cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook whose cells are called c0, c1 and so on."""
    for number, cell in enumerate(cells):
        cell.id = f"c{number}"
    return v4.new_notebook(cells=list(cells))


def marked(text: str) -> str:
    """Writes the marks in full, which would be long in tables."""
    return text.replace("<<", "# BEGIN SOLUTION").replace(">>", "# END SOLUTION")


# Stubs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    <<\n    return x\n    >>", f"def f(x):\n    {build.STUB}"),
        (
            "def f(x):\n    y = 1\n    <<\n    y = x\n    >>\n    return y\n",
            f"def f(x):\n    y = 1\n    {build.STUB}\n    return y\n",
        ),
        (
            "def f(x):\n    if x:\n        <<\n        x = 1\n        >>\n",
            f"def f(x):\n    if x:\n        {build.STUB}\n",
        ),
        (
            "class A:\n    def f(self):\n        <<\n        pass\n        >>",
            f"class A:\n    def f(self):\n        {build.STUB}",
        ),
        ("%%time\ndef f(x):\n    <<\n    return x\n    >>", f"%%time\ndef f(x):\n    {build.STUB}"),
        ("a = 0\n<<\nb = [i for i in range(3)]\nc, d = b, 1\n>>\ne = 2", "a = 0\nb = c = d = ...\ne = 2"),
        ("<<\ndef f(x):\n    y = x\n    return y\n\n\n>>\nf(1)", "f = ...\nf(1)"),
        ("for i in range(3):\n    <<\n    a[i] = i\n    >>", "for i in range(3):\n    a = ..."),
        ("<<\nprint(1)\n>>", "..."),
        ("<<\na = 1\n>>\nb = 2\n<<\nc = 3\n>>", "a = ...\nb = 2\nc = ..."),
        ("a = 'the SOLUTION'", "a = 'the SOLUTION'"),
    ],
)
def test_a_solution_becomes_one_line(text, expected):
    made = build.blank(v4.new_code_cell(marked(text)))
    assert made == expected
    ast.parse(made.removeprefix("%%time\n"))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (code(marked("x = 1\n<<\ny = 2")), "cell c0, line 2: BEGIN SOLUTION without END SOLUTION"),
        (code(marked("y = 2\n>>")), "cell c0, line 2: # END SOLUTION: there is no BEGIN"),
        (code(marked("<<\ny = 2\n>>\n>>")), "line 4: # END SOLUTION: there is no BEGIN"),
        (code(marked("<<\ny = 2\n<<\nz = 3\n>>")), "line 3: # BEGIN SOLUTION: the solution before it has no END"),
        (code("### BEGIN SOLUTION\ny = 2\n### END SOLUTION"), "line 1: ### BEGIN SOLUTION: a mark must stand alone"),
        (code("y = 2  # BEGIN SOLUTION"), "a mark must stand alone"),
        (v4.new_markdown_cell(marked("<<\ny\n>>")), "a mark must stand alone on a line of a code cell"),
        (code(marked("def f(:\n    <<\n    return 1\n    >>")), "not valid Python"),
    ],
)
def test_a_wrong_mark_is_refused(cell, text):
    with pytest.raises(CourseError, match=re.escape(text)):
        build.student(notebook(cell))


# What else changes, and what does not --------------------------------------------------------------------------

SOLVED = marked("def f(x):\n    <<\n    return 2 * x\n    >>")
CHECK = '# NBVAL_CHECK_OUTPUT\nf = check.exercise("01.1", f)'


def test_the_student_edition_has_no_output_and_no_mark_of_the_tests():
    cells = [code("# NBVAL_CHECK_OUTPUT\nprint(3)", "3\n"), code(SOLVED), code(CHECK, "[OK]\n"), code("%time b", "4\n")]
    made = build.student(notebook(*cells))
    assert [(cell.outputs, cell.execution_count) for cell in made.cells] == [([], None)] * 4
    assert made.cells[0].source == "print(3)" and "NBVAL" not in nbformat.writes(made)
    assert cells[1].source == SOLVED and cells[2].outputs, "the notebook itself has changed"


def test_a_folded_solution_is_open_where_it_is_to_be_written_and_other_cells_stay_folded():
    cells = [code(SOLVED), code("x = 1"), code('f = check.exercise("01.1", f)')]
    for cell in cells[:2]:
        cell.metadata["jupyter"] = {"source_hidden": True}
    for edition in (build.student, build.for_nbgrader):
        made = edition(notebook(*cells))
        assert [cell.metadata.get("jupyter", {}).get("source_hidden", False) for cell in made.cells[:2]] == [
            False,
            True,
        ]
    assert cells[0].metadata["jupyter"] == {"source_hidden": True}, "the notebook itself has changed"


def test_the_edition_for_tests_is_blank_and_keeps_what_is_compared():
    cells = [code(CHECK, "[OK]\n", 3), code(f"# NBVAL_CHECK_OUTPUT\n{SOLVED}\nf(1)", "2", 4), code("c = 1\nc", "1")]
    made = build.for_tests(notebook(*cells))
    assert [(cell.outputs, cell.execution_count) for cell in made.cells] == [
        (cells[0].outputs, 3),
        (cells[1].outputs, 4),
        ([], None),
    ]
    assert made.cells[0].source == CHECK and not build.MARK.search(nbformat.writes(made))


@pytest.mark.parametrize("bad", [code("# NBVAL_CHECK_OUTPUT\n1"), code("# NBVAL_CHECK_OUTPUT\n1", "1", None)])
def test_a_cell_that_nbval_would_pass_over_is_refused(bad):
    with pytest.raises(CourseError, match="cell c0 is to be compared and has no outputs"):
        build.for_tests(notebook(bad))


@pytest.mark.slow
def test_nbval_compares_the_edition_for_tests(tmp_path):
    stub = marked("import numpy as np\n\n\ndef cosine_of(a, b):\n    <<\n    return 1\n    >>")
    ask = 'from helpers.course import check\n\ncosine_of = check.exercise("00.1", cosine_of)'
    cells = [code(stub)]
    for text, shown in [
        (ask, "[OK] 00.1 the cosine\n"),
        ("cosine_of(np.ones(2), 3 * np.ones(2)) > 0.99", "True"),
        ("print('other value')", "value\n"),
        (f"print('other verdict')\n{ask}", "other verdict\n[WRONG] 00.1 the cosine\n"),
        (f"print('other exercise')\n{ask}", "other exercise\n[OK] 00.2 the cosine\n"),
    ]:
        cells.append(code(f"# NBVAL_CHECK_OUTPUT\n{text}", shown, len(cells)))
    cells[2].outputs = [v4.new_output("execute_result", data={"text/plain": "np.True_"}, execution_count=2)]
    nbformat.write(build.for_tests(notebook(*cells)), path := tmp_path / "blank.ipynb")
    makefile = (PROJECT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    options = re.search(r"^NBVAL := (.*)$", makefile, re.MULTILINE)[1].split()
    command = [sys.executable, "-m", "pytest", "-rf", "-p", "no:cacheprovider", *options, str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert "3 failed, 3 passed" in done.stdout.replace("\x1b", ""), done.stdout
    assert all(f"Cell {number}" in done.stdout.partition("short test summary")[2] for number in (3, 4, 5))


def test_make_test_runs_every_notebook_once():
    planned = subprocess.run(["make", "-n", "test"], cwd=PROJECT, capture_output=True, text=True).stdout
    assert planned.count("helpers.course.editions tests") == 1
    for path in NOTEBOOKS:
        assert planned.count(f" build/tests/notebooks/{path.name}") == 1 and planned.count(path.stem) == 1


def test_told_solutions_go_and_hints_and_answers_to_the_quiz_stay():
    hint = "<details><summary>Hint 1</summary>Twice.</details>\n"
    quiz = "<details><summary>Answers</summary>1. The solution doubles.</details>"
    told = "<details open>\n<summary> Solution </summary>\n\n`2 * x`\n\n</details>\n"
    (cell,) = build.student(notebook(v4.new_markdown_cell(hint + told + hint + quiz))).cells
    assert cell.source == hint + hint + quiz


def test_sentences_about_the_edition_with_solutions_are_reworded():
    for old, new in build.REWORDED.items():
        assert any(old in cell.source for path in NOTEBOOKS for cell in source(path).cells), f"gone: {old}"
        assert any(new in cell.source for path in NOTEBOOKS for cell in student(path).cells)
    assert not any("In this edition" in cell.source for path in NOTEBOOKS for cell in student(path).cells)


# Every notebook ------------------------------------------------------------------------------------------------


def solutions(path: Path) -> list[tuple[int, str]]:
    """(cell, text between the marks) of every solution of a notebook."""
    found = []
    for index, cell in enumerate(source(path).cells):
        lines = cell.source.split("\n")
        found += [(index, "\n".join(lines[first + 1 : last])) for first, last in build.regions(cell)]
    return found


@every_notebook
def test_no_solution_survives(path):
    text = nbformat.writes(student(path))
    assert not build.MARK.search(text)
    assert "<summary>Solution" not in text
    for index, solution in solutions(path):
        assert not [cell.id for cell in student(path).cells if solution in cell.source]
        assert student(path).cells[index].outputs == []


@every_notebook
def test_a_stub_cell_is_its_source_with_one_line_for_the_solution(path):
    for index in {index for index, _ in solutions(path)}:
        lines, stubs = source(path).cells[index].source.split("\n"), 0
        for line in student(path).cells[index].source.split("\n"):
            if line.strip() == build.STUB or line.endswith("= ..."):
                stubs += 1
            else:
                assert line in lines
        assert stubs == len(build.regions(source(path).cells[index]))
        ast.parse(student(path).cells[index].source)


@every_notebook
def test_hints_and_all_other_cells_stay(path):
    before, after = source(path), student(path)
    nbformat.validate(after)
    assert [cell.id for cell in before.cells] == [cell.id for cell in after.cells]
    with_solution = {index for index, _ in solutions(path)}
    for index, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)):
        assert old.source.count("<summary>Hint") == new.source.count("<summary>Hint")
        if index not in with_solution and not any(sentence in old.source for sentence in build.REWORDED):
            assert new.source == build.TOLD.sub("", build.COMPARED.sub("", old.source))
            assert new.metadata == old.metadata


@every_notebook
def test_what_the_tests_run_is_the_student_edition_with_all_that_is_compared(path):
    made = build.for_tests(source(path))
    for cell, old, blank in zip(made.cells, source(path).cells, student(path).cells, strict=True):
        assert build.COMPARED.sub("", cell.source) == blank.source
        if cell.cell_type == "code":
            compared = "NBVAL" in old.source
            assert ("NBVAL" in cell.source, cell.outputs) == (compared, old.outputs if compared else [])


def test_every_exercise_has_a_stub_before_its_check():
    numbers = []
    for path in NOTEBOOKS:
        stubs = 0
        for cell in student(path).cells:
            stubs += cell.source.count(build.STUB) + len(re.findall(r"= \.\.\.$", cell.source, re.MULTILINE))
            for _, number in build.CHECKED.findall(cell.source) if cell.cell_type == "code" else ():
                assert stubs, f"no stub before the check of {number}"
                numbers, stubs = [*numbers, number], 0
    assert sorted(numbers) == sorted(EXERCISES)


def ask_all(path: Path, book: nbformat.NotebookNode) -> list[str]:
    """Run imports, given functions, exercises and checks of a notebook, and nothing else; numbers of its checks."""
    names: dict = {}
    sources = [
        cell.source for cell in book.cells if cell.cell_type == "code" and not re.search(r"^[%!]", cell.source, re.M)
    ]
    for node in [node for text in sources for node in ast.parse(text).body]:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
            with contextlib.suppress(NameError):  # a default that only a run of the notebook would know
                exec(compile(ast.Module([node], type_ignores=[]), path.name, "exec"), names)
    with_solution = {index for index, _ in solutions(path)}
    asked = []
    for index, cell in enumerate(book.cells):
        if index in with_solution:
            exec(compile(cell.source, path.name, "exec"), names)
        for found in build.CHECKED.finditer(cell.source) if cell.cell_type == "code" else ():
            exec(found[0], names)
            asked.append(found[2])
    return asked


@every_notebook
def test_blank_exercises_are_unfinished_and_solutions_are_right(path, capsys):
    for book, tag in ((student(path), "TODO"), (source(path), "OK")):
        asked = ask_all(path, book)
        said = re.findall(r"^\[(\w+)\] ([\w.]+)", capsys.readouterr().out, re.MULTILINE)
        assert said == [(tag, number) for number in asked]
        assert len(asked) == len({index for index, _ in solutions(path)})  # one may have several gaps


# Files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small course: one notebook with a solution, and files that do and do not belong in a release."""
    root = tmp_path / "project"
    texts = {
        "pyproject.toml": '[project]\nversion = "1.2"\n',
        "Makefile": "lab:\n",
        "helpers/a.py": "A = 1\n",
        "helpers/__pycache__/a.pyc": "",
        "notebooks/INSTRUCTOR.md": "answers\n",
        "notebooks/RESULTS.md": "results\n",
        "tests/test_a.py": "",
        ".ci/run": "",
        ".venv/pyvenv.cfg": "",
        "build/old.zip": "",
        "wheels/a.whl": "wheel",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    nbformat.write(
        notebook(code("from helpers.course import check"), code(SOLVED), code(CHECK, "[OK]\n")),
        root / "notebooks/01_one.ipynb",
    )
    return root


BELONGS = ["Makefile", "helpers/a.py", "notebooks/01_one.ipynb", "notebooks/RESULTS.md", "pyproject.toml"]


def test_a_release_outside_of_a_repository_leaves_out_what_is_made(project):
    assert [str(file) for file in build.released(project)] == BELONGS


def test_a_release_of_a_repository_holds_what_is_in_git_and_there(project):
    for name in ("gone.txt", "ignored.txt"):
        (project / name).write_text("")
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run(["git", "-C", str(project), "add", "gone.txt", "tests", ".ci", *BELONGS, "notebooks"], check=True)
    (project / "gone.txt").unlink()
    assert [str(file) for file in build.released(project)] == BELONGS


def test_git_that_fails_is_reported(project):
    (project / ".git").write_text("gitdir: nowhere\n")
    with pytest.raises(CourseError, match="git could not list the files of the course: fatal"):
        build.released(project)


def names_in(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return [name.split("/", 1)[1] for name in archive.namelist()]


def test_wheels_go_along(project, tmp_path):
    (project / "wheels/b.tar.gz").write_text("archive")
    made = build.release(project, tmp_path, project / "wheels")
    assert made.name == "steering-course-1.2.zip"
    assert names_in(made) == [*BELONGS, "wheels/a.whl", "wheels/b.tar.gz"]
    with zipfile.ZipFile(made) as archive:
        assert archive.read("steering-course-1.2/wheels/a.whl") == b"wheel"


def test_a_folder_without_wheels_is_refused_and_nothing_written(project, tmp_path):
    for folder in (project / "helpers", project / "absent"):
        with pytest.raises(CourseError, match=r"there are no wheels in .*`make wheels DIR="):
            build.release(project, tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """The release of the course, unpacked."""
    folder = tmp_path_factory.mktemp("release")
    made = build.release(PROJECT, folder)
    again = build.release(PROJECT, folder / "again")
    assert made.read_bytes() == again.read_bytes(), "two releases of the same files differ"
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
    return folder / made.stem


def test_the_release_has_all_that_make_lab_needs(released):
    needed = (
        "LICENSE",
        "README.md",
        "constraints.txt",
        "environment.yml",
        "data/sources.toml",
        "helpers/course/requirements.py",
    )
    assert [name for name in needed if not (released / name).is_file()] == []
    assert not (released / "tests").exists() and not (released / ".ci").exists()
    in_git = {file.name for file in build.released(PROJECT) if file.suffix == ".ipynb"}
    assert "00_start_here.ipynb" in in_git
    assert {path.name for path in (released / "notebooks").glob("*.ipynb")} == in_git
    planned = subprocess.run(["make", "-n", "lab"], cwd=released, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert "pip install" in planned.stdout and "jupyter lab" in planned.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "helpers.course.fetch", "--list"], cwd=released, capture_output=True, text=True
    )
    assert listed.returncode == 0 and "movielens" in listed.stdout, listed.stderr


def test_the_release_has_no_solution_in_a_notebook(released):
    for path in [*(released / "notebooks").glob("*.ipynb"), *(released / "notebooks").glob("*.md")]:
        assert not build.MARK.search(path.read_text("utf-8")), path.name
        if path.suffix == ".ipynb":
            assert nbformat.read(path, as_version=4) == student(PROJECT / "notebooks" / path.name)


def dead_links(page: Path) -> list[str]:
    """Relative links of a page to files that are not there."""
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text("utf-8"))
    return [link for link in links if not re.match(r"\w+:", link) and not (page.parent / link).exists()]


def test_no_page_of_the_release_speaks_of_what_is_not_in_it(released):
    pages = sorted(released.rglob("*.md"))
    assert {"README.md", "RUNNING.md"} <= {page.name for page in pages}
    assert {page.name: dead for page in pages if (dead := dead_links(page))} == {}
    for page in pages:
        assert not re.search(r"INSTRUCTOR|make (test|check)\b|`tests/`", page.read_text("utf-8")), page.name


def test_the_other_lines_of_these_pages_stay(released):
    for name in build.WHOLE_COURSE:
        whole, made = ((root / name).read_text("utf-8").splitlines() for root in (PROJECT, released))
        assert [line for line in made if line not in whole] == []
        assert 0 < len(whole) - len(made) <= 6 and len(made) > 50


def test_a_dead_link_is_noticed(tmp_path):
    (tmp_path / "there.md").write_text("[a](there.md#x) [b](gone.md) [c](#x) [d](https://example.org) ![e](gone.png)")
    assert dead_links(tmp_path / "there.md") == ["gone.md", "gone.png"]


# The command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_out(project, monkeypatch, capsys) -> Path:
    """The folder of student notebooks, made for the first time."""
    monkeypatch.chdir(project)
    assert build.main(["student"], project) == 0
    assert capsys.readouterr().out == "notebooks in build/student/notebooks: 1, new: 1\n"
    assert build.STUB in nbformat.read("build/student/notebooks/01_one.ipynb", as_version=4).cells[1].source
    return project / "build/student/notebooks"


def changed(path: Path, index: int, source: str, **more) -> bytes:
    """Change one cell of a notebook; the file as it is then."""
    book = nbformat.read(path, as_version=4)
    book.cells[index].update(source=source, **more)
    nbformat.write(book, path)
    return path.read_bytes()


def test_what_a_learner_wrote_is_never_overwritten(project, handed_out, capsys):
    solved = changed(handed_out / "01_one.ipynb", 1, "def f(x):\n    return 2 * x")
    (handed_out / "my_notes.ipynb").write_text("not even a notebook")
    assert build.main(["student"], project) == 0
    assert capsys.readouterr().out == "notebooks in build/student/notebooks: 2, new: 0\n"
    changed(project / "notebooks/01_one.ipynb", 0, "# the course has changed")
    assert build.main(["student"], project) == 0
    assert capsys.readouterr().out == (
        "notebooks in build/student/notebooks: 2, new: 0\n"
        "the course has changed; left as they are, since somebody has written into them: 01_one.ipynb "
        "(move one away to get the new one)\n"
    )
    assert (handed_out / "01_one.ipynb").read_bytes() == solved
    assert (handed_out / "my_notes.ipynb").read_text() == "not even a notebook"
    (handed_out / "01_one.ipynb").rename(handed_out / "mine.ipynb")
    assert build.main(["student"], project) == 0
    assert "the course has changed" in (handed_out / "01_one.ipynb").read_text()
    assert (handed_out / "mine.ipynb").read_bytes() == solved


def test_a_notebook_that_only_ran_keeps_its_outputs_until_the_course_changes(project, handed_out, capsys):
    path = handed_out / "01_one.ipynb"
    source = nbformat.read(path, as_version=4).cells[0].source
    ran = changed(path, 0, source, outputs=[v4.new_output("stream", text="ran")], execution_count=1)
    assert build.main(["student"], project) == 0 and path.read_bytes() == ran
    changed(project / "notebooks/01_one.ipynb", 0, "# the course has changed")
    assert build.main(["student"], project) == 0
    assert capsys.readouterr().out.endswith("student/notebooks: 1, new: 1\n")
    assert "the course has changed" in path.read_text()


def test_a_notebook_that_the_course_has_no_more_goes_if_nobody_wrote_into_it(project, handed_out, capsys):
    for name in ("02_two", "03_three"):
        nbformat.write(notebook(code("x = 1")), project / f"notebooks/{name}.ipynb")
    assert build.main(["student"], project) == 0
    changed(handed_out / "03_three.ipynb", 0, "x = 2")
    for name in ("02_two", "03_three"):
        (project / f"notebooks/{name}.ipynb").unlink()
    assert build.main(["student"], project) == 0
    assert sorted(path.name for path in handed_out.iterdir()) == ["01_one.ipynb", "03_three.ipynb"]


def planned(*arguments: str) -> subprocess.CompletedProcess:
    """What make would do, with the variables of the test's own environment left out."""
    return subprocess.run(["make", "-n", *arguments], cwd=PROJECT, capture_output=True, text=True)


def test_make_lab_opens_the_edition_that_was_asked_for():
    student = planned("lab", "EDITION=student").stdout.splitlines()
    made = next(i for i, line in enumerate(student) if line.endswith("-m helpers.course.editions student"))
    opened = next(i for i, line in enumerate(student) if line.endswith("build/student/notebooks/00_start_here.ipynb"))
    assert made < opened
    plain = planned("lab").stdout
    assert " notebooks/00_start_here.ipynb" in plain and "editions" not in plain
    other = planned("lab", "EDITION=teacher")
    assert other.returncode and "EDITION is 'teacher': leave it out, or set it to 'student'" in other.stderr


def test_the_commands_say_what_they_wrote(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert build.main(["release", "--wheels", "wheels"], project) == 0
    assert capsys.readouterr().out.startswith("build/steering-course-1.2.zip: 0.0 MB, with data that is for your class")
    assert build.main(["nbgrader", "grading"], project) == 0
    assert capsys.readouterr().out == "files written in grading: 2\n"
    assert build.main(["otter", "otter"], project) == 0
    assert capsys.readouterr().out == "files written in otter: 1\n"
    assert build.main(["tests"], project) == 0
    assert capsys.readouterr().out == "notebooks written in build/tests/notebooks: 1\n"


def test_a_wrong_mark_stops_every_edition_with_one_line(project, capsys):
    nbformat.write(notebook(code(marked("<<\nx = 1"))), project / "notebooks/02_two.ipynb")
    for arguments in (["student"], ["release"], *([name, str(project / "grading")] for name in ("nbgrader", "otter"))):
        assert build.main(arguments, project) == 1
        assert capsys.readouterr().err == "02_two.ipynb: cell c0, line 1: BEGIN SOLUTION without END SOLUTION\n"
    assert sorted(path.name for path in (project / "build").iterdir()) == ["old.zip"]
    assert not (project / "grading").exists()


def test_a_folder_that_cannot_be_written_is_one_line(project, capsys):
    (project / "grading").write_text("a file")
    assert build.main(["nbgrader", str(project / "grading")], project) == 1
    assert capsys.readouterr().err.startswith("could not write the edition (")


# For nbgrader --------------------------------------------------------------------------------------------------


def told(cell) -> tuple:
    meta = cell.metadata.get("nbgrader")
    return meta and (meta.grade_id, meta.grade, meta.locked, meta.solution, meta.get("points"))


def test_a_check_is_alone_in_its_cell_and_gives_a_point():
    both = code(f"{SOLVED}\n{CHECK}\n\n# a value below\nf(0.25)", "[OK]\n0.5")
    made = build.for_nbgrader(notebook(code("x = 1"), code("# BEGIN SOLUTION\ny = 1\n# END SOLUTION"), both))
    nbformat.validate(made)
    assert [(cell.id, told(cell)) for cell in made.cells] == [
        ("c0", None),
        ("c1", ("solution-01-1", False, False, True, None)),
        ("c2", ("solution-01-1-2", False, False, True, None)),
        ("c2-1", ("check-01-1", True, True, False, 1)),
        ("c2-2", None),
        ("c2-3", None),
    ]
    assert [cell.source for cell in made.cells[2:]] == [
        SOLVED,
        'f = check.exercise("01.1", f)',
        'f = check.right_or_reference("01.1", f)',
        "# a value below\nf(0.25)",
    ]


def test_a_solution_without_a_check_is_refused():
    with pytest.raises(CourseError, match="cell c1 holds a solution that no check follows"):
        build.for_nbgrader(notebook(code("x = 1"), code(SOLVED)))


@every_notebook
def test_nbgrader_gets_every_exercise_and_every_line(path):
    made = build.for_nbgrader(source(path))
    nbformat.validate(made)
    ids = [cell.metadata.nbgrader.grade_id for cell in made.cells if "nbgrader" in cell.metadata]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    mine = [number for number in EXERCISES if number.startswith(path.stem.split("_")[0] + ".")]
    assert sorted(name for name in ids if name.startswith("check")) == [
        f"check-{n.replace('.', '-')}" for n in sorted(mine)
    ]

    def lines(book):
        every = [line for cell in book.cells for line in cell.source.split("\n") if line.strip()]
        return [line for line in every if "check.right_or_reference(" not in line]

    graded = [line for line in lines(source(path)) if line.strip() != "# NBVAL_CHECK_OUTPUT"]
    assert graded == [line for line in lines(made) if line.strip() != "# NBVAL_CHECK_OUTPUT"]


def test_a_configuration_that_is_there_stays(project, tmp_path):
    first = build.write_nbgrader(project, tmp_path / "grading")
    assert [str(path.relative_to(tmp_path)) for path in first] == [
        "grading/source/01_one/01_one.ipynb",
        "grading/nbgrader_config.py",
    ]
    first[1].write_text("mine")
    assert build.write_nbgrader(project, tmp_path / "grading") == first[:1]
    assert first[1].read_text() == "mine"


# For otter-grader ----------------------------------------------------------------------------------------------


def test_a_solution_and_its_test_are_a_question_and_the_check_follows():
    book = notebook(code("x = 1"), code(SOLVED), code(f"{CHECK}\nf(0.25)", "[OK]\n0.5"))
    made = build.for_otter(book)
    nbformat.validate(made)
    assert [cell.cell_type for cell in made.cells].count("raw") == 7
    assert [cell.source for cell in made.cells[1:]] == [
        "x = 1",
        "# BEGIN QUESTION\nname: q01_1\npoints: 1\ncheck_cell: false",
        "# BEGIN SOLUTION",
        SOLVED,
        "# END SOLUTION",
        "# BEGIN TESTS",
        "from helpers.course.check import assert_right\nassert_right('01.1', f)",
        "# END TESTS",
        "# END QUESTION",
        'f = check.exercise("01.1", f)',
        "f(0.25)",
    ]


def test_otter_needs_a_check_behind_each_solution():
    with pytest.raises(CourseError, match="cell c1 holds a solution that no check follows"):
        build.for_otter(notebook(code("x = 1"), code(SOLVED), code("y = 1")))
    made = build.for_otter(notebook(code("x = 1"), code(SOLVED), code("y = 1"), code(CHECK)))
    sources = [cell.source for cell in made.cells]
    assert sources.index("# END SOLUTION") < sources.index("y = 1") < sources.index("# BEGIN TESTS")


@every_notebook
def test_otter_gets_every_exercise_and_every_line(path):
    made = build.for_otter(source(path))
    nbformat.validate(made)
    names = re.findall(r"^name: q(\w+)$", "\n".join(cell.source for cell in made.cells), re.MULTILINE)
    mine = [number for number in EXERCISES if number.startswith(path.stem.split("_")[0] + ".")]
    assert sorted(names) == sorted(number.replace(".", "_") for number in mine)
    own = [cell.source for cell in made.cells if cell.cell_type != "raw" and "import assert_right" not in cell.source]
    lines = [line for text in own for line in text.split("\n") if line.strip()]
    expected = [line for cell in source(path).cells for line in cell.source.split("\n") if line.strip()]
    left_out = "# NBVAL_CHECK_OUTPUT"
    assert [line for line in lines if line != left_out] == [line for line in expected if line != left_out]
