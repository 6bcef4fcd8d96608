"""Explorers: what they compute, what a click does, and what they never show. The language model is a stand-in."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")
from helpers.eagle.experiment import Experiment, load_experiment
from matplotlib import pyplot as plt
from tiny_models import tiny

from helpers.are.concepts import Concept, Question, Splits
from helpers.base.storage import CourseError
from helpers.eagle.actions import BANK
from helpers.eagle.rewriting import seed_of, start_items
from helpers.language.adapters import with_adapter
from helpers.language.generation import Backend, LocalBackend
from helpers.pages import explore_editing as editing
from helpers.pages import explore_steering as steering
from helpers.pages.widgets import Desk, download_link, table_of

GENRES = ("Western", "Comedy", "War", "Horror", "Romance")


class Writer(Backend):
    """Writes a plot of its own for every prompt; an instruction with the word broken gets no plot."""

    name = "stand-in"

    def generate(self, prompts, sampling, seeds, done) -> None:
        done(list(range(len(prompts))), [self.write(*pair) for pair in zip(prompts, seeds, strict=True)])

    def write(self, prompt, seed: int) -> str:
        asked = prompt[-2][1]
        number = seed_of(asked, seed) % len(GENRES)
        if "broken" in asked:
            return " Drama.\nToo short."
        return f" {GENRES[number]}.\nA stranger rides into the town of {GENRES[number]} and finds an old friend there."


@pytest.fixture(scope="module")
def experiment():
    found = load_experiment(train_movies=2, backend=Writer())
    rewriter = replace(found.world.rewrite, memo=None)  # a stand-in's answers have no place in the course's memo
    return Experiment(replace(found.world, rewrite=rewriter), found.plan, found.train, found.test)


@pytest.fixture(scope="module")
def item(experiment):
    return int(start_items(experiment.world.space.domain)[0])


def even(observation):
    """A policy that likes all actions alike."""
    return torch.zeros(len(observation.texts), len(BANK))


@pytest.fixture
def page(experiment):
    return steering.SteeringExplorer(experiment, even)


def test_every_way_to_go_on_makes_a_longer_run_and_leaves_the_old_one(experiment, item):
    run = steering.start_run(experiment, 3, item)
    assert len(run.steps) == 1 and run.gain == 0 and run.steps[0].by == "film"
    asked = steering.by_instruction(experiment, run, "Make it a Western.")
    written = steering.by_hand(experiment, asked, "Genres: War.\nTwo brothers meet on the wrong sides of a long war.")
    stepped = steering.by_agent(experiment, even, written, [0, 5])
    assert [len(r.steps) for r in (run, asked, written, stepped)] == [1, 2, 3, 4]
    assert [step.by for step in stepped.steps] == ["film", "instruction", "hand", "agent"]
    assert stepped.steps[-1].instruction in [experiment.world.instructions(3)[action] for action in (0, 5)]
    parts = experiment.world.gap(3)(written.steps[-1].z[None])
    assert written.gain == pytest.approx(float(parts.total[0]) - run.steps[0].total)
    assert steering.by_instruction(experiment, run, "Make it a Western.").steps[-1].text == asked.steps[-1].text


def test_an_answer_that_cannot_be_used_is_told(experiment, item):
    run = steering.start_run(experiment, 3, item)
    after = steering.by_instruction(experiment, run, "broken")
    assert after.steps[-1].problem == "no plot" and after.steps[-1].text == run.steps[-1].text


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda e, r: steering.start_run(e, 10**6, r.item), "no viewer"),
        (lambda e, r: steering.start_run(e, 3, -5), "no short plot"),
        (lambda e, r: steering.by_hand(e, r, "  "), "two lines"),
        (lambda e, r: steering.by_hand(e, r, "Genres: War. All on one line."), "two lines"),
        (lambda e, r: steering.by_hand(e, r, "A sheriff.\nAnother sheriff."), "two lines"),
        (lambda e, r: steering.by_hand(e, r, "Genres: War.\n" + "word " * 500), "shorten the plot"),
        (lambda e, r: steering.by_instruction(e, r, ""), "empty instruction"),
        (lambda e, r: steering.by_agent(e, even, r, []), "at least one"),
        (lambda e, r: steering.designed(e, r, 0), "choose from 1"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy(experiment, item, act, text):
    with pytest.raises(CourseError, match=text):
        act(experiment, steering.start_run(experiment, 3, item))


def test_a_design_is_of_its_size_and_the_agent_keeps_to_it(experiment, item):
    run = steering.start_run(experiment, 3, item)
    chosen = steering.designed(experiment, run, 5)
    assert len(set(chosen)) == 5
    chance = steering.chances(experiment, even, run, chosen)
    np.testing.assert_allclose(chance, 0.2)
    for seed in range(5):
        stepped = steering.by_agent(experiment, even, steering.start_run(experiment, 3, item, seed), chosen)
        assert stepped.steps[-1].instruction in {experiment.world.instructions(3)[action] for action in chosen}


def test_a_session_is_kept_without_its_embeddings(experiment, item):
    run = steering.by_instruction(experiment, steering.start_run(experiment, 3, item), "Make it a Western.")
    (kept,) = json.loads(steering.as_json([run]))
    assert kept["user"] == 3 and len(kept["steps"]) == 2 and "z" not in kept["steps"][0]
    assert kept["steps"][1]["total"] == pytest.approx(run.steps[1].total)
    assert "steering.json" in download_link(steering.as_json([run]), "steering.json")


def test_a_blank_line_between_the_two_does_no_harm(experiment, item):
    run = steering.start_run(experiment, 3, item)
    one, other = (steering.by_hand(experiment, run, f"Genres: War.\n{gap}Two brothers meet.") for gap in ("", " \n"))
    np.testing.assert_allclose(one.steps[-1].z, other.steps[-1].z)


def test_clicks_steer_compare_and_undo(page):
    before = plt.get_fignums()
    page.step()
    page.keep()
    page.seed.value = 1
    page.action_set.value = steering.DESIGNED
    page.size.value = 4
    assert len(page.allowed) == 4
    page.episode()
    assert page.desk.line.value == "ready" and page.desk.progress.value == 5
    assert len(page.run.steps) == 6 and len(page.shown) == 2
    assert page.words.value.count("utility ") == 2 and page.figures.value.count("<img") == 2
    page.export()
    assert "steering_session.json" in page.link.value
    page.undo()
    assert len(page.run.steps) == 5 and page.link.value == ""
    for _ in range(6):
        page.undo()
    assert len(page.run.steps) == 1
    page.forget()
    assert page.shown == [page.run]
    assert plt.get_fignums() == before


def test_a_run_is_kept_once_and_older_ones_are_told_of(page):
    page.keep()
    page.step()
    page.undo()
    page.keep()
    assert len(page.kept) == 1 and page.shown == [page.run]
    for seed in range(1, 6):
        page.seed.value = seed
        page.keep()
    assert len(page.kept) == 6 and len(page.shown) == 4
    assert "2 older ones are kept and not shown" in page.words.value


def test_another_viewer_film_or_seed_starts_at_once_and_leaves_a_draft_alone(page):
    page.user.value = 5
    assert page.run.user == 5 and "Viewer 5" in page.profile.value
    page.own_text.value = "Genres: War.\nMy own draft of a plot."
    page.step()
    page.film.value = " goldeneye "
    assert page.run.title == "GoldenEye" and page.own_text.value.endswith("My own draft of a plot.")
    page.write()
    assert page.run.steps[-1].by == "hand" and page.run.steps[-1].text.endswith("draft of a plot.")


def test_the_field_offers_the_last_text(page):
    page.step()
    last = page.run.steps[-1].text
    page.user.value = 6  # the same text for another viewer
    assert page.own_text.value == last
    page.write()
    assert page.run.steps[-1].text == last and page.run.user == 6


def test_picked_instructions_stay_picked(page):
    page.picked.value = (3, 7)
    page.action_set.value = steering.PICKED
    page.user.value = 9
    assert page.allowed == [3, 7]


def test_mistakes_are_told_on_the_page_and_lock_nothing(page):
    page.film.value = "No such film"
    assert "no film" in page.desk.line.value and not page.buttons["start again"].disabled
    page.action_set.value = steering.PICKED
    page.step()
    assert "at least one" in page.desk.line.value and len(page.run.steps) == 1


def test_a_lasso_lists_films_that_can_be_chosen(page):
    page.select([2, 0, 5])
    assert page.near.options == tuple(list(page.films)[number] for number in (0, 2, 5))
    page.near.value = page.near.options[1]
    assert page.film.value == page.run.title == page.near.options[1]
    page.select([])
    assert page.near.options == ()


def test_texts_of_others_are_shown_as_texts(experiment, item):
    run = steering.by_hand(
        experiment, steering.start_run(experiment, 3, item), "Genres: War.\n<script>alert(1)</script>"
    )
    assert "<script>" not in steering._card(run) and "&lt;script&gt;" in steering._card(run)


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
