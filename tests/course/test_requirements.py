"""The environment check: right verdicts, one line each, and never a traceback."""

from __future__ import annotations

import ast
import io
import subprocess
import sys

import pytest

from helpers.base import settings, sources
from helpers.course import requirements

SCRIPT = settings.PROJECT / "helpers" / "course" / "requirements.py"


def run_with_version(version: tuple[int, int, int]) -> subprocess.CompletedProcess:
    """Run the script by its path, as the Makefile does, in a Python that claims to have this version."""
    code = (
        f"import runpy, sys; sys.version_info = {(*version, 'final', 0)}; sys.argv = ['x', '--python-only']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    # -S: no site-packages, as before anything is installed; -P: helpers cannot be imported.
    return subprocess.run([sys.executable, "-S", "-P", "-c", code], capture_output=True, text=True)


def test_an_old_python_is_told_so_in_one_line():
    done = run_with_version((3, 10, 14))
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert "[FAIL] Python: 3.10.14 -> install Python 3.11" in done.stdout


def test_a_new_python_passes_in_silence():
    done = run_with_version((3, 13, 0))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_python_can_read_the_script():
    ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("version", "ok"), [("2.13.0+cpu", True), ("2.13.1", True), ("3.0.0a0", True), ("2.9.1", False), ("1.13", False)]
)
def test_torch_versions(version, ok):
    assert requirements.check_torch(version).ok is ok


def test_an_old_torch_names_the_remedy():
    line = str(requirements.check_torch("2.9.1+cu128"))
    assert line.startswith("[FAIL] PyTorch: 2.9.1+cu128 -> ") and "make lab" in line


def test_this_environment_has_the_pinned_packages():
    assert requirements.check_packages().ok, requirements.check_packages()


def test_a_missing_or_other_package_is_named(monkeypatch):
    lines = ["numpy==0.1", "no-such-package==1", "tqdm==0 ; extra == 'lab'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    check = requirements.check_packages()
    assert not check.ok
    assert "numpy is " in check.found and "no-such-package is missing" in check.found and "tqdm" not in check.found


def test_an_empty_cache_is_reported(cache, capsys):
    assert requirements.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    for name in sources.read_manifest():
        assert f"[FAIL] {name}: missing -> run `make data`" in lines


def test_the_disk_line_does_not_tell_whose_machine_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    found = requirements.check_disk().found
    assert "~" in found and str(tmp_path) not in found


def test_a_damaged_source_is_reported(cache):
    folder = sources.folder_of("movielens-100k")
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text("user_id:token")
    assert requirements.check_source("movielens-100k").found == "damaged"


def test_a_check_that_cannot_be_made_fails_in_one_line(cache, monkeypatch, capsys):
    def broken():
        raise ImportError("libcudart.so is missing\nand a long story")

    monkeypatch.setattr(requirements, "check_torch", broken)
    checks = requirements.check_all()
    assert "[FAIL] PyTorch: could not be checked (libcudart.so is missing) -> " in capsys.readouterr().out
    assert len([check for check in checks if check.name == "PyTorch"]) == 1


def test_any_console_can_print_a_failure(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    requirements.say(requirements.Check("Daten", False, "für René: ≥ 2", "→ mehr"))
    assert console.buffer.getvalue().startswith(b"[FAIL] Daten: f?r Ren?: ? 2 -> ? mehr")


def test_a_closed_pipe_is_not_an_error(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    requirements.say("nobody reads this")
