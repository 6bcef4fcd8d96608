"""Widgets of the course: each has a plain function behind it that computes, and one that draws."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from helpers import results

# Blind comparison of texts -----------------------------------------------------------------------------------------

CHOICES = ("A", "B", "no preference")


class BlindPair(NamedTuple):
    """Two texts for one viewer in random order; `first_is_new` says which is which and is not shown."""

    key: str
    profile: str
    texts: tuple[str, str]
    first_is_new: bool


def blind_pairs(profiles: Sequence[str], old: Sequence[str], new: Sequence[str], seed: int = 0) -> list[BlindPair]:
    """Pairs of an old and a new text, in shuffled order and with shuffled sides.

    Raises:
        ValueError: no pair, or lists of different lengths.
    """
    if not len(profiles) == len(old) == len(new) > 0:
        raise ValueError(f"{len(profiles)} profiles, {len(old)} and {len(new)} texts: give one of each a pair")
    rng = np.random.default_rng(seed)
    pairs = []
    for row in rng.permutation(len(new)):
        first_is_new = bool(rng.integers(2))
        texts = (new[row], old[row]) if first_is_new else (old[row], new[row])
        pairs.append(BlindPair(f"pair {row}", str(profiles[row]), texts, first_is_new))
    return pairs


def save_rating(path: Path, pair: BlindPair, choice: str, rater: str) -> None:
    """Keep one answer in a JSON file, which several raters may share; a second answer replaces the first.

    Raises:
        ValueError: not one of `CHOICES`.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice {choice!r}: one of {', '.join(CHOICES)}")
    preferred = "neither" if choice == CHOICES[2] else "new" if (choice == "A") == pair.first_is_new else "old"
    results.amend(path, lambda rows: rows.update({f"{rater}, {pair.key}": preferred}))


def share_preferring_new(path: Path) -> tuple[float, int]:
    """Share of answers that prefer the new text, ties counting half, and the number of answers."""
    answers = list(results.load(path).values())
    return sum({"new": 1.0, "neither": 0.5, "old": 0.0}[a] for a in answers) / max(1, len(answers)), len(answers)


def blind_rating(pairs: Sequence[BlindPair], path: Path, rater: str = "rater 1") -> widgets.VBox:
    """Show the pairs one after the other with three buttons; every answer is saved at once."""
    progress, body = widgets.HTML(), widgets.HTML()
    buttons = [widgets.Button(description=choice, tooltip=f"prefer {choice}") for choice in CHOICES]
    position = 0

    def draw() -> None:
        over = position == len(pairs)
        progress.value = "Thank you, that was all." if over else f"Pair {position + 1} of {len(pairs)}"
        body.value = "" if over else _side_by_side(pairs[position])
        for button in buttons:
            button.disabled = over

    def answer(button: widgets.Button) -> None:
        nonlocal position
        save_rating(path, pairs[position], button.description, rater)
        position += 1
        draw()

    for button in buttons:
        button.on_click(answer)
    draw()
    return widgets.VBox([progress, body, widgets.HBox(buttons)])


def _side_by_side(pair: BlindPair) -> str:
    cells = "".join(
        f'<td style="width:50%;vertical-align:top;padding:8px;text-align:left"><b>{name}</b><br>'
        f"{html.escape(text).replace(chr(10), '<br>')}</td>"
        for name, text in zip(CHOICES, pair.texts, strict=False)
    )
    return f"<p><b>The viewer:</b> {html.escape(pair.profile)}</p><table><tr>{cells}</tr></table>"


# A figure under a slider -------------------------------------------------------------------------------------------


def figure_slider(
    draw: Callable[[Axes, int], object],
    n: int,
    *,
    label: str = "step",
    value: int = 0,
    size: tuple[float, float] = (5, 4.2),
) -> widgets.VBox:
    """A slider from 0 to n - 1 above the figure that `draw(ax, position)` makes of its position.

    The figure is an image of fixed size, so that the page does not jump and a notebook's output stays small.

    Raises:
        ValueError: n below 2, or a value that the slider does not have.
    """
    if n < 2 or not 0 <= value < n:
        raise ValueError(f"{n} positions and value {value}: give two or more, and one of them")
    slider = widgets.IntSlider(
        value=value, min=0, max=n - 1, description=label, continuous_update=False, layout={"width": f"{90 * size[0]}px"}
    )
    image = widgets.Image(format="png", width=90 * size[0], height=90 * size[1])

    def redraw(*_) -> None:
        image.value = _png(draw, slider.value, size)

    slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([slider, image])


def _png(draw: Callable[[Axes, int], object], position: int, size: tuple[float, float]) -> bytes:
    figure, ax = plt.subplots(figsize=size)
    try:
        draw(ax, position)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=90)
    finally:
        plt.close(figure)
    return file.getvalue()
