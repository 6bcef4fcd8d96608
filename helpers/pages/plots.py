"""Figures of the course: one style, safe for colour-blind readers, each described in words under the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from sklearn.decomposition import PCA

# Okabe and Ito's palette, by role; the same role has the same colour in every notebook.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#000000", "#999999"
Point = Sequence[float] | Float[np.ndarray, " 2"]
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)


def set_style() -> None:
    """Figure size, fonts and colours of the course; call it once in a notebook's set-up cell."""
    plt.rcParams.update(
        {
            "figure.figsize": (7, 4.2),
            "figure.dpi": 90,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def show(description: str) -> None:
    """Show the current figure, then print what it shows, for those who cannot see it."""
    plt.show()
    print(f"Figure: {description}")


def plane(z: Float[np.ndarray, "item dim"]) -> PCA:
    """The flat map of an embedding space: its first two principal components."""
    return PCA(n_components=2, svd_solver="full").fit(z)


def scatter_map(
    ax: Axes,
    xy: Float[np.ndarray, "item 2"],
    *,
    values: Float[np.ndarray, " item"] | None = None,
    label: str = "",
) -> None:
    """Items as dots on a map; grey, or coloured by a value with a colour bar named `label`."""
    if values is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=12, color=GREY, alpha=0.5, linewidths=0, label=label or None)
    else:
        dots = ax.scatter(xy[:, 0], xy[:, 1], s=14, c=values, cmap="cividis", linewidths=0)
        ax.figure.colorbar(dots, ax=ax, label=label)
    ax.set(xlabel="first principal component", ylabel="second principal component", aspect="equal")


def name_points(
    ax: Axes,
    xy: Sequence[Point] | Float[np.ndarray, "point 2"],
    names: Sequence[str],
    colour: str = BLACK,
    below: Sequence[str] = (),
) -> None:
    """Mark and name a few points; names in `below` stand under their point, the others above."""
    x, y = np.asarray(xy).T
    ax.scatter(x, y, s=36, color=colour, zorder=3, edgecolors="white", linewidths=0.8)
    background = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "edgecolor": "none"}
    for point, name in zip(zip(x, y, strict=True), names, strict=True):
        offset = (0, -16) if name in below else (0, 8)
        ax.annotate(
            name,
            point,
            xytext=offset,
            textcoords="offset points",
            fontsize=9,
            ha="center",
            color=colour,
            bbox=background,
            zorder=4,
        )


def move_arrow(ax: Axes, start: Point, end: Point, colour: str = VERMILION) -> None:
    """An arrow from where a text was to where it is now."""
    ax.annotate(
        "", xy=tuple(end), xytext=tuple(start), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2}, zorder=5
    )


def intervals(
    ax: Axes,
    rows: Mapping[str, tuple[float, float, float]],
    *,
    xlabel: str,
    reference: float | None = None,
    highlight: Sequence[str] = (),
) -> None:
    """One row per name with a dot and its interval; `rows`: name to (value, low, high); `highlight` is vermilion."""
    for height, (name, (value, low, high)) in enumerate(reversed(list(rows.items()))):
        colour = VERMILION if name in highlight else BLUE
        ax.errorbar(value, height, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
    ax.set_yticks(range(len(rows)), list(rows)[::-1])
    ax.set(xlabel=xlabel, ylim=(-0.5, len(rows) - 0.5))
    ax.grid(axis="x", alpha=0.3)
    if reference is not None:
        ax.axvline(reference, color=BLACK, lw=1, ls="--")


def curves(
    ax: Axes,
    budgets: Sequence[int],
    rows: Mapping[str, Sequence[float] | Float[np.ndarray, " budget"]],
    colours: Mapping[str, str],
) -> None:
    """A line with dots for every method over budgets that double; `rows` maps its name to a value per budget."""
    for name, values in rows.items():
        ax.plot(budgets, values, "o-", color=colours[name], label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(budgets, [str(budget) for budget in budgets])


def surface(
    ax: Axes, x: np.ndarray, y: np.ndarray, values: Float[np.ndarray, "y x"], limits: tuple[float, float]
) -> None:
    """A value over the whole map as filled contours with a colour bar; beyond `limits` the colour stays."""
    levels = np.linspace(*limits, 13)
    filled = ax.contourf(x, y, values, levels=levels, cmap="cividis", extend="both")
    ax.figure.colorbar(filled, ax=ax, shrink=0.8, format="%.1f")
    ax.set_aspect("equal")


def map_grid(xy: Float[np.ndarray, "item 2"], n: int = 80, margin: float = 0.35):
    """x, y and all grid points of a map, `margin` of its width beyond the outermost items."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    pad = margin * (high - low)
    x, y = (np.linspace(low[k] - pad[k], high[k] + pad[k], n) for k in (0, 1))
    return x, y, np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
