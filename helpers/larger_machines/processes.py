"""Training on several processes or accelerators, from the command line.

    accelerate launch --num_processes 2 -m helpers.larger_machines.processes agent --episodes 12 --out build/agent
    accelerate launch --num_processes 2 -m helpers.larger_machines.processes edit --concept refusal --out build/edit

train the EAGLE agent of the current profile (`STEER_PROFILE`), and an ARE edit. Both resume where they were stopped,
and write weights as safetensors and the curve as JSON. Processes share every batch and average their gradients, so that
their number changes results by rounding only. They must see the same cache (`STEER_CACHE`) and the same `--out`.

Episodes are shared in whole groups from the same start. If the processes cannot share those of the profile evenly, set
`--episodes` to a multiple of processes times group.

Without a GPU, `accelerate launch` starts a single process unless asked for more:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 \\
        -m helpers.larger_machines.processes agent --episodes 12 --out build/agent

A model that is too large for one accelerator is edited under FSDP, where each holds a share of it:

    python -m helpers.larger_machines.processes config --model owner/name --processes 8 --out fsdp.yaml
    accelerate launch --config_file fsdp.yaml \\
        -m helpers.larger_machines.processes edit --concept truth --model owner/name \\
        --out build/edit

The answers that an edit starts from are written by the main process with the whole model, and kept in the memo. Under
FSDP that model is on the CPU: for one that is too slow there, fill the memo on one large accelerator first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.commands.config.config_args import ClusterConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from helpers.are import experiment as are
from helpers.are.concepts import Concept, facts, harmless_tasks, verdicts
from helpers.are.editing import Answered, EditSettings, Rows, Run, edit
from helpers.base.compute import default_device, preferred_dtype
from helpers.base.settings import PROJECT, model_name
from helpers.base.sharing import ProcessShare, Share
from helpers.base.storage import CourseError, atomic_file, explained
from helpers.eagle.agent import OptionValue, reinforce
from helpers.eagle.comparison import SEARCHED, SUPPORTS, load_comparison
from helpers.eagle.steering import Support
from helpers.language.adapters import save_adapter, trained_weights
from helpers.language.generation import LocalBackend, backend_name, local_backend, plain_tokens, prompt_tokens
from helpers.language.models import AnyModel, load_config, load_language_model
from helpers.language.states import blocks

LONGEST_ABSENCE = timedelta(hours=24)  # the others wait while the main process runs the language model
RECOMPUTED_FROM = 3e9  # weights from which a step's activations no longer fit beside the model, or hardly


class Task(NamedTuple):
    """A concept that can be edited from here: how it is made with a model, and the settings of the edit."""

    concept: Callable[[LocalBackend], Concept]
    settings: Callable[[AnyModel], EditSettings]


TASKS = {
    "sentiment": Task(lambda backend: are.mood(True, backend), are.mood_settings),
    "refusal": Task(lambda backend: are.refusal(backend=backend), are.refusal_settings),
    "truth": Task(lambda backend: are.truth(backend.lm), are.truth_settings),
    "stereotypes": Task(lambda backend: are.fairness(), are.fairness_settings),
}


# Sharding ------------------------------------------------------------------------------------------------------------
#
# A frozen base model is spread over the processes of a run (FSDP, version 2), its adapter whole in each. Only the
# blocks are sharded, each for itself. `accelerate.prepare` would shard the whole model as one more unit, and then the
# ways in which an edit uses a model would meet weights that are not there: a pass that ends after the deepest block
# that is read, the decoder without the output weights, the output weights alone. Calls of whole blocks are all that
# these ways have in common. The adapter's weights are a thousandth of the model's, and stay as they are: loop,
# optimiser and checkpoint are the same with and without sharding. So are embeddings, which every process holds.


def sharding_is_asked() -> bool:
    """Whether `accelerate launch` was given FSDP, by `--use_fsdp` or a config (`config` below)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def recomputing_is_asked() -> bool:
    """Whether it was given activation checkpointing, by `--fsdp_activation_checkpointing` or a config."""
    return os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"


