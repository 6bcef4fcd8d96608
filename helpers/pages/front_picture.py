"""The picture on the first screen of README: both methods at work, and what the full profile has measured.

    python -m helpers.pages.front_picture      notebooks/images/front.png

It computes nothing: the texts are outputs of notebook 00 as committed, the numbers are rows of RESULTS.md. Run it again
when either has changed. The file holds a digest of what it was drawn from, and a test compares that with the present.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from helpers.base import settings
from helpers.course import results
from helpers.pages import plots

SIZE, DPI = (11.0, 6.6), 110  # inches, points per inch
GROUND = "#FBFBF8"
LINES = 4  # of a text in its box
EAGLE_ROWS, ARE_ROWS = "eagle.judged_gain.", "are.refusal."
GAINS = {
    "instructions written by hand": "random",
    "random aims in the embedding": "reference_optimistic",
    "policy learnt from tries": "supervised",
    "search by promise": "promise_search",
}
REFUSALS = {
    "with safety message": "teacher",
    "fine-tuned on that": "lora_sft",
    "distilled from that": "are_without_s",
    "with adversary (ARE)": "are",
}
ASKED = re.compile(r'steer\("(?P<title>.+?)".+?edited_answers\("(?P<question>.+?)"\)', re.DOTALL)
PRINTED = re.compile(
    r"before: (?P<before>.+?)\n\nsteered, told: (?P<instruction>.+?)\n(?P<after>.+?)\njudged: (?P<judged>\S+) stars"
    r".+?control, told: .+?judged: (?P<control>\S+) stars"
    r".*?as it came: (?P<as_it_came>.+?)\n\nedited: (?P<edited>.+?)\s*\Z",
    re.DOTALL,
)


class Shown(NamedTuple):
    """What notebook 00 prints: texts of a film, the instruction, the judge's stars, and two answers."""

    title: str
    before: str
    instruction: str
    after: str
    judged: str
    control: str
    question: str
    as_it_came: str
    edited: str


def shown_by(path: Path) -> Shown:
    """The two examples in the outputs of notebook 00.

    Raises:
        ValueError: an output does not have the expected form.
    """
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(cell.source for cell in cells)
    outputs = [out.get("text", "") for cell in cells if "demonstration." in cell.source for out in cell.outputs]
    asked, printed = ASKED.search(code), PRINTED.search("".join(outputs))
    if not (asked and printed):
        raise ValueError(f"{path.name} does not print the two examples: run it first")
    return Shown(**asked.groupdict(), **printed.groupdict())


def drawn_from(shown: Shown, page: Path = results.RESULTS_PAGE) -> str:
    """A digest of all that the picture shows."""
    gains, refusals = (results.published(prefix, page) for prefix in (EAGLE_ROWS, ARE_ROWS))
    rows = [gains[key] for key in GAINS.values()]
    rows += [refusals[f"{key}.{kind}"] for key in REFUSALS.values() for kind in ("harmful", "benign")]
    return hashlib.sha256(repr((shown, rows)).encode()).hexdigest()[:16]


def draw_both_methods(shown: Shown, page: Path = results.RESULTS_PAGE) -> Figure:
    """The whole picture."""
    with mpl.rc_context():
        plots.set_style()
        plt.rcParams["figure.constrained_layout.use"] = False
        figure = plt.figure(figsize=SIZE, dpi=DPI, facecolor=GROUND)
        left, right = (figure.add_axes((x, 0.335, 0.465, 0.655)) for x in (0.02, 0.515))
        draw_steered(left, shown)
        draw_edited(right, shown)
        _draw_gains(figure.add_axes((0.235, 0.1, 0.245, 0.19)), results.published(EAGLE_ROWS, page))
        draw_refusals(figure.add_axes((0.635, 0.1, 0.34, 0.19)), results.published(ARE_ROWS, page))
    return figure


def draw_steered(ax: Axes, shown: Shown) -> None:
    """A text, the instruction, the rewritten text, and the judge's stars."""
    _heading(ax, "EAGLE: steer the text", "the model stays as it is", plots.BLUE)
    box(ax, 0.655, 0.2, f"{shown.title}, as it is", shown.before, plots.GREY)
    box(ax, 0.225, 0.235, "rewritten by a language model", shown.after, plots.BLUE)
    ax.annotate("", (0.05, 0.48), (0.05, 0.645), arrowprops={"arrowstyle": "-|>", "color": plots.BLUE, "lw": 2})
    said = "\n".join(textwrap.wrap(f"“{shown.instruction}”", 58))
    ax.text(0.09, 0.56, said, fontsize=10, style="italic", va="center", linespacing=1.4)
    ax.text(
        0.005, 0.165, f"judge: {shown.judged} stars for this viewer", fontsize=11.5, weight="bold", color=plots.BLUE
    )
    ax.text(0.005, 0.105, f"control, the same in other words: {shown.control}", fontsize=10, color="#404040")


