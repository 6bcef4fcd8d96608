"""The editions of the course for a class, made from the notebooks, where the solution is the source.

    python -m helpers.course.editions student            notebooks to fill in, in build/student/notebooks
    python -m helpers.course.editions tests              the same, with the outputs that `make test` compares
    python -m helpers.course.editions release            a zip of the course with these notebooks
    python -m helpers.course.editions nbgrader FOLDER    a course folder for nbgrader, to hand out and to grade
    python -m helpers.course.editions otter FOLDER       notebooks for `otter assign` of otter-grader

What a learner is to write stands between the marks `# BEGIN SOLUTION` and `# END SOLUTION`, which nbgrader and
otter-grader look for as well. What somebody has written into a student notebook is never overwritten.
A release only hides the solutions: the references that checks compare with are in `helpers`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode, v4

from helpers.base import settings
from helpers.base.storage import CourseError, atomic_file

MARK = re.compile(r"\b(BEGIN|END) SOLUTION\b")
STUB = 'raise NotImplementedError("your code here")'
COMPARED = re.compile(r"^[ \t]*# NBVAL_CHECK_OUTPUT[ \t]*\n?", re.MULTILINE)
CHECKED = re.compile(r"^(\w+) = check\.exercise\(\"([\w.]+)\", \1\)$", re.MULTILINE)
TOLD = re.compile(r"<details[^>]*>\s*<summary>\s*Solution.*?</details>\n?", re.DOTALL | re.IGNORECASE)
# Sentences in the notebooks about the edition with solutions, and what the student edition says instead.
REWORDED = {
    "In this edition its cell is folded and holds the solution, between a BEGIN and an END comment: open it, "
    "put your code there instead, then run": (
        "Put your code in place of the line that raises `NotImplementedError`, then run"
    ),
}
# Lines of the pages about the whole course that speak of what a release leaves out.
WHOLE_COURSE = ("README.md", "notebooks/RUNNING.md")
LEFT_OUT = re.compile(r"INSTRUCTOR\.md|\bmake (?:test|check)\b|`tests/`")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OWN_NAMES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

# Solutions in a cell -------------------------------------------------------------------------------------------


def regions(cell: NotebookNode) -> list[tuple[int, int]]:
    """Line numbers of the two marks of each solution in a cell, counted from 0.

    Raises:
        CourseError: a mark is unpaired, inside another solution, in a text cell, or not alone on its line.
    """
    found: list[tuple[int, int]] = []
    opened: int | None = None
    for number, line in enumerate(cell.source.split("\n")):
        mark = MARK.search(line)
        if mark is None:
            continue
        where = f"cell {cell.get('id', '')}, line {number + 1}: {line.strip()}"
        if cell.cell_type != "code" or line.strip() != f"# {mark[0]}":
            raise CourseError(f"{where}: a mark must stand alone on a line of a code cell")
        if mark[1] == "BEGIN":
            if opened is not None:
                raise CourseError(f"{where}: the solution before it has no END SOLUTION")
            opened = number
        else:
            if opened is None:
                raise CourseError(f"{where}: there is no BEGIN SOLUTION before it")
            found.append((opened, number))
            opened = None
    if opened is not None:
        raise CourseError(f"cell {cell.get('id', '')}, line {opened + 1}: BEGIN SOLUTION without END SOLUTION")
    return found


def blank(cell: NotebookNode) -> str:
    """Source of a cell with one line in place of each solution; the other lines stay as they are.

    Raises:
        CourseError: see `regions`; or a cell with a solution is not valid Python.
    """
    lines, solutions = cell.source.split("\n"), regions(cell)
    if not solutions:
        return cell.source
    if (tree := _parsed(cell.source)) is None:
        raise CourseError(f"cell {cell.get('id', '')} holds a solution and is not valid Python")
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    for first, last in reversed(solutions):
        indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
        # Line first + 2, counted from 1 as `ast` does, is the first one of the solution.
        inside = any(node.lineno < first + 2 <= (node.end_lineno or 0) for node in functions)
        solution = textwrap.dedent("\n".join(lines[first : last + 1]))
        lines[first : last + 1] = [indent + (STUB if inside else _ellipsis(solution))]
    return "\n".join(lines)


def _ellipsis(solution: str) -> str:
    """`name = ...` for every name that a solution outside a function assigns: a check then says TODO."""
    return " = ".join([*dict.fromkeys(_bound(ast.parse(solution))), "..."])


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a piece of code assigns, defines or writes into, except inside functions."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield from (part.id for part in ast.walk(node.value) if isinstance(part, ast.Name))
    elif not isinstance(node, OWN_NAMES):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


def _parsed(source: str) -> ast.Module | None:
    """The syntax tree of a cell, with magics and shell lines as `pass`; None if it is not Python (`%%html`)."""
    try:
        return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
    except SyntaxError:
        return None


def unfold(cell: NotebookNode) -> None:
    """Show the source of a cell with a solution, which the notebook folds so that readers try first."""
    if regions(cell):
        cell.metadata.get("jupyter", {}).pop("source_hidden", None)


# The student edition -------------------------------------------------------------------------------------------


def student(book: NotebookNode) -> NotebookNode:
    """A copy to fill in: stubs for solutions, no outputs, and no marks for the tests; hints stay.

    Its metadata say which edition it is (`progress` counts tries there only) and hold a digest of its sources.

    Raises:
        CourseError: a mark is wrong, see `regions`.
    """
    book = copy.deepcopy(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            unfold(cell)
            cell.update(source=COMPARED.sub("", blank(cell)), outputs=[], execution_count=None)
            continue
        regions(cell)  # refuses marks outside of code
        cell.source = TOLD.sub("", cell.source)
        for old, new in REWORDED.items():
            cell.source = cell.source.replace(old, new)
    book.metadata["steering_course"] = {"edition": "student", "made": _digest(book)}
    return book


def _digest(book: NotebookNode) -> str:
    """A digest of all sources of a notebook: it changes as soon as somebody writes into one of its cells."""
    return hashlib.sha256(repr([(cell.cell_type, cell.source) for cell in book.cells]).encode()).hexdigest()[:16]


def _made(path: Path) -> tuple[str, bool]:
    """The digest from when a student notebook was made (empty: it is not one), and whether its sources still match."""
    try:
        book = nbformat.read(path, as_version=4)
        made = book.metadata["steering_course"]["made"]
        return made, made == _digest(book)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, nbformat.ValidationError):
        return "", False


def for_tests(book: NotebookNode) -> NotebookNode:
    """The student edition, where the cells that nbval compares keep their mark and the outputs of the source.

    Checks hand out their references, so a blank notebook computes what its source does.

    Raises:
        CourseError: a mark is wrong, see `regions`; or a cell to compare has no outputs: nbval would skip it.
    """
    made = student(book)
    del made.metadata["steering_course"]
    for cell, source in zip(made.cells, book.cells, strict=True):
        if source.cell_type != "code" or not COMPARED.search(source.source):
            continue
        if not source.outputs or source.execution_count is None:
            raise CourseError(f"cell {source.get('id', '')} is to be compared and has no outputs: run the notebook")
        kept = copy.deepcopy({name: source[name] for name in ("outputs", "execution_count")})
        cell.update(source=blank(source), **kept)
    return made


def write_notebooks(project: Path, folder: Path, edit: Callable[[NotebookNode], NotebookNode] = student) -> list[Path]:
    """Write an edition into `folder`, and delete notebooks there that are not (or no longer) in the course.

    Raises:
        CourseError: see `student` and `for_tests`; the message names the notebook.
    """
    texts = {folder / name: _text(book) for name, book in _every(project, edit).items()}
    written = _written(texts)
    for path in set(folder.glob("*.ipynb")) - set(texts):
        path.unlink()
    return written


def hand_out(project: Path, folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the student edition into `folder`, but never over a learner's work; (written, kept though outdated).

    A notebook that the course has changed since is replaced only if nobody has written into it.

    Raises:
        CourseError: see `student`; the message names the notebook.
    """
    books = {folder / name: book for name, book in _every(project, student).items()}
    old = {path: _made(path) for path in folder.glob("*.ipynb")}
    new = {
        path: book for path, book in books.items() if old.get(path, ("", True))[0] != book.metadata.steering_course.made
    }
    kept = [path for path in new if path in old and not old[path][1]]
    written = _written({path: _text(book) for path, book in new.items() if path not in kept})
    for path, (_, untouched) in old.items():
        if untouched and path not in books:
            path.unlink()
    return written, kept


