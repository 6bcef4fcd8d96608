"""Settings: one rule for every path that a user can set, and no reader beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.domains import amazon

READERS = {
    "STEER_CACHE": settings.cache_dir,
    "STEER_WHEELS": settings.wheel_folder,
    "STEER_RESULTS": settings.results_file,
    "STEER_AMAZON": lambda: settings.own_data("STEER_AMAZON"),
    "STEER_TRUTHFULQA": lambda: settings.own_data("STEER_TRUTHFULQA"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_path_is_the_same_from_every_folder(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (settings.PROJECT, settings.PROJECT / "notebooks", tmp_path):
        monkeypatch.chdir(folder)
        for value, meant in {
            "build/mine": settings.PROJECT / "build/mine",
            "~/mine": tmp_path / "mine",
            f"{tmp_path}/mine\r": tmp_path / "mine",
            "/some where/é": Path("/some where/é"),
        }.items():
            monkeypatch.setenv(name, value)
            assert READERS[name]() == meant, value


@pytest.mark.parametrize("name", READERS)
def test_empty_is_unset(name, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "PROJECT", tmp_path / "project")
    monkeypatch.delenv(name, raising=False)
    unset = READERS[name]()
    assert unset is None or name == "STEER_CACHE"
    for empty in ("", " "):
        monkeypatch.setenv(name, empty)
        assert READERS[name]() == unset


def test_own_data_beside_the_project_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "PROJECT", tmp_path / "project")
    monkeypatch.delenv("STEER_AMAZON", raising=False)
    folder = tmp_path / "shared/data/amazon"
    assert READERS["STEER_AMAZON"]() is None and amazon.gift_cards() is None
    folder.mkdir(parents=True)
    assert READERS["STEER_AMAZON"]() == folder and amazon.gift_cards() is None
    for name in amazon.GIFT_CARDS:
        (folder / name).touch()
    assert amazon.gift_cards() == tuple(folder / name for name in amazon.GIFT_CARDS)


def reads_environment(source: str) -> list[str]:
    """Names of STEER_ variables that a module reads from the environment itself, through a constant or not."""
    tree = ast.parse(source)
    constants = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv", "environ.get"):
            asked = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            asked = node.slice
        else:
            continue
        name = asked.value if isinstance(asked, ast.Constant) else constants.get(ast.unparse(asked))
        if isinstance(name, str) and name.startswith("STEER_"):
            found.append(name)
    return sorted(found)


NO_PATHS = {
    "STEER_PROFILE",
    "STEER_API_KEY",
    "STEER_SERVE_KEY",
    "STEER_GRADING",
    "STEER_PROGRESS",
    "STEER_MODEL",
    "STEER_DTYPE",
    "STEER_DEVICE",
}


def test_no_module_reads_a_path_from_the_environment_itself():
    for path in sorted((settings.PROJECT / "helpers").rglob("*.py")):
        assert set(reads_environment(path.read_text("utf-8"))) <= NO_PATHS, path
    code = 'import os\nKEY = "STEER_B"\na, b = os.environ.get("STEER_A"), os.getenv(KEY)\nc = os.environ["STEER_C"]'
    assert reads_environment(code) == ["STEER_A", "STEER_B", "STEER_C"]


def test_what_needs_a_checkout_says_so_when_installed(monkeypatch, tmp_path, capsys):
    from helpers.course import editions, run, slides

    assert settings.checkout() == settings.PROJECT
    monkeypatch.setattr(settings, "PACKAGED", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEER_CACHE", "mine")
    assert settings.cache_dir() == tmp_path / "mine" and settings.data_file("x") == tmp_path / "x"
    with pytest.raises(CourseError, match="in a checkout"):
        settings.checkout()
    for started in (lambda: run.main([]), lambda: editions.main(["student"]), slides.main):
        assert started() == 1
        error = capsys.readouterr().err
        assert "run it in a checkout" in error and error.count("\n") == 1


def test_every_setting_stands_in_the_table_of_settings():
    code = [path.read_text("utf-8") for path in (settings.PROJECT / "helpers").rglob("*.py")]
    known = set(re.findall(r"\bSTEER_[A-Z_]+", "".join(code)))
    table = (settings.PROJECT / "notebooks" / "RUNNING.md").read_text("utf-8").split("## Settings")[1].split("\n## ")[0]
    assert known == set(re.findall(r"\bSTEER_[A-Z_]+", table)) and len(known) > 10
