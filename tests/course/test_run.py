"""`make course` on tiny notebooks: runs, resumes, shows a failure, reruns what changed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import v4

from helpers.base import settings
from helpers.base.compute import default_device, preferred_dtype
from helpers.course import run as course
from helpers.course.run import Course

RECORD = (
    "import os\nfrom helpers.course import results\n"
    "row = results.record('{name}', {value}, n=1, seeds=[0], unit='m', notebook='{number}')\nrow['profile']"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_PROFILE", "small")
    for name, content in {"helpers/a.py": "x = 1\n", "data/sources.toml": "", "pyproject.toml": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    write(tmp_path, "00_first", RECORD.format(name="first.length", value=1.5, number="00"))
    return tmp_path


def write(project: Path, stem: str, *sources: str) -> Path:
    book = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {stem}"), *map(v4.new_code_cell, sources)])
    book.metadata.kernelspec = {"name": "a-kernel-nobody-has", "display_name": "?", "language": "python"}
    path = project / "notebooks" / f"{stem}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    return path


def state(project: Path) -> dict:
    return json.loads((project / "build/course_state.json").read_text())


def recorded(project: Path) -> dict:
    return json.loads((project / "build/results.json").read_text())


def test_runs_writes_results_and_then_keeps_them(project, capsys):
    assert course.main([], project) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "profile small, notebooks: 00_first"
    assert lines[1].startswith("00_first  ") and lines[1].endswith(" s  ok")
    assert any(line.startswith("first.length") for line in lines)
    assert recorded(project)["first.length"]["value"] == 1.5
    assert state(project)["00_first"]["results"] == ["first.length"]
    book = nbformat.read(project / "build/executed/00_first.ipynb", as_version=4)
    assert book.cells[1].execution_count == 1
    assert book.cells[1].outputs[0].data["text/plain"] == "'small'"
    assert "<h1" in (project / "build/html/00_first.html").read_text()
    assert not (project / "notebooks/RESULTS.md").exists()

    assert course.main(["0"], project) == 0
    assert "00_first  cached (" in capsys.readouterr().out


@pytest.fixture
def counted(project, monkeypatch):
    """A project whose notebooks are not really run: `ran` collects their names."""
    ran = []

    def pretend(run: Course, notebook: Path) -> nbformat.NotebookNode:
        ran.append(notebook.stem)
        rows = recorded(project) if run.results.exists() else {}
        rows[f"r.{notebook.stem}"] = {
            "value": len(ran),
            "ci_low": None,
            "ci_high": None,
            "n": 1,
            "seeds": [0],
        }
        rows[f"r.{notebook.stem}"] |= {"unit": "m", "notebook": notebook.stem, "profile": run.profile}
        run.results.write_text(json.dumps(rows))
        run.executed(notebook).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.read(notebook, as_version=4), run.executed(notebook))
        return nbformat.read(notebook, as_version=4)

    monkeypatch.setattr(course, "execute", pretend)
    write(project, "01_second", "1")
    assert course.main([], project) == 0
    assert ran == ["00_first", "01_second"]
    ran.clear()
    assert course.main([], project) == 0
    assert ran == []
    return project, ran


def rename_cell(project):
    write(project, "01_second", "2")


def change_helper(project):
    (project / "helpers/a.py").write_text("x = 2\n")


def change_manifest(project):
    (project / "data/sources.toml").write_text("new = 1\n")


def change_pins(project):
    (project / "pyproject.toml").write_text("new = 1\n")


def lose_copy(project):
    (project / "build/executed/00_first.ipynb").unlink()


def lose_result(project):
    rows = recorded(project)
    del rows["r.01_second"]
    (project / "build/results.json").write_text(json.dumps(rows))


def take_another_model(project):
    os.environ["STEER_MODEL"] = "owner/other"


def take_another_number_format(project):
    os.environ["STEER_DTYPE"] = "float32" if preferred_dtype(default_device()) != torch.float32 else "bfloat16"


def change_labels(project):
    (project / "data/refusal_labels.json").write_text("{}")


def bring_own_data(project):
    (project / "mine.csv").write_text("Question\n")
    os.environ["STEER_TRUTHFULQA"] = str(project / "mine.csv")


BOTH = ["00_first", "01_second"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (rename_cell, ["01_second"]),
        (change_helper, BOTH),
        (change_manifest, BOTH),
        (change_pins, BOTH),
        (take_another_model, BOTH),
        (take_another_number_format, BOTH),
        (change_labels, BOTH),
        (bring_own_data, BOTH),
        (lose_copy, ["00_first"]),
        (lose_result, ["01_second"]),
    ],
)
def test_what_changed_runs_again(counted, change, again, monkeypatch):
    project, ran = counted
    for name in ("STEER_MODEL", "STEER_DTYPE", "STEER_TRUTHFULQA"):
        monkeypatch.setenv(name, "")
    change(project)
    assert course.main([], project) == 0
    assert ran == again


def test_the_full_profile_runs_again_and_writes_the_report(counted, monkeypatch):
    project, ran = counted
    monkeypatch.setenv("STEER_PROFILE", "full")
    assert course.main(["01"], project) == 0
    report = project / "notebooks/RESULTS.md"
    assert ran == ["01_second"] and not report.exists()  # half of a half
    assert course.main([], project) == 0
    assert ran == ["01_second", "00_first"]
    page = report.read_text()
    assert "r.00_first" in page and "commit `unknown`" in page and "profile full" in page
    assert str(project) not in page and str(Path.home()) not in page
    assert "chat model smollm2-135m-instruct" in page

    monkeypatch.setenv("STEER_MODEL", "owner/other")
    assert course.main([], project) == 0
    assert report.read_text() == page, "what the notebooks quote stays that of the default model"
    assert "r.00_first" in (project / "build/RESULTS_other.md").read_text()


def test_a_section_names_the_commit_and_the_day_of_its_runs_and_not_of_its_writing(counted, monkeypatch):
    project, _ = counted
    monkeypatch.setenv("STEER_PROFILE", "full")
    monkeypatch.setattr(course, "commit", lambda project: "old1234")
    monkeypatch.setattr(course, "machine", lambda: "an old machine")
    assert course.main([], project) == 0
    monkeypatch.setattr(course, "commit", lambda project: "new5678")
    monkeypatch.setattr(course, "machine", lambda: "a new machine")
    assert course.main([], project) == 0  # nothing runs
    page = (project / "notebooks/RESULTS.md").read_text()
    assert "`old1234`" in page and "new" not in page
    write(project, "01_second", "3")
    assert course.main([], project) == 0
    page = (project / "notebooks/RESULTS.md").read_text()
    assert "`old1234, new5678`" in page and "an old machine, a new machine" in page


def test_a_commit_with_changes_is_named_as_such(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers/a.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = course.commit(tmp_path)
    assert len(clean) >= 7 and "changes" not in clean
    (tmp_path / "helpers/a.py").write_text("x = 2\n")
    assert course.commit(tmp_path) == f"{clean} with changes"


def test_results_of_an_older_run_are_dropped(counted):
    project, _ = counted
    rows = recorded(project)
    rows["stale"] = rows["r.00_first"] | {"notebook": "00"}
    (project / "build/results.json").write_text(json.dumps(rows))
    lose_copy(project)
    assert course.main([], project) == 0
    assert set(recorded(project)) == {"r.00_first", "r.01_second"}


def test_a_failing_cell_is_shown_and_the_rest_resumes(project, capsys):
    write(project, "01_second", "done = 1\ndone", "shelf = {}\nshelf['missing']", "'never'")
    assert course.main([], project) == 1
    out = capsys.readouterr().out
    assert "01_second  FAILED" in out and "cell 2 failed" in out
    assert "shelf['missing']" in out and "KeyError: 'missing'" in out and "\x1b" not in out
    book = nbformat.read(project / "build/executed/01_second.ipynb", as_version=4)
    assert [cell.execution_count for cell in book.cells[1:]] == [1, 2, None]
    assert set(state(project)) == {"00_first"}

    write(project, "01_second", "'mended'")
    assert course.main([], project) == 0
    out = capsys.readouterr().out
    assert "00_first  cached (" in out and "01_second  " in out and "first.length" in out


def test_a_dead_kernel_is_a_failing_cell(project, capsys):
    write(project, "00_first", "import os\nos._exit(3)")
    assert course.main([], project) == 1
    out = capsys.readouterr().out
    assert "os._exit(3)" in out and "died" in out


@pytest.mark.slow
def test_ctrl_c_stops_the_kernel_and_the_next_run_resumes(project, capsys):
    pid_file = project / "pid"
    write(
        project,
        "01_second",
        f"import os, time\nopen({str(pid_file)!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(99)",
    )
    # A shell starts background jobs with SIGINT ignored, and the tests may run in one.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start = "import sys; from helpers.course.run import *; sys.exit(main([], Path(sys.argv[1])))"
    command = [sys.executable, "-c", listen + start, str(project)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.splitlines()[-1] == "interrupted: `make course` resumes with the notebook that was running"
    assert err == ""
    wait_for(lambda: not alive(int(pid_file.read_text())))

    write(project, "01_second", "'mended'")
    assert course.main([], project) == 0
    assert "00_first  cached (" in capsys.readouterr().out


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_select_keeps_the_order_of_the_course(project):
    for stem in ("X1_explore", "10_tenth", "02_third", "notes"):
        write(project, stem)
    run = Course(project)
    stems = [path.stem for path in course.select(run, [])]
    assert stems == ["00_first", "02_third", "10_tenth", "X1_explore"]
    chosen = course.select(run, ["x1", "notebooks/10_tenth.ipynb", "2", "02"])
    assert [path.stem for path in chosen] == ["02_third", "10_tenth", "X1_explore"]


def test_an_unknown_notebook_or_profile_is_one_line(project, capsys, monkeypatch):
    assert course.main(["00", "42"], project) == 2
    assert capsys.readouterr().err == "no notebook '42': the course has 00\n"
    monkeypatch.setenv("STEER_PROFILE", "huge")
    assert course.main([], project) == 2
    assert "set it to 'small' or 'full'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(project, capsys):
    (project / "build").write_text("in the way")
    assert course.main([], project) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_every_notebook_that_measures_belongs_to_one_section_of_the_results():
    numbers = [path.name.split("_")[0] for path in (settings.PROJECT / "notebooks").glob("[0-9]*.ipynb")]
    for number in numbers:
        assert sum(number in section for section in course.SECTIONS.values()) == 1, number
    assert {number for section in course.SECTIONS.values() for number in section} == set(numbers)
