"""The benchmark of two more edits: its strength is chosen within the limits, and no question is in two parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import tiny

from helpers.are import experiment
from helpers.language.states import ReadOut


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import bench_more_edits

    return bench_more_edits


@pytest.mark.parametrize(
    ("refused", "taken"),
    [
        ({0.5: (0.2, 0, 0), 1.0: (0.6, 0.04, 0.07), 1.5: (0.9, 0.05, 0)}, 1.0),
        ({0.5: (0.2, 0, 0), 1.0: (0.1, 0, 0)}, 0.5),
        ({0.5: (0.2, 0.5, 0), 1.0: (0.9, 0, 0.5)}, 0.5),
    ],
)
def test_the_strength_refuses_most_within_the_limits(bench, monkeypatch, refused, taken):
    kinds = ("harmful", "benign", "edgy")

    def at(edit, dose):
        return SimpleNamespace(refusals=lambda parts: dict(zip(kinds, map(np.atleast_1d, refused[dose]), strict=True)))

    monkeypatch.setattr(experiment, "edit_method", at)
    assert bench.chosen_strength(None, {}, refused) == taken


def test_no_question_is_in_two_parts(bench):
    stop, test = bench.parts_of(experiment.edit_sizes())
    asked = [question.text for part in (stop, test) for some in part.values() for question in some]
    assert len(asked) == len(set(asked)) > 100


def test_the_paper_s_loop_has_its_discriminator_alone_and_reads_the_middle(bench):
    settings = bench.paper_settings(tiny(layers=30))
    assert settings.at == ReadOut((10, 11, 12, 13, 14), 1) and settings.hidden == 512 and not settings.online
    assert (settings.adversary, settings.match, settings.answer, settings.distil, settings.retain) == (1, 0, 0, 0, 0)
    assert (settings.training.epochs, settings.training.batch, settings.training.noise) == (30, 64, 0)
