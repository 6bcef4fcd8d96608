"""Run the notebooks in order and keep what they measured: `make course`, resumable after any interruption.

    python -m helpers.course.run            every notebook
    python -m helpers.course.run 01 X2      only these, by number or name

Everything is written under `build/`: executed notebooks, HTML pages, `results.json`, and the state to resume.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import itertools
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from traitlets import default

from helpers.base import settings
from helpers.base.compute import default_device, preferred_dtype
from helpers.base.storage import CourseError, atomic_file, sha256
from helpers.course import results

CELL_SECONDS = 6 * 3600  # one cell of notebook 08 runs all methods: hours in the full profile, with an empty memo
# nbconvert's own colours have less contrast than the WCAG asks for (4.5 to 1), and colour alone marks its links.
READABLE = """
.jp-RenderedHTMLCommon a { text-decoration: underline !important }
.jp-InputPrompt, .jp-OutputPrompt { color: #595959 !important; opacity: 1 !important }
.highlight { --jp-mirror-editor-operator-color: #7a00cc; --jp-mirror-editor-number-color: #006b00;
  --jp-mirror-editor-comment-color: #2f6464 }
"""
SECTIONS = {  # of the results page: what is measured in one run
    "Embedding spaces (notebooks 00 to 02)": {"00", "01", "02"},
    "Utility, environment and design (notebooks 03 to 05)": {"03", "04", "05"},
    "EAGLE agents (notebooks 06 and 07)": {"06", "07"},
    "EAGLE against its rivals (notebook 08)": {"08"},
    "Representations and their editing (notebooks 10 to 12)": {"10", "11", "12"},
    "Safety alignment (notebook 13)": {"13"},
    "Truth, bias, labels and limits (notebooks 14 to 16)": {"14", "15", "16"},
    "Another domain (notebook 09)": {"09"},
    "Larger machines (notebook 17)": {"17"},
    "Pictures (notebook 18)": {"18"},
}


class UnknownNotebook(CourseError):
    """A notebook was asked for that the course does not have."""


class CellFailed(Exception):
    """A cell raised, ran too long or killed its kernel; the message shows its source and the traceback."""


@dataclass(frozen=True)
class Course:
    """Where a run reads and writes, and its scale; `project` is the repository."""

    project: Path = settings.PROJECT
    profile: str = "small"

    @property
    def notebooks(self) -> Path:
        """Folder of the notebooks, also the working directory of their kernels."""
        return self.project / "notebooks"

    @property
    def results(self) -> Path:
        """File of what the notebooks recorded."""
        return self.project / "build/results.json"

    @property
    def state(self) -> Path:
        """File that says which notebooks need not run again."""
        return self.project / "build/course_state.json"

    def executed(self, notebook: Path) -> Path:
        """Executed copy of a notebook."""
        return self.project / "build/executed" / notebook.name

    def page(self, notebook: Path) -> Path:
        """HTML page of a notebook."""
        return self.project / "build/html" / f"{notebook.stem}.html"


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the running Python, whatever kernel is installed under the notebook's kernel name."""

    @default("transport_encryption")
    def _encrypt_where_possible(self) -> str:
        return "auto"  # otherwise each kernel warns that other users of the machine could listen in

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start the kernel."""
        return KernelSpec(**get_kernel_dict())


def select(course: Course, wanted: list[str]) -> list[Path]:
    """The notebooks of `wanted` (numbers or names; all when empty) in the order of the course.

    Raises:
        UnknownNotebook: one of them is not there.
    """
    known = sorted(course.notebooks.glob("[0-9X]*.ipynb"))
    chosen = set()
    for name in wanted:
        stem = Path(name).stem
        found = [path for path in known if stem.zfill(2).upper() in (path.stem.upper(), _number(path))]
        if not found:
            there = " ".join(_number(path) for path in known) or "none"
            raise UnknownNotebook(f"no notebook {name!r}: the course has {there}")
        chosen.update(found)
    return [path for path in known if path in chosen or not wanted]


def _number(notebook: Path) -> str:
    return notebook.stem.split("_")[0].upper()


def key(course: Course, notebook: Path) -> str:
    """SHA-256 of all that a notebook's results depend on.

    Its cells, the helpers, `data/`, the pins, the profile, the model, its device and number format, and own data.
    """
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(notebook, as_version=4).cells]
    device = default_device()
    scale = [course.profile, settings.model_name(), str(device), str(preferred_dtype(device))]
    digest = hashlib.sha256(repr([*scale, cells]).encode())
    parts = [sorted(course.project.glob(part)) for part in ("helpers/**/*.py", "data/*", "pyproject.toml")]
    for path in filter(Path.is_file, itertools.chain(*parts)):
        digest.update(f"{path.relative_to(course.project).as_posix()} {sha256(path)} ".encode())
    for place in filter(None, (settings.path_setting("STEER_MODEL"), *map(settings.own_data, settings.OWN_DATA))):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:  # may be large: not read, but dated
            if path.is_file():
                digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns} ".encode())
    return digest.hexdigest()


def cached(course: Course, notebook: Path) -> float | None:
    """Seconds the notebook took when it last ran, or None if it must run (again)."""
    entry = results.load(course.state).get(notebook.stem)
    if entry is None or entry["key"] != key(course, notebook) or not course.executed(notebook).exists():
        return None
    return entry["seconds"] if set(entry["results"]) <= set(results.load(course.results)) else None


def execute(course: Course, notebook: Path) -> nbformat.NotebookNode:
    """Run every cell in a fresh kernel and write the executed copy, the part that ran also after a failure.

    Raises:
        CellFailed: with the cell's source and its error.
    """
    book = nbformat.read(notebook, as_version=4)
    for cell in (cell for cell in book.cells if cell.cell_type == "code"):
        cell.update(outputs=[], execution_count=None)
    own = {"STEER_RESULTS": str(course.results), "STEER_PROFILE": course.profile, "STEER_PROGRESS": "0"}
    environment = os.environ | own
    client = NotebookClient(book, timeout=CELL_SECONDS, kernel_manager_class=ThisInterpreter)
    try:
        # Not client.execute(): its signal handlers turn Ctrl-C into the report of a dead kernel.
        with client.setup_kernel(cwd=str(course.notebooks), env=environment):
            try:
                for index, cell in enumerate(book.cells):
                    _execute_cell(client, cell, index)
            except KeyboardInterrupt:
                client.shutdown_kernel = "immediate"  # a busy kernel would print a traceback of its own
                raise
    finally:
        with atomic_file(course.executed(notebook)) as temporary:
            nbformat.write(book, temporary)
    return book


def _execute_cell(client: NotebookClient, cell: nbformat.NotebookNode, index: int) -> None:
    try:
        client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        report = strip_ansi(str(error))
        source = "" if cell.source in report else f"{cell.source}\n\n"
        raise CellFailed(f"cell {index} failed\n{source}{report}".rstrip()) from error


def as_page(book: nbformat.NotebookNode, notebook: Path) -> str:
    """HTML page of an executed notebook, in colours with enough contrast."""
    resources = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(book, resources=resources)
    return page.replace("</head>", f"<style>{READABLE}</style></head>", 1)


def run_notebook(course: Course, notebook: Path) -> float:
    """Execute one notebook, write its page and its entry in the state; returns the seconds it took."""
    # Before the run: an interrupted run must leave no entry and no half-old results.
    results.amend(course.state, lambda state: state.pop(notebook.stem, None))
    results.forget(course.results, notebook.stem)
    ran_with, origin, started = key(course, notebook), here(course.project), time.perf_counter()
    book = execute(course, notebook)
    seconds = round(time.perf_counter() - started, 1)
    with atomic_file(course.page(notebook)) as temporary:
        temporary.write_text(as_page(book, notebook), encoding="utf-8")
    entry = {
        "key": ran_with,
        "seconds": seconds,
        "origin": origin,
        "results": sorted(results.of_notebook(results.load(course.results), notebook.stem)),
    }
    results.amend(course.state, lambda state: state.update({notebook.stem: entry}))
    return seconds


def run(course: Course, wanted: list[str]) -> None:
    """Run what is not cached, with one line per notebook, then print the results and write them into RESULTS.md.

    Raises:
        UnknownNotebook, CellFailed: see `select` and `execute`; earlier notebooks stay done.
    """
    notebooks, total = select(course, wanted), 0.0
    print(f"profile {course.profile}, notebooks:", *(path.stem for path in notebooks), flush=True)
    for notebook in notebooks:
        seconds = cached(course, notebook)
        if seconds is not None:
            print(f"{notebook.stem}  cached ({seconds:.1f} s when run)", flush=True)
            continue
        try:
            seconds = run_notebook(course, notebook)
        except CellFailed:
            print(f"{notebook.stem}  FAILED", flush=True)
            raise
        total += seconds
        print(f"{notebook.stem}  {seconds:.1f} s  ok", flush=True)
    print("", results.as_table(results.load(course.results)), f"total {total:.1f} s", sep="\n")
    if course.profile == "full":
        write_report(course)


def write_report(course: Course) -> None:
    """Write the recorded results into notebooks/RESULTS.md, for each section that is complete."""
    for title, numbers in SECTIONS.items():
        notebooks = [path for path in select(course, []) if _number(path) in numbers]
        if not notebooks or any(cached(course, path) is None for path in notebooks):
            continue
        recorded = results.load(course.results)
        names = [name for path in notebooks for name in results.of_notebook(recorded, path.stem)]
        origins = [results.load(course.state)[path.stem]["origin"] for path in notebooks]
        write_section(course.project, title, {name: recorded[name] for name in names}, origins)


def here(project: Path) -> dict[str, str]:
    """Where and when something is measured: the machine, today's date and the commit."""
    return {"machine": machine(), "date": datetime.date.today().isoformat(), "commit": commit(project)}


def write_section(project: Path, title: str, rows: dict[str, Any], origins: list[dict[str, str]]) -> None:
    """Write results into their section of notebooks/RESULTS.md, replacing an older one with that title.

    `origins` (`here`) say where its parts were measured, which may be long ago.

    Results with another chat model than the default go to a page of their own under `build/`, since the notebooks quote
    those of the default.
    """
    another = settings.model_name() != settings.DEFAULT_MODEL
    page = project / (f"build/RESULTS_{settings.model_title()}.md" if another else "notebooks/RESULTS.md")
    known = {name: ", ".join(dict.fromkeys(origin[name] for origin in origins)) for name in origins[0]}
    section = results.as_markdown(rows, title=title, **known)
    written = page.read_text(encoding="utf-8") if page.exists() else ""
    with atomic_file(page) as temporary:
        temporary.write_text(results.with_section(written, section), encoding="utf-8")
        temporary.chmod(0o644)  # a tracked file, not a private temporary one


def processor() -> str:
    """Name of the processor, as far as the system reports it."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def machine() -> str:
    """Processor, cores and versions in words, without host name or path."""
    versions = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    return f"{platform.system()}, {processor()}, {os.cpu_count()} cores, {versions}"


def commit(project: Path) -> str:
    """Short hash of the commit checked out in `project`, `with changes` where files differ; `unknown` outside git."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(project), *command], capture_output=True, text=True, check=True).stdout

    try:
        changes = git("status", "--porcelain", "--", "helpers", "notebooks/*.ipynb", "data")
        return git("rev-parse", "--short", "HEAD").strip() + (" with changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: list[str], project: Path | None = None) -> int:
    """Exit code of a run: 0 done, 1 a cell or the machine failed, 2 unknown notebook, 130 interrupted."""
    try:
        profile = settings.profile()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        run(Course(project or settings.checkout(), profile), arguments)
    except KeyboardInterrupt:
        print("interrupted: `make course` resumes with the notebook that was running")
        return 130
    except CellFailed as failure:
        print(failure)
        return 1
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UnknownNotebook) else 1
    except OSError as error:
        print(
            f"could not write under build/ ({error.strerror or error}): free some space there",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
