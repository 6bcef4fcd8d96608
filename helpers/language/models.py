"""Load a language model or a sentence encoder, quietly, on the best device and in the faster dtype.

The models of the manifest arrive as GGUF (a compact format that takes half a minute to read); they are
converted once to safetensors in the cache, which load in a second. Other names go to the hub.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import transformers
from huggingface_hub.utils import enable_progress_bars
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from helpers.base import downloads, settings, sources, storage
from helpers.base.storage import CourseError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


LanguageModel = PreTrainedModel | PeftModel
"""The module alone, with or without an adapter around it: both are called, read and decoded alike."""


class LoadedModel(NamedTuple):
    """A language model in evaluation mode, its weights frozen, and its tokenizer, which pads on the left."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class AdaptedModel(NamedTuple):
    """A language model with an adapter (`adapters.with_adapter`), which can be switched off, and its tokenizer."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase


AnyModel = LoadedModel | AdaptedModel
"""For what reads or asks a model and does not care whether it has an adapter."""


def load_language_model(
    name: str = "smollm2-135m-instruct",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    manifest: Path = sources.MANIFEST,
) -> LoadedModel:
    """Load a decoder-only language model: a name of the manifest, a hub name, or a local folder.

    Without `device` the best one is taken, without `dtype` the faster of bfloat16 and float32 on it.

    Raises:
        CourseError: it cannot be found or read, or it is another kind of model.
    """
    device = torch.device(device) if device else default_device()
    dtype = dtype or preferred_dtype(device)
    place = _place(name, manifest)
    with one_line(name, place, "language model"), quiet():
        _refuse_other_kinds(name, AutoConfig.from_pretrained(place, trust_remote_code=False))
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, padding_side="left")
        # Safetensors only: a pickle could run code.
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedModel(model.to(device).eval().requires_grad_(False), tokenizer)


def load_config(name: str, *, manifest: Path = sources.MANIFEST) -> transformers.PreTrainedConfig:
    """The configuration of a language model, without its weights; names as for `load_language_model`.

    Raises:
        CourseError: as `load_language_model`.
    """
    place = _place(name, manifest)
    with one_line(name, place, "language model"), quiet():
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        _refuse_other_kinds(name, config)
    return config


@functools.cache
def language_model(name: str = "smollm2-135m-instruct") -> LoadedModel:
    """A language model in the faster dtype of this machine, loaded once per process.

    Whoever changes its weights changes them for everyone: take `load_language_model` for a copy of your own.

    Raises:
        CourseError: as `load_language_model`.
    """
    return load_language_model(name)


def load_sentence_encoder(
    name: str = "minilm",
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    manifest: Path = sources.MANIFEST,
) -> SentenceTransformer:
    """Load a sentence encoder, frozen; its `encode(texts)` gives an array of shape (texts, dimensions).

    Raises:
        CourseError: it cannot be found or read.
    """
    device = torch.device(device) if device else default_device()
    dtype = dtype or preferred_dtype(device)
    place = _place(name, manifest)
    with one_line(name, place, "sentence encoder"), quiet():
        from sentence_transformers import SentenceTransformer

        weights = {"dtype": dtype, "use_safetensors": True}
        encoder = SentenceTransformer(place, device=str(device), model_kwargs=weights, trust_remote_code=False)
    return encoder.eval().requires_grad_(False)


def default_device() -> torch.device:
    """The device to compute on: cuda if there is one, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _place(name: str, manifest: Path) -> str:
    """Folder of a model of the manifest; any other name as it is."""
    source = sources.read_manifest(manifest).get(name)
    if source is None:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    return str(convert(name, manifest=manifest) if gguf_of(source) else sources.fetch(name, manifest=manifest))


def _refuse_other_kinds(name: str, config: transformers.PreTrainedConfig) -> None:
    remedy = "choose one that continues text, such as smollm2-135m-instruct"
    if config.is_encoder_decoder:
        raise CourseError(f"{name} is an encoder-decoder, not a decoder-only language model: {remedy}")
    # Encoders such as BERT have a causal head as well, but are trained to fill in masked words.
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise CourseError(f"{name} ({config.model_type}) is not a decoder-only language model: {remedy}")


