"""LoRA adapters: small trained matrices beside frozen weights (Hu et al. 2022), by `peft`.

An edit of a model is an adapter. It shares the weights of the model that it edits, can be switched off, weakened
and merged, and is saved as safetensors with a card that says what it does and to which model it belongs.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from helpers.base.storage import CourseError, atomic_folder, explained, locked, sha256
from helpers.language.loading import quiet
from helpers.language.models import AdaptedModel, AnyModel, LoadedModel
from helpers.language.states import blocks

FACTS = "edit.json"
WEIGHTS = "adapter_model.safetensors"  # as peft names them; a .bin is never read, for a pickle could run code
SETTINGS = "adapter_config.json"
LINEAR = (nn.Linear, Conv1D)  # GPT-2 has the second


def with_adapter(
    lm: LoadedModel,
    *,
    rank: int = 8,
    modules: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> AdaptedModel:
    """The model with a new adapter, which changes nothing until it is trained. The weights are shared with `lm`.

    Args:
        rank: of the adapter's matrices.
        modules: names of the linear layers that get one; of queries and values when not given (`modules_for`).
        layers: blocks that get one, counted from 1; all when not given.

    Raises:
        ValueError: the model has no module of one of the names; the text says which, and which it has.
    """
    modules = modules_for(lm, ("q_proj", "v_proj")) if modules is None else modules
    _refuse_unknown(lm, modules)
    chosen = None if layers is None else [layer - 1 for layer in layers]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(modules), layers_to_transform=chosen, task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with quiet():
            return AdaptedModel(get_peft_model(_around_same_weights(lm), config), lm.tokenizer)


def modules_for(lm: LoadedModel, preferred: Sequence[str]) -> tuple[str, ...]:
    """The preferred modules, or all linear layers of the blocks where the model names or fuses them otherwise."""
    linear = linear_layers(lm)
    return tuple(preferred) if set(preferred) <= set(linear) else tuple(linear)


def linear_layers(lm: LoadedModel) -> list[str]:
    """Names of the linear layers inside the blocks, such as `q_proj`, each once, in alphabetical order."""
    found = (name for block in blocks(lm.model) for name, part in block.named_modules() if isinstance(part, LINEAR))
    return sorted({name.rpartition(".")[2] for name in found})


def _refuse_unknown(lm: LoadedModel, modules: Sequence[str]) -> None:
    names = [name for name, _ in lm.model.named_modules()]
    unknown = [m for m in modules if not any(name == m or name.endswith(f".{m}") for name in names)]
    if unknown or not modules:
        raise ValueError(f"no module {', '.join(unknown)} in the model: choose among {', '.join(linear_layers(lm))}")


def _around_same_weights(lm: LoadedModel) -> PreTrainedModel:
    weights = {id(weight): weight for weight in lm.model.parameters()}
    return copy.deepcopy(lm.model, weights).requires_grad_(False)  # new modules around the same weights


def trained_weights(model: PeftModel) -> list[torch.nn.Parameter]:
    """The weights of the adapter."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def first_adapted(model: PeftModel) -> int:
    """Number of the first block with an adapter, counted from 1: the states below it never change."""
    return adapted(model)[0]


def adapted(model: PeftModel) -> list[int]:
    """Numbers of the blocks with an adapter, counted from 1, in order."""
    names = [name for name, _ in model.named_parameters() if "lora_" in name]  # also while it is switched off
    return sorted({_block_of(name) for name in names})


def _block_of(name: str) -> int:
    return 1 + next(int(part) for part in name.split(".") if part.isdigit())


@contextmanager
def strength(model: PeftModel, factor: float, layers: Collection[int] | None = None) -> Iterator[None]:
    """A context in which the adapter is scaled by `factor`: 0 is the base model, 1 the edit as trained.

    Args:
        layers: blocks that keep their part of the adapter, counted from 1; all when not given.

    Raises:
        ValueError: not a finite number.
    """
    if not torch.isfinite(torch.tensor(float(factor))):
        raise ValueError(f"strength {factor}: give a finite number, 0 for the base model and 1 for the edit")
    parts = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    before = {name: dict(part.scaling) for name, part in parts.items()}
    for name, part in parts.items():
        here = factor if layers is None or _block_of(name) in layers else 0.0
        part.scaling.update({adapter: here * scale for adapter, scale in part.scaling.items()})
    try:
        yield
    finally:
        for name, part in parts.items():
            part.scaling.update(before[name])


