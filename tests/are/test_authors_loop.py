"""The loop that our editing loop is timed against does the same: one round of it ends with the same adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny

from helpers.are.concepts import Example
from helpers.are.editing import EditSettings, edit
from helpers.language.adapters import trained_weights
from helpers.language.states import ReadOut, read


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import bench_authors_loop

    return bench_authors_loop


def examples() -> list[Example]:
    words = ("sun", "rain", "tea", "dogs", "music", "trains")
    return [Example(w, (("system", "Be glad!"), ("user", w)), (("user", w),), f"well {w}") for w in words]


def test_one_round_of_both_loops_ends_with_the_same_adapter(bench):
    """With one example a step and blocks below the last, whose states `transformers` hands out behind a norm."""
    lm = tiny(layers=4)
    chosen = bench.papers_loss(EditSettings(ReadOut((2, 3), 2), rounds=1, steps=4, batch=1, learning_rate=1e-2))
    ours, theirs = (bench.new_run(lm, examples()[:4], examples()[4:], chosen) for _ in range(2))
    one, other = edit(ours)[0], bench.authors_loop(theirs)[0]
    assert other["passes"] == 4
    assert one["accuracy"] == other["accuracy"]
    assert one["fooling"] == pytest.approx(other["fooling"], rel=1e-3)
    before = trained_weights(bench.new_run(lm, examples()[:4], examples()[4:], chosen).lm.model)
    for weight, same, start in zip(*map(trained_weights, (ours.lm.model, theirs.lm.model)), before, strict=True):
        torch.testing.assert_close(weight, same, rtol=1e-2, atol=1e-4)
        assert not torch.equal(weight, start)


def test_a_whole_pass_reads_the_same_states(bench):
    lm, at = tiny(layers=3), ReadOut((1, 2), 3)
    text = list(b"some words")
    torch.testing.assert_close(bench.whole_pass(lm.model, text, at), read(lm.model, [text], at), rtol=1e-4, atol=1e-4)


def test_both_are_timed(bench):
    chosen = bench.papers_loss(EditSettings(ReadOut((1, 2), 2), rounds=2, steps=1, batch=2))
    assert min(bench.seconds_of_both(tiny(), examples()[:4], examples()[4:], chosen)) > 0
