"""Images to fixed feature vectors: a CLIP-like encoder, or simple statistics of the pixels that need no model.

Tennenholtz et al. 2024 name other modalities as future work. Nothing in the embedding side is tied to text: the
`featurise` of `fit_encoder` takes items and gives a row of numbers for each, so it may be `load_clip(NAME)
.image_features` or `pixel_features`, or any other function of this form.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy.fft import dctn
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from helpers.base.compute import default_device
from helpers.base.storage import CourseError
from helpers.language.loading import one_line, quiet

Picture = Image.Image | np.ndarray
BATCH = 32  # pictures that the model sees at a time
PIXELS = 64  # side in pixels to which `pixel_features` brings every picture
LEVELS = 4  # of each colour channel in its histogram
WAVES = 24  # cosine waves per side that it looks at, at most; finer ones are noise
BANDS = 8  # into which it sums them, per side


def as_rgb(images: Sequence[Picture]) -> list[Image.Image]:
    """Pictures as RGB: from PIL images of any mode and uint8 arrays (height, width), (..., 3) or (..., 4).

    Grey becomes three equal channels; a fourth channel (opacity) is dropped.

    Raises:
        ValueError: the list is empty, or something is not an image.
    """
    if isinstance(images, str | Image.Image) or not len(images):
        raise ValueError("give a list of one or more images")
    return [_as_rgb(image) for image in images]


def _as_rgb(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if not isinstance(image, np.ndarray):
        raise ValueError(f"a {type(image).__name__} is not an image: open files with PIL.Image.open first")
    grey, coloured = image.ndim == 2, image.ndim == 3 and image.shape[2] in (3, 4)
    if image.dtype != np.uint8 or not image.size or not (grey or coloured):
        raise ValueError(
            f"an array of {image.dtype} and shape {image.shape} is not an image: "
            "give uint8 from 0 to 255, of shape (height, width), (height, width, 3) or (height, width, 4)"
        )
    return Image.fromarray(image).convert("RGB")


def pixel_features(images: Sequence[Picture]) -> Float[np.ndarray, "image feature"]:
    """A colour histogram (64 numbers), then how strong cosine waves of brightness are (64 numbers, standard units).

    A stand-in for a trained encoder: it sees colours, and how fine a pattern is and which way it runs, but not what a
    picture shows. The position of a pattern hardly matters, since strengths of neighbouring waves are added up.
    """
    rows = []
    for image in as_rgb(images):
        pixels = np.asarray(image.resize((PIXELS, PIXELS), Image.Resampling.BOX), dtype=np.float64) / 255
        levels = np.minimum((pixels * LEVELS).astype(int), LEVELS - 1) @ [LEVELS**2, LEVELS, 1]
        colours = np.bincount(levels.ravel(), minlength=LEVELS**3) / PIXELS**2
        waves = dctn(pixels.mean(axis=2), norm="ortho")[:WAVES, :WAVES] / PIXELS
        size = WAVES // BANDS
        bands = (waves**2).reshape(BANDS, size, BANDS, size).sum(axis=(1, 3))
        rows.append(np.concatenate([np.sqrt(colours), np.sqrt(bands).ravel()]))
    return np.stack(rows)


@runtime_checkable
class JointModel(Protocol):
    """What CLIP-like models have in common, and other models of transformers lack."""

    device: torch.device

    def get_image_features(self, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        """Pictures in the joint space, as `pooler_output`."""


@dataclass(frozen=True)
class ClipEncoder:
    """A model that was trained to put pictures beside their captions."""

    model: JointModel
    processor: ProcessorMixin

    def image_features(self, images: Sequence[Picture]) -> Float[np.ndarray, "image dim"]:
        """One unit vector in float32 per picture.

        Raises:
            ValueError: as `as_rgb`.
        """
        pictures = as_rgb(images)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                inputs = self.processor.image_processor(pictures[start : start + BATCH], return_tensors="pt")
                part = self.model.get_image_features(**inputs.to(self.model.device)).pooler_output
                assert part is not None  # all of these models pool
                parts.append(part)
        return torch.nn.functional.normalize(torch.cat(parts).float(), dim=1).cpu().numpy()


def load_clip(name: str, device: torch.device | str | None = None) -> ClipEncoder:
    """Load a CLIP-like model (CLIP, SigLIP, ...) in float32: a hub name, or a folder with weights as safetensors.

    Without `device` the best one is taken. No such model comes with the course: the first SigLIP also needs the
    package `sentencepiece` for its tokenizer, CLIP and SigLIP 2 do not.

    Raises:
        CourseError: it cannot be found or read, or does not encode both images and texts.
    """
    place = os.path.expanduser(name)
    with one_line(name, place, "CLIP-like model"), quiet():
        _refuse_other_kinds(name, AutoConfig.from_pretrained(place, trust_remote_code=False))
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
        # Safetensors only: a pickle could run code.
        options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
        model = AutoModel.from_pretrained(place, **options)
    model = model.to(device or default_device()).eval().requires_grad_(False)
    return ClipEncoder(model, processor)


def _refuse_other_kinds(name: str, config: PreTrainedConfig) -> None:
    kind = MODEL_MAPPING.get(type(config), None)
    if not (hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
        raise CourseError(
            f"{name} ({config.model_type}) has no joint space of images and texts: choose a CLIP or SigLIP model"
        )
