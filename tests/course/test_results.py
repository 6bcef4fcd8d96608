"""Results: rows, their file under concurrent writers, and tables."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers.base.storage import CourseError
from helpers.course import results


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "build" / "results.json"
    monkeypatch.setenv("STEER_RESULTS", str(path))
    monkeypatch.setenv("STEER_PROFILE", "small")
    return path


def row(name="eagle.utility", value=0.5, **changes):
    return results.record(name, value, **{"n": 8, "seeds": [0, 1], "unit": "stars", "notebook": "07"} | changes)


def test_record_merges_into_the_file(file):
    first = row(ci=(0.25, np.float32(0.75)))
    row("are.accuracy", np.int64(3), notebook="11")
    written = json.loads(file.read_text())
    assert list(written) == ["are.accuracy", "eagle.utility"]
    assert written["eagle.utility"] == first
    assert first == {
        "value": 0.5,
        "ci_low": 0.25,
        "ci_high": 0.75,
        "n": 8,
        "seeds": [0, 1],
        "unit": "stars",
        "notebook": "07",
        "profile": "small",
    }
    assert [path.name for path in file.parent.iterdir() if path.suffix == ".json"] == ["results.json"]


def test_record_without_a_file_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("STEER_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert row(value=torch.tensor(2.0), seeds=np.arange(3))["seeds"] == [0, 1, 2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "0.5", True, np.array([1.0, 2.0]), np.array([])])
def test_record_refuses_what_is_no_finite_number(file, bad, unchecked):
    with pytest.raises(CourseError, match=r"'eagle\.utility'.*finite"):
        row(value=bad)
    with pytest.raises(CourseError, match="finite"):
        row(ci=(0.0, bad))
    assert not file.exists()


def test_what_is_0_but_for_rounding_is_0(file):
    found = row(value=0.1 + 0.2 - 0.3, ci=(-7e-19, 3e-9))
    assert (found["value"], found["ci_low"], found["ci_high"]) == (0, 0, 3e-9)
    assert f"{found['ci_low']:.2f}" == "0.00"


@pytest.mark.parametrize("name", ["", "a b", "a..b", ".a", "a."])
def test_record_refuses_a_name_that_is_not_dotted(name):
    with pytest.raises(CourseError, match="dots"):
        row(name)


def test_record_refuses_a_reversed_interval():
    with pytest.raises(CourseError, match="lower bound first"):
        row(ci=(1.0, 0.0))


def test_two_processes_lose_nothing(file):
    code = (
        "import sys; from helpers.course import results\n"
        "for i in range(40):\n"
        "    results.record(f'{sys.argv[1]}.{i}', i, n=1, seeds=[i], unit='', notebook='00')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name], env=os.environ) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert set(results.load(file)) == {f"{name}.{i}" for name in "ab" for i in range(40)}


def test_load_of_a_missing_and_of_a_broken_file(tmp_path):
    assert results.load(tmp_path / "none.json") == {}
    for content in ("{", "[]"):
        (tmp_path / "broken.json").write_text(content)
        with pytest.raises(CourseError, match=r"broken\.json.*delete it"):
            results.load(tmp_path / "broken.json")


def test_forget_drops_one_notebook_by_number_and_by_name(file):
    row("a", notebook="07")
    row("b", notebook="07_training")
    row("c", notebook="08")
    assert results.of_notebook(results.load(file), "07_training") == ["a", "b"]
    results.forget(file, "07_training")
    assert list(results.load(file)) == ["c"]


def test_tables_show_every_column():
    rows = {"b.long_name": row("b.long_name", 12345), "a": row("a", 0.123456, ci=(0.1, 0.2))}
    lines = results.as_table(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["result", "a", "b.long_name"]
    assert lines[1].split() == ["a", "0.1235", "[0.1,", "0.2]", "8", "2", "stars", "07"]
    assert len({line.index(word) for line, word in zip(lines, ("unit", "stars", "stars"), strict=True)}) == 1
    page = results.as_markdown(rows, title="Half", machine="2 cores", date="2026-01-02", commit="abc123")
    assert "| a | 0.1235 | [0.1, 0.2] | 8 | 2 | stars | 07 |" in page
    assert all(text in page for text in ("2 cores", "2026-01-02", "`abc123`", "12345"))
    assert results.as_table({}).split()[0] == "result"
    assert "chat model smollm2-135m-instruct." in page


def test_results_of_another_model_name_it(file, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    for model, name in (("owner/other", "owner/other"), (str(tmp_path / "mine"), "mine")):
        monkeypatch.setenv("STEER_MODEL", model)
        rows = {"a": row("a"), "b": row("b") | {"model": "third"}}
        assert rows["a"]["model"] == name
        assert f"stars; {name}" in results.as_table(rows) and "stars; third" in results.as_table(rows)
        page = results.as_markdown(rows, title="t", machine="m", date="d", commit="c")
        assert f"| stars; {name} |" in page and f"chat model {name}, third." in page


def test_a_section_takes_the_place_of_its_older_self_only():
    def section(title, name):
        return results.as_markdown({name: row(name)}, title=title, machine="m", date="d", commit="c")

    page = results.with_section("", section("First half", "old"))
    page = results.with_section(page, section("Second half", "kept"))
    page = results.with_section(page, section("First half", "new"))
    assert "| new |" in page and "| kept |" in page and "| old |" not in page
    assert page.count("# Results") == 1 and page.index("## First half") < page.index("## Second half")
    assert results.with_section(page, section("First half", "new")) == page


def test_sections_stand_in_the_order_of_their_notebooks():
    page = ""
    for title in ("Tests", "B (notebooks 10 to 16)", "A (notebooks 03 to 05)", "C (notebooks 09, 17 and 18)"):
        page = results.with_section(page, results.as_markdown({}, title=title, machine="m", date="d", commit="c"))
    assert [line[3] for line in page.splitlines() if line.startswith("## ")] == list("ACBT")


def test_published_rows_are_those_of_the_page_under_a_prefix(tmp_path):
    rows = {"a.x": row("a.x", ci=(0.1, 0.2)), "a.y": row("a.y", ci=None), "b.x": row("b.x", ci=(-1.0, 0.2))}
    page = tmp_path / "RESULTS.md"
    page.write_text(results.as_markdown(rows, title="Half", machine="m", date="d", commit="c"), encoding="utf-8")
    value = float(f"{rows['a.x']['value']:.4g}")
    assert results.published("a.", page) == {"x": (value, 0.1, 0.2)}
    assert results.published("b.", page) == {"x": (value, -1.0, 0.2)}
    assert results.published("c.", page) == results.published("a.", tmp_path / "missing.md") == {}
    every = results.published("a.", page, single=True)
    assert set(every) == {"x", "y"} and every["x"] == (value, 0.1, 0.2)
    assert every["y"][0] == pytest.approx(rows["a.y"]["value"], rel=1e-3) and np.isnan(every["y"][1:]).all()
