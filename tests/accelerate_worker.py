"""One of n processes that train agents on the small map and edit a tiny model; `test_accelerate.py` launches them.

Arguments: rank, number of processes, port, and an empty folder for what each finds.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from edit_worker import report_edits
from fake_steering import fake_task, task_starts
from safetensors.torch import save_file

from helpers.base.sharing import ALONE, ProcessShare, Share
from helpers.base.storage import CourseError
from helpers.eagle.agent import AgentSettings, OptionPolicy, OptionValue, reinforce

RUNS = {
    "single": AgentSettings(iterations=3, episodes=8, group=1, learning_rate=0.02),
    "group": AgentSettings(iterations=3, episodes=8, group=2, learning_rate=0.02, kl=0.5, entropy=0.1),
    "diverging": AgentSettings(iterations=3, episodes=8, group=2, learning_rate=float("inf")),
    "uneven": AgentSettings(iterations=3, episodes=6, group=2),
}


def learn(settings: AgentSettings, checkpoint: Path | None, share: Share = ALONE):
    """Train two agents side by side; returns them, their curves, last gradients, and the rows handed out."""
    policies, rows = [OptionPolicy(1.0), OptionPolicy(1.0)], []
    torch.nn.init.constant_(policies[1].linear.weight, 0.1)
    values = [OptionValue(policy, seed=seed) for seed, policy in enumerate(policies)]
    parts = fake_task(), policies, values, "uniform", task_starts(12), settings
    options = {"checkpoint": checkpoint, "on_iteration": rows.append, "share": share}
    curves = reinforce(*parts, seeds=[0, 1], **options)
    agents = torch.nn.ModuleList([*policies, *values])
    gradients = {name: weight.grad.clone() for name, weight in agents.named_parameters() if weight.grad is not None}
    return agents, curves, gradients, [row[0]["iteration"] for row in rows]


def report(name: str, folder: Path, accelerator: Accelerator) -> dict:
    """What this process finds in one of the runs; weights and gradients go into files."""
    share, settings = ProcessShare(accelerator), RUNS[name]
    try:
        learn(replace(settings, iterations=1), folder / "checkpoint", share)
        # A second start, as after a kill: it goes on from the checkpoint.
        agents, curves, gradients, rows = learn(settings, folder / "checkpoint", share)
    except (CourseError, ValueError) as error:
        return {"error": str(error)}
    save_file(gradients, folder / f"gradients{accelerator.process_index}")
    save_file(agents.state_dict(), folder / f"weights{accelerator.process_index}")
    return {"curves": curves, "rows": rows, "processes": accelerator.num_processes}


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
