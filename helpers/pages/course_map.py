"""The map of the course: notebooks as boxes, and an arrow to each notebook from the ones that it needs."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from helpers.pages import plots

_WIDTH, _HEIGHT = 1.0, 0.62  # of a box
COLUMN, ROW = 1.25, 1.1  # from the centre of one box to the next


class MapStop(NamedTuple):
    """A notebook: its column and row on the map, its title there, and the prerequisites in its first cell."""

    column: float
    row: float
    title: str
    needs: tuple[str, ...] = ()


COURSE = {
    "00": MapStop(0, 2, "start here"),
    "01": MapStop(1, 2, "ratings\nto a map", ("00",)),
    "02": MapStop(2, 2, "text to\nembedding", ("01",)),
    "03": MapStop(3, 2, "content\ngaps", ("01", "02")),
    "04": MapStop(4, 2, "LLM as\nenvironment", ("01", "02", "03")),
    "05": MapStop(5, 2, "G-optimal\ndesign", ("03", "04")),
    "06": MapStop(6, 2, "reference\npolicy", ("04", "05")),
    "07": MapStop(7, 2, "training\nthe agent", ("04", "05", "06")),
    "08": MapStop(8, 2, "does it\nwork?", ("03", "04", "05", "06", "07")),
    "09": MapStop(4, 3, "another\ndomain", ("01", "02", "03", "04")),
    "10": MapStop(3, 0, "where a\nconcept lives", ("00",)),
    "11": MapStop(5, 0, "the\ndiscriminator", ("10",)),
    "12": MapStop(6.5, 0, "the editing\nloop", ("10", "11")),
    "13": MapStop(8, 0, "safety\nalignment", ("10", "11", "12")),
    "14": MapStop(8, -1, "truth and\nbias", ("10", "11", "12")),
    "15": MapStop(5, 1, "fewer\nlabels", ("05", "11")),
    "16": MapStop(8, 1, "limits and\nresponsibility", ("03", "08", "11", "12")),
    "17": MapStop(3, 3, "larger\nmachines", ("01", "04")),
    "18": MapStop(5, 3, "pictures", ("02", "03", "05")),
    "X1": MapStop(0, 0, "explore\nsteering"),
    "X2": MapStop(0, -1, "explore\nediting"),
}
_PARTS = {
    plots.GREEN: ("00", "01", "02", "03"),
    plots.BLUE: ("04", "05", "06", "07", "08", "09"),
    plots.VERMILION: ("10", "11", "12", "13", "14"),
    "#8F4A73": ("15", "16", "17", "18"),  # a darker purple, which can be read as text
    "#595959": ("X1", "X2"),
}
SAID = {
    (1, 2.62): "embedding spaces",
    (6.5, 2.62): "EAGLE: steer texts",
    (4, -0.5): "ARE: edit the model",
    (0, 0.62): "widgets only",
}


def needed(number: str) -> set[str]:
    """All notebooks that one needs, directly or through others."""
    return {other for direct in COURSE[number].needs for other in ({direct} | needed(direct))}


def arrows() -> list[tuple[str, str]]:
    """Pairs (needed notebook, notebook), without those that follow from other pairs."""
    return [
        (one, number)
        for number, stop in COURSE.items()
        for one in stop.needs
        if not any(one in needed(other) for other in stop.needs)
    ]


def draw_course_map() -> Axes:
    """Draw the map of the course."""
    _, ax = plt.subplots(figsize=(11.2, 5.3))
    ax.set(xlim=(-0.6, 8 * COLUMN + 0.6), ylim=(-ROW - 0.4, 3 * ROW + 0.4))
    ax.axis("off")
    for one, other in arrows():
        _draw_arrow(ax, COURSE[one], COURSE[other])
    for colour, numbers in _PARTS.items():
        for number in numbers:
            x, y = COURSE[number].column * COLUMN, COURSE[number].row * ROW
            corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
            ax.add_patch(plt.Rectangle(corner, _WIDTH, _HEIGHT, facecolor="white", edgecolor=colour, lw=1.6, zorder=2))
            ax.text(x, y, f"$\\bf{{{number}}}$ {COURSE[number].title}", ha="center", va="center", fontsize=9, zorder=3)
    for (column, row), words in SAID.items():
        ax.text(column * COLUMN, row * ROW, words, ha="center", va="center", fontsize=10, style="italic")
    return ax


def _draw_arrow(ax: Axes, one: MapStop, other: MapStop) -> None:
    """An arrow from the edge of one box to the edge of another: along a row or column, or slanting between rows."""
    (x0, y0), (x1, y1) = ((stop.column * COLUMN, stop.row * ROW) for stop in (one, other))
    if one.row == other.row:
        x0, x1 = x0 + _WIDTH / 2, x1 - _WIDTH / 2
    else:
        up = 1 if y1 > y0 else -1
        y0, y1 = y0 + up * _HEIGHT / 2, y1 - up * _HEIGHT / 2
    arrow = {"arrowstyle": "-|>", "color": plots.BLACK, "shrinkA": 2, "shrinkB": 2}
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)


def show_course_map() -> None:
    """Show the map, and print its arrows in words."""
    draw_course_map()
    leads: dict[str, list[str]] = {}
    for one, other in arrows():
        leads.setdefault(one, []).append(other)
    said = "; ".join(f"{one} to {', '.join(others)}" for one, others in leads.items())
    plots.show(f"the map of the course. Arrows lead from {said}; X1 and X2 need nothing.")
