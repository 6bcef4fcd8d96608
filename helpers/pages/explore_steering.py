"""Explorer X1: pick a viewer and a film, and steer the film's text by hand, by instruction or with the agent.

The first part computes and knows no widgets: a `SteeringRun` is a list of texts with their utilities, and every way
to go on returns a longer one. The second part draws. `SteeringExplorer` only connects the two with controls.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from helpers.base.storage import CourseError
from helpers.domains.domain import Domain
from helpers.domains.ideas import MAX_PLOT_CHARACTERS
from helpers.eagle import design
from helpers.eagle.environment import Integers, Observation
from helpers.eagle.experiment import Experiment
from helpers.eagle.policy import Policy
from helpers.eagle.rewriting import seed_of, start_items, start_of
from helpers.pages import plots
from helpers.pages.widgets import (
    Desk,
    download_link,
    heading,
    in_main_thread,
    labelled,
    lasso_map,
    picture,
    row,
    table_of,
    two_columns,
)

# Runs ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextStep:
    """A text of a run: who wrote it ("film", "agent", "instruction" or "hand"), by which instruction, and its place.

    Attributes:
        problem: what was wrong with the language model's answer ("" if nothing): then the text has stayed.
        z: embedding of the text; total, rating: utility and predicted rating in stars; novelty: in typical distances.
    """

    text: str
    by: str
    instruction: str
    problem: str
    z: Float[np.ndarray, " dim"]
    total: float
    rating: float
    novelty: float


@dataclass(frozen=True)
class SteeringRun:
    """A film's text on its way: the film, the viewer that it is rewritten for, and every text so far."""

    title: str
    item: int
    user: int
    seed: int
    steps: tuple[TextStep, ...]

    @property
    def gain(self) -> float:
        """Utility of the last text minus that of the film's, in stars."""
        return self.steps[-1].total - self.steps[0].total

    @property
    def label(self) -> str:
        """The run in a few words."""
        taken = len(self.steps) - 1
        return f"{self.name}: {taken} step{'s' * (taken != 1)}, {self.gain:+.2f} stars"

    @property
    def name(self) -> str:
        """Film, viewer and seed."""
        return f"{self.title}, viewer {self.user}, seed {self.seed}"

    def same(self, other: SteeringRun) -> bool:
        """Whether both went the same way."""
        texts, others = ([step.text for step in run.steps] for run in (self, other))
        return (self.item, self.user, self.seed, texts) == (other.item, other.user, other.seed, others)


def start_run(experiment: Experiment, user: int, item: int, seed: int = 0) -> SteeringRun:
    """A run that stands at the film's own text.

    Raises:
        CourseError: the film has no text to start from, or there is no such viewer.
    """
    domain = experiment.world.space.domain
    if not 0 <= user < domain.n_users:
        raise CourseError(f"no viewer {user}: there are viewers 0 to {domain.n_users - 1}")
    if item not in start_items(domain):
        raise CourseError("this film has no short plot to start from: pick another one")
    start = start_of(domain, item, user)
    run = SteeringRun(str(domain.items["title"].iloc[item]), item, user, seed, ())
    return _longer(experiment, run, start.text, "film")


