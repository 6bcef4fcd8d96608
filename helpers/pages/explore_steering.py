"""Explorer X1: pick a viewer and a film, and steer the film's text by aims, with the agent, by instruction or by hand.

The first part computes and knows no widgets: a `SteeringRun` is a list of texts with their utilities, and every way
to go on returns a longer one. The second part draws. `SteeringExplorer` only connects the two with controls.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from sklearn.neighbors import NearestNeighbors

from helpers.base.storage import CourseError
from helpers.domains.ideas import MAX_PLOT_CHARACTERS
from helpers.eagle.emission import gap_of_start
from helpers.eagle.rewriting import Start, seed_of, start_items, start_of
from helpers.eagle.steering import Options, State, Steering, Support
from helpers.eagle.trajectories import StatePolicy
from helpers.eagle.utility import ContentGap
from helpers.embedding.profiles import in_words
from helpers.pages import plots
from helpers.pages.widgets import (
    Desk,
    card,
    download_link,
    in_main_thread,
    labelled,
    lasso_map,
    picture,
    row,
    table_of,
    two_columns,
)

Offered = Support | Literal["all"]
"""What an agent, or whoever clicks, chooses among: a support's ten aims, or all."""

# Runs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextStep:
    """A text of a run, its origin ("film", "aim", "agent", "instruction" or "hand"), and its utility.

    Attributes:
        z: embedding of the text by the paid encoder; rating, novelty: the two parts of its utility, in stars.
        judged: utility by the judge, in stars, which nothing here is chosen by.
        instruction: the one that the language model got; problem: what was wrong with its answer ("" if nothing), in
            which case the text is unchanged.
        aim: its number, if the text was written for one.
    """

    text: str
    by: str
    z: Float[np.ndarray, " dim"] = field(repr=False, compare=False)
    rating: float
    novelty: float
    judged: float
    instruction: str = ""
    problem: str = ""
    aim: int | None = None


@dataclass(frozen=True)
class SteeringRun:
    """A film's text on its way to a viewer: every text so far, and whether the agent has said STOP at the last one."""

    title: str
    start: Start
    seed: int
    steps: tuple[TextStep, ...]
    stopped: bool = field(default=False, compare=False)

    @property
    def state(self) -> State:
        """What a policy sees of the run."""
        asked = tuple(step.aim for step in self.steps if step.aim is not None)
        return State(self.start, self.steps[-1].text, len(self.steps) - 1, asked)

    @property
    def gained(self) -> Float[np.ndarray, "encoder text"]:
        """Utility of every text over that of the film's, in stars, by the paid encoder and by the judge."""
        utility = np.array([(step.rating + step.novelty, step.judged) for step in self.steps]).T
        return utility - utility[:, :1]

    @property
    def name(self) -> str:
        """Film, viewer and seed."""
        return f"{self.title}, viewer {self.start.user}, seed {self.seed}"

    @property
    def label(self) -> str:
        """The run in a few words."""
        (paid, judged), taken = self.gained[:, -1], len(self.steps) - 1
        return (
            f"{self.name}: {taken} {'step' if taken == 1 else 'steps'}, {paid:+.2f} stars, by the judge {judged:+.2f}"
        )


def task_for(task: Steering, item: int) -> Steering:
    """The task without aims that consist of this film alone: its own text must not be borrowed back."""
    own = np.flatnonzero(task.encoders.paid.domain.text_items == item).tolist()
    return replace(task, aims=tuple(aim for aim in task.aims if list(aim.items) != own))


def start_run(task: Steering, user: int, item: int, seed: int = 0) -> SteeringRun:
    """A run that stands at the film's own text.

    Raises:
        CourseError: the film has no text to start from, or there is no such viewer.
    """
    domain = task.encoders.paid.domain
    if not 0 <= user < domain.n_users:
        raise CourseError(f"no viewer {user}: there are viewers 0 to {domain.n_users - 1}")
    if item not in start_items(domain):
        raise CourseError("this film has no short plot to start from: pick another one")
    start = start_of(domain, item, user)
    return _longer(task, SteeringRun(str(domain.items["title"].iloc[item]), start, seed, ()), start.text, "film")


