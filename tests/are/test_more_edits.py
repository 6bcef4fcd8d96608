"""The benchmark of two more edits: its strength is chosen within the limits, and no question is in two parts."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import tiny

from helpers.are import experiment
from helpers.are.editing import EditSettings
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


def test_every_change_of_the_ablation_is_one_that_an_edit_takes(bench):
    changes = bench.changes_of(tiny(layers=30))
    fields = {field.name for field in dataclasses.fields(EditSettings)} | {"rank", "modules"}
    course = experiment.refusal_settings(tiny(layers=30))
    assert changes.pop("as_it_is") == {} and len(changes) >= 8
    for name, changed in changes.items():
        assert set(changed) <= fields, name
        some = {key: value for key, value in changed.items() if key not in ("rank", "modules")}
        assert changed.get("rank", 8) != 8 or "modules" in changed or replace(course, **some) != course, name
        assert len(set(changed) - {"online"}) <= 1, f"{name} changes more than one thing"
        assert min(replace(course, **some).at.layers) > 30 // 2 - 1, f"{name} reads below the adapter"


def test_a_rate_over_seeds_has_a_row_for_each_and_an_interval_over_both(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("STEER_RESULTS", str(tmp_path / "results.json"))
    rows = np.random.default_rng(0).random((3, 40)) < [[0.2], [0.5], [0.8]]
    bench.record("some", {"harmful": list(rows.astype(float))}, (0, 1, 2))
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [kept[f"are.some.harmful.seed_{seed}"]["value"] for seed in range(3)] == pytest.approx(rows.mean(axis=1))
    low, high = kept["are.some.harmful"]["ci_low"], kept["are.some.harmful"]["ci_high"]
    assert kept["are.some.harmful"]["value"] == pytest.approx(rows.mean()) and high - low > 0.3
    bench.record("one", {"harmful": [rows[0].astype(float)]}, (0,))
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["are.one.harmful"]["n"] == 40 and "are.one.harmful.seed_0" not in kept