def _every(project: Path, edit: Callable[[NotebookNode], NotebookNode]) -> dict[str, NotebookNode]:
    """An edition of every notebook of the course, by file name."""
    return {path.name: _edited(path, edit) for path in sorted((project / "notebooks").glob("*.ipynb"))}


def _edited(path: Path, edit: Callable[[NotebookNode], NotebookNode]) -> NotebookNode:
    try:
        return edit(nbformat.read(path, as_version=4))
    except CourseError as error:
        raise CourseError(f"{path.name}: {error}") from error


def _text(book: NotebookNode) -> str:
    return nbformat.writes(book).rstrip("\n") + "\n"


def _written(texts: dict[Path, str]) -> list[Path]:
    """Write the files; returns their paths."""
    for path, text in texts.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(texts)


# A release for a class -----------------------------------------------------------------------------------------


def release(project: Path, folder: Path, wheels: Path | None = None) -> Path:
    """Write `steering-course-VERSION.zip` into `folder`, the same bytes for the same files; returns its path.

    It holds what `make lab` needs, with the student edition as its notebooks. With a folder of `wheels` (from
    `make wheels`) inside, `STEER_WHEELS=wheels make lab` works in a lab without network.

    Raises:
        CourseError: there are no wheels in that folder; see also `student` and `released`.
    """
    version = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    name = f"steering-course-{version}"
    collected = _wheels(wheels) if wheels else []
    target = folder / f"{name}.zip"
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in released(project):
            archive.writestr(_entry(f"{name}/{file}"), _content(project, file), zipfile.ZIP_DEFLATED)
        for path in collected:
            entry = _entry(f"{name}/wheels/{path.name}")
            entry.file_size = path.stat().st_size  # so that a wheel over 2 GB gets the longer header it needs
            with path.open("rb") as source, archive.open(entry, "w") as copied:
                shutil.copyfileobj(source, copied)
    return target


