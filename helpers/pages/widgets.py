"""Widgets of the course: each wires a plain function that computes to one that draws."""

from __future__ import annotations

import base64
import html
import io
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from jaxtyping import Float
from matplotlib.axes import Axes

from helpers.base.storage import CourseError
from helpers.course import results

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
        raise ValueError(f"{len(profiles)} profiles, {len(old)} and {len(new)} texts: give one of each per pair")
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
        raise ValueError(f"choice {choice!r}: give one of {', '.join(CHOICES)}")
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
        button.on_click(in_main_thread(answer))
    draw()
    return widgets.VBox([progress, body, widgets.HBox(buttons)])


def _side_by_side(pair: BlindPair) -> str:
    cells = "".join(
        f'<td style="width:50%;vertical-align:top;padding:8px;text-align:left"><b>{name}</b><br>'
        f"{html.escape(text).replace(chr(10), '<br>')}</td>"
        for name, text in zip(CHOICES, pair.texts, strict=False)
    )
    return f"<p><b>The viewer:</b> {html.escape(pair.profile)}</p><table><tr>{cells}</tr></table>"


# Where a control's work is done ------------------------------------------------------------------------------------


def in_main_thread(act: Callable[..., object]) -> Callable[..., None]:
    """Wrap the callback of a control, so that it runs in the kernel's main thread.

    JupyterLab hands the messages of controls to a thread of its own (a subshell). There an interrupt would not reach
    them, and two threads would use one model or one figure at a time.
    """

    def acting(*arguments) -> None:
        if threading.current_thread() is threading.main_thread():
            act(*arguments)
        else:
            get_ipython().kernel.io_loop.add_callback(_interruptible, partial(act, *arguments))

    return acting


