"""README's picture: drawn from what notebook 00 prints and RESULTS.md says now, small, and nothing runs over."""

from __future__ import annotations

import matplotlib as mpl
import nbformat
import pytest
from nbformat import v4
from PIL import Image

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from helpers.base.settings import PROJECT
from helpers.pages.front_picture import Shown, draw_both_methods, drawn_from, save, shown_by

(START_HERE,) = (PROJECT / "notebooks").glob("00_*.ipynb")
FRONT = PROJECT / "notebooks/images/front.png"
LONG = "A long sentence about a film that goes on and on and is of no use to anybody who wants to read it. " * 6


def test_the_picture_is_of_what_is_committed_now():
    noted = Image.open(FRONT).info["drawn from"]
    assert noted == drawn_from(shown_by(START_HERE)), "redraw it: python -m helpers.pages.front_picture"


def test_it_is_small_and_opaque():
    picture = Image.open(FRONT)
    assert FRONT.stat().st_size < 200_000 and picture.size == (1210, 726)
    corner = picture.convert("RGBA").getpixel((0, 0))
    assert min(corner) > 240, "a light ground, so that it can be read on a dark page"


@pytest.mark.parametrize(
    "shown", [shown_by(START_HERE), Shown("A film", *[LONG] * 3, "+0.35", "+0.09", LONG[:60], LONG, LONG)]
)
def test_texts_stay_inside_their_box(shown):
    figure = draw_both_methods(shown)
    figure.canvas.draw()
    for ax in figure.axes[:2]:
        boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, Rectangle)]
        for text in ax.texts:
            words = text.get_window_extent()
            assert words.x0 >= ax.bbox.x0 - 1 and words.x1 <= ax.bbox.x1 + 1, text.get_text()
            if len(text.get_text()) > 100 and not text.get_text().startswith("“"):
                assert any(one.y0 < words.y0 and words.y1 < one.y1 for one in boxes), text.get_text()
    plt.close(figure)


def test_a_file_notes_what_it_was_drawn_from(tmp_path):
    shown = shown_by(START_HERE)
    assert Image.open(save(draw_both_methods(shown), tmp_path / "a.png", "digest")).info["drawn from"] == "digest"
    assert drawn_from(shown) != drawn_from(shown._replace(edited="another"))


def test_other_outputs_are_refused(tmp_path):
    cell = v4.new_code_cell("demonstration.steer('x', 1)", outputs=[v4.new_output("stream", text="nothing")])
    nbformat.write(v4.new_notebook(cells=[cell]), tmp_path / "00_x.ipynb")
    with pytest.raises(ValueError, match=r"00_x\.ipynb does not print the two examples: run it first"):
        shown_by(tmp_path / "00_x.ipynb")