def merged(lm: AdaptedModel) -> LoadedModel:
    """A separate model with the edit merged into its weights: as fast as the base model, but it cannot be switched off.

    It shares the weights that the edit does not change.
    """
    touched = {id(weight) for part in lm.model.modules() if isinstance(part, LoraLayer) for weight in part.parameters()}
    shared = {id(weight): weight for weight in lm.model.parameters() if id(weight) not in touched}
    tuner = copy.deepcopy(lm.model, shared).base_model
    assert isinstance(tuner, LoraModel)
    whole = tuner.merge_and_unload()
    assert isinstance(whole, PreTrainedModel)
    return LoadedModel(whole.eval().requires_grad_(False), lm.tokenizer)


# On disk -----------------------------------------------------------------------------------------------------------


def save_adapter(lm: AdaptedModel, folder: Path, card: str, facts: dict) -> None:
    """Save the adapter (safetensors, peft's format), a model card and the facts of the edit in a folder of its own.

    An adapter that was saved there before is replaced.

    Raises:
        CourseError: the folder cannot be written, or holds something else.
    """
    if folder.exists() and not (folder / FACTS).is_file() and any(folder.iterdir()):
        raise CourseError(f"{folder.name} holds other files, which would be lost: choose a folder of its own")
    with (
        explained(f"keep the adapter in {folder.name}", "choose a folder"),
        locked(folder),
        atomic_folder(folder) as new,
        quiet(),
    ):
        lm.model.save_pretrained(str(new), safe_serialization=True)
        (new / "README.md").write_text(card, "utf-8")
        known = {
            **facts,
            "base": fingerprint(lm),
            "checksums": {name: sha256(new / name) for name in (WEIGHTS, SETTINGS)},
        }
        (new / FACTS).write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


def load_adapter(lm: LoadedModel, folder: Path) -> AdaptedModel:
    """The model with an adapter that `save_adapter` saved; the weights are shared with `lm`.

    Raises:
        CourseError: there is none, it is damaged, or it belongs to another model.
    """
    try:
        facts = json.loads((folder / FACTS).read_text("utf-8"))
        own = facts["base"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{folder} does not hold an adapter of this course: train one, or give its folder") from error
    if own != fingerprint(lm):
        raise CourseError(f"the adapter in {folder.name} was trained on another model: load that one ({own['model']})")
    if damage := _damage(folder, facts.get("checksums", {})):
        raise CourseError(f"the adapter in {folder.name} is damaged ({damage}): train it again")
    try:
        with quiet():
            model = PeftModel.from_pretrained(_around_same_weights(lm), str(folder))
            wanted, kept = get_peft_model_state_dict(model).keys(), load_file(folder / WEIGHTS).keys()
    except Exception as error:  # peft and safetensors raise many kinds
        raise CourseError(
            f"the adapter in {folder.name} is damaged ({type(error).__name__}): train it again"
        ) from error
    for one, other, what in ((wanted, kept, "lacks"), (kept, wanted, "has the unknown")):
        if strange := sorted(one - other):
            raise CourseError(f"the adapter in {folder.name} is damaged (it {what} {strange[0]}): train it again")
    return AdaptedModel(model.eval(), lm.tokenizer)


def _damage(folder: Path, checksums: dict[str, str]) -> str:
    """What is wrong with the files, or nothing."""
    for name in (WEIGHTS, SETTINGS):
        if not (folder / name).is_file():
            return f"there is no {name}"
        if sha256(folder / name) != checksums.get(name):
            return f"{name} has changed since it was saved"
    return ""


def fingerprint(lm: AnyModel) -> dict[str, str]:
    """Kind of a model and a checksum of a sample of its frozen weights: alike for the same model in any dtype."""
    config, digest = lm.model.config.get_text_config(), hashlib.sha256()
    for name, weight in lm.model.named_parameters():
        if "lora_" not in name:
            sample = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
            digest.update(sample.bfloat16().float().cpu().numpy().tobytes())
    kind = f"{config.model_type}, {config.num_hidden_layers} x {config.hidden_size}"
    return {"model": kind, "weights": digest.hexdigest()[:16]}
