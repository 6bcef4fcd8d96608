"""Every helper draws without a screen, and draws what it says."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

mpl.use("Agg")
from matplotlib import pyplot as plt

from helpers.pages import plots

XY = np.random.default_rng(0).normal(size=(30, 2))


@pytest.fixture
def ax():
    with plt.rc_context():
        figure, axes = plt.subplots()
        yield axes
        figure.canvas.draw()  # what cannot be drawn fails here
        plt.close(figure)


def test_the_style_is_set_and_its_colours_differ():
    with plt.rc_context():
        plots.set_style()
        cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
        assert tuple(cycle) == plots.COLOURS and len(set(cycle)) == 6
        assert not plt.rcParams["axes.spines.top"]


def test_show_describes_the_figure(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    plots.show("two dots and a line.")
    assert shown and capsys.readouterr().out == "Figure: two dots and a line.\n"


def test_the_plane_holds_most_of_the_variance():
    z = np.random.default_rng(0).normal(size=(50, 5)) * [1, 9, 1, 5, 1]
    flat = plots.plane(z)
    assert flat.transform(z).shape == (50, 2)
    assert np.abs(flat.components_).argmax(axis=1).tolist() == [1, 3]


def test_a_map_in_grey_and_one_with_values(ax):
    plots.scatter_map(ax, XY, label="movies")
    assert len(ax.figure.axes) == 1 and ax.get_legend_handles_labels()[1] == ["movies"]
    plots.scatter_map(ax, XY, values=XY[:, 0], label="stars")
    assert ax.figure.axes[1].get_ylabel() == "stars"
    np.testing.assert_array_equal(ax.collections[1].get_array(), XY[:, 0])
    assert ax.get_aspect() == 1


def test_named_points_above_and_below(ax):
    plots.name_points(ax, XY[:2], ["first", "second"], plots.GREEN, below=["second"])
    first, second = ax.texts
    assert (first.get_text(), second.get_text()) == ("first", "second")
    assert first.xyann[1] > 0 > second.xyann[1]
    with pytest.raises(ValueError, match="shorter"):
        plots.name_points(ax, XY[:2], ["only one"])


def test_an_arrow_leads_from_start_to_end(ax):
    ax.set(xlim=(0, 2), ylim=(0, 2))
    plots.move_arrow(ax, (0.5, 0.5), (1.5, 1.0))
    (arrow,) = ax.texts
    assert arrow.xyann == (0.5, 0.5) and arrow.xy == (1.5, 1.0)


def test_intervals_from_top_to_bottom(ax):
    rows = {"mean": (1.0, 0.9, 1.2), "ours": (0.9, 0.8, 1.0)}
    plots.intervals(ax, rows, xlabel="error", reference=0.95, highlight=["ours"])
    labels = {tick.get_text(): height for tick, height in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    assert labels == {"mean": 1, "ours": 0} and ax.get_xlabel() == "error"
    dots = {
        c.lines[0].get_ydata()[0]: (c.lines[0].get_xdata()[0], to_hex(c.lines[0].get_color())) for c in ax.containers
    }
    assert dots == {1: (1.0, plots.BLUE.lower()), 0: (0.9, plots.VERMILION.lower())}
    (low, high) = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((0.8, 1.0)) or (low, high) == pytest.approx((0.9, 1.2))
    assert any(line.get_xdata() == [0.95, 0.95] for line in ax.lines if line.get_linestyle() == "--")


def test_curves_over_budgets_that_double(ax):
    rows = {"ours": [0.5, 0.7, 0.8], "chance": np.array([0.4, 0.5, 0.6])}
    plots.curves(ax, (8, 16, 32), rows, {"ours": plots.VERMILION, "chance": plots.BLUE, "absent": plots.GREY})
    drawn = {line.get_label(): (list(line.get_ydata()), line.get_color()) for line in ax.lines}
    assert drawn == {"ours": ([0.5, 0.7, 0.8], plots.VERMILION), "chance": ([0.4, 0.5, 0.6], plots.BLUE)}
    assert ax.get_xscale() == "log" and list(ax.get_xticks()) == [8, 16, 32]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["8", "16", "32"]


def test_a_surface_over_the_grid_of_a_map(ax):
    x, y, points = plots.map_grid(XY, n=20, margin=0.5)
    assert points.shape == (400, 2)
    width = np.ptp(XY, axis=0)
    np.testing.assert_allclose(points.min(axis=0), XY.min(axis=0) - 0.5 * width)
    np.testing.assert_allclose(points.max(axis=0), XY.max(axis=0) + 0.5 * width)
    values = points[:, 1].reshape(len(y), len(x))
    np.testing.assert_allclose(values[:, 0], y)  # rows are y, as contourf wants them
    plots.surface(ax, x, y, values, limits=(0.0, 1.2))
    (filled,) = ax.collections
    assert filled.get_clim()[0] <= 0 < 1.2 <= filled.get_clim()[1] and len(ax.figure.axes) == 2
    bands = [path.vertices[:, 1].mean() for path in filled.get_paths() if len(path.vertices)]
    assert len(bands) > 5 and (np.diff(bands) > 0).all()  # higher values lie higher up
    with pytest.raises(TypeError, match="Length of y"):
        plots.surface(ax, x, y[1:], values, limits=(0.0, 1.2))
    ax.clear()
    plots.surface(ax, x, y, np.tile(x, (len(y), 1)), limits=(0.0, 1.2))
    bands = [path.vertices[:, 0].mean() for path in ax.collections[0].get_paths() if len(path.vertices)]
    assert len(bands) > 5 and (np.diff(bands) > 0).all()  # and further right