@contextlib.contextmanager
def one_line(name: str, place: str, kind: str) -> Iterator[None]:
    """Turn whatever the libraries raise while they load `name` from `place` into one line that says what to do.

    Raises:
        CourseError: for any failure.
    """
    try:
        yield
    except CourseError:
        raise
    except Exception as error:  # hub, parsers and tokenizers raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")
        if Path(place).exists():
            remedy = "the folder must hold config.json, its tokenizer or processor, and weights as safetensors"
        else:
            remedy = "check the name (OWNER/MODEL on the hub, or a folder) and the network"
        raise CourseError(f"could not load {name} as a {kind} ({reason}): {remedy}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and warnings of the libraries off the console; bars of hub downloads stay."""
    bars, level = transformers.logging.is_progress_bar_enabled(), transformers.logging.get_verbosity()
    encoders = logging.getLogger("sentence_transformers")
    encoders_level = encoders.level
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    encoders.setLevel(logging.ERROR)
    try:
        if bars:
            enable_progress_bars()  # the line above turned off those of the hub too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers.logging.enable_progress_bar()
        transformers.logging.set_verbosity(level)
        encoders.setLevel(encoders_level)


# GGUF to safetensors, once


def gguf_of(source: sources.Source) -> sources.SourceFile | None:
    """The GGUF file of a source, if it is a language model."""
    return next((file for file in source.files if file.path.endswith(".gguf")), None)


def converted_folder(name: str) -> Path:
    """Where the converted copy of a model of the manifest is."""
    return settings.cache_dir() / "models" / name


def is_converted(source: sources.Source) -> bool:
    """Whether the cache holds an intact conversion of this very GGUF file."""
    gguf = gguf_of(source)
    return gguf is not None and sources.checksums_match(converted_folder(source.name), gguf=gguf.sha256)


def gguf_to_safetensors(gguf: Path, folder: Path) -> None:
    """Write the model in a GGUF file as safetensors (bfloat16), with its tokenizer and chat template."""
    # The reader draws its own progress bar, past every setting.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
        # The weights are plain numbers by now; with the quantiser attached, saving is refused.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def convert(
    name: str,
    *,
    manifest: Path = sources.MANIFEST,
    build: Callable[[Path, Path], None] = gguf_to_safetensors,
) -> Path:
    """The folder with the safetensors copy of a language model of the manifest; makes it if need be.

    Raises:
        CourseError: as `sources.fetch`; or the copy cannot be written.
    """
    source, folder = sources.find(name, manifest), converted_folder(name)
    gguf = gguf_of(source)
    if gguf is None:
        raise CourseError(f"{name} is not a language model: choose one with a GGUF file")
    with storage.explained(f"convert {name}"):
        if is_converted(source):
            return folder
        fetched = sources.fetch(name, manifest=manifest) / gguf.path
        with storage.locked(folder):
            if not is_converted(source):
                sources.say_if_damaged(name, folder)
                print(f"{name}: converting to safetensors, once (this takes up to a minute)", flush=True)
                _make(folder, fetched, gguf, build)
    return folder


def _make(folder: Path, fetched: Path, gguf: sources.SourceFile, build: Callable[[Path, Path], None]) -> None:
    with storage.atomic_folder(folder) as new:
        downloads.check_space(new, 4 * gguf.size, f"convert {gguf.path}")  # 4 bits become 16
        build(fetched, new)
        for path in new.iterdir():
            path.chmod(0o644)  # safetensors writes private files; a class may share one cache
        sources.write_checksums(new, gguf=gguf.sha256)


# The faster of two number formats


def preferred_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 if a device multiplies matrices faster in it, else float32; measured once per machine.

    float16 is never chosen: hidden states of some models exceed its range.
    """
    device = torch.device(device)
    key = f"{_device_name(device)}, torch {torch.__version__}"
    facts = _machine_facts()
    choice = facts["dtype"].get(key)
    if choice not in ("bfloat16", "float32"):
        # float32 is the more accurate one, so bfloat16 has to be clearly faster.
        seconds = _seconds(device)
        faster = seconds[torch.bfloat16] < 0.9 * seconds[torch.float32]
        choice = facts["dtype"][key] = "bfloat16" if faster else "float32"
        with contextlib.suppress(OSError), storage.atomic_file(_machine_file()) as new:
            new.write_text(json.dumps(facts, indent=1), "utf-8")
    return getattr(torch, choice)


def _machine_file() -> Path:
    return settings.cache_dir() / "machine.json"


def _machine_facts() -> dict:
    try:
        facts = json.loads(_machine_file().read_text("utf-8"))
    except (OSError, ValueError):
        facts = None
    facts = facts if isinstance(facts, dict) else {}
    return {**facts, "dtype": facts["dtype"] if isinstance(facts.get("dtype"), dict) else {}}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return f"{device.type} {line.partition(':')[2].strip()}"
    return f"{device.type} {platform.processor() or platform.machine()}"


@torch.inference_mode()
def _seconds(device: torch.device, budget: float = 0.5) -> dict[torch.dtype, float]:
    """Shortest time of a linear layer in each dtype, within a time budget; infinite where it fails."""
    # Constants: drawing random numbers here would change the caller's.
    size = 1024 if device.type == "cpu" else 4096
    shortest = {torch.bfloat16: float("inf"), torch.float32: float("inf")}
    end, rounds = time.perf_counter() + budget, 0
    # In turns, so that another busy program slows both.
    while rounds < 3 or (rounds < 50 and time.perf_counter() < end):
        for dtype in shortest:
            rows = torch.full((size // 8, size), 0.5, dtype=dtype, device=device)
            weight = torch.full((size, size), 0.5, dtype=dtype, device=device)
            start = time.perf_counter()
            try:
                torch.nn.functional.linear(rows, weight).sum().item()  # item() waits for the device
            except RuntimeError:  # a device without bfloat16
                continue
            shortest[dtype] = min(shortest[dtype], time.perf_counter() - start)
        rounds += 1
    return shortest
