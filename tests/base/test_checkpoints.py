"""Checkpoints: what goes into the file, and files that are damaged, of another run, or cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.storage import CourseError

RUN = {"seed": 0}


def module_and_optimiser(width: int = 2) -> tuple[torch.nn.Linear, torch.optim.Adam]:
    """A layer after one step, of which the bias is frozen."""
    module = torch.nn.Linear(width, 1)
    module.bias.requires_grad_(False)
    optimiser = torch.optim.Adam([module.weight])
    module(torch.ones(width)).sum().backward()
    optimiser.step()
    return module, optimiser


@pytest.fixture
def path(tmp_path) -> Path:
    """A checkpoint after one step."""
    save_checkpoint(tmp_path / "run", *module_and_optimiser(), RUN, [{"loss": 0.25}])
    return tmp_path / "run"


def test_trained_weights_optimiser_and_curve_are_restored(tmp_path):
    module, optimiser = module_and_optimiser()
    save_checkpoint(tmp_path / "run", module, optimiser, RUN, [{"loss": 0.25}])
    other, its_optimiser = module_and_optimiser()
    bias = other.bias.clone()
    assert load_checkpoint(tmp_path / "run", other, its_optimiser, RUN) == [{"loss": 0.25}]
    assert torch.equal(other.weight, module.weight) and torch.equal(other.bias, bias)
    for name, value in optimiser.state[module.weight].items():
        assert torch.equal(its_optimiser.state[other.weight][name], value), name
    assert {name for name in load_file(tmp_path / "run") if "optimiser" not in name} == {"module.weight"}


def test_without_a_file_a_run_begins_and_without_a_path_nothing_is_kept(tmp_path):
    for path in (None, tmp_path / "none"):
        assert load_checkpoint(path, *module_and_optimiser(), RUN) == []
    save_checkpoint(None, *module_and_optimiser(), RUN, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_text("not a checkpoint"),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"module.weight": torch.zeros(1, 2)}, path),
        lambda path: save_file({"module.weight": torch.zeros(1, 2)}, path, {"run": "{}", "curve": "["}),
    ],
    ids=["truncated", "text", "empty", "without facts", "broken facts"],
)
def test_a_damaged_file_is_refused_and_changes_nothing(path, damage):
    damage(path)
    module, optimiser = module_and_optimiser()
    before = module.weight.clone()
    with pytest.raises(CourseError, match=r"cannot be read .*: delete .*/run to start again") as caught:
        load_checkpoint(path, module, optimiser, RUN)
    assert "\n" not in str(caught.value) and torch.equal(module.weight, before)


def test_the_file_of_another_run_or_module_is_refused(path):
    before = path.read_bytes()
    with pytest.raises(CourseError, match=r"other settings, data or seed: delete .*/run to start"):
        load_checkpoint(path, *module_and_optimiser(), {"seed": 1})
    with pytest.raises(CourseError, match=r"a module of another shape: delete .*/run to start"):
        load_checkpoint(path, *module_and_optimiser(3), RUN)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match=r"could not save a checkpoint .*: choose a folder on") as caught:
        save_checkpoint(tmp_path / "file" / "run", *module_and_optimiser(), RUN, [])
    assert "\n" not in str(caught.value)
