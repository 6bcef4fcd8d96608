"""A frozen base model spread over the processes of a training run (FSDP, version 2), its adapter whole in each.

Only the blocks are sharded, each for itself. `accelerate.prepare` would shard the whole model as one more unit, and
then the ways in which an edit uses a model would meet weights that are not there: a pass that ends after the deepest
block that is read, the decoder without the output weights, the output weights alone. Calls of whole blocks are all
that these ways have in common. The adapter's weights are a thousandth of the model's, and stay as they are: loop,
optimiser and checkpoint are the same with and without sharding. So are embeddings, which every process holds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helpers.language.states import blocks

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel


def sharding_is_asked() -> bool:
    """Whether `accelerate launch` was given FSDP, by `--use_fsdp` or a config (`processes config`)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def recomputing_is_asked() -> bool:
    """Whether it was given activation checkpointing, by `--fsdp_activation_checkpointing` or a config."""
    return os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"


def shard_blocks(model: PeftModel, accelerator: Accelerator) -> None:
    """Leave each process a share of the frozen weights of every block, in place; a block is whole while it computes.

    All processes must pass through the same blocks in the same order from here on, in the backward pass too. The model
    whose weights the adapter shares keeps its own whole blocks, where they were: load it on the CPU if they do not
    fit the device.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks(model):
        frozen = [(weight, weight.data) for weight in block.parameters() if not weight.requires_grad]
        adapter = {weight for weight in block.parameters() if weight.requires_grad}
        # Said, since by default a unit that stands alone stays whole after it has computed.
        fully_shard(block, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)
        for weight, data in frozen:  # sharding moves them to the device first, and the other model holds them too
            weight.data = data
    model.to(accelerator.device)