def shard_blocks(model: nn.Module, accelerator: Accelerator) -> None:
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


class EditShare(ProcessShare):
    """The share of one of the processes of an edit."""

    def prepare(self, model: nn.Module) -> bool:
        """Under FSDP the frozen blocks are sharded, and their states recomputed if that was asked for."""
        if sharding_is_asked():
            shard_blocks(model, self.accelerator)
        return sharding_is_asked() and recomputing_is_asked()


# Runs --------------------------------------------------------------------------------------------------------------


def train_agent(
    accelerator: Accelerator,
    out: Path,
    support: Support = SEARCHED,
    seed: int = 0,
    episodes: int | None = None,
) -> list[dict]:
    """Train the agent of notebook 07, from the supervised policy of a seed, in the current profile.

    Leaves `agent.safetensors`, `curve.json` and a checkpoint in `out`. Every process asks its own copy of the language
    model about its own episodes.

    Args:
        support: the aims that the agent chooses among.
        episodes: per iteration, over all processes; as many as in the notebook when not given.

    Raises:
        CourseError: FSDP was asked for; or as `agent.reinforce`.
        ValueError: the processes cannot share the episodes evenly in whole groups.
    """
    if sharding_is_asked():
        raise CourseError("the agent is small and its model frozen: launch it without FSDP, on as many processes")
    with accelerator.main_process_first():  # the others find its rewrites in the memo
        comparison = load_comparison(progress=accelerator.is_main_process)
        policy = comparison.supervised(seed)
    settings = comparison.plan.settings
    settings = replace(settings, episodes=episodes or settings.episodes)
    parts = comparison.task, [policy], [OptionValue(policy, seed=seed)], support, comparison.train, settings
    (curve,) = reinforce(
        *parts,
        seeds=[seed],
        on_iteration=lambda rows: print_row(rows[0]),
        checkpoint=out / "checkpoint.safetensors",
        share=ProcessShare(accelerator),
    )
    if accelerator.is_main_process:
        save_tensors(policy.state_dict(), out / "agent.safetensors")
        save_curve(curve, out)
    return curve


def train_edit(
    accelerator: Accelerator,
    out: Path,
    task: str,
    model: str | None = None,
    seed: int = 0,
    batch: int | None = None,
) -> list[dict]:
    """Edit a model towards a concept; leaves the adapter with its card in `out/adapter`, and `out/curve.json`.

    Args:
        model: its name; the course's when not given.
        batch: examples per step, over all processes.

    Raises:
        CourseError: as `editing.edit`, or the model cannot be loaded.
        ValueError: the processes cannot share a batch evenly, or the model has no chat template.
    """
    with accelerator.main_process_first():
        backend = model_backend(model)
        concept = TASKS[task].concept(backend)
    settings = TASKS[task].settings(backend.lm)
    settings = replace(settings, batch=batch or settings.batch)
    lm, curve = are.edited(
        concept, settings, seed, backend=backend, on_round=print_row, processes=EditShare(accelerator)
    )
    if accelerator.is_main_process:
        if sharding_is_asked():
            lm, _ = are.edited(concept, settings, seed, backend=backend)  # whole again, from the cache
        card = are.card_of(concept, settings, seed, {"KL on harmless prompts, nats": (0.0, curve[-1]["retain_kl"])})
        save_adapter(lm, out / "adapter", card, {"concept": concept.name, "seed": seed})
        save_curve(curve, out)
    return curve


def model_backend(name: str | None = None) -> LocalBackend:
    """A model by name, by default the course's, as the notebooks load it; on the CPU if its blocks are sharded."""
    if not sharding_is_asked():
        return local_backend(name)
    lm = load_language_model(name, device="cpu", dtype=preferred_dtype(default_device()))
    return LocalBackend(lm, backend_name(lm, name))


