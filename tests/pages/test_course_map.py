"""The map of the course says of every notebook what its first cell says, and nothing on it overlaps."""

from __future__ import annotations

import itertools
import re

import matplotlib as mpl
import nbformat
import pytest

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from helpers.base.settings import PROJECT
from helpers.pages import course_map, plots
from helpers.pages.course_map import _PARTS, COURSE, arrows, draw_course_map, needed, show_course_map

NOTEBOOKS = {path.stem[:2]: path for path in sorted((PROJECT / "notebooks").glob("*.ipynb"))}


def asked_for(text: str) -> list[str]:
    """Notebooks that a line of prerequisites asks for: what stands behind a semicolon is for a part, or not needed."""
    listed = re.search(r"Prerequisites: ([^;.*]*)", text)
    assert listed, "no line of prerequisites"
    numbers: list[str] = []
    for first, last in re.findall(r"\b(\d\d)\b(?: to (\d\d)\b)?", listed[1]):
        numbers += [f"{number:02d}" for number in range(int(first), int(last or first) + 1)]
    return numbers


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_the_map_agrees_with_the_prerequisites_of(number):
    first = nbformat.read(NOTEBOOKS[number], as_version=4).cells[0].source
    assert list(COURSE[number].needs) == asked_for(first)


def test_every_notebook_is_on_the_map_once():
    assert sorted(number for numbers in _PARTS.values() for number in numbers) == sorted(COURSE) == sorted(NOTEBOOKS)


def test_arrows_say_all_that_is_needed_and_nothing_twice():
    reached: dict[str, set[str]] = {number: set() for number in COURSE}
    for number in COURSE:  # what is needed stands before it
        for one, other in arrows():
            if other == number:
                reached[number] |= {one} | reached[one]
    assert reached == {number: needed(number) for number in COURSE}
    assert ("00", "01") in arrows() and ("01", "03") not in arrows()


def test_words_stay_inside_their_box_and_boxes_apart():
    with plt.rc_context():
        plots.set_style()
        ax = draw_course_map()
        ax.figure.canvas.draw()
        plt.close(ax.figure)
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == len(COURSE)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text in ax.texts[-len(COURSE) - len(course_map.SAID) :]:
        words = text.get_window_extent()
        inside = [box.x0 <= words.x0 and words.x1 <= box.x1 and box.y0 <= words.y0 <= box.y1 for box in boxes]
        assert any(inside) or not any(box.overlaps(words) for box in boxes), text.get_text()


def test_the_map_is_said_in_words(capsys, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    show_course_map()
    said = capsys.readouterr().out
    assert "04 to 05, 09, 17;" in said and said.startswith("Figure: the map of the course.")
    plt.close("all")


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("Prerequisites: notebooks 01 to 03.*", ["01", "02", "03"]),
        ("Prerequisites: notebook 00; notebooks 01 to 09 are not needed.*", ["00"]),
        ("Prerequisites: none; notebook 12 explains the loop.*", []),
        ("Prerequisites: notebooks 03 and 08 for the first half, 11 for the second. Also 17.*", ["03", "08", "11"]),
    ],
)
def test_prerequisites_are_read(line, numbers):
    assert asked_for(line) == numbers
