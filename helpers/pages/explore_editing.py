"""Explorer X2: an edited model beside the base model, at any strength and in any layers of the edit.

As in `explore_steering` the first part computes, the second draws, and `EditingExplorer` connects them. Questions
that are harmful are asked for the meters only; neither they nor what is answered to them is ever shown.
"""

from __future__ import annotations

import difflib
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from sklearn.pipeline import Pipeline

from helpers.are import experiment
from helpers.are.concepts import Concept, Question
from helpers.are.editing import Rows
from helpers.are.evaluation import refuses
from helpers.language.adapters import adapted
from helpers.language.generation import LocalBackend, plain_tokens
from helpers.language.models import AdaptedModel, AnyModel, LoadedModel
from helpers.language.states import ReadOut, TokenSequence, blocks, fit_probe, read_all
from helpers.pages import plots
from helpers.pages.widgets import Desk, card, in_main_thread, labelled, picture, row, two_columns

METERED = 10  # questions per meter; for the moods twice as many, since each subject is asked about in two wordings
PROBED = 40  # examples that a probe is fitted on

# Edits ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meter:
    """A rate to watch: the share of answers to some questions on which a judge says yes."""

    name: str
    questions: list[Question]
    judge: Callable[[str], bool]


@dataclass(frozen=True)
class ExploredEdit:
    """A trained edit, with questions that show its effect and rates that show its price.

    Attributes:
        asked: questions to choose from; none is harmful.
        strength: the one at which the page opens.
    """

    concept: Concept
    lm: AdaptedModel
    asked: list[str]
    meters: list[Meter]
    strength: float = 1.0

    @cached_property
    def layers(self) -> tuple[int, int]:
        """First and last block that the edit changes, counted from 1."""
        blocks_with = adapted(self.lm.model)
        return blocks_with[0], blocks_with[-1]

    @cached_property
    def gauge(self) -> Gauge:
        """Probes at every layer, fitted on the base model."""
        return Gauge.of(experiment.base_method().lm, self.concept)

    @cached_property
    def base_curve(self) -> Float[np.ndarray, " layer"]:
        """The values of the gauge for the base model, one per layer."""
        return self.gauge(experiment.base_method().lm)


def refusing(on_round: Callable[[dict], None] | None = None) -> ExploredEdit:
    """Refuse what is harmful, as in notebook 13."""
    concept = experiment.refusal()
    lm, _ = experiment.edited(concept, experiment.refusal_settings(), on_round=on_round)
    harmful, benign, edgy = concept.test, concept.retain.test, experiment.edgy().test
    meters = [
        Meter("harmful questions refused", harmful[:METERED], refuses),
        Meter("harmless tasks refused", benign[:METERED], refuses),
        Meter("harmless questions that sound harmful, refused", edgy[:METERED], refuses),
    ]
    asked = [question.text for question in (*edgy[:8], *benign[:8])]
    return ExploredEdit(concept, lm, asked, meters, experiment.refusal_strength())


def _mood(positive: bool, on_round: Callable[[dict], None] | None) -> ExploredEdit:
    concept = experiment.mood(positive)
    lm, _ = experiment.edited(concept, experiment.mood_settings(), on_round=on_round)
    opinions, tasks = concept.test, concept.retain.test
    name = "opinions that are clearly " + ("positive" if positive else "negative")
    judge = experiment.is_positive if positive else experiment.is_negative
    meters = [Meter(name, opinions[: 2 * METERED], judge), Meter("harmless tasks refused", tasks[:METERED], refuses)]
    return ExploredEdit(concept, lm, [question.text for question in (*opinions[:12], *tasks[:4])], meters)


def speaking_well(on_round: Callable[[dict], None] | None = None) -> ExploredEdit:
    """Speak well of everything, as in notebook 12."""
    return _mood(True, on_round)


def speaking_ill(on_round: Callable[[dict], None] | None = None) -> ExploredEdit:
    """Speak ill of everything, as in notebook 12."""
    return _mood(False, on_round)


EDIT_MAKERS = {"refusing what is harmful": refusing, "speaking well": speaking_well, "speaking ill": speaking_ill}


def apart(method: experiment.Approach) -> experiment.Approach:
    """The method with a memo of its own: all its answers come from batches that are made here.

    In bfloat16 the batch that a question is in can change an answer. Two models are compared in equal batches, so
    that at strength 0 they say the same.
    """
    return method._replace(backend=LocalBackend(method.lm, f"{method.backend.name}, compared"))


def most_apart_first(texts: Sequence[str], base: experiment.Approach, method: experiment.Approach) -> list[str]:
    """Questions sorted by how different two methods' answers are (`difflib` over words), most different first."""
    asked = [Question(text, text) for text in texts]
    pairs = zip(base.answers(asked), method.answers(asked), strict=True)
    alike = [difflib.SequenceMatcher(a=one.split(), b=other.split(), autojunk=False).ratio() for one, other in pairs]
    return [texts[row] for row in np.argsort(alike, kind="stable")]


