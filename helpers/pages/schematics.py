"""The two methods as boxes and arrows, so that a notebook can say which part it is about."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from helpers.pages import plots

WIDTH, HEIGHT = 1.9, 0.56  # of a box, in the units of a schematic, which are inches


class Box(NamedTuple):
    """A part of a method: its centre (x, y) in inches, its text, and the notebooks that build it."""

    x: float
    y: float
    says: str
    notebooks: str


class Line(NamedTuple):
    """An arrow along some points, with a label above its longest part."""

    points: tuple[tuple[float, float], ...]
    passes: str = ""


class Schematic(NamedTuple):
    """Boxes under their names, and the arrows between them."""

    boxes: dict[str, Box]
    lines: tuple[Line, ...]


EAGLE = Schematic(
    {
        "state": Box(0, 1, "state: text $x$,\nviewer $u$", "04"),
        "aims": Box(2.4, 1, "aims: instructions\nwith a promise", "04"),
        "design": Box(4.8, 1, "design: $k$ of them,\nwell spread", "05"),
        "policy": Box(7.2, 1, "policy: picks one,\nor STOP", "06, 07"),
        "judge": Box(0, 0, "judge: $U$ by other\nratings and features", "08"),
        "utility": Box(2.4, 0, "utility $U(z, u)$:\nrating + novelty", "03"),
        "encoder": Box(4.8, 0, "encoder: text to\nbehaviour $z$", "01, 02"),
        "language model": Box(7.2, 0, "language model:\nwrites the next $x$", "04"),
    },
    (
        Line(((0.95, 1), (1.45, 1))),
        Line(((3.35, 1), (3.85, 1))),
        Line(((5.75, 1), (6.25, 1))),
        Line(((7.6, 0.72), (7.6, 0.28)), "instruction"),
        Line(((6.25, 0), (5.75, 0))),
        Line(((3.85, 0), (3.35, 0))),
        Line(((2.4, 0.28), (2.4, 0.5), (6.8, 0.5), (6.8, 0.72)), "reward: how much $U$ has risen"),
        Line(((7.2, -0.28), (7.2, -0.55), (-1.25, -0.55), (-1.25, 1), (-0.95, 1)), "the new text is the next state"),
        Line(((0, -0.55), (0, -0.28))),
    ),
)
"""The EAGLE agent (Tennenholtz et al. 2024, figure 1), with aims and a judge, which are the course's."""

ARE = Schematic(
    {
        "model": Box(0, 1, "language model\nwith an adapter", "12"),
        "states": Box(2.4, 1, "hidden states\nof its layers", "10"),
        "discriminator": Box(4.8, 1, "discriminator: is\nthe concept there?", "11"),
        "labels": Box(7.2, 1, "labelled prompts:\nwith, without", "10, 15"),
        "harmless": Box(0, 0, "harmless prompts:\nstay as you were", "12"),
        "answers": Box(2.4, 0, "answers of the\nedited model", "13, 14"),
        "judge": Box(4.8, 0, "judge: effect, and\ndamage elsewhere", "13, 14, 16"),
    },
    (
        Line(((0.95, 1), (1.45, 1))),
        Line(((3.35, 1), (3.85, 1))),
        Line(((6.25, 1), (5.75, 1)), "trains"),
        Line(((4.8, 1.28), (4.8, 1.55), (0, 1.55), (0, 1.28)), "gradient: move the states towards the concept"),
        Line(((-0.35, 0.28), (-0.35, 0.72)), "retain loss"),
        Line(((0.35, 0.72), (0.35, 0.5), (2.4, 0.5), (2.4, 0.28))),
        Line(((3.35, 0), (3.85, 0))),
    ),
)
"""Adversarial representation engineering (Zhang et al. 2024, figure 2): the two losses take turns."""


def draw_schematic(what: Schematic, here: Collection[str]) -> Axes:
    """Draw a method; the boxes in `here` are filled and set in bold.

    Raises:
        ValueError: `here` names a box that does not exist.
    """
    if unknown := set(here) - set(what.boxes):
        raise ValueError(f"no box named {', '.join(sorted(unknown))}: choose among {', '.join(what.boxes)}")
    points = [point for line in what.lines for point in line.points]
    points += [(box.x + side * WIDTH / 2, box.y + side * HEIGHT / 2) for box in what.boxes.values() for side in (-1, 1)]
    low, high = ([end(axis) for axis in zip(*points, strict=True)] for end in (min, max))
    size = (high[0] - low[0] + 0.3, high[1] - low[1] + 0.4)
    _, ax = plt.subplots(figsize=size)
    ax.set(xlim=(low[0] - 0.15, high[0] + 0.15), ylim=(low[1] - 0.2, high[1] + 0.2))
    ax.axis("off")
    for line in what.lines:
        _draw_line(ax, line)
    for name, box in what.boxes.items():
        _draw_box(ax, box, name in here)
    return ax


def show_schematic(what: Schematic, *here: str, does: str = "builds") -> None:
    """`draw_schematic`, and print it in words; `does` is a verb for what the notebook does with the filled boxes."""
    draw_schematic(what, here)
    parts = "; ".join(box.says.replace("\n", " ").replace("$", "") for box in what.boxes.values())
    plots.show(f"the parts of the method: {parts}. This notebook {does} what is filled: {', '.join(here)}.")


def _draw_box(ax: Axes, box: Box, filled: bool) -> None:
    face, edge = ("#d6ebf8", plots.BLUE) if filled else ("white", plots.GREY)
    corner = (box.x - WIDTH / 2, box.y - HEIGHT / 2)
    ax.add_patch(plt.Rectangle(corner, WIDTH, HEIGHT, facecolor=face, edgecolor=edge, lw=2 if filled else 1, zorder=2))
    weight = "bold" if filled else "normal"
    ax.text(box.x, box.y + 0.06, box.says, ha="center", va="center", fontsize=8.5, weight=weight, zorder=3)
    ax.text(
        corner[0] + WIDTH - 0.04, corner[1] + 0.03, box.notebooks, ha="right", fontsize=6.5, color="#595959", zorder=3
    )


def _draw_line(ax: Axes, line: Line) -> None:
    xs, ys = zip(*line.points, strict=True)
    ax.plot(xs[:-1], ys[:-1], color=plots.BLACK, lw=1, zorder=1)
    arrow = {"arrowstyle": "-|>", "color": plots.BLACK, "lw": 1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", line.points[-1], line.points[-2], arrowprops=arrow, zorder=1)
    if line.passes:
        pieces = list(zip(line.points[:-1], line.points[1:], strict=True))
        (x0, y0), (x1, y1) = max(
            pieces, key=lambda piece: abs(piece[0][0] - piece[1][0]) + abs(piece[0][1] - piece[1][1])
        )
        upright = x0 == x1
        place = (x0 + 0.06, (y0 + y1) / 2) if upright else ((x0 + x1) / 2, y0 + 0.04)
        ax.text(*place, line.passes, fontsize=8, style="italic", ha="left" if upright else "center",
                va="center" if upright else "bottom", zorder=3)  # fmt: skip