def print_row(row: dict) -> None:
    """One line per iteration or round."""
    print(", ".join(f"{name} {value:.3g}" for name, value in row.items() if isinstance(value, int | float)), flush=True)


def save_curve(curve: list[dict], out: Path) -> None:
    """The learning curve as `curve.json` in a folder."""
    with explained(f"write {out.name}/curve.json", "choose a folder"), atomic_file(out / "curve.json") as new:
        new.write_text(json.dumps(curve, indent=1) + "\n", "utf-8")


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Tensors as one safetensors file."""
    with explained(f"write {path.name}", "choose a folder"), atomic_file(path) as new:
        new.write_bytes(safetensors.torch.save({name: value.contiguous().cpu() for name, value in tensors.items()}))


# Configuration -----------------------------------------------------------------------------------------------------


def fsdp_config(name: str, processes: int) -> ClusterConfig:
    """Configuration of `accelerate launch` for an edit of a model under FSDP 2, fully sharded block by block.

    The class of the blocks is taken from the architecture, without loading weights. Without a GPU on this machine the
    configuration is for the CPU.

    Raises:
        CourseError: no such model, or none that has a list of blocks.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(name), trust_remote_code=False)
    fsdp = {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": True,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": type(blocks(model)[0]).__name__,
        "fsdp_activation_checkpointing": model.num_parameters() >= RECOMPUTED_FROM,
        "fsdp_offload_params": False,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": False,
    }
    return ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type="FSDP",
        mixed_precision="bf16",
        use_cpu=not torch.cuda.is_available(),
        debug=False,
        num_processes=processes,
        fsdp_config=fsdp,
    )


def write_config(name: str, processes: int, out: Path) -> None:
    """`fsdp_config` as a YAML file.

    Raises:
        CourseError: the file cannot be written; or as `fsdp_config`.
    """
    with explained(f"write {out.name}", "choose a folder"), atomic_file(out) as new:
        fsdp_config(name, processes).to_yaml_file(new)


# Are gradients of several processes those of one? --------------------------------------------------------------------


def edit_gradients(accelerator: Accelerator | None = None, sharded: bool = False) -> dict[str, Tensor]:
    """Gradients of an adapter of the course's model in the first step of an edit on 12 statements, in float32.

    The adapter begins with small random weights: a new one has gradients of 0 in half of its matrices.
    """
    lm = load_language_model(device=accelerator.device if accelerator else "cpu", dtype=torch.float32)
    some, kept = verdicts(facts()[:6]), harmless_tasks()[:6]
    edited = are.with_late_adapter(lm)
    weights, generator = trained_weights(edited.model), torch.Generator().manual_seed(0)
    for weight in weights:
        weight.data = 0.02 * torch.randn(weight.shape, generator=generator).to(weight)
    answers = [plain_tokens(lm.tokenizer, "Yes, of course.")] * len(kept)
    retain = Answered(edited, [prompt_tokens(lm.tokenizer, question.text) for question in kept], answers)
    share = EditShare(accelerator) if accelerator else Share()
    save_memory = sharded and share.prepare(edited.model)
    one = EditSettings(are.late(lm, 1), rounds=1, steps=1, batch=4, adversary=0.1, answer=0.0, fooled=0.0)
    edit(Run(edited, Rows(lm, some[:8], 1), Rows(lm, some[8:], 1), retain, one, save_memory=save_memory, share=share))
    names = [name for name, weight in edited.model.named_parameters() if weight.requires_grad]
    return {name: w.grad for name, w in zip(names, weights, strict=True) if w.grad is not None}


