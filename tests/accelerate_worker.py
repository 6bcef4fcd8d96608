"""One of n processes that train in the fake world and edit a tiny model together; `test_accelerate.py` launches them.

Arguments: rank, number of processes, port, and an empty folder for what each finds.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from edit_worker import report_edits
from fake_world import fake_starts, fake_world
from fakes import small_agent
from safetensors.torch import save_file

from helpers.base.storage import CourseError
from helpers.eagle.policy import frozen_copy
from helpers.eagle.training import Settings, train

RUNS = {
    "value": Settings(iterations=3, episodes=8),
    "group": Settings(iterations=3, episodes=8, group=2, kl=0.5),
    "diverging": Settings(iterations=3, episodes=8, learning_rate=float("inf")),
    "uneven": Settings(iterations=3, episodes=9),
}


def play(settings: Settings, checkpoint: Path | None, accelerator: Accelerator | None, stop: int | None = None):
    """Train; returns agent, curve, gradients of the last iteration, and the numbers of the rows handed out."""
    world, rows = fake_world(horizon=2), []
    agent = small_agent(world)
    reference = frozen_copy(agent.policy)
    settings = settings if stop is None else Settings(**{**asdict(settings), "iterations": stop})
    options = {"checkpoint": checkpoint, "on_iteration": rows.append, "accelerator": accelerator}
    curve = train(world, agent, reference, fake_starts(12), settings, **options)
    gradients = {name: weight.grad.clone() for name, weight in agent.named_parameters() if weight.grad is not None}
    return agent, curve, gradients, [row["iteration"] for row in rows]


def report(name: str, folder: Path, accelerator: Accelerator) -> dict:
    """What this process finds in one of the runs; weights and gradients go into files."""
    try:
        play(RUNS[name], folder / "checkpoint", accelerator, stop=1)
        # A second start, as after a kill: it goes on from the checkpoint.
        agent, curve, gradients, rows = play(RUNS[name], folder / "checkpoint", accelerator)
    except (CourseError, ValueError) as error:
        return {"error": str(error)}
    save_file(gradients, folder / f"gradients{accelerator.process_index}")
    save_file(agent.state_dict(), folder / f"weights{accelerator.process_index}")
    return {"curve": curve, "rows": rows, "processes": accelerator.num_processes}


def main(rank: int, n: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {}
    for name in RUNS:
        (folder / name).mkdir(exist_ok=True)
        found[name] = report(name, folder / name, accelerator)
    found |= report_edits(folder, accelerator)
    (folder / f"found{rank}").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
