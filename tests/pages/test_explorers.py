"""Explorers: what they compute, what a click does, and what they never show. The language model is a stand-in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")
from fake_steering import fake_task
from fake_world import place
from matplotlib import pyplot as plt
from tiny_models import tiny

from helpers.are.concepts import Concept, Question, Splits
from helpers.base.storage import CourseError
from helpers.eagle.emission import gains
from helpers.eagle.rewriting import start_of
from helpers.eagle.steering import Steering
from helpers.eagle.trajectories import NEVER, StatePolicy, play
from helpers.language.adapters import with_adapter
from helpers.language.generation import Backend, LocalBackend
from helpers.pages import explore_editing as editing
from helpers.pages import explore_steering as steering
from helpers.pages.widgets import Desk, download_link, table_of

ITEM = 2
MINE = place((0.5, -0.5, 0.2), "War")


class Liking(StatePolicy):
    """Likes all aims alike, and STOP more or less than these."""

    def __init__(self, stop: float) -> None:
        super().__init__()
        self.stop = stop

    def scores(self, states, options):
        scores = torch.zeros(len(options), len(options[0].features))
        scores[:, -1] = self.stop
        return scores


EAGER, LAZY = Liking(NEVER), Liking(-NEVER)


def titled_task(**options) -> Steering:
    """The small task, whose items have titles and genres: films that one can start from."""
    task = fake_task(**options)
    items = task.encoders.paid.domain.items.copy()
    items["plot_text"] = [text.partition("\n")[2] for text in items["plot_text"]]
    items["title"], items["genres"] = [f"Film {number}" for number in range(len(items))], [["Drama"]] * len(items)
    domain = replace(task.encoders.paid.domain, items=items)
    return replace(task, encoders=type(task.encoders)(*(replace(space, domain=domain) for space in task.encoders)))


@pytest.fixture
def task():
    return titled_task()


@pytest.fixture
def run(task):
    return steering.start_run(task, 3, ITEM)


@pytest.fixture
def page():
    task = titled_task(borrowed=4)
    return steering.SteeringExplorer(task, EAGER, start_of(task.encoders.paid.domain, ITEM, 1))


def press(page, name: str) -> None:
    page.buttons[name].click()


def test_every_way_to_go_on_makes_a_longer_run_and_leaves_the_old_one(task, run):
    assert len(run.steps) == 1 and run.gained[:, -1].tolist() == [0, 0] and run.steps[0].by == "film"
    aimed = steering.by_aim(task, run, 5)
    asked = steering.by_instruction(task, aimed, "Make it a Western.")
    written = steering.by_hand(task, asked, MINE)
    stepped = steering.by_agent(task, EAGER, replace(written, steps=written.steps[:3]), "uniform")
    assert [len(r.steps) for r in (run, aimed, asked, written, stepped)] == [1, 2, 3, 4, 4]
    assert [step.by for step in written.steps] == ["film", "aim", "instruction", "hand"]
    assert stepped.steps[-1].by == "agent" and stepped.steps[-1].instruction in task.said(range(len(task.aims)))
    assert aimed.steps[-1].instruction == task.said([5])[0] and stepped.state.asked == (5, stepped.steps[-1].aim)
    assert steering.by_aim(task, run, 5) == aimed


def test_the_numbers_are_those_of_the_course_without_the_own_film(task, run):
    run = steering.by_hand(task, steering.by_aim(task, run, 5), MINE)
    texts = [[step.text for step in run.steps[1:]]]
    for space, gained in zip((task.encoders.paid, task.encoders.judge), run.gained, strict=True):
        np.testing.assert_allclose(gained[1:], gains(space, [run.start], texts).total[0])
    assert run.start.item == ITEM and not np.allclose(*run.gained)


def test_no_aim_leads_back_to_the_film_alone(task):
    task = titled_task(borrowed=4)
    left = steering.task_for(task, ITEM).aims
    assert len(task.aims) == 24 and len(left) == 22 and not any(aim.items == (ITEM,) for aim in left)


def test_an_answer_that_cannot_be_used_is_told(run):
    after = steering.by_aim(titled_task(bad=1.0), run, 5)
    assert after.steps[-1].problem == "no plot" and after.steps[-1].text == run.steps[-1].text
    assert "could not be used (no plot): the text has stayed" in steering._last_text(after)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda t, r: steering.start_run(t, 10**6, ITEM), "no viewer"),
        (lambda t, r: steering.start_run(t, 3, -5), "no short plot"),
        (lambda t, r: steering.by_hand(t, r, "  "), "two lines"),
        (lambda t, r: steering.by_hand(t, r, "Genres: War. All on one line."), "two lines"),
        (lambda t, r: steering.by_hand(t, r, "A sheriff.\nAnother sheriff."), "two lines"),
        (lambda t, r: steering.by_hand(t, r, "Genres: War.\n" + "word " * 500), "shorten the plot"),
        (lambda t, r: steering.by_instruction(t, r, ""), "empty instruction"),
        (lambda t, r: steering.by_agent(t, EAGER, replace(r, steps=r.steps * 4), "all"), "undo some"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy(task, run, act, text):
    with pytest.raises(CourseError, match=text):
        act(task, run)


@pytest.mark.parametrize("offered", ["uniform", "optimistic", "goptimal"])
def test_the_list_and_the_agent_keep_to_a_support(task, run, offered):
    known = task.options(run.state, offered)
    listed = steering.listed_aims(task, run, offered)
    assert {aim for _, aim in listed} == set(known.aims.tolist())
    promised = [float(name.split()[0]) for name, _ in listed]
    assert promised == sorted(promised, reverse=True) and len(set(promised)) > 5
    for seed in range(5):
        assert steering.by_agent(task, EAGER, replace(run, seed=seed), offered).steps[-1].aim in known.aims


def test_all_aims_are_listed_by_what_they_promise():
    task = titled_task(borrowed=15)
    run = steering.start_run(task, 3, ITEM)
    listed = steering.listed_aims(task, run, "all")
    best = task.table(run.state).features[:, :2].sum(axis=1).argmax()
    assert len(listed) == 30 and listed[0][1] == best
    assert sum("Borrow from Film " in name for name, _ in listed) == sum(task.aims[aim].idea != "" for _, aim in listed)


@pytest.mark.parametrize("offered", ["uniform", "goptimal"])
def test_an_episode_is_the_one_that_the_course_plays(task, run, offered):
    stops, policy = 0, Liking(2.0)
    for seed in range(6):
        *_, last = steering.by_episode(task, policy, replace(run, seed=seed), offered)
        played = play(task, [run.start], offered, policy, [seed])
        texts = [step.text for step in last.steps]
        assert texts == played.texts[0][: len(texts)] and len(texts) == played.calls[0] + 1
        stops += last.stopped
    assert 0 < stops < 6  # both ends are looked at


def test_stop_leaves_the_text_and_is_undone_first(task, run):
    *_, last = steering.by_episode(task, LAZY, run, "optimistic")
    assert last.stopped and len(last.steps) == 2 and "says STOP" in steering._last_text(last)
    once = steering.undone(last)
    assert not once.stopped and len(once.steps) == 2
    assert steering.undone(once) == run == steering.undone(run)
    assert not steering.by_aim(task, last, 3).stopped


def test_a_text_that_comes_back_unchanged_is_told(task, run):
    once = steering.by_hand(task, run, MINE)
    assert "same text as before" not in steering._last_text(once)
    assert "same text as before" in steering._last_text(steering.by_hand(task, once, MINE))


def test_a_session_is_kept_without_its_embeddings(task, run):
    (kept,) = json.loads(steering.as_json([steering.by_aim(task, run, 5)]))
    assert kept["user"] == 3 and kept["item"] == ITEM and not kept["stopped"]
    assert len(kept["steps"]) == 2 and "z" not in kept["steps"][0] and kept["steps"][1]["aim"] == 5
    assert kept["steps"][0]["judged"] == pytest.approx(run.steps[0].judged)
    assert "steering.json" in download_link(steering.as_json([run]), "steering.json")


def test_a_kept_session_can_be_opened_again(task, run):
    runs = [steering.by_aim(task, run, 5), steering.by_hand(task, steering.start_run(task, 2, ITEM, 7), MINE)]
    runs.append(replace(runs[1], stopped=True))
    again = steering.from_json(task, steering.as_json(runs))
    assert again == runs and [one.stopped for one in again] == [False, False, True]
    assert [one.label for one in again] == [one.label for one in runs]
    np.testing.assert_allclose(again[0].steps[-1].z, runs[0].steps[-1].z)
    kept = steering.as_json(runs)
    strange = [kept.replace('"user": 3', '"user": "x"'), kept.replace('"seed": 7', '"seed": "y"')]
    for wrong in ("", "[1]", "{}}", '[{"user": 3}]', *strange):
        with pytest.raises(CourseError, match="no session of the explorer"):
            steering.from_json(task, wrong)
    with pytest.raises(CourseError, match="other films"):
        steering.from_json(task, steering.as_json(runs).replace(run.title, "Film of somebody"))


def test_the_map_is_empty_where_no_films_are_and_marks_the_highest_place(task, run):
    where = steering.SteeringMap(task)
    values = where.surface(run)
    far = np.linalg.norm(where.grid[:, None] - where.xy, axis=-1).min(axis=1).reshape(values.shape)
    assert 0 < values.mask.mean() < 1 and far[values.mask].min() > far[~values.mask].max()
    _, ax = plt.subplots()
    where.draw(ax, [run])
    (star,) = [line for line in ax.lines if line.get_marker() == "*"]
    (x,), (y,) = star.get_data()
    assert values[list(where.y).index(y), list(where.x).index(x)] == values.max()
    plt.close("all")


def test_a_blank_line_between_the_two_does_no_harm(task, run):
    one, other = (steering.by_hand(task, run, MINE.replace("\n", gap)) for gap in ("\n", "\n \n"))
    assert one == other


def test_clicks_steer_compare_and_undo(page):
    before = plt.get_fignums()
    press(page, "follow this aim")
    assert page.run.steps[-1].by == "aim"
    press(page, "keep to compare")
    page.seed.value = 1
    page.aim_set.value = "goptimal"
    assert len(page.aims.options) == 10
    press(page, "episode of the agent")
    assert page.desk.line.value == "ready" and page.desk.progress.value == 3
    assert len(page.run.steps) == 4 and len(page.shown) == 2
    assert page.words.value.count("by the judge ") == 2 and page.figures.value.count("<img") == 2
    assert [name for name, button in page.buttons.items() if button.disabled] == [*steering.AGENT_STEPS]
    assert "The episode is over: undo a step, or start again." in page.text.value
    press(page, "rewrite")
    assert page.run.steps[-1].by == "instruction" and len(page.run.steps) == 5
    press(page, "export")
    assert "steering_session.json" in page.link.value
    press(page, "undo")
    assert len(page.run.steps) == 4 and page.link.value == "" and page.buttons["one step of the agent"].disabled
    press(page, "undo")
    assert not any(button.disabled for button in page.buttons.values()) and "is over" not in page.text.value
    for _ in range(6):
        press(page, "undo")
    assert len(page.run.steps) == 1
    press(page, "forget")
    assert page.shown == [page.run]
    assert plt.get_fignums() == before


def test_a_page_opens_with_runs_and_a_file_brings_them_back(page):
    runs = [steering.start_run(page.every, 2, 7, seed) for seed in (4, 5)]
    runs[1] = steering.by_hand(page.every, runs[1], MINE)
    page.open(runs)
    assert page.run == runs[1] and page.shown == [runs[1], runs[0]] and page.own_text.value == MINE
    assert (page.film.value, page.user.value, page.seed.value) == ("Film 7", 2, 5)
    assert not any(aim.items == (7,) for aim in page.task.aims) and "Viewer 2" in page.profile.value
    saved = steering.as_json([*reversed(page.others), page.run]).encode()
    page.film.value = "Film 9"
    assert page.run.title == "Film 9" and page.seed.value == 5
    file = {"name": "session.json", "type": "", "size": len(saved), "last_modified": datetime.now(UTC)}
    page.file.value = ({**file, "content": saved},)
    assert page.shown == [runs[1], runs[0]] and page.desk.line.value == "ready" and page.file.value == ()
    page.file.value = ({**file, "content": b"nothing"},)
    assert "choose a file that" in page.desk.line.value and page.run == runs[1]
    page.seed.value = 6
    assert page.run == steering.start_run(page.every, 2, 7, 6)


def test_the_list_follows_the_text_and_tells_the_whole_instruction(page):
    page.aim_set.value = "all"
    assert len(page.aims.options) == 22  # of 24: two are the film's own
    borrowed = next(aim for name, aim in page.aims.options if "Borrow from Film" in name)
    page.aims.value = borrowed
    assert page.task.aims[borrowed].idea.partition("\n")[2] in page.about.value
    before = page.aims.options
    press(page, "follow this aim")
    assert page.run.steps[-1].aim == borrowed and page.aims.options != before
    assert page.aims.value == page.aims.options[0][1]


def test_a_run_is_kept_once_and_older_ones_are_told_of(page):
    press(page, "keep to compare")
    press(page, "one step of the agent")
    press(page, "undo")
    press(page, "keep to compare")
    assert len(page.kept) == 1 and page.shown == [page.run]
    for seed in range(1, 6):
        page.seed.value = seed
        press(page, "keep to compare")
    assert len(page.kept) == 6 and len(page.shown) == 4
    assert "2 older ones are kept and not shown" in page.words.value


def test_another_viewer_film_or_seed_starts_at_once_and_leaves_a_draft_alone(page):
    page.user.value = 2
    assert page.run.start.user == 2 and "Viewer 2" in page.profile.value
    page.own_text.value = MINE
    press(page, "one step of the agent")
    page.film.value = " film 7 "
    assert page.run.title == "Film 7" and page.own_text.value == MINE
    assert not any(aim.items == (7,) for aim in page.task.aims)
    press(page, "use my text")
    assert page.run.steps[-1].by == "hand" and page.run.steps[-1].text == MINE


def test_the_field_offers_the_last_text(page):
    press(page, "one step of the agent")
    last = page.run.steps[-1].text
    page.user.value = 3  # the same text for another viewer
    assert page.own_text.value == last
    press(page, "use my text")
    assert page.run.steps[-1].text == last and page.run.start.user == 3


def test_mistakes_are_told_on_the_page_and_lock_nothing(page):
    page.film.value = "No such film"
    assert "no film" in page.desk.line.value
    page.instruction.value = " "
    press(page, "rewrite")
    assert "empty instruction" in page.desk.line.value and len(page.run.steps) == 1
    assert not any(control.disabled for control in page.desk.controls)


def test_controls_are_locked_while_the_model_writes(page, monkeypatch):
    seen = []

    def follow(*arguments):
        seen.append([control.disabled for control in page.desk.controls])
        raise KeyboardInterrupt

    monkeypatch.setattr(Steering, "follow", follow)
    press(page, "episode of the agent")
    assert len(seen) == 1 and all(seen[0]) and set(page.buttons.values()) < set(page.desk.controls)
    assert page.desk.line.value == "stopped" and not page.buttons["undo"].disabled


def test_a_lasso_lists_films_that_can_be_chosen(page):
    page.select([2, 0, 5])
    assert page.near.options == tuple(list(page.films)[number] for number in (0, 2, 5))
    page.near.value = page.near.options[1]
    assert page.film.value == page.run.title == page.near.options[1]
    page.select([])
    assert page.near.options == ()


def test_texts_of_others_are_shown_as_texts(task, run):
    run = steering.by_hand(task, run, f"{MINE} <script>alert(1)</script>")
    assert "<script>" not in steering._last_text(run) and "&lt;script&gt;" in steering._last_text(run)
    for field in ("by", "instruction", "problem", "text"):  # as a file of somebody else may have it
        steps = (*run.steps[:-1], replace(run.steps[-1], **{field: "<script>alert(1)</script>"}))
        assert "<script>" not in steering._last_text(replace(run, steps=steps)), field
    assert "<script>" not in steering._last_text(replace(run, title="<script>"))


# The desk ------------------------------------------------------------------------------------------------------------


def test_an_interrupt_stops_and_unlocks(page):
    desk = Desk([page.instruction])
    with desk.busy("waiting", total=3):
        desk.advance(1)
        assert page.instruction.disabled and desk.line.value == "waiting ..." and desk.progress.max == 3
        raise KeyboardInterrupt
    assert desk.line.value == "stopped" and not page.instruction.disabled


def test_what_nobody_foresaw_is_raised_told_and_unlocks(page):
    desk = Desk([page.instruction])
    with pytest.raises(ZeroDivisionError), desk.busy("dividing"):
        raise ZeroDivisionError
    assert not page.instruction.disabled and "this failed (ZeroDivisionError)" in desk.line.value


def test_a_table_has_a_head_and_its_rows():
    text = table_of(("a", "b"), [("1", "2"), ("3", "4")])
    assert text.count("<th ") == 2 and text.count("<tr>") == 3 and "<td" in text


# Editing -------------------------------------------------------------------------------------------------------------


def test_different_tokens_are_marked_on_both_sides():
    lm = tiny()
    one, other = editing.marked(lm, "the same words", "the same words")
    assert one == other and "<u>" not in one
    one, other = editing.marked(lm, "a b c", "a x c")
    assert "<b><u>" in one and "<b><u>" in other
    one, _ = editing.marked(lm, "<b>", "c")
    assert "&lt;" in one


NOTHING = Concept("nothing", [], [], [], Splits([], [], []), bool)


class Answering(Backend):
    """Says yes to some questions, and no to all others."""

    name = "answering"

    def __init__(self, agreed: str) -> None:
        self.agreed = agreed

    def generate(self, prompts, sampling, seeds, done) -> None:
        done(list(range(len(prompts))), ["yes" if prompt[-1][1] in self.agreed else "no" for prompt in prompts])


def test_meters_count_what_their_judge_says(monkeypatch):
    monkeypatch.setattr(editing.experiment, "default_memo", lambda: None)
    questions, lm = [Question(text, text) for text in "0123"], with_adapter(tiny())
    edit = editing.ExploredEdit(NOTHING, lm, [], [editing.Meter("yes", questions, lambda answer: answer == "yes")])
    before, after = (
        editing.rates(edit, editing.experiment.Approach(tiny(), Answering(agreed))) for agreed in ("", "023")
    )
    assert after == {"yes": 0.75}
    assert editing.meters_in_words(before, after) == "yes 0%, edited 75%"


def test_the_question_that_two_models_answer_most_differently_comes_first(monkeypatch):
    monkeypatch.setattr(editing.experiment, "default_memo", lambda: None)

    class Script(Answering):
        def generate(self, prompts, sampling, seeds, done) -> None:
            done(list(range(len(prompts))), [self.agreed[prompt[-1][1]] for prompt in prompts])

    one = {"a": "yes it is", "b": "no", "c": "a red cat sat here", "d": "no"}
    other = {"a": "yes it was", "b": "no", "c": "never", "d": "no"}
    base, edited = (editing.experiment.Approach(tiny(), Script(answers)) for answers in (one, other))
    assert editing.most_apart_first("abcd", base, edited) == ["c", "a", "b", "d"]


def test_edits_are_compared_in_batches_of_their_own():
    method = editing.experiment.Approach(tiny(), LocalBackend(tiny(), "a model"))
    assert editing.apart(method).backend.name == "a model, compared"


@pytest.fixture
def edits(monkeypatch):
    """Makers of two small edits that need no training; the second one can be told to be interrupted."""
    lm = with_adapter(tiny(layers=4), layers=[2, 3])
    other = with_adapter(tiny(layers=4), layers=[4])
    meters = [editing.Meter("long", [Question("q", "Who?")], lambda answer: len(answer) > 3)]
    monkeypatch.setattr(editing.experiment, "base_method", lambda: editing.experiment.Approach(lm, Echo()))
    monkeypatch.setattr(editing, "apart", lambda method: method._replace(backend=Echo()))
    monkeypatch.setattr(editing.ExploredEdit, "base_curve", np.zeros(4))
    monkeypatch.setattr(editing.ExploredEdit, "gauge", property(lambda edit: lambda lm: np.ones(4)))
    told = {"interrupt": False}

    def second(on_round):
        if told["interrupt"]:
            raise KeyboardInterrupt
        return editing.ExploredEdit(NOTHING, other, ["What is new?", "What is old?"], meters)

    first = editing.ExploredEdit(NOTHING, lm, ["Who is there?", "Where?"], meters)
    return {"first": lambda on_round: first, "second": second}, told


class Echo(Backend):
    """Answers with the question."""

    name = "echo"

    def generate(self, prompts, sampling, seeds, done) -> None:
        done(list(range(len(prompts))), [prompt[-1][1] for prompt in prompts])


def test_the_page_of_an_edit_follows_its_controls(edits, monkeypatch):
    monkeypatch.setattr(editing.experiment, "default_memo", lambda: None)
    makers, told = edits
    page = editing.EditingExplorer(makers)
    assert page.layers.value == (2, 3) and "Who is there?" in page.answers.value
    page.question.value = "Where?"
    assert "Where?" in page.answers.value and "The two answers are the same." in page.answers.value
    page.own.value = "<b>bold</b>"
    page.ask()
    assert "&lt;b&gt;" in page.answers.value and "<b>bold</b>" not in page.answers.value
    told["interrupt"] = True
    page.concept.value = "second"
    assert page.concept.value == "first" and page.layers.value == (2, 3)
    told["interrupt"] = False
    page.concept.value = "second"
    assert page.layers.value == (4, 4) and page.question.options == ("What is new?", "What is old?")
    assert "What is new?" in page.answers.value and page.desk.line.value == "ready"
    page.concept.value = "first"
    assert page.layers.value == (2, 3)


def test_drawings_have_their_lines_and_bars():
    _, (left, right) = plt.subplots(1, 2)
    editing.draw_gauge(left, np.zeros(6), np.linspace(0, 1, 6), (3, 6))
    editing.draw_meters(right, {"a": 0.1, "b": 0.2}, {"a": 0.5, "b": 0.2})
    assert len(left.lines) == 2 and len(right.patches) == 4
    plt.close("all")