def launched_grad_errors(processes: int = 2) -> dict[str, float]:
    """Largest relative difference of the gradients of several CPU processes (gloo) from those of this one.

    A step of `edit_gradients`, started by `accelerate launch`. Each matrix is compared by its largest difference over
    its largest number. Takes half a minute with two processes on two cores.

    Returns:
        `accelerate`: each process with the whole model; `fsdp`: with its frozen blocks sharded.

    Raises:
        CourseError: the processes failed; the error is their last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_config(model_name(), processes, config := Path(folder) / "fsdp.yaml")
        launch(processes, ["gradients", "--out", folder], config)
        together = {name: safetensors.torch.load_file(Path(folder) / name) for name in ("accelerate", "fsdp")}
    alone = edit_gradients()
    return {
        name: max(float((found[weight] - g).abs().max() / g.abs().max()) for weight, g in alone.items())
        for name, found in together.items()
    }


def launch(processes: int, arguments: Sequence[str], config: Path | None = None, seconds: float = 600) -> None:
    """Run this module in several CPU processes by `accelerate launch`, with a thread each.

    Args:
        config: of `accelerate launch`, as `write_config` leaves it.

    Raises:
        CourseError: a process failed, or they took longer than `seconds`.
    """
    how = ["--config_file", str(config)] if config else ["--multi_gpu", "--mixed_precision", "no"]
    how += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "-m",
        "helpers.larger_machines.processes",
        *arguments,
    ]
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise CourseError(f"{processes} processes took longer than {seconds:g} seconds: try fewer") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith(ERROR)]
        reason = said[-1].removeprefix(ERROR) if said else (error.stderr.strip() or "no reason given").splitlines()[-1]
        raise CourseError(f"{processes} processes could not run together ({reason}): try one") from error


# Command line --------------------------------------------------------------------------------------------------------

ERROR = "error: "


def parser() -> argparse.ArgumentParser:
    """Arguments of the command line."""
    whole = argparse.ArgumentParser(
        prog="python -m helpers.larger_machines.processes", description="Train on several processes."
    )
    kinds = whole.add_subparsers(dest="command", required=True)
    agent = kinds.add_parser("agent", help="the EAGLE agent of the current profile")
    agent.add_argument("--support", choices=SUPPORTS, default=SEARCHED, help="how the aims to choose among are found")
    agent.add_argument("--episodes", type=int, help="episodes an iteration, over all processes")
    task = kinds.add_parser("edit", help="an ARE edit")
    task.add_argument("--concept", choices=TASKS, required=True)
    task.add_argument("--model", help="name in the course, hub name or folder (default: the course's, STEER_MODEL)")
    task.add_argument("--batch", type=int, help="examples a step, over all processes")
    for kind in (agent, task):
        kind.add_argument("--seed", type=int, default=0)
    config = kinds.add_parser("config", help="an FSDP configuration for `accelerate launch`")
    config.add_argument("--model", required=True, help="hub name or folder")
    config.add_argument("--processes", type=int, required=True, help="accelerators in all")
    gradients = kinds.add_parser(
        "gradients", help="gradients of one edit step, whole and sharded, to compare with one process"
    )
    for kind in (agent, task, config, gradients):
        kind.add_argument("--out", type=Path, required=True)
    return whole


def run_command(arguments: argparse.Namespace) -> None:
    """Run what the command line asks for."""
    if arguments.command == "config":
        write_config(arguments.model, arguments.processes, arguments.out)
        return
    with explained(f"write to {arguments.out.name}", "choose a folder for --out"):  # known before hours of training
        arguments.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=arguments.out).close()
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_ABSENCE)])
    try:
        if arguments.command == "agent":
            train_agent(accelerator, arguments.out, arguments.support, arguments.seed, arguments.episodes)
        elif arguments.command == "edit":
            train_edit(accelerator, arguments.out, arguments.concept, arguments.model, arguments.seed, arguments.batch)
        else:
            for name, sharded in (("accelerate", False), ("fsdp", True)):
                gradients = edit_gradients(accelerator, sharded)
                if accelerator.is_main_process:
                    save_tensors(gradients, arguments.out / name)
    finally:
        accelerator.end_training()


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 a failure (one line says which), 2 wrong arguments."""
    try:
        run_command(parser().parse_args(arguments))
    except (CourseError, ValueError) as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
