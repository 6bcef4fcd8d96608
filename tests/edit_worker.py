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
from test_editing import SETTINGS, adapted, examples, retained
from tiny_models import tiny

from helpers.adapters import trained_weights
from helpers.are.editing import Rows, edit


def edit_tiny(accelerator: Accelerator | None, checkpoint: Path | None, rounds: int = 2):
    """Edit the tiny model; returns the adapter's weights, their last gradients, and the rows."""
    lm = tiny(layers=4)
    edited = adapted(lm)
    rows = Rows(lm, examples()[:8], 3), Rows(lm, examples()[8:], 3)
    settings = replace(SETTINGS, rounds=rounds)
    curve = edit(edited, *rows, retained(edited), settings, accelerator=accelerator, checkpoint=checkpoint)
    weights = trained_weights(edited.model)
    return [weight.detach().clone() for weight in weights], [weight.grad for weight in weights], curve


def main(rank: int, n: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    edit_tiny(accelerator, folder / "checkpoint", rounds=1)
    weights, gradients, curve = edit_tiny(accelerator, folder / "checkpoint")  # goes on, as after a kill
    save_file({str(number): weight for number, weight in enumerate(weights)}, folder / f"weights{rank}")
    save_file({str(number): gradient for number, gradient in enumerate(gradients)}, folder / f"gradients{rank}")
    (folder / f"found{rank}").write_text(json.dumps(curve))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