def by_hand(experiment: Experiment, run: SteeringRun, text: str) -> SteeringRun:
    """The run with a text that somebody wrote, in the form of all texts here: a line of genres, a line of plot.

    Raises:
        CourseError: another form, or too long to be read to its end.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or not lines[0].lower().startswith("genres:"):
        raise CourseError("write two lines: 'Genres: Western.' and a sentence or two of plot")
    if len(text) > MAX_PLOT_CHARACTERS:
        raise CourseError(
            f"{len(text)} characters: the encoder reads no more than {MAX_PLOT_CHARACTERS}, shorten the plot"
        )
    return _longer(experiment, run, "\n".join(lines), "hand")


def by_instruction(experiment: Experiment, run: SteeringRun, instruction: str, by: str = "instruction") -> SteeringRun:
    """The run with its last text rewritten by the language model; the same arguments give the same text.

    Raises:
        CourseError: an empty instruction.
    """
    if not instruction.strip():
        raise CourseError("an empty instruction: write what should change, such as 'Make it a comedy.'")
    seed = seed_of(run.seed, len(run.steps) - 1)
    rewrites = experiment.world.rewrite([run.steps[-1].text], [instruction.strip()], [seed])
    return _longer(experiment, run, rewrites.texts[0], by, instruction.strip(), rewrites.problems[0])


def _longer(
    experiment: Experiment, run: SteeringRun, text: str, by: str, instruction: str = "", problem: str = ""
) -> SteeringRun:
    z = experiment.world.space.encoder([text])
    parts = experiment.world.utility(z, [run.user])
    step = TextStep(
        text, by, instruction, problem, z[0], float(parts.total[0]), float(parts.rating[0]), float(parts.novelty[0])
    )
    return replace(run, steps=(*run.steps, step))


def designed(experiment: Experiment, run: SteeringRun, k: int) -> Int[np.ndarray, " k"]:
    """Actions that a G-optimal design takes for the last text: k of them, by their expected displacement.

    Raises:
        CourseError: k is not from 1 to the number of actions.
    """
    if not 1 <= k <= len(experiment.world.actions):
        raise CourseError(f"{k} instructions: choose from 1 to {len(experiment.world.actions)}")
    moves = experiment.effects.displacement(run.steps[-1].z, run.user)
    n = min(k, 8, int(np.linalg.matrix_rank(moves)))
    z = design.prepare(moves, form="displacement", origin=np.zeros(moves.shape[1]), n_components=n)
    return design.round_design(z, design.optimal_design(z), k, "exchange")


def chances(
    experiment: Experiment, policy: Policy, run: SteeringRun, allowed: Integers
) -> Float[np.ndarray, " allowed"]:
    """Probability that the policy gives each of the allowed actions at the last text; they sum to 1.

    Raises:
        CourseError: no action is allowed.
    """
    if not len(allowed):
        raise CourseError("no instruction is allowed: choose at least one")
    last, step = run.steps[-1], min(len(run.steps) - 1, experiment.world.horizon - 1)
    seen = Observation([last.text], last.z[None], np.array([run.user]), step)
    scores = policy(seen).detach().double().numpy()[0][list(allowed)]
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def by_agent(experiment: Experiment, policy: Policy, run: SteeringRun, allowed: Integers) -> SteeringRun:
    """The run after one step of a policy that may use the allowed actions only."""
    chance = chances(experiment, policy, run, allowed)
    rng = np.random.default_rng([run.seed, len(run.steps), 1])
    action = int(np.asarray(allowed)[rng.choice(len(chance), p=chance)])
    return by_instruction(experiment, run, experiment.world.instructions(run.user)[action], by="agent")


def as_json(runs: Sequence[SteeringRun]) -> str:
    """A session to keep: every run with its texts and numbers."""
    kept = []
    for run in runs:
        steps = [{k: v for k, v in vars(step).items() if k != "z"} for step in run.steps]
        kept.append({"title": run.title, "item": run.item, "user": run.user, "seed": run.seed, "steps": steps})
    return json.dumps(kept, indent=1)


# Drawings ------------------------------------------------------------------------------------------------------------


class SteeringMap:
    """The flat map of the items, the same for all runs: `xy` of items, and where embeddings fall on it."""

    def __init__(self, experiment: Experiment) -> None:
        space = experiment.world.space
        self.flat = plots.plane(space.items)
        self.xy = self.flat.transform(space.items)
        self.x, self.y, self.grid = plots.map_grid(self.xy, n=40, margin=0.1)
        self.experiment = experiment

    def item_utility(self, user: int) -> Float[np.ndarray, " item"]:
        """Utility of the existing films for a viewer, in stars."""
        return self.experiment.world.gap(user).of_items().total

    def surface(self, run: SteeringRun) -> Float[np.ndarray, "y x"]:
        """Utility over the map for the run's viewer; off the map's plane it stays at the last text's height."""
        here = run.steps[-1].z
        off = here - self.flat.inverse_transform(self.flat.transform(here[None]))[0]
        total = self.experiment.world.gap(run.user)(self.flat.inverse_transform(self.grid) + off).total
        return total.reshape(len(self.y), len(self.x))

    def draw(self, ax: Axes, runs: Sequence[SteeringRun]) -> None:
        """Every run as a path over the utility of the first one's viewer."""
        values = self.surface(runs[0])
        plots.surface(ax, self.x, self.y, values, (float(values.min()), float(values.max())))
        ax.scatter(self.xy[:, 0], self.xy[:, 1], s=3, color="white", alpha=0.35, linewidths=0)
        for run, colour in zip(runs, PATHS, strict=False):
            path = self.flat.transform(np.stack([step.z for step in run.steps]))
            ax.plot(*path.T, "-", color="white", lw=3.5, zorder=3)
            ax.plot(*path.T, ".-", color=colour, lw=1.8, zorder=4)
            ax.plot(*path[-1], marker="*", ms=13, color=colour, markeredgecolor="white", zorder=5)
        ax.set(title=f"Utility in stars for viewer {runs[0].user}", xlabel="first principal component")
        ax.set(ylabel="second principal component")


