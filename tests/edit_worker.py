"""One of n processes that edit a tiny model together; `test_accelerate.py` launches them.

Arguments: rank, number of processes, port, and a folder for what each finds.
"""

from __future__ import annotations

import json
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

from helpers.are.editing import Rows, Run, Share, edit
from helpers.language.adapters import trained_weights
from helpers.language.states import blocks
from helpers.larger_machines.processes import ProcessShare


def edit_tiny(accelerator: Accelerator | None, checkpoint: Path | None, rounds: int = 2):
    """Edit the tiny model; returns the edited model, and the rows. Blocks are sharded where the environment says so."""
    lm = tiny(layers=4)
    edited = adapted(lm)
    rows = Rows(lm, examples()[:8], 3), Rows(lm, examples()[8:], 3)
    settings = replace(SETTINGS, rounds=rounds)
    share = ProcessShare(accelerator) if accelerator else Share()
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


def main(rank: int, n: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    edit_tiny(accelerator, folder / "checkpoint", rounds=1)
    model, curve = edit_tiny(accelerator, folder / "checkpoint")  # goes on, as after a kill
    for kind, tensors in trained_of(model).items():
        save_file(tensors, folder / f"{kind}{rank}")
    (folder / f"found{rank}").write_text(json.dumps({"curve": curve, "held": held(model)}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
