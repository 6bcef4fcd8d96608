"""Checkpoints: the weights that training changes, the optimiser's state and the learning curve, in one file.

Written whole or not at all, so that a run that is killed at any moment resumes from its last whole iteration.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from helpers.base.settings import cache_dir
from helpers.base.storage import CourseError, atomic_file, can_keep, explained


def save_checkpoint(path: Path | None, module: nn.Module, optimiser, run: dict, curve: list[dict]) -> None:
    """Weights, optimiser state and learning curve in one safetensors file, written whole or not at all.

    Nothing is written without a path, or where this user may not write.

    Raises:
        CourseError: the file cannot be written.
    """
    if path is None or not can_keep(path):
        return
    tensors = {f"module.{name}": value for name, value in trainable_state(module).items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    facts = {"run": json.dumps(run), "curve": json.dumps(curve)}
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, facts)
    in_cache = path.is_relative_to(cache_dir())
    elsewhere = "set STEER_CACHE to a folder" if in_cache else "choose a folder"
    with explained("save a checkpoint", elsewhere), atomic_file(path) as temporary:
        temporary.write_bytes(data)


def load_checkpoint(path: Path | None, module: nn.Module, optimiser, run: dict) -> list[dict]:
    """Restore a run from its checkpoint, if there is one, and return its learning curve.

    Raises:
        CourseError: the file is damaged, or belongs to another run or to a module of another shape.
    """
    if path is None or not path.exists():
        return []
    remedy = f"delete {path} to start again, or choose another checkpoint file"
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved, curve = json.loads(facts["run"]), json.loads(facts["curve"])
    except Exception as error:  # safetensors and json raise many kinds
        raise CourseError(f"the checkpoint cannot be read ({type(error).__name__}): {remedy}") from error
    if saved != run:
        raise CourseError(f"the checkpoint was made with other settings, data or seed: {remedy}")
    weights = {name.removeprefix("module."): value for name, value in tensors.items() if name.startswith("module.")}
    mine = trainable_state(module)
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in mine.items()}:
        raise CourseError(f"the checkpoint is of a module of another shape: {remedy}")
    module.load_state_dict(weights, strict=False)
    restored = optimiser.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, number, key = name.split(".")
            restored["state"].setdefault(int(number), {})[key] = value
    optimiser.load_state_dict(restored)
    return curve


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes: for a model with an adapter, only those of the adapter."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name in trained}
