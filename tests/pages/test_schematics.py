"""Schematics: every box can be named, words stay inside their boxes, and arrows join boxes."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import pytest

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from helpers.pages import schematics
from helpers.pages.schematics import HEIGHT, WIDTH, draw_schematic, show_schematic

BOTH = pytest.mark.parametrize("what", [schematics.EAGLE, schematics.ARE])


def drawn(what, here=()):
    with plt.rc_context():
        ax = draw_schematic(what, here)
        ax.figure.canvas.draw()
        plt.close(ax.figure)
    return ax


@BOTH
def test_words_stay_inside_their_box_also_in_bold(what):
    ax = drawn(what, what.boxes)
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
    for text in ax.texts:
        words = text.get_window_extent()
        inside = [box.x0 <= words.x0 and words.x1 <= box.x1 and box.y0 <= words.y0 <= box.y1 for box in boxes]
        apart = [words.x1 < box.x0 or box.x1 < words.x0 or words.y1 < box.y0 or box.y1 < words.y0 for box in boxes]
        assert any(inside) or all(apart) or not text.get_text(), text.get_text()


@BOTH
def test_boxes_do_not_overlap(what):
    for one, other in itertools.combinations(what.boxes.values(), 2):
        assert abs(one.x - other.x) > WIDTH or abs(one.y - other.y) > HEIGHT


@BOTH
def test_every_arrow_begins_and_ends_at_a_box_or_on_another_arrow(what):
    def at_a_box(x, y):
        return any(
            abs(x - box.x) <= WIDTH / 2 + 1e-9 and abs(y - box.y) <= HEIGHT / 2 + 1e-9 for box in what.boxes.values()
        )

    for line in what.lines:
        assert at_a_box(*line.points[-1])
        (x, y), others = line.points[0], [other for other in what.lines if other is not line]
        on_another = any(y == y0 == y1 for other in others for (_, y0), (_, y1) in itertools.pairwise(other.points))
        assert at_a_box(x, y) or on_another


def test_what_is_named_is_filled_and_nothing_else():
    faces = [patch.get_facecolor()[:3] for patch in drawn(schematics.EAGLE, ["policy"]).patches[:8]]
    white = [face == (1, 1, 1) for face in faces]
    assert white == [name != "policy" for name in schematics.EAGLE.boxes]


def test_a_box_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no box named value: choose among state, aims"):
        draw_schematic(schematics.EAGLE, ["policy", "value"])


def test_it_is_said_in_words(capsys, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    show_schematic(schematics.ARE, "judge")
    said = capsys.readouterr().out
    assert "discriminator: is the concept there?" in said and said.endswith("builds what is filled: judge.\n")
    show_schematic(schematics.EAGLE, "state", "encoder", does="exchanges")
    assert capsys.readouterr().out.endswith("exchanges what is filled: state, encoder.\n")
    plt.close("all")
