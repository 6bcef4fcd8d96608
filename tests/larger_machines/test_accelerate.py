"""Two processes that train together against one that trains alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate_worker import RUNS, learn
from edit_worker import EDITS, edit_tiny, held, trained_of
from safetensors.torch import load_file
from test_editing import timeless

from helpers.base.settings import PROJECT

WORKER = Path(__file__).parents[1] / "accelerate_worker.py"
SECONDS = 300  # 20 when nothing else runs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The folder of all runs, and what each of two processes found that trained and edited together."""
    folder, n = tmp_path_factory.mktemp("together"), 2
    here = os.pathsep.join([str(PROJECT), str(WORKER.parent)])
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    arguments = [str(n), str(free_port()), str(folder)]
    started = [subprocess.Popen([sys.executable, WORKER, str(rank), *arguments], env=environment) for rank in range(n)]
    try:
        assert [process.wait(SECONDS) for process in started] == [0] * n
    finally:
        for process in started:
            process.kill()
    return folder, [json.loads((folder / f"found{rank}").read_text()) for rank in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single", "group"])
def test_two_processes_learn_what_one_learns(together, name):
    agents, curves, gradients, _ = learn(RUNS[name], None)
    folder, (main, other) = together[0] / name, [found[name] for found in together[1]]
    assert main["processes"] == other["processes"] == 2
    assert main["rows"] == [1, 2] and other["rows"] == []  # the main process tells, and went on from row 0
    assert main["curves"] == other["curves"]
    for found, curve in zip(main["curves"], curves, strict=True):
        assert found == [pytest.approx(row, rel=1e-4, abs=1e-6) for row in curve]
    assert any(row["calls"] < 3 for curve in curves for row in curve)  # so each process has its number of steps
    for kind, expected in (("gradients", gradients), ("weights", agents.state_dict())):
        first, second = (load_file(folder / f"{kind}{rank}") for rank in range(2))
        for key, tensor in expected.items():
            assert first[key].equal(second[key])
            assert first[key].numpy() == pytest.approx(tensor.numpy(), rel=1e-4, abs=1e-6)
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-2


@pytest.mark.parametrize(
    ("name", "words"),
    [("diverging", "not finite in iteration 1: lower the learning rate"), ("uneven", "2 processes cannot share")],
)
def test_both_processes_stop_with_the_same_words(together, name, words):
    main, other = (found[name] for found in together[1])
    assert words in main["error"] and main["error"] == other["error"]


@pytest.fixture(scope="module")
def edited_alone():
    """Model and curve of one process."""
    return edit_tiny(None, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_two_processes_edit_as_one_does(together, edited_alone, name):
    model, curve = edited_alone
    folder, (main, other) = together[0] / name, [found[name].copy() for found in together[1]]
    share = 1 if name == "whole" else 2
    assert main.pop("held") == other.pop("held") == held(model) / share
    main, other, curve = map(timeless, (main["curve"], other["curve"], curve))
    assert main == other
    for row, expected in zip(main, curve, strict=True):
        assert row.pop("stopped") == expected.pop("stopped") == ""
        assert row.pop("target_rate") is expected.pop("target_rate") is None
        steps, wanted = row.pop("steps"), expected.pop("steps")
        assert steps == {name: pytest.approx(values, rel=1e-3, abs=1e-4) for name, values in wanted.items()}
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for kind, expected in trained_of(model).items():
        first, second = (load_file(folder / f"{kind}{rank}") for rank in range(2))
        for number, tensor in expected.items():
            assert first[number].equal(second[number])
            assert first[number].numpy() == pytest.approx(tensor.numpy(), rel=1e-2, abs=1e-4)
    assert max(gradient.abs().max() for gradient in trained_of(model)["gradients"].values()) > 1e-3
