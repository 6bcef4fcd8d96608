"""The benchmark of two more edits: its strength is chosen within the limits, and no question is in two parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.are import experiment


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