def _interruptible(work: Callable[[], object]) -> None:
    """Do some work so that an interrupt stops it: outside its own messages the kernel ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    except KeyboardInterrupt:
        pass  # it has stopped the work; further up it would stop the kernel
    finally:
        signal.signal(signal.SIGINT, before)


# A figure under a slider -------------------------------------------------------------------------------------------


def figure_slider(
    draw: Callable[[Axes, int], object],
    n: int,
    *,
    label: str = "step",
    value: int = 0,
    size: tuple[float, float] = (5, 4.2),
    alt: str = "figure of the chosen step",
) -> widgets.VBox:
    """A slider from 0 to n - 1 above the figure that `draw(ax, position)` makes of its position.

    The figure is an image of fixed size, so that the page does not jump and a notebook's output stays small.

    Raises:
        ValueError: n below 2, or a value that the slider does not have.
    """
    if n < 2 or not 0 <= value < n:
        raise ValueError(f"{n} positions and value {value}: give two or more, and one of them")
    slider = widgets.IntSlider(
        value=value, min=0, max=n - 1, description=label, continuous_update=False, layout={"width": f"{80 * size[0]}px"}
    )
    image = widgets.HTML()

    def redraw(*_) -> None:
        image.value = picture(lambda ax: draw(ax, slider.value), size, f"{alt}, {label} {slider.value}")

    slider.observe(in_main_thread(redraw), names="value")
    redraw()
    return widgets.VBox([slider, image, named_handles()])


def _png(draw: Callable[[Axes], object], size: tuple[float, float]) -> bytes:
    figure, ax = plt.subplots(figsize=size)
    try:
        draw(ax)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110)
    finally:
        plt.close(figure)
    return file.getvalue()


# Pages of controls -------------------------------------------------------------------------------------------------


class Desk:
    """The status line of a page of controls: it says what is being done, and locks the controls meanwhile.

    Slow work is done inside `busy`. An interrupt, or a mistake in the input, becomes a line of text.
    """

    def __init__(self, controls: Sequence[widgets.Widget]) -> None:
        self.controls = list(controls)
        self.resting: list[widgets.Widget] = []
        self.line = widgets.HTML("ready")
        self.line.add_class("desk-line")
        self.progress = widgets.IntProgress(value=0, min=0, max=1, layout={"width": "160px", "display": "none"})
        self.bar = widgets.HBox([self.progress, self.line, named_handles()])

    @contextmanager
    def busy(self, what: str, total: int = 1) -> Iterator[None]:
        """Lock the controls while something is done; `advance` moves the bar."""
        self.line.value, self.progress.max, self.progress.value = f"{html.escape(what)} ...", total, 0
        self.progress.layout.display = None
        for control in self.controls:
            control.disabled = True
        try:
            yield
            self.line.value, self.progress.value = "ready", total
        except KeyboardInterrupt:
            self.line.value = "stopped"
        except (CourseError, ValueError) as error:
            self.line.value = f"<b>{html.escape(str(error))}</b>"
        except Exception as error:
            self.line.value = f"<b>this failed ({type(error).__name__}): run the notebook again from the top</b>"
            raise
        finally:
            self.progress.layout.display = "none"
            self._release()

    def rest(self, controls: Sequence[widgets.Widget]) -> None:
        """Lock the controls that would do nothing now, and no others, until the next call."""
        self.resting = list(controls)
        if self.progress.layout.display == "none":
            self._release()

    def _release(self) -> None:
        for control in self.controls:
            control.disabled = control in self.resting

    def advance(self, done: int) -> None:
        """Move the progress bar."""
        self.progress.value = done


# The handle of a slider has no name for screen readers; its label becomes one.
NAME_HANDLES = """
function render({ el }) {
  const name = () => document.querySelectorAll(".widget-slider, .jupyter-widget-slider").forEach((slider) => {
    const label = slider.querySelector(".widget-label")?.innerText ?? "";
    const handles = slider.querySelectorAll("[role=slider]");
    const ends = handles.length > 1 ? [", from", ", to"] : [""];
    handles.forEach((handle, i) => handle.setAttribute("aria-label", label + ends[i]));
  });
  const watch = new MutationObserver(name);
  watch.observe(document.body, { childList: true, subtree: true });
  name();
  return () => watch.disconnect();
}
export default { render };
"""


def named_handles() -> widgets.Widget:
    """An invisible widget that gives the handles of all sliders on the page a name."""
    import anywidget  # slow to import

    return anywidget.AnyWidget(_esm=NAME_HANDLES)


# One look for all pages of controls. JupyterLab and voila set the variables, also in their dark themes.
LOOK = """<style>
.explorer { font-size: 14px; max-width: 1800px }
.explorer .widget-html-content, .explorer .jupyter-widget-html-content { line-height: 1.5 }
.explorer .card { background: var(--jp-layout-color1, white); border: 1px solid var(--jp-border-color2, #ccc);
  border-radius: 10px; padding: 12px 16px; margin: 0 0 16px 0; box-shadow: 0 1px 3px rgba(0, 0, 0, 0.08) }
.explorer .card h2 { font-size: 17px !important; font-weight: 600 !important; margin: 0 0 8px 0 !important;
  padding-left: 10px; border-left: 4px solid #d55e00; color: var(--jp-ui-font-color1, black) }
.explorer .card p { margin: 4px 0 }
.explorer .card table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
.explorer .card th { border-bottom: 1px solid var(--jp-border-color1, #999); font-weight: 600 }
.explorer .card blockquote { font-size: 15px; margin: 6px 0; padding: 4px 0 4px 14px; border-left: 3px solid #0072b2 }
.explorer .card img { max-width: 100%; height: auto; background: white; border-radius: 6px; margin: 4px 8px 4px 0 }
.explorer .desk-line { font-style: italic }
@media (max-width: 1200px) { .explorer .card table { font-size: 12px }
  .explorer .card th, .explorer .card td { padding: 2px 3px !important } }
</style>"""


def heading(text: str) -> widgets.HTML:
    """A heading between controls."""
    return widgets.HTML(f"<h2>{html.escape(text)}</h2>")


def card(title: str, *parts: widgets.Widget) -> widgets.VBox:
    """Widgets that belong together, under a heading and with a border around them."""
    box = widgets.VBox([heading(title), *parts])
    box.add_class("card")
    return box


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, in several lines where the page is narrow."""
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def two_columns(
    left: Sequence[widgets.Widget], right: Sequence[widgets.Widget], below: Sequence[widgets.Widget] = ()
) -> widgets.VBox:
    """A page of cards: two columns, one below the other where the page is narrow, and cards under both."""
    shares = ("1 1 400px", "1.2 1 480px")
    columns = [
        widgets.VBox(part, layout={"flex": flex, "min_width": "0"})
        for part, flex in zip((left, right), shares, strict=True)
    ]
    beside = row(*columns)
    beside.layout.grid_gap = "0 16px"
    page = widgets.VBox([widgets.HTML(LOOK), beside, *below])
    page.add_class("explorer")
    return page


def table_of(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML, with room between the columns; `names` are texts, the cells of `rows` are HTML already."""
    style = 'style="padding:2px 8px;text-align:left;vertical-align:top"'
    head = "".join(f'<th scope="col" {style}>{html.escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def labelled(control: widgets.Widget, label: str, width: str = "auto") -> widgets.Widget:
    """The control with its label in front of it, which screen readers read as well."""
    control.description = label
    control.style.description_width = "initial"
    control.layout.width, control.layout.min_width, control.layout.max_width = width, "16em", "100%"
    return control


def picture(draw: Callable[[Axes], object], size: tuple[float, float], alt: str) -> str:
    """The drawing of `draw(ax)` as an image tag of fixed size; `alt` describes it for those who cannot see it."""
    data = base64.b64encode(_png(draw, size)).decode()
    where = f'width="{80 * size[0]:.0f}" height="{80 * size[1]:.0f}"'
    return f'<img {where} alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def download_link(text: str, name: str) -> str:
    """HTML of a link that saves a text as a file, without a server."""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{html.escape(name)}" href="data:application/json;base64,{data}">save {html.escape(name)}</a>'


def lasso_map(
    xy: Float[np.ndarray, "item 2"], values: Float[np.ndarray, " item"], on_select: Callable[[list[int]], object]
) -> tuple[widgets.Widget, Callable[[Float[np.ndarray, " item"]], object]]:
    """Dots to draw a lasso around, coloured by a value; `on_select` gets the numbers of the dots inside.

    Returns:
        The map, and a function that colours it anew.
    """
    import jscatter  # slow to import, and only the explorers need it

    scatter = jscatter.Scatter(x=xy[:, 0], y=xy[:, 1], width=420, height=300, size=5, opacity=0.9)

    def colour(values: Float[np.ndarray, " item"]) -> None:
        scatter.color(by=np.asarray(values, dtype=float), map="cividis", norm=(float(min(values)), float(max(values))))

    colour(values)
    scatter.mouse(mode="lasso")
    selected = in_main_thread(lambda change: on_select([int(number) for number in change["new"]]))
    scatter.widget.observe(selected, names="selection")
    return scatter.show(), colour