def _content(project: Path, file: PurePosixPath) -> bytes:
    """What a release has of a file: a notebook to fill in, or a page without lines about what is not there."""
    path = project / file
    if file.suffix == ".ipynb":
        return _text(_edited(path, student)).encode()
    if str(file) in WHOLE_COURSE:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if not LEFT_OUT.search(line)).encode()
    return path.read_bytes()


def released(project: Path) -> list[PurePosixPath]:
    """Files of a release, sorted: those in git (outside a repository all), without tests and the instructor's guide.

    Raises:
        CourseError: git is missing or fails.
    """
    if (project / ".git").exists():
        files = {PurePosixPath(name) for name in _tracked(project).split("\0") if name}
    else:
        files = {PurePosixPath(path.relative_to(project).as_posix()) for path in project.rglob("*")}
    return sorted(file for file in files if _belongs(file) and (project / file).is_file())


def _tracked(project: Path) -> str:
    command = ["git", "-C", str(project), "ls-files", "-z"]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
        raise CourseError(f"git could not list the files of the course: {reason}") from error


def _belongs(file: PurePosixPath) -> bool:
    made = any(p.startswith(".") or p == "__pycache__" or p.endswith((".egg-info", ".whl")) for p in file.parts)
    return not made and file.parts[0] not in ("tests", "build", "wheels") and str(file) != "notebooks/INSTRUCTOR.md"