PATHS = (plots.VERMILION, plots.SKY, plots.PURPLE, plots.ORANGE)


def draw_utility(ax: Axes, runs: Sequence[SteeringRun]) -> None:
    """Utility and predicted rating after every step of every run."""
    for run, colour in zip(runs, PATHS, strict=False):
        name = run.name.replace("$", r"\$")  # a lone dollar sign would begin a formula
        ax.plot([step.total for step in run.steps], "o-", color=colour, label=name)
        ax.plot([step.rating for step in run.steps], "o:", color=colour, ms=3, lw=1)
    longest = max(len(run.steps) for run in runs)
    ax.set(xlabel="step", ylabel="stars", title="Utility (line) and predicted rating (dots)")
    ax.set_xticks(range(longest))
    ax.set_xlim(-0.3, max(longest, 6) - 0.7)
    ax.legend(fontsize=8, loc="best")


def runs_in_words(runs: Sequence[SteeringRun]) -> str:
    """What the two drawings show, in words."""
    parts = [
        f"{run.label}; utility {run.steps[-1].total:.2f} stars, of it predicted rating {run.steps[-1].rating:.2f}"
        for run in runs
    ]
    return ". ".join(parts) + "."


def steering_figures(where: SteeringMap, runs: Sequence[SteeringRun]) -> str:
    """The two drawings side by side, as HTML."""
    words = runs_in_words(runs)
    left = picture(lambda ax: where.draw(ax, runs), (5.6, 4.0), f"Map of films with the runs. {words}")
    return left + picture(lambda ax: draw_utility(ax, runs), (5.6, 3.4), f"Utility after every step. {words}")


# Controls ------------------------------------------------------------------------------------------------------------

WHOLE, DESIGNED, PICKED = "all instructions", "a G-optimal design", "picked by hand"