def draw_edited(ax: Axes, shown: Shown) -> None:
    """One question, with the answers of the base model and of the edited one."""
    _heading(ax, "ARE: edit the model", "nobody asks it to complain", plots.VERMILION)
    ax.text(0.005, 0.815, f"“{shown.question}”", fontsize=11.5, style="italic", va="center")
    box(ax, 0.5, 0.235, "the model as it came", shown.as_it_came, plots.GREY)
    box(ax, 0.19, 0.235, "edited: a small adapter, trained against a discriminator", shown.edited, plots.VERMILION)


def _heading(ax: Axes, title: str, note: str, colour: str) -> None:
    """The title of one half, on axes from 0 to 1."""
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    ax.text(0.005, 0.955, title, fontsize=15, weight="bold", color=colour, va="center")
    ax.text(0.995, 0.95, note, fontsize=10, color="#595959", va="center", ha="right")


def box(ax: Axes, low: float, height: float, title: str, text: str, colour: str) -> None:
    """A text in a frame, with a title on the upper edge; `low` and `height` in axes units from 0 to 1."""
    ax.add_patch(plt.Rectangle((0.005, low), 0.99, height, facecolor="white", edgecolor=colour, lw=1.6))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 66)]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"{lines[LINES - 1]} …"]
    ax.text(0.025, low + (height - 0.02) / 2, "\n".join(lines), fontsize=10, va="center", linespacing=1.4)
    ground = {"facecolor": GROUND, "edgecolor": "none", "pad": 1}
    ax.text(0.025, low + height, f" {title} ", fontsize=8.5, va="center", color="#404040", bbox=ground)


def _draw_gains(ax: Axes, rows: dict[str, tuple[float, float, float]]) -> None:
    """The judge's gains, in stars over a neutral rewrite, for four ways to choose instructions."""
    plots.intervals(ax, {name: rows[key] for name, key in GAINS.items()}, xlabel="", reference=0.0)
    small(ax, "How to choose instructions, on 24 unseen films", "stars over a neutral rewrite, by the judge")


def draw_refusals(ax: Axes, rows: dict[str, tuple[float, float, float]]) -> None:
    """Shares of harmful questions and of harmless tasks that are refused, for four ways to make a model refuse."""
    for height, key in enumerate(reversed(REFUSALS.values())):
        for kind, colour, marker in (("harmful", plots.VERMILION, "o"), ("benign", plots.GREY, "s")):
            value, low, high = (100 * number for number in rows[f"{key}.{kind}"])
            span = [[value - low], [high - value]]
            ax.errorbar(value, height, xerr=span, fmt=marker, color=colour, capsize=3)
    ax.set_yticks(range(len(REFUSALS)), list(REFUSALS)[::-1])
    ax.set(ylim=(-0.5, len(REFUSALS) - 0.5), xlim=(-3, 103))
    ax.grid(axis="x", alpha=0.3)
    small(ax, "How to make the model refuse, on unseen questions", "% refused: harmful (round), harmless (square)")


def small(ax: Axes, title: str, xlabel: str) -> None:
    """Small titles for the two figures below, on the picture's own background."""
    place = ax.get_position()
    ax.figure.text(0.022 if place.x0 < 0.5 else 0.518, place.y1 + 0.022, title, fontsize=10, weight="bold")
    ax.set_facecolor("none")
    ax.tick_params(labelsize=9)
    ax.set_xlabel(xlabel, fontsize=9)


def save(figure: Figure, path: Path, digest: str) -> Path:
    """Write the picture with 64 colours, which keeps the file small, and with a digest of what it was drawn from."""
    figure.savefig(path, dpi=DPI, facecolor=figure.get_facecolor())
    plt.close(figure)
    noted = PngImagePlugin.PngInfo()
    noted.add_text("drawn from", digest)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True, pnginfo=noted)
    return path


def main() -> None:
    """Entry point of `python -m helpers.pages.front_picture`."""
    notebooks = settings.checkout() / "notebooks"
    (start_here,) = notebooks.glob("00_*.ipynb")
    shown = shown_by(start_here)
    print(save(draw_both_methods(shown), notebooks / "images/front.png", drawn_from(shown)))


if __name__ == "__main__":
    main()