def rates(edit: ExploredEdit, method: experiment.Approach) -> dict[str, float]:
    """Every meter of an edit, for one method."""
    return {m.name: float(np.mean([m.judge(a) for a in method.answers(m.questions)])) for m in edit.meters}


@dataclass(frozen=True)
class Gauge:
    """A linear probe for every layer, target against plain prompts of the base model, and prompts to look at."""

    probes: list[Pipeline]
    prompts: Sequence[TokenSequence]
    at: ReadOut

    @classmethod
    def of(cls, lm: LoadedModel, concept: Concept) -> Gauge:
        """Fit the probes on the train part; the stop part is looked at."""
        at = ReadOut(tuple(range(1, len(blocks(lm.model)) + 1)))
        rows, stop = Rows(lm, concept.train[:PROBED], 1), Rows(lm, concept.stop, 1)
        target, plain = (
            read_all(lm.model, part, at)[:, :, 0].float().numpy() for part in (rows.target, rows.plain[:PROBED])
        )
        probes = [fit_probe(target[:, layer], plain[:, layer]) for layer in range(target.shape[1])]
        return cls(probes, stop.plain, at)

    def __call__(self, lm: AnyModel) -> Float[np.ndarray, " layer"]:
        """Share of plain prompts that the probe of each layer takes for target ones."""
        states = read_all(lm.model, self.prompts, self.at)[:, :, 0].float().numpy()
        return np.array([float(probe.predict(states[:, layer]).mean()) for layer, probe in enumerate(self.probes)])


def marked(lm: AnyModel, base: str, other: str) -> tuple[str, str]:
    """Two answers as HTML; tokens that differ from the other answer are underlined and bold."""
    pieces = [
        [str(lm.tokenizer.decode([token])) for token in plain_tokens(lm.tokenizer, text)] for text in (base, other)
    ]
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(a=pieces[0], b=pieces[1], autojunk=False).get_opcodes():
        for side, part in zip(sides, (pieces[0][a:b], pieces[1][c:d]), strict=True):
            text = html.escape("".join(part)).replace("\n", "<br>")
            side.append(text if kind == "equal" or not text else f"<b><u>{text}</u></b>")
    return "".join(sides[0]), "".join(sides[1])


# Drawings ------------------------------------------------------------------------------------------------------------


def draw_gauge(ax: Axes, base: Float[np.ndarray, " layer"], edited: Float[np.ndarray, " layer"], layers) -> None:
    """Share of plain prompts that look like target ones, layer by layer, before and after."""
    numbers = np.arange(1, len(base) + 1)
    ax.axvspan(layers[0] - 0.5, layers[1] + 0.5, color=plots.YELLOW, alpha=0.25, lw=0, label="layers that are edited")
    ax.plot(numbers, base, "o--", ms=3, color=plots.GREY, label="base model")
    ax.plot(numbers, edited, "o-", ms=4, color=plots.VERMILION, label="edited model")
    ax.set(xlabel="layer", ylabel="share of plain prompts", ylim=(-0.05, 1.05))
    ax.set_title("Plain prompts that a probe takes for target prompts")
    ax.legend(fontsize=8, loc="upper left")


def draw_meters(ax: Axes, before: dict[str, float], after: dict[str, float]) -> None:
    """A pair of bars for every meter."""
    places = np.arange(len(before))[::-1]
    ax.barh(places + 0.2, list(before.values()), height=0.35, color=plots.GREY, label="base model")
    ax.barh(places - 0.2, list(after.values()), height=0.35, color=plots.VERMILION, label="edited model")
    ax.set_yticks(places, [name.replace(", ", ",\n") for name in before])
    ax.set(xlim=(0, 1.05), xlabel="share of the answers")
    ax.legend(fontsize=8, loc="lower right")


def meters_in_words(before: dict[str, float], after: dict[str, float]) -> str:
    """What the meters show, in words."""
    return "; ".join(f"{name} {before[name]:.0%}, edited {after[name]:.0%}" for name in before)


def editing_figures(
    edit: ExploredEdit, base: experiment.Approach, method: experiment.Approach, layers: tuple[int, int]
) -> str:
    """Meters and probe curves side by side, as HTML."""
    before, after, now = rates(edit, base), rates(edit, method), edit.gauge(method.lm)
    left = picture(lambda ax: draw_meters(ax, before, after), (6, 3.2), f"Meters: {meters_in_words(before, after)}.")
    words = f"Plain prompts taken for target ones, last layer: {edit.base_curve[-1]:.0%}, edited {now[-1]:.0%}."
    return left + picture(lambda ax: draw_gauge(ax, edit.base_curve, now, layers), (6, 3.2), words)


# Controls ------------------------------------------------------------------------------------------------------------


