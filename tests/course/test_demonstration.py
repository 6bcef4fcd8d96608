"""The two examples of notebook 00: nothing is fitted on the film, and the edit has not seen what it is asked about."""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pytest
from fake_world import FakeBackend

from helpers.are.editing import EditSettings
from helpers.base.settings import PROJECT
from helpers.course import demonstration
from helpers.eagle.rivals import NEUTRAL
from helpers.embedding.features import term_features
from helpers.embedding.space import build_space
from helpers.language.states import ReadOut

(START_HERE,) = (PROJECT / "notebooks").glob("00_*.ipynb")


class Writer(FakeBackend):
    """Writes a love story where it is told of an aim, and another plot where it is told of none."""

    def answer(self, prompt, seed: int) -> str:
        aimed = "Move it towards" in prompt[-1][1] + prompt[-2][1]
        plot = "Two lovers meet in a garden and marry in the spring." if aimed else "A park has many old animals in it."
        return f" Drama.\n{plot}"


@pytest.fixture
def spaces(monkeypatch, movies):
    """Spaces that are fitted while a film is steered, on words alone; and what each left out."""
    made = []
    words = term_features(movies.texts("idea"))

    def build(domain, **options):
        made.append((domain, options["left_out"]))
        return build_space(domain, **{"featurise": words, **options})

    monkeypatch.setattr(demonstration, "build_space", build)
    monkeypatch.setattr(demonstration, "local_backend", Writer)
    monkeypatch.setattr(demonstration, "default_memo", lambda: None)
    return made


def test_a_film_is_steered_and_controlled(spaces, movies):
    found = demonstration.steer("Jurassic Park", viewer=302)
    assert found.original.startswith("Genres: Action, Adventure") and "dinosaurs" in found.original
    assert found.steered.instruction.startswith("Move it towards") and found.control.instruction == NEUTRAL[0]
    assert "lovers" in found.steered.text and "animals" in found.control.text
    assert np.isfinite([found.steered.judged, found.control.judged]).all()
    assert found.steered.judged != found.control.judged and found.viewer.startswith("Likes ")


@pytest.mark.parametrize(("title", "times"), [("Jurassic Park", 1), ("Chasing Amy", 2)])
def test_nothing_is_fitted_on_the_film_nor_on_its_double(spaces, movies, title, times):
    demonstration.steer(title, viewer=302)
    items = np.flatnonzero(movies.items["title"] == title)
    assert len(items) == times
    paid, judge = spaces
    for domain, left_out in spaces:
        assert list(left_out) == list(items) and not set(items) & set(domain.ratings["item"])
    shared = paid[0].ratings.merge(judge[0].ratings, on=["user", "item"])
    assert shared.empty, "a rating is in both halves"


def test_a_film_that_is_not_there_is_refused(spaces):
    with pytest.raises(ValueError, match="no film 'Nowhere' with a text to start from"):
        demonstration.steer("Nowhere", viewer=0)


def test_the_edit_has_not_seen_the_subject_of_the_notebook(monkeypatch):
    asked = {}
    monkeypatch.setattr(demonstration, "local_backend", lambda: "model")
    monkeypatch.setattr(demonstration, "make_concept", lambda *parts: parts)
    monkeypatch.setattr(demonstration, "default_memo", lambda: None)
    monkeypatch.setattr(demonstration.experiment, "mood_settings", lambda: EditSettings(ReadOut((1,), 5)))
    monkeypatch.setattr(
        demonstration.experiment, "edited", lambda concept, how: asked.update(parts=concept) or ("lm", [])
    )
    monkeypatch.setattr(demonstration.experiment, "edited_backend", lambda lm: "edited model")
    monkeypatch.setattr(demonstration, "answers_to", lambda model, some, memo: [f" {model}: {some[0].text} "])
    cells = "\n".join(cell.source for cell in nbformat.read(START_HERE, as_version=4).cells)
    (question,) = re.findall(r'demonstration\.edited_answers\("(.+?)"\)', cells)
    assert demonstration.edited_answers(question) == {
        "as it came": f"model: {question}",
        "edited": f"edited model: {question}",
    }
    subject = re.sub(r"What do you think of (.+)\?", r"\1", question)
    questions = asked["parts"][2]
    taught = [question.text for question in [*questions.train, *questions.stop]]
    assert len(taught) > 20 and not any(subject in text for text in taught)