def by_hand(task: Steering, run: SteeringRun, text: str) -> SteeringRun:
    """The run with a text that somebody wrote, in the form of all texts here: a line of genres, a line of plot.

    Raises:
        CourseError: the text has another form, or is too long for the encoder.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or not lines[0].lower().startswith("genres:"):
        raise CourseError("write two lines: 'Genres: Western.' and a sentence or two of plot")
    if len(text) > MAX_PLOT_CHARACTERS:
        raise CourseError(f"{len(text)} characters: the encoder reads {MAX_PLOT_CHARACTERS}, shorten the plot")
    return _longer(task, run, "\n".join(lines), "hand")


def by_instruction(task: Steering, run: SteeringRun, instruction: str) -> SteeringRun:
    """The run with its last text rewritten by the language model; the same arguments give the same text.

    Raises:
        CourseError: an empty instruction.
    """
    if not (wish := instruction.strip()):
        raise CourseError("an empty instruction: write what should change, such as 'Make it a comedy.'")
    found = task.rewrite([run.steps[-1].text], [wish], [seed_of("step", run.state.step, run.seed)])
    return _longer(task, run, found.texts[0], "instruction", instruction=wish, problem=found.problems[0])


def by_aim(task: Steering, run: SteeringRun, aim: int, by: str = "aim") -> SteeringRun:
    """The run with its last text rewritten towards an aim of the task; the same arguments give the same text."""
    found = task.follow([run.steps[-1].text], [aim], [seed_of("step", run.state.step, run.seed)])
    (told,) = task.said([aim])
    return _longer(task, run, found.texts[0], by, instruction=told, problem=found.problems[0], aim=aim)


def by_agent(task: Steering, policy: StatePolicy, run: SteeringRun, offered: Offered) -> SteeringRun:
    """The run after one choice of a policy among `choices`: a step towards an aim, or STOP, which leaves the text.

    Raises:
        CourseError: the run has had all the steps of an episode.
    """
    if run.state.step >= task.horizon:
        raise CourseError(f"an episode has {task.horizon} steps, and all are used: undo some, or start again")
    options = choices(task, run, offered)
    with torch.no_grad():
        chances = np.cumsum(policy.log_probs([run.state], [options]).exp().double().numpy()[0])
    draw = np.random.default_rng([run.seed, 2]).random(len(run.steps))[-1] * chances[-1]
    chosen = int((chances <= draw).sum())
    if chosen == len(options.aims):
        return replace(run, stopped=True)
    return by_aim(task, run, int(options.aims[chosen]), by="agent")


def by_episode(task: Steering, policy: StatePolicy, run: SteeringRun, offered: Offered) -> Iterator[SteeringRun]:
    """The run after every choice of a policy, until it says STOP or the steps of an episode are used up.

    From a film's own text it is the episode that `trajectories.play` plays with the run's seed (errors as `by_agent`).
    """
    yield (run := by_agent(task, policy, run, offered))
    if not episode_is_over(task, run):
        yield from by_episode(task, policy, run, offered)


def episode_is_over(task: Steering, run: SteeringRun) -> bool:
    """Whether the agent has no further step: it has said STOP, or the steps of an episode are used up."""
    return run.stopped or run.state.step >= task.horizon


def _longer(task: Steering, run: SteeringRun, text: str, by: str, **asked) -> SteeringRun:
    (z, _), judge = task.embedded([text]), task.encoders.judge
    parts, judged = task.gaps(run.start)[0](z), gap_of_start(judge, run.start, task.novelty_weight)
    rating, total = float(parts.rating[0]), float(parts.total[0])
    step = TextStep(text, by, z[0], rating, total - rating, float(judged(judge.encoder([text])).total[0]), **asked)
    return replace(run, steps=(*run.steps, step), stopped=False)


def undone(run: SteeringRun) -> SteeringRun:
    """The run without the agent's STOP, or else without its last text; the film's own text always stays."""
    return replace(run, steps=run.steps if run.stopped else run.steps[:1] + run.steps[1:-1], stopped=False)


def choices(task: Steering, run: SteeringRun, offered: Offered) -> Options:
    """The options at the last text: some aims, and STOP."""
    if offered != "all":
        return task.options(run.state, offered)
    every = np.arange(len(task.aims))
    return Options(every, task.in_time(run.state, every, task.table(run.state).features))


def listed_aims(task: Steering, run: SteeringRun, offered: Offered, n: int = 30) -> list[tuple[str, int]]:
    """The n aims of `choices` that promise most, best first: promise in stars with a name for the list, and number."""
    aims, features = choices(task, run, offered)
    promised = features[:-1, :2].sum(axis=1)
    best = np.argsort(-promised, kind="stable")[:n]
    return [(f"{promised[row]:+.2f}  {_name_of(task, aims[row])}", int(aims[row])) for row in best]


def _name_of(task: Steering, number: int) -> str:
    aim, domain = task.aims[number], task.encoders.paid.domain
    if aim.kind == "named":
        return f"Towards {in_words(aim.labels)}; {aim.theme}."
    return f"Borrow from {domain.items['title'].iloc[domain.text_items[aim.items[0]]]}."


def as_json(runs: Sequence[SteeringRun]) -> str:
    """A session to keep: every run with its texts and numbers."""
    kept = []
    for run in runs:
        steps = [{k: v for k, v in vars(step).items() if k != "z"} for step in run.steps]
        about = {"title": run.title, "item": run.start.item, "user": run.start.user, "seed": run.seed}
        kept.append(about | {"stopped": run.stopped, "steps": steps})
    return json.dumps(kept, indent=1)


def from_json(task: Steering, text: str) -> list[SteeringRun]:
    """The runs of a session that was kept (`as_json`), with their numbers computed anew from their texts.

    Raises:
        CourseError: not such a file, or one of another task.
    """
    try:
        runs = []
        for kept in json.loads(text):
            run = start_run(task, *(int(kept[name]) for name in ("user", "item", "seed")))
            if (run.title, run.steps[0].text) != (kept["title"], kept["steps"][0]["text"]):
                raise CourseError("this session has other films than the course: it was kept with other data")
            for step in kept["steps"][1:]:
                asked = {name: str(step[name]) for name in ("instruction", "problem")}
                aim = None if step["aim"] is None else int(step["aim"])
                run = _longer(task, run, str(step["text"]), str(step["by"]), **asked, aim=aim)
            runs.append(replace(run, stopped=bool(kept["stopped"])))
        return runs
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CourseError("this is no session of the explorer: choose a file that 'export' has saved") from error


# Drawings ------------------------------------------------------------------------------------------------------------

PATHS = ((plots.VERMILION, "o"), (plots.SKY, "s"), (plots.PURPLE, "^"), (plots.ORANGE, "D"))
"""Colour and mark of each run that is shown."""


class SteeringMap:
    """The flat map of the items, the same for all runs: `xy` of items, and where embeddings fall on it."""

    def __init__(self, task: Steering) -> None:
        self.task, self.space = task, task.encoders.paid
        self.flat = plots.plane(self.space.items)
        self.xy = self.flat.transform(self.space.items)
        self.x, self.y, self.grid = plots.map_grid(self.xy, n=90, margin=0.05)
        apart = NearestNeighbors(n_neighbors=3).fit(self.xy)
        near = 1.5 * np.quantile(apart.kneighbors()[0][:, -1], 0.9)
        self.empty = (apart.kneighbors(self.grid)[0][:, 0] > near).reshape(len(self.y), len(self.x))

    def item_utility(self, user: int) -> Float[np.ndarray, " item"]:
        """Utility of the existing films for a viewer, in stars."""
        return ContentGap.of_user(self.space, user, novelty_weight=self.task.novelty_weight).of_items().total

    def surface(self, run: SteeringRun) -> Float[np.ndarray, "y x"]:
        """Utility over the map for the run's viewer, in the plane parallel to the map through the last text.

        It is masked where no films are: nothing is known of texts there.
        """
        here = run.steps[-1].z
        off = here - self.flat.inverse_transform(self.flat.transform(here[None]))[0]
        total = self.task.gaps(run.start)[0](self.flat.inverse_transform(self.grid) + off).total
        return np.ma.masked_array(total.reshape(len(self.y), len(self.x)), self.empty)

    def draw(self, ax: Axes, runs: Sequence[SteeringRun]) -> None:
        """Every run as a path over the utility of the first one's viewer; the large mark is its last text.

        The star marks the gap: the place among the films where utility is highest.
        """
        values = self.surface(runs[0])
        plots.surface(ax, self.x, self.y, values, (float(values.min()), float(values.max())))
        ax.scatter(self.xy[:, 0], self.xy[:, 1], s=3, color="white", alpha=0.35, linewidths=0)
        row, column = np.unravel_index(np.ma.argmax(values), values.shape)
        ax.plot(self.x[column], self.y[row], "*", ms=15, color="white", markeredgecolor=plots.BLACK, zorder=2)
        for run, (colour, mark) in zip(runs, PATHS, strict=False):
            path = self.flat.transform(np.stack([step.z for step in run.steps]))
            ax.plot(*path.T, "-", color="white", lw=3.5, zorder=3)
            ax.plot(*path.T, ".-", color=colour, lw=1.8, zorder=4)
            ax.plot(*path[-1], marker=mark, ms=10, color=colour, markeredgecolor="white", zorder=5)
        ax.set(
            title=f"Utility in stars for viewer {runs[0].start.user}; white star: the gap",
            xlabel="first principal component",
        )
        ax.set(ylabel="second principal component")


def draw_gains(ax: Axes, runs: Sequence[SteeringRun]) -> None:
    """What every run has gained over the film's text after each step, by the paid encoder and by the judge."""
    for run, (colour, mark) in zip(runs, PATHS, strict=False):
        name = run.name.replace("$", r"\$")  # a single dollar sign would begin a formula
        paid, judged = run.gained
        ax.plot(paid, "-", marker=mark, color=colour, label=name)
        ax.plot(judged, "--", marker=mark, color=colour, markerfacecolor="white")
    ax.axhline(0, color=plots.GREY, lw=0.8, zorder=0)
    longest = max(len(run.steps) for run in runs)
    ax.set(xlabel="step", ylabel="stars", title="Gain by the paid encoder (line) and by the judge (dashed)")
    ax.set_xticks(range(longest))
    ax.set_xlim(-0.3, max(longest, 6) - 0.7)
    # Below the axes: inside them, a path may run anywhere.
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def runs_in_words(runs: Sequence[SteeringRun]) -> str:
    """What the two drawings show, in words."""
    lasts = [(run.label, run.steps[-1]) for run in runs]
    return " ".join(f"{label}; predicted rating {s.rating:.2f}, novelty {s.novelty:.2f}." for label, s in lasts)