class SteeringExplorer:
    """The page: controls on the left, text, map and utility on the right. `page` is the widget to show.

    Args:
        experiment: of the course, or of a test.
        policy: who steps when the agent is asked to; gives log-probabilities of all actions.
    """

    def __init__(self, experiment: Experiment, policy: Policy, user: int = 100, title: str = "Toy Story") -> None:
        self.experiment, self.policy = experiment, policy
        self.domain: Domain = experiment.world.space.domain
        self.films: dict[str, int] = {}
        for item in start_items(self.domain):
            self.films.setdefault(str(self.domain.items["title"].iloc[item]), int(item))
        self.map = SteeringMap(experiment)
        self.kept: list[SteeringRun] = []
        self.run = start_run(experiment, user, self.films[title])
        self._make_controls()
        self.desk = Desk(self._controls())
        self._wire()
        self.page = self._layout()
        self.own_text.value = self.offered = self.run.steps[-1].text
        self.redraw()

    # what the controls say

    @property
    def allowed(self) -> list[int]:
        """Numbers of the instructions that the agent may use."""
        kind = self.action_set.value
        if kind == WHOLE:
            return list(range(len(self.experiment.world.actions)))
        if kind == DESIGNED:
            return [int(action) for action in designed(self.experiment, self.run, self.size.value)]
        return list(self.picked.value)

    @property
    def others(self) -> list[SteeringRun]:
        """The runs that were kept to compare with, newest first, without the current one."""
        return [run for run in reversed(self.kept) if not run.same(self.run)]

    @property
    def shown(self) -> list[SteeringRun]:
        """The current run and the newest others, as many as there are colours."""
        return [self.run, *self.others][: len(PATHS)]

    # what happens

    def restart(self, *_) -> None:
        """Stand at the chosen film's text, for the chosen viewer. The text in the field stays as it is."""
        with self.desk.busy("placing the film"):
            item = self._chosen_item()
            self.run = start_run(self.experiment, self.user.value, item, self.seed.value)
            self._list_actions()
            self.colour(self.map.item_utility(self.run.user)[self.rows])
            self.redraw()

    def step(self, *_) -> None:
        """One step of the agent."""
        with self.desk.busy("the agent writes"):
            self._go_to(by_agent(self.experiment, self.policy, self.run, self.allowed))

    def episode(self, *_) -> None:
        """As many steps as an episode has, one after the other."""
        horizon = self.experiment.world.horizon
        with self.desk.busy("the agent writes", total=horizon):
            for done in range(horizon):
                self._go_to(by_agent(self.experiment, self.policy, self.run, self.allowed))
                self.desk.advance(done + 1)

    def instruct(self, *_) -> None:
        """One rewrite under the instruction in the field."""
        with self.desk.busy("the language model writes"):
            self._go_to(by_instruction(self.experiment, self.run, self.instruction.value))

    def write(self, *_) -> None:
        """Take the text in the field as it is."""
        with self.desk.busy("reading your text"):
            self._go_to(by_hand(self.experiment, self.run, self.own_text.value))

    def undo(self, *_) -> None:
        """Drop the last text; the film's own stays."""
        with self.desk.busy("drawing"):
            self._go_to(replace(self.run, steps=self.run.steps[:-1] or self.run.steps))

    def keep(self, *_) -> None:
        """Keep the run, to compare the next ones with it."""
        with self.desk.busy("drawing"):
            if not any(run.same(self.run) for run in self.kept):
                self.kept.append(self.run)
            self.redraw()

    def forget(self, *_) -> None:
        """Drop the runs that were kept."""
        with self.desk.busy("drawing"):
            self.kept = []
            self.redraw()

    def export(self, *_) -> None:
        """Offer the session as a file."""
        with self.desk.busy("writing the session"):
            runs = as_json([*reversed(self.others), self.run])
            self.link.value = download_link(runs, "steering_session.json")

    def _go_to(self, run: SteeringRun) -> None:
        """Show a run, and offer its last text for editing unless somebody has begun to write one."""
        self.run = run
        if self.own_text.value in ("", self.offered):
            self.own_text.value = self.offered = run.steps[-1].text
        self.redraw()

    def redraw(self) -> None:
        """Show the run as it is."""
        runs, n_others = self.shown, len(self.others)
        self.text.value, self.link.value = _card(self.run), ""
        profile = html.escape(str(self.experiment.world.profile(self.run.user)))
        self.profile.value = f"<b>Viewer {self.run.user}.</b> {profile}"
        self.numbers.value = _numbers(runs)
        self.figures.value = steering_figures(self.map, runs)
        left_out = f" {n_others + 1 - len(runs)} older ones are kept and not shown." if n_others >= len(runs) else ""
        self.words.value = f"<p>In words: {html.escape(runs_in_words(runs) + left_out)}</p>"

    # how it is built

    def _chosen_item(self) -> int:
        known = {title.casefold(): item for title, item in self.films.items()}
        if (wanted := self.film.value.strip().casefold()) not in known:
            raise CourseError(f"no film {self.film.value!r} with a short plot: pick one of the list")
        return known[wanted]

    def _make_controls(self) -> None:
        n_users, n_actions = self.domain.n_users, len(self.experiment.world.actions)
        number = widgets.BoundedIntText
        self.user = labelled(number(value=self.run.user, min=0, max=n_users - 1), f"viewer (0 to {n_users - 1})")
        films = widgets.Combobox(value=self.run.title, options=tuple(self.films), continuous_update=False)
        self.film = labelled(films, "film (type to search)", "32em")
        self.near = labelled(widgets.Select(options=[], rows=8), "films in your lasso", "26em")
        self.seed = labelled(number(value=0, min=0, max=10_000), "seed")
        self.action_set = labelled(widgets.Dropdown(options=(WHOLE, DESIGNED, PICKED)), "the agent may use")
        self.size = labelled(number(value=10, min=1, max=n_actions), "size of the design")
        self.picked = labelled(widgets.SelectMultiple(options=[], rows=6), "instructions (pick several)", "48em")
        self._list_actions()
        self.instruction = labelled(widgets.Text(value="Make it a comedy."), "your instruction", "32em")
        self.own_text = labelled(widgets.Textarea(rows=4), "or your own text", "38em")
        names = ("start again", "one step", "five steps", "rewrite", "use my text", "undo", "keep to compare")
        self.buttons = {name: widgets.Button(description=name, tooltip=name) for name in (*names, "forget", "export")}
        self.text, self.profile, self.numbers = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.figures, self.words, self.link = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.rows = np.searchsorted(self.domain.text_items, list(self.films.values()))
        utility = self.map.item_utility(self.run.user)[self.rows]
        self.lasso, self.colour = lasso_map(self.map.xy[self.rows], utility, self.select)

    def _list_actions(self) -> None:
        picked = self.picked.value
        instructions = self.experiment.world.instructions(self.run.user)
        self.picked.options = [(instruction, number) for number, instruction in enumerate(instructions)]
        self.picked.value = picked

    def _controls(self) -> list[widgets.Widget]:
        fields = [
            self.user,
            self.film,
            self.seed,
            self.action_set,
            self.size,
            self.picked,
            self.instruction,
            self.own_text,
        ]
        return [*fields, *self.buttons.values()]

    def _wire(self) -> None:
        acts = (self.restart, self.step, self.episode, self.instruct, self.write, self.undo, self.keep)
        for button, act in zip(self.buttons.values(), (*acts, self.forget, self.export), strict=True):
            button.on_click(in_main_thread(act))
        for control in (self.user, self.film, self.seed):
            control.observe(in_main_thread(self.restart), names="value")
        self.near.observe(self._from_lasso, names="value")

    def _from_lasso(self, change) -> None:
        if change["new"]:
            self.film.value = change["new"]

    def select(self, numbers: Sequence[int]) -> None:
        """List the films of a lasso, by their numbers on the map."""
        titles = list(self.films)
        self.near.options = [titles[number] for number in sorted(numbers)]

    def _layout(self) -> widgets.Widget:
        buttons = self.buttons
        left = [
            heading("1. A viewer and a film"),
            row(self.user, self.seed),
            row(self.film, buttons["start again"]),
            row(self.lasso, self.near),
            heading("2. Steer"),
            row(self.action_set, self.size),
            self.picked,
            row(buttons["one step"], buttons["five steps"], buttons["undo"]),
            row(self.instruction, buttons["rewrite"]),
            row(self.own_text, buttons["use my text"]),
            row(*(buttons[name] for name in ("keep to compare", "forget", "export"))),
            self.link,
        ]
        right = [heading("3. What happens"), self.desk.bar, self.profile, self.text, self.numbers]
        return two_columns(left, [*right, self.figures, self.words])


def _card(run: SteeringRun) -> str:
    last = run.steps[-1]
    how = {"film": "the film's own text", "hand": "written by hand"}.get(last.by, f"{last.by}: {last.instruction}")
    trouble = f" <i>The answer could not be used ({last.problem}): the text has stayed.</i>" if last.problem else ""
    text = html.escape(last.text).replace("\n", "<br>")
    return (
        f"<p><b>{html.escape(run.title)}</b>, step {len(run.steps) - 1} ({html.escape(how)}).{trouble}</p>"
        f'<blockquote style="min-height:5em">{text}</blockquote>'
    )


def _numbers(runs: Sequence[SteeringRun]) -> str:
    def cells_of(run: SteeringRun) -> list[str]:
        last = run.steps[-1]
        numbers = (f"{last.rating:.2f}", f"{last.novelty:.2f}", f"{last.total:.2f}", f"{run.gain:+.2f}")
        return [html.escape(run.title), str(run.user), str(run.seed), str(len(run.steps) - 1), *numbers]

    names = ("run", "viewer", "seed", "steps", "predicted rating", "novelty", "utility", "gain in stars")
    return table_of(names, [cells_of(run) for run in runs])
