"""What a class needs: hints that give nothing away, minutes on every card, and lesson plans that these minutes fit."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.course import editions
from helpers.course.exercises import EXERCISES

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
INSTRUCTOR = (PROJECT / "notebooks/INSTRUCTOR.md").read_text("utf-8")
PLANS = INSTRUCTOR.split("\n## Lesson plans\n")[1].split("\n## ")[0]
CARD = re.compile(r"^### (?:Build step|Exercise) (\d\d\.\d+): [^\n]*?\(([^()\n]*?)(\d+) minutes?\)$", re.MULTILINE)
HINT = re.compile(r"<details><summary>Hint (\d)</summary>(.*?)</details>", re.DOTALL)
HOME = 240  # minutes of a week


# Cards and hints -----------------------------------------------------------------------------------------------


def cards(book) -> dict[str, str]:
    """The text of each exercise, by number: its heading, and what stands below it up to the next heading."""
    prose = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    parts = re.split(r"^(?=#{1,3} )", prose, flags=re.MULTILINE)
    return {found[1]: part for part in parts if (found := CARD.match(part))}


def hints_of(card: str) -> list[str]:
    """What is in the folded hints of a card; numbers that do not count up are a fault."""
    found = HINT.findall(card)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1)), "hints are not numbered 1, 2, 3"
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", text))).strip() for _, text in found]


def solution_lines(book) -> set[str]:
    """Lines of all solutions that say something: what a hint must not spell out."""
    lines = set()
    for cell in book.cells:
        source = cell.source.split("\n")
        for first, last in editions.regions(cell):
            lines |= {line.strip() for line in source[first + 1 : last]}
    return {line for line in lines if len(line) >= 24 and not line.startswith(("#", "for ", "while ", "if "))}


def given_away(hints: list[str], book) -> list[str]:
    """Lines of solutions that a hint spells out."""
    return [line for line in solution_lines(book) for hint in hints if line in hint]


@cache
def source(path: Path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_with_a_check_has_hints_that_open_one_by_one(path):
    book, mine = source(path), [number for number in EXERCISES if number.startswith(path.stem[:2] + ".")]
    found = {number: hints_of(card) for number, card in cards(book).items()}
    assert {number for number in mine if not 2 <= len(found.get(number, [])) <= 3} == set()
    assert [number for number in mine if not all(found[number])] == []
    late = [number for number in mine if len(found[number]) == 3 and not re.match("Pitfalls?: ", found[number][2])]
    assert late == [], "the third hint names the pitfall"
    assert {number: given_away(found[number], book) for number in mine if given_away(found[number], book)} == {}


def test_rules_on_hints_notice_what_breaks_them():
    code = v4.new_code_cell("def f(x):\n    # BEGIN SOLUTION\n    return x.mean(axis=0) + 3 * x\n    # END SOLUTION")
    hint = "<details><summary>Hint {}</summary>Look at <code>{}</code>.</details>"
    card = "### Build step 01.1: a (difficulty 2 of 5, 8 minutes)\n\n{}\n\n### Else\n\n" + hint.format(3, "no")
    good = card.format(hint.format(1, "x.mean") + hint.format(2, "x &lt; 3"))
    book = v4.new_notebook(cells=[v4.new_markdown_cell(good), code])
    assert hints_of(cards(book)["01.1"]) == ["Look at x.mean.", "Look at x < 3."]
    assert given_away(hints_of(cards(book)["01.1"]), book) == []
    assert given_away(["<= return x.mean(axis=0) + 3 * x"], book) == ["return x.mean(axis=0) + 3 * x"]
    with pytest.raises(AssertionError, match="not numbered"):
        hints_of(hint.format(1, "a") + hint.format(3, "b"))


# Minutes -------------------------------------------------------------------------------------------------------


@cache
def minutes() -> dict[str, tuple[int, bool]]:
    """Minutes on the card of each exercise, and whether it is an open one."""
    found = {}
    for path in NOTEBOOKS:
        for card in cards(source(path)).values():
            number, kind, time = CARD.match(card).groups()
            found[number] = int(time), "open" in kind
    return found


@cache
def reading() -> dict[str, int]:
    """Minutes to read each notebook, as it says itself."""
    says = {
        path.stem[:2]: re.search(r"Time to read: (\d+) minutes", source(path).cells[0].source) for path in NOTEBOOKS
    }
    return {number: int(found[1]) for number, found in says.items() if found}


def test_every_exercise_states_its_minutes():
    assert set(EXERCISES) <= set(minutes()) and len(reading()) == len(NOTEBOOKS)


def test_the_table_of_notebooks_has_the_minutes_of_the_cards():
    rows = re.findall(r"^\| \[(\w\d) [^|]*\| *(\d+) \|[^|]*\|[^|]*\| *(\d*) \| *(\d*) \|$", INSTRUCTOR, re.MULTILINE)
    assert len(rows) == len(NOTEBOOKS)
    stated = {number: (int(read), int(checked or 0), int(open_ or 0)) for number, read, checked, open_ in rows}
    counted = {}
    for number in stated:
        mine = [spent for exercise, spent in minutes().items() if exercise.startswith(f"{number}.")]
        counted[number] = (
            reading()[number],
            *(sum(t for t, is_open in mine if is_open is kind) for kind in (False, True)),
        )
    assert stated == counted


# Plans ---------------------------------------------------------------------------------------------------------


def exercises_in(text: str) -> list[str]:
    """Numbers of the exercises that a line of a plan names: `01.1`, or `01.3 to 01.6`."""
    found: list[str] = []
    for first, last in re.findall(r"(\d\d\.\d+)(?: to (\d\d\.\d+))?", text):
        end = int((last or first).split(".")[1])
        found += [f"{first[:2]}.{count}" for count in range(int(first.split(".")[1]), end + 1)]
    return found


def needed(text: str) -> int:
    """Minutes that a part of a plan takes at least: its build steps, and the notebooks to read; of open ones, one."""
    spent = [minutes()[number] for number in exercises_in(text)]
    read = re.search(r"\bread ((?:\d\d(?!\.\d)(?:, | and )?)+)", text)
    times = [reading()[number] for number in re.findall(r"\d\d", read[1])] if read else []
    choice = max((time for time, is_open in spent if is_open), default=0)
    return sum(time for time, is_open in spent if not is_open) + choice + sum(times)


def parts(cell: str) -> list[tuple[str, int]]:
    """What stands in a cell of the seminar, each with its minutes in brackets behind it."""
    return [(text.strip(" ,;"), int(time)) for text, time in re.findall(r"([^()]*)\((\d+)\)", cell)]


LABS = dict(re.findall(r"^### (A lab.*?|Half a day.*?)$(.*?)(?=^##|\Z)", PLANS, re.MULTILINE | re.DOTALL))
ROWS = [(int(time), what) for plan in LABS.values() for time, what in re.findall(r"^\| (\d+) \|(.*)\|$", plan, re.M)]
WEEKS = re.findall(r"^\| (\d \w[^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", PLANS, re.MULTILINE)


def test_minutes_of_each_plan_add_up():
    totals = [sum(map(int, re.findall(r"^\| (\d+) \|", plan, re.MULTILINE))) for plan in LABS.values()]
    assert totals == [90, 90, 240]
    assert len(WEEKS) == 4
    for week, before, in_class, after in WEEKS:
        assert sum(time for _, time in parts(in_class)) == 120, week
        assert sum(time for cell in (before, after) for _, time in parts(cell)) <= HOME, week


def test_build_steps_fit_the_minutes_of_their_row():
    assert sum(bool(exercises_in(what)) for _, what in ROWS) >= 8
    assert [(time, needed(what), what) for time, what in ROWS if needed(what) > time] == []


@pytest.mark.parametrize("week", WEEKS, ids=lambda week: week[0])
def test_build_steps_fit_the_minutes_of_their_week(week):
    timed = [part for cell in week[1:] for part in parts(cell)]
    assert sorted(exercises_in(" ".join(week[1:]))) == sorted(n for text, _ in timed for n in exercises_in(text))
    assert [(time, needed(text), text) for text, time in timed if needed(text) > time] == []
    named = [number for text, _ in timed for number in exercises_in(text)]
    assert len(named) == len(set(named)), "an exercise is set twice"


def test_a_plan_is_read_as_it_is_meant():
    assert exercises_in("01 with 01.1 and 01.3 to 01.5, then 05") == ["01.1", "01.3", "01.4", "01.5"]
    assert parts("read 00 (15); 01.3 to 01.4 (20), open: 02.7 (30)") == [
        ("read 00", 15),
        ("01.3 to 01.4", 20),
        ("open: 02.7", 30),
    ]
    step, choice = minutes()["01.1"][0], max(minutes()["02.7"][0], minutes()["03.8"][0])
    assert needed("01 with 01.1") == step and needed("read 01 with 01.1") == reading()["01"] + step
    assert needed("read 00, 01 and 02") == sum(reading()[number] for number in ("00", "01", "02"))
    assert needed("open: 02.7 or 03.8") == choice
