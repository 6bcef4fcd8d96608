"""An edit of a tiny model, whole and sharded, for the processes of `accelerate_worker.py`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parent / "are"))
from test_editing import SETTINGS, adapted, examples, retained
from tiny_models import tiny

from helpers.are.editing import Rows, Run, edit
from helpers.base.sharing import Share
from helpers.language.adapters import trained_weights
from helpers.language.states import blocks
from helpers.larger_machines.processes import EditShare

EDITS = {
    "whole": {},
    "sharded": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "recomputed": {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
}
"""What `accelerate launch` would set in the environment."""


def edit_tiny(accelerator: Accelerator | None, checkpoint: Path | None, rounds: int = 2):
    """Edit the tiny model; returns the edited model, and the rows. Blocks are sharded where the environment says so."""
    lm = tiny(layers=4)
    edited = adapted(lm)
    rows = Rows(lm, examples()[:8], 3), Rows(lm, examples()[8:], 3)
    settings = replace(SETTINGS, rounds=rounds, online=True)
    share = EditShare(accelerator) if accelerator else Share()
    run = Run(edited, *rows, retained(edited), settings, save_memory=share.prepare(edited.model), share=share)
    return edited.model, edit(run, checkpoint=checkpoint)


def trained_of(model) -> dict[str, dict[str, torch.Tensor]]:
    """The adapter's weights, and their last gradients."""
    weights = dict(enumerate(trained_weights(model)))
    return {
        "weights": {str(number): weight.detach().clone() for number, weight in weights.items()},
        "gradients": {str(number): weight.grad for number, weight in weights.items()},
    }


def held(model) -> int:
    """How many frozen numbers of the blocks this process holds."""
    frozen = [weight for weight in blocks(model).parameters() if not weight.requires_grad]
    return sum((weight.to_local() if hasattr(weight, "to_local") else weight).numel() for weight in frozen)


def report_edits(folder: Path, accelerator: Accelerator) -> dict[str, dict]:
    """What this process finds in each kind of edit; weights and gradients go into files."""
    found = {}
    for name, variables in EDITS.items():
        os.environ |= variables  # each kind has those of the one before
        own = folder / name
        own.mkdir(exist_ok=True)
        edit_tiny(accelerator, own / "checkpoint", rounds=1)
        model, curve = edit_tiny(accelerator, own / "checkpoint")  # goes on, as after a kill
        for kind, tensors in trained_of(model).items():
            save_file(tensors, own / f"{kind}{accelerator.process_index}")
        found[name] = {"curve": curve, "held": held(model)}
    return found