def _wheels(folder: Path) -> list[Path]:
    """What `make wheels` put in a folder: wheels, and archives of packages that have none."""
    found = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    if not any(path.suffix == ".whl" for path in found):
        raise CourseError(f"there are no wheels in {folder}: `make wheels DIR={folder}` collects them")
    return found


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry that does not reveal when and where it was made."""
    entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry


# A course folder for nbgrader ----------------------------------------------------------------------------------

CONFIG = f'''"""For nbgrader: run its commands in this folder, with the Python of the course."""

import os
import sys

# nbgrader starts `alembic` by name; it is beside this Python even where no environment was activated.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
# Checks then raise unless the answer is right; nbgrader gives no point to a cell that raises.
os.environ["STEER_GRADING"] = "1"

c = get_config()
c.CourseDirectory.course_id = "steering-course"
c.ClearSolutions.begin_solution_delimeter = "BEGIN SOLUTION"
c.ClearSolutions.end_solution_delimeter = "END SOLUTION"
c.ClearSolutions.code_stub = {{"python": {STUB!r}}}
c.ExecutePreprocessor.timeout = 1800  # seconds per cell
'''


def for_nbgrader(book: NotebookNode) -> NotebookNode:
    """A copy with nbgrader's metadata: solutions may be edited, checks are locked and give a point each.

    Raises:
        CourseError: a mark is wrong, see `regions`, or no check follows a solution.
    """
    book = copy.deepcopy(book)
    book.cells = [part for cell in book.cells for part in _around_checks(cell)]
    waiting: list[NotebookNode] = []  # solutions whose check comes later
    for cell in book.cells:
        if regions(cell):
            unfold(cell)
            waiting.append(cell)
        elif cell.cell_type == "code" and (found := CHECKED.fullmatch(cell.source)):
            number = found[2].replace(".", "-")
            _tell_nbgrader(cell, f"check-{number}", grade=True)
            for count, solution in enumerate(waiting, start=1):
                _tell_nbgrader(
                    solution, f"solution-{number}" if count == 1 else f"solution-{number}-{count}", grade=False
                )
            waiting = []
    _refuse_unchecked(waiting)
    return book


def _refuse_unchecked(waiting: list[NotebookNode]) -> None:
    if waiting:
        raise CourseError(f"cell {waiting[0].get('id', '')} holds a solution that no check follows")


def _around_checks(cell: NotebookNode) -> list[NotebookNode]:
    """A cell split before and after each check, so that the check is alone in its cell.

    nbgrader would take a value shown below it for its points (0.5 for half a point), and a graded cell that holds a
    solution would have to be graded by hand. A check that raises assigns nothing, so the next cell assigns the
    reference: one mistake costs one point.
    """
    if cell.cell_type != "code" or not CHECKED.search(cell.source):
        return [cell]
    parts: list[list[str]] = [[]]
    for line in COMPARED.sub("", cell.source).split("\n"):
        if CHECKED.fullmatch(line):
            parts += [[line], [line.replace("check.exercise(", "check.right_or_reference(")], []]
        else:
            parts[-1].append(line)
    sources = [text for part in parts if (text := "\n".join(part).strip("\n"))]
    made = [copy.deepcopy(cell) for _ in sources]
    for count, (new, source) in enumerate(zip(made, sources, strict=True)):
        new.update(id=f"{cell.id}-{count}" if count else cell.id, source=source, outputs=[], execution_count=None)
    return made


def _tell_nbgrader(cell: NotebookNode, grade_id: str, *, grade: bool) -> None:
    mark = {"schema_version": 3, "grade_id": grade_id, "grade": grade, "locked": grade, "solution": not grade}
    cell.metadata["nbgrader"] = mark | {"task": False} | ({"points": 1} if grade else {})


def write_nbgrader(project: Path, folder: Path) -> list[Path]:
    """Write `source/NAME/NAME.ipynb` for each notebook with exercises; an existing configuration stays.

    Raises:
        CourseError: see `for_nbgrader`; the message names the notebook.
    """
    texts = {
        folder / "source" / Path(name).stem / name: _text(book)
        for name, book in _every(project, for_nbgrader).items()
        if any("nbgrader" in cell.metadata for cell in book.cells)
    }
    if not (config := folder / "nbgrader_config.py").exists():
        texts[config] = CONFIG
    return _written(texts)


# Notebooks for otter-grader --------------------------------------------------------------------------------------

# No cell of the notebook calls otter, so learners need not install it. The grader runs each test after its solution.
OTTER = """# ASSIGNMENT CONFIG
init_cell: false
export_cell: false
check_all_cell: false
generate:
    show_stdout: false"""
QUESTION = "# BEGIN QUESTION\nname: q{}\npoints: 1\ncheck_cell: false"
OTTER_TEST = "from helpers.course.check import assert_right\nassert_right({!r}, {})"


def for_otter(book: NotebookNode) -> NotebookNode:
    """A copy with otter-grader's cells around solutions: each check is a question worth one point.

    Its test runs after the solution and before the check, which hands out the reference; a reference that was handed
    out gets no point.

    Raises:
        CourseError: a mark is wrong, see `regions`, or no check follows a solution.
    """
    book = copy.deepcopy(book)
    parts = [part for cell in book.cells for part in _around_checks(cell)]
    book.cells = [v4.new_raw_cell(OTTER)]
    waiting: list[NotebookNode] = []  # a solution whose check comes later, and what follows it
    for cell in parts:
        unfold(cell)
        if cell.cell_type == "code" and (found := CHECKED.fullmatch(cell.source)):
            book.cells += [*_question(found[2], found[1], waiting), cell]
            waiting = []
        elif waiting or regions(cell):
            waiting.append(cell)
        elif "check.right_or_reference(" not in cell.source:  # the check itself goes on with the reference
            book.cells.append(cell)
    _refuse_unchecked(waiting)
    return book


def _question(number: str, answer: str, inside: list[NotebookNode]) -> list[NotebookNode]:
    """The cells of one question with its test; learners may change only the cells of the solution."""
    cells = [v4.new_raw_cell(QUESTION.format(number.replace(".", "_")))]
    for cell in inside:
        around = [v4.new_raw_cell(f"# {end} SOLUTION") for end in ("BEGIN", "END")] if regions(cell) else []
        cells += [*around[:1], cell, *around[1:]]
    test = v4.new_code_cell(OTTER_TEST.format(number, answer))
    ends = [v4.new_raw_cell(f"# END {name}") for name in ("TESTS", "QUESTION")]
    return [*cells, v4.new_raw_cell("# BEGIN TESTS"), test, *ends]


def write_otter(project: Path, folder: Path) -> list[Path]:
    """Write `NAME.ipynb` for each notebook with exercises, for `otter assign NAME.ipynb dist/NAME`.

    Raises:
        CourseError: see `for_otter`; the message names the notebook.
    """
    return _written(
        {
            folder / name: _text(book)
            for name, book in _every(project, for_otter).items()
            if any(cell.source == "# BEGIN TESTS" for cell in book.cells)
        }
    )


# The command ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, project: Path | None = None) -> int:
    """Exit code: 0 if all was written, 1 after one line that says why not, 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m helpers.course.editions", description="Editions for a class.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("student", help="notebooks to fill in, in build/student/notebooks")
    commands.add_parser("tests", help="the same with the outputs that the tests compare, in build/tests/notebooks")
    zipped = commands.add_parser("release", help="a zip of the course with these notebooks, in build/")
    zipped.add_argument("--wheels", type=Path, metavar="DIR", help="a folder from `make wheels` to put inside")
    for name, what in {"nbgrader": "a course folder for nbgrader", "otter": "notebooks for `otter assign`"}.items():
        commands.add_parser(name, help=what).add_argument("folder", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        print(_run(chosen, project or settings.checkout()))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"could not write the edition ({error.strerror or error}): {error.filename}", file=sys.stderr)
        return 1
    return 0


def _run(chosen: argparse.Namespace, project: Path) -> str:
    folder = project / "build" / chosen.command / "notebooks"
    if chosen.command == "tests":
        return f"notebooks written in {_shown(folder)}: {len(write_notebooks(project, folder, for_tests))}"
    if chosen.command == "student":
        return _handed_out(folder, *hand_out(project, folder))
    if chosen.command in (graders := {"nbgrader": write_nbgrader, "otter": write_otter}):
        return f"files written in {_shown(chosen.folder)}: {len(graders[chosen.command](project, chosen.folder))}"
    path = release(project, project / "build", chosen.wheels)
    note = ", with data that is for your class only: see data/README.md" if chosen.wheels else ""
    return f"{_shown(path)}: {path.stat().st_size / 1e6:.1f} MB{note}"


def _handed_out(folder: Path, written: list[Path], kept: list[Path]) -> str:
    said = f"notebooks in {_shown(folder)}: {len(list(folder.glob('*.ipynb')))}, new: {len(written)}"
    if kept:
        said += "\nthe course has changed; left as they are, since somebody has written into them: "
        said += ", ".join(path.name for path in kept) + " (move one away to get the new one)"
    return said


def _shown(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
