"""Shared by all loading of models: quiet libraries, weights that match, failures reported in one line."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import transformers
from huggingface_hub.utils import enable_progress_bars
from transformers import PreTrainedModel

from helpers.base.storage import CourseError

# Constants that some versions of transformers saved, and others compute: no weights.
BUFFERS = re.compile(r"(inv_freq|position_ids|masked_bias)$")

_load = vars(PreTrainedModel)["from_pretrained"].__func__
_asking = threading.RLock()


@contextlib.contextmanager
def one_line(name: str, place: str, kind: str, extras: re.Pattern[str] | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while `name` is loaded from `place` into one line that says what to do.

    That includes what transformers only warns about: missing weights, which would be random numbers.

    Args:
        extras: prefixes of the names of weights that may be missing or left over.

    Raises:
        CourseError: for any failure.
    """

    def checked(cls: type[PreTrainedModel], *args, **options) -> PreTrainedModel:
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to name them
        model, found = _load(cls, *args, **options)
        refuse_mismatch(name, found, extras)
        return model

    try:
        # sentence-transformers hands no report on, so all loaders are asked where they meet; one thread at a time,
        # since each puts back what it found.
        with _asking, patch.object(PreTrainedModel, "from_pretrained", classmethod(checked)):
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


def refuse_mismatch(name: str, found: Mapping, extras: re.Pattern[str] | None = None) -> None:
    """Refuse a model whose weights are not those that its configuration asks for.

    Args:
        found: what `output_loading_info` gives.
        extras: as in `one_line`.

    Raises:
        CourseError: a weight is missing, of another shape, or unknown; the first of each kind is named.
    """
    ways = {"missing_keys": "is missing", "mismatched_keys": "has another shape", "unexpected_keys": "is unknown"}
    wrong = []
    for kind, way in ways.items():
        keys = sorted(key if isinstance(key, str) else key[0] for key in found[kind])
        keys = [key for key in keys if not BUFFERS.search(key) and not (extras and extras.match(key))]
        wrong += [f"{keys[0]} {way}"] if keys else []
    if wrong:
        raise CourseError(
            f"the weights of {name} do not match its config.json ({', '.join(wrong)}): "
            "save the plain model again with save_pretrained, or download it again"
        )


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