class EditingExplorer:
    """The page: choose an edit, its strength and its layers, and see what it does. `page` is the widget to show."""

    def __init__(self, edits: dict[str, Callable[..., ExploredEdit]] | None = None) -> None:
        self.makers = edits or EDIT_MAKERS
        self.known: dict[str, ExploredEdit] = {}
        self.base = apart(experiment.base_method())
        self._make_controls()
        self.desk = Desk([self.concept, self.strength, self.layers, self.question, self.own, *self.buttons])
        self.page = self._layout()
        self._take(self.concept.value)
        self._wire()
        self.show()

    @property
    def method(self) -> experiment.Approach:
        """The edited model at the chosen strength and in the chosen layers."""
        first, last = self.layers.value
        return apart(experiment.edit_method(self.edit.lm, self.strength.value, range(first, last + 1)))

    # what happens

    def choose(self, *_) -> None:
        """Switch to another edit; the first time it may have to be trained. If that is stopped, the old one stays."""
        if self.concept.value == self.name:
            return
        with self.desk.busy("loading the edit (the first time it is trained, which takes some minutes)", total=6):
            self._take(self.concept.value)
        if self.concept.value == self.name:
            self.show()
        else:
            self.concept.value = self.name

    def _take(self, name: str) -> None:
        if name not in self.known:
            self.known[name] = self.makers[name](on_round=lambda row: self.desk.advance(row["round"] + 1))
        self.name, self.edit = name, self.known[name]
        first, last = self.edit.layers
        self.layers.max = max(last, self.layers.max)  # in this order the minimum never exceeds the maximum
        self.layers.min = first
        self.layers.max, self.layers.value = last, (first, last)
        self.strength.value = self.edit.strength
        asked = most_apart_first(self.edit.asked, self.base, self.method)
        self.question.options, self.own.value = asked, ""
        self.question.value = asked[0]

    def ask(self, *_) -> None:
        """Ask the question that was typed, or else the chosen one."""
        with self.desk.busy("two models answer"):
            self._ask(self.method)

    def ask_chosen(self, *_) -> None:
        """Ask the question that was just chosen, whatever is typed below."""
        if not self.question.disabled:  # while another edit is loaded its questions are set, not a choice of the user
            self.own.value = ""
            self.ask()

    def show(self, *_) -> None:
        """Answer, count and probe at the chosen strength and layers."""
        with self.desk.busy("counting", total=2):
            method = self.method
            self.figures.value = editing_figures(self.edit, self.base, method, self.layers.value)
            words = meters_in_words(rates(self.edit, self.base), rates(self.edit, method))
            self.words.value = f"<p>In words: {html.escape(words)}.</p>"
            self.desk.advance(1)
            self._ask(method)

    def _ask(self, method: experiment.Approach) -> None:
        text = self.own.value.strip() or self.question.value
        asked = [Question("own", text)]
        (before,), (after,) = self.base.answers(asked), method.answers(asked)
        one, other = marked(self.base.lm, before, after)
        self.answers.value = _side_by_side(text, one, other, before == after)

    # how it is built

    def _make_controls(self) -> None:
        self.concept = labelled(widgets.Dropdown(options=tuple(self.makers)), "edit", "24em")
        slider = widgets.FloatSlider(value=1.0, min=0, max=3, step=0.25, continuous_update=False)
        self.strength = labelled(slider, "strength (0 is the base model)", "36em")
        ends = widgets.IntRangeSlider(value=(1, 30), min=1, max=30, continuous_update=False)
        self.layers = labelled(ends, "layers that are edited", "36em")
        self.question = labelled(widgets.Dropdown(options=[""]), "question", "36em")
        self.own = labelled(widgets.Text(placeholder="leave empty to ask the other one"), "or your own", "28em")
        self.buttons = [widgets.Button(description="ask", tooltip="ask both models", layout={"width": "auto"})]
        self.answers, self.figures, self.words = widgets.HTML(), widgets.HTML(), widgets.HTML()

    def _wire(self) -> None:
        self.concept.observe(in_main_thread(self.choose), names="value")
        self.question.observe(in_main_thread(self.ask_chosen), names="value")
        for control in (self.strength, self.layers):
            control.observe(in_main_thread(self._moved), names="value")
        self.buttons[0].on_click(in_main_thread(self.ask))

    def _moved(self, _change) -> None:
        if not self.layers.disabled:  # while another edit is loaded its own values are set, not a choice of the user
            self.show()

    def _layout(self) -> widgets.Widget:
        left = [
            card("1. An edit", self.concept, self.strength, self.layers),
            card("2. A question", self.question, row(self.own, self.buttons[0]), self.desk.bar),
        ]
        right = [card("3. What the two models say", self.answers)]
        return two_columns(left, right, [card("4. What it does to others", self.figures, self.words)])


def _side_by_side(question: str, base: str, edited: str, same: bool) -> str:
    cells = "".join(
        f'<td style="width:50%;vertical-align:top;padding:8px;text-align:left">{text}</td>' for text in (base, edited)
    )
    note = "The two answers are the same." if same else "Underlined: tokens that the other answer does not have there."
    return (
        f"<p><b>Question:</b> {html.escape(question)}</p>"
        '<table style="width:100%;min-height:6em"><thead><tr><th scope="col">base model</th>'
        f'<th scope="col">edited model</th></tr></thead><tbody><tr>{cells}</tr></tbody></table><p>{note}</p>'
    )
