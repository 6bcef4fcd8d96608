"""GGUF to safetensors, once.

The language models of the manifest arrive as GGUF, a compact format that takes half a minute to read. The copy in the
cache loads in a second.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from helpers.base import downloads, settings, sources, storage
from helpers.base.storage import CourseError
from helpers.language.loading import quiet, refuse_mismatch


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
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=transformers.GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        model, found = cast(tuple[PreTrainedModel, dict], loaded)  # a pair because of the last option
        refuse_mismatch(gguf.name, found)
        # The weights are plain numbers by now; with the quantiser attached, saving is refused.
        vars(model)["hf_quantizer"] = None
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
