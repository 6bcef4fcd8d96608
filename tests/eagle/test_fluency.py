"""Fluency and newness of texts, without a language model."""

from __future__ import annotations

import numpy as np
import pytest
from fake_steering import task_starts

from helpers.eagle import fluency as module
from helpers.eagle.fluency import fluency
from helpers.language.models import LoadedModel

LM = LoadedModel(None, None)  # never asked: the fake perplexity stands in its place


def test_a_text_is_fluent_and_new_in_four_ways(monkeypatch):
    asked = []

    def of_length(lm, texts, given):
        asked.extend(zip(given, texts, strict=True))
        return np.array([float(len(text)) for text in texts])

    monkeypatch.setattr(module, "perplexity", of_length)
    starts = task_starts(3)
    new = "Genres: War.\nA letter crosses the sea and a letter crosses the land."
    found = fluency(
        LM,
        starts,
        [starts[0].text, new, "Genres: Drama.\nTwo words."],
        ["Genres: War.\nA letter crosses the sea at night."],
    )
    assert asked[1] == ("Genres: War.\n", "A letter crosses the sea and a letter crosses the land.")
    assert found.perplexity.tolist() == [float(len(text)) for _, text in asked]
    assert found.unchanged.tolist() == [True, False, False]
    assert found.copied == pytest.approx([0, 5 / 9, 0])
    assert found.repeated == pytest.approx([0, 2 / 9, 0])


def test_texts_need_their_starts():
    for starts, texts in ((task_starts(2), ["x"]), ([], [])):
        with pytest.raises(ValueError, match="one or more, and one to each start"):
            fluency(LM, starts, texts, [])
