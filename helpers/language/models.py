"""Load a language model or a sentence encoder, quietly, whole, on the chosen device and in the dtype that suits it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import transformers
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from helpers.base import settings, sources
from helpers.base.compute import default_device, preferred_dtype
from helpers.base.storage import CourseError
from helpers.language.gguf import convert, gguf_of
from helpers.language.loading import one_line, quiet
from helpers.language.prompts import QUESTION_AND_ANSWER

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


# A sentence encoder uses neither pooler nor output layer: a checkpoint of another task may lack one or have another.
ENCODER_EXTRAS = re.compile(r"pooler\.|(cls|lm_head|classifier|predictions|vocab_\w+)\.")

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


def inner_model(model: LanguageModel) -> PreTrainedModel:
    """The model that an adapter is part of, or the model itself."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def load_language_model(
    name: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    manifest: Path = sources.MANIFEST,
) -> LoadedModel:
    """Load a decoder-only language model: a name of the manifest, a hub name, or a local folder.

    A model of the manifest that has no chat template gets `QUESTION_AND_ANSWER`, which the course has tried on it.

    Args:
        name: the chat model of the course (`settings.model_name`) when not given.
        device, dtype: by default `compute.default_device`, and what suits it (`compute.preferred_dtype`).

    Raises:
        CourseError: it cannot be found or read, or it is another kind of model.
    """
    device = torch.device(device) if device else default_device()
    dtype = dtype or preferred_dtype(device)
    name = name or settings.model_name()
    place = _place(name, manifest)
    with one_line(name, place, "language model"), quiet():
        _refuse_other_kinds(name, AutoConfig.from_pretrained(place, trust_remote_code=False))
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, padding_side="left")
        # Safetensors only: a pickle could run code.
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None and name in sources.read_manifest():
        tokenizer.chat_template = QUESTION_AND_ANSWER
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    torch.nn.Module.to(model, device)  # typed, unlike that of transformers, and does the same
    return LoadedModel(model.eval().requires_grad_(False), tokenizer)


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


def language_model(name: str | None = None, dtype: torch.dtype | None = None) -> LoadedModel:
    """A language model, loaded once per process and number format; without `name` the chat model of the course.

    Changing its weights changes them for all users of it: use `load_language_model` for a copy of your own.

    Raises:
        CourseError: as `load_language_model`.
    """
    device = default_device()
    return _loaded_once(name or settings.model_name(), device, dtype or preferred_dtype(device))


_loaded_once = functools.cache(load_language_model)


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
    with one_line(name, place, "sentence encoder", ENCODER_EXTRAS), quiet():
        from sentence_transformers import SentenceTransformer

        weights = {"dtype": dtype, "use_safetensors": True}
        encoder = SentenceTransformer(place, device=str(device), model_kwargs=weights, trust_remote_code=False)
    return encoder.eval().requires_grad_(False)


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