def steering_figures(where: SteeringMap, runs: Sequence[SteeringRun]) -> str:
    """The two drawings side by side, as HTML."""
    words = runs_in_words(runs)
    left = picture(lambda ax: where.draw(ax, runs), (5.6, 4.0), f"Map of films with the runs. {words}")
    return left + picture(lambda ax: draw_gains(ax, runs), (5.6, 3.8), f"Gain after every step. {words}")


# Controls ------------------------------------------------------------------------------------------------------------

AGENT_STEPS = ("one step of the agent", "episode of the agent")  # buttons
OFFERED: tuple[tuple[str, Offered], ...] = (
    ("ten, optimistic: of highest promise", "optimistic"),
    ("ten, G-optimal: a design", "goptimal"),
    ("ten, uniform: at random", "uniform"),
    ("all, of which thirty are listed", "all"),
)
GoOn = Callable[[Steering, SteeringRun], Iterable[SteeringRun]]
"""What a button does: from the task and a run to the run after each step."""


class SteeringExplorer:
    """The page, which opens with a film and a viewer: controls on the left, text, map and gains on the right."""

    def __init__(self, task: Steering, policy: StatePolicy, first: Start) -> None:
        self.every, self.policy = task, policy
        self.domain = task.encoders.paid.domain
        self.films: dict[str, int] = {}
        for item in start_items(self.domain):
            self.films.setdefault(str(self.domain.items["title"].iloc[item]), int(item))
        self.map = SteeringMap(task)
        self.kept: list[SteeringRun] = []
        self.opening = False
        self.task = task_for(task, first.item)
        self.run = start_run(self.task, first.user, first.item)
        self._make_controls()
        self.page = self._layout()
        self.own_text.value = self.offered = self.run.steps[-1].text
        self.redraw()

    @property
    def others(self) -> list[SteeringRun]:
        """The runs that were kept to compare with, newest first, without the current one."""
        return [run for run in reversed(self.kept) if run != self.run]

    @property
    def shown(self) -> list[SteeringRun]:
        """The current run and the newest others, as many as there are colours."""
        return [self.run, *self.others][: len(PATHS)]

    # what happens

    def restart(self, *_) -> None:
        """Stand at the chosen film's text, for the chosen viewer. The text in the field stays as it is."""
        with self.desk.busy("placing the film"):
            known = {title.casefold(): item for title, item in self.films.items()}
            if (item := known.get(self.film.value.strip().casefold())) is None:
                raise CourseError(f"no film {self.film.value!r} with a short plot: pick one from the list")
            self.task = task_for(self.every, item)
            self.run = start_run(self.task, self.user.value, item, self.seed.value)
            self.colour(self.map.item_utility(self.run.start.user)[self.rows])
            self.redraw()

    def go_on(self, further: GoOn, *_) -> None:
        """Go on from the run, step by step."""
        with self.desk.busy("working", total=self.task.horizon):
            for done, run in enumerate(further(self.task, self.run), start=1):
                self._go_to(run)
                self.desk.advance(done)

    def keep(self, task: Steering, run: SteeringRun) -> list[SteeringRun]:
        """Keep the run, to compare the next ones with it."""
        self.kept += [run] * (run not in self.kept)
        return [run]

    def forget(self, task: Steering, run: SteeringRun) -> list[SteeringRun]:
        """Drop the runs that were kept."""
        self.kept = []
        return [run]

    def export(self, *_) -> None:
        """Offer the session as a file."""
        self.link.value = download_link(as_json([*reversed(self.others), self.run]), "steering_session.json")

    def open(self, runs: Sequence[SteeringRun]) -> None:
        """Show some runs: the last one as the current one, the others beside it."""
        *self.kept, run = runs
        self.task, self.opening = task_for(self.every, run.start.item), True  # its values are no wish for a new start
        try:
            self.film.value, self.user.value, self.seed.value = run.title, run.start.user, run.seed
        finally:
            self.opening = False
        self.colour(self.map.item_utility(run.start.user)[self.rows])
        self._go_to(run)

    def open_file(self, *_) -> None:
        """Show the runs of a file that `export` has saved."""
        with self.desk.busy("opening the session"):
            (file,) = self.file.value
            self.file.value = ()
            if runs := from_json(self.every, bytes(file["content"]).decode("utf-8", "replace")):
                self.open(runs)

    def _go_to(self, run: SteeringRun) -> None:
        """Show a run, and offer its last text for editing unless somebody has begun to write one."""
        self.run = run
        if self.own_text.value in ("", self.offered):
            self.own_text.value = self.offered = run.steps[-1].text
        self.redraw()

    def redraw(self) -> None:
        """Show the run as it is."""
        runs, n_others = self.shown, len(self.others)
        self.text.value, self.link.value = _last_text(self.run, episode_is_over(self.task, self.run)), ""
        user = self.run.start.user
        self.profile.value = f"<b>Viewer {user}.</b> {html.escape(str(self.task.profile(user)))}"
        self.numbers.value = _numbers(runs)
        self.figures.value = steering_figures(self.map, runs)
        left_out = f" {n_others + 1 - len(runs)} older ones are kept and not shown." if n_others >= len(runs) else ""
        self.words.value = f"<p>In words: {html.escape(runs_in_words(runs) + left_out)}</p>"
        self.aims.options = listed_aims(self.task, self.run, self.aim_set.value)
        self.aims.value = self.aims.options[0][1]
        self.desk.rest([self.buttons[name] for name in AGENT_STEPS] if episode_is_over(self.task, self.run) else [])

    # how it is built

    def _make_controls(self) -> None:
        last, number = self.domain.n_users - 1, widgets.BoundedIntText
        self.user = labelled(number(value=self.run.start.user, min=0, max=last), f"viewer (0 to {last})")
        films = widgets.Combobox(value=self.run.title, options=tuple(self.films), continuous_update=False)
        self.film = labelled(films, "film (type to search)", "32em")
        self.near = labelled(widgets.Select(options=[], rows=8), "films in your lasso", "24em")
        self.seed = labelled(number(value=0, min=0, max=10_000), "seed")
        self.aim_set = labelled(widgets.Dropdown(options=OFFERED), "aims to choose among", "32em")
        self.aims = labelled(widgets.Select(options=[], rows=10), "aims, promise in stars", "97%")
        self.instruction = labelled(widgets.Text(value="Make it a comedy."), "your instruction", "30em")
        self.own_text = labelled(widgets.Textarea(rows=4), "or your own text", "30em")
        chosen = [self.user, self.film, self.near, self.seed, self.aim_set, self.aims]
        self.file = widgets.FileUpload(accept=".json", description="open a session", layout={"width": "auto"})
        self.desk = Desk([*chosen, self.instruction, self.own_text, self.file])
        self.buttons: dict[str, widgets.Button] = {}
        self.text, self.profile, self.numbers, self.about = (widgets.HTML() for _ in range(4))
        self.figures, self.words, self.link = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.rows = np.searchsorted(self.domain.text_items, list(self.films.values()))
        utility = self.map.item_utility(self.run.start.user)[self.rows]
        self.lasso, self.colour = lasso_map(self.map.xy[self.rows], utility, self.select)
        for control in (self.user, self.film, self.seed):
            control.observe(in_main_thread(self._other_start), names="value")
        self.aim_set.observe(in_main_thread(partial(self.go_on, lambda task, run: [run])), names="value")
        self.aims.observe(self._tell_of_aim, names="value")
        self.near.observe(self._from_lasso, names="value")
        self.file.observe(in_main_thread(lambda change: self.open_file() if change["new"] else None), names="value")

    def _other_start(self, *_) -> None:
        if not self.opening:
            self.restart()

    def _from_lasso(self, change) -> None:
        if change["new"]:
            self.film.value = change["new"]

    def _tell_of_aim(self, change) -> None:
        if change["new"] is not None:
            told = html.escape(self.task.said([change["new"]])[0])
            self.about.value = f'<div style="max-width:44em">The language model will be told: <i>{told}</i></div>'

    def select(self, numbers: Sequence[int]) -> None:
        """List the films of a lasso, by their numbers on the map."""
        self.near.options = [list(self.films)[number] for number in sorted(numbers)]

    def _button(self, name: str, act: Callable[..., None]) -> widgets.Button:
        self.buttons[name] = button = widgets.Button(description=name, tooltip=name, layout={"width": "auto"})
        button.on_click(in_main_thread(act))
        self.desk.controls.append(button)
        return button

    def _step(self, name: str, further: GoOn) -> widgets.Button:
        return self._button(name, partial(self.go_on, further))

    def _layout(self) -> widgets.Widget:
        button, step = self._button, self._step
        kept = step("keep to compare", self.keep), step("forget", self.forget), button("export", self.export)
        start = card(
            "1. A viewer and a film",
            row(self.user, self.seed),
            row(self.film, button("start again", self.restart)),
            row(self.lasso, self.near),
        )
        aims = (
            step("follow this aim", lambda task, run: [by_aim(task, run, self.aims.value)]),
            step(AGENT_STEPS[0], lambda task, run: [by_agent(task, self.policy, run, self.aim_set.value)]),
            step(AGENT_STEPS[1], lambda task, run: by_episode(task, self.policy, run, self.aim_set.value)),
        )
        asked = step("rewrite", lambda task, run: [by_instruction(task, run, self.instruction.value)])
        written = step("use my text", lambda task, run: [by_hand(task, run, self.own_text.value)])
        steer = card(
            "2. Steer",
            *(self.aim_set, self.aims, self.about, row(*aims)),
            *(row(self.instruction, asked), row(self.own_text, written)),
            *(row(step("undo", lambda task, run: [undone(run)]), *kept, self.file), self.link),
        )
        happens = card("3. What happens", self.desk.bar, self.profile, self.text, self.numbers)
        return two_columns([start, steer], [happens, card("4. Where it leads", self.figures, self.words)])


def _last_text(run: SteeringRun, over: bool = False) -> str:
    last, before = run.steps[-1], [step.text for step in run.steps[-2:-1]]
    how = {"film": "the film's own text", "hand": "written by hand"}.get(last.by, f"{last.by}: {last.instruction}")
    told = [f"The answer could not be used ({last.problem}): the text has stayed."] * bool(last.problem)
    told += ["This is the same text as before."] * (not told and before == [last.text])
    told += ["The agent says STOP: it expects no gain from a further step."] * run.stopped
    told += ["The episode is over: undo a step, or start again."] * over
    where = f"<b>{html.escape(run.title)}</b>, step {len(run.steps) - 1}"
    return (
        f"<p>{where} ({html.escape(how)}) <i>{html.escape(' '.join(told))}</i></p>"
        '<blockquote style="min-height:5em">'
        f"{html.escape(last.text).replace(chr(10), '<br>')}</blockquote>"
    )


def _numbers(runs: Sequence[SteeringRun]) -> str:
    def cells_of(run: SteeringRun) -> list[str]:
        last, (paid, judged) = run.steps[-1], run.gained[:, -1]
        numbers = f"{last.rating:.2f} {last.novelty:.2f} {last.rating + last.novelty:.2f} {paid:+.2f}".split()
        name = f"{html.escape(run.title)}<br>viewer&nbsp;{run.start.user},&nbsp;seed&nbsp;{run.seed}"
        return [name, str(len(run.steps) - 1), *numbers, f"{last.judged:.2f}", f"{judged:+.2f}"]

    paid = ("predicted rating", "+\u00a0novelty", "=\u00a0utility", "gain")
    return table_of(("run", "steps", *paid, "judge: utility", "judge: gain"), [cells_of(run) for run in runs])
