"""Pictures as items: CLIP-like models against transformers itself, and features of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import byte_tokenizer
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from helpers.base.storage import CourseError
from helpers.embedding import images as images_module
from helpers.embedding.encoder import fit_encoder
from helpers.embedding.images import ClipEncoder, load_clip, pixel_features

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "vocab_size": 257, "max_position_embeddings": 20}
TEXT |= {"eos_token_id": 256, "bos_token_id": 256, "pad_token_id": 256}
PARTS = {"text_config": TEXT, "vision_config": {**SIZES, "image_size": 32, "patch_size": 8}}


def pictures(n: int = 5, seed: int = 0) -> list[np.ndarray]:
    """Noise of different sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size=(40 + i, 50, 3), dtype=np.uint8) for i in range(n)]


def save(kind: str, folder) -> None:
    """A tiny model of random weights with its processor."""
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            model = CLIPModel(CLIPConfig(**PARTS, projection_dim=16))
            images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
            processor = CLIPProcessor(image_processor=images, tokenizer=tokenizer)
        else:
            model = SiglipModel(SiglipConfig(**PARTS))
            images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
            processor = SiglipProcessor(image_processor=images, tokenizer=tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def clip(request, tmp_path_factory) -> ClipEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    save(request.param, folder)
    return load_clip(str(folder), device="cpu")


# CLIP-like models


def test_features_are_those_of_transformers(clip):
    for image, found in zip(pictures(), clip.image_features(pictures()), strict=True):
        inputs = clip.processor(images=Image.fromarray(image), return_tensors="pt")
        expected = clip.model.get_image_features(**inputs).pooler_output[0].numpy()
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_rows_are_float32_unit_vectors(clip):
    rows = clip.image_features(pictures())
    assert rows.dtype == np.float32 and rows.shape[0] == 5
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_batches_make_no_difference(clip, monkeypatch):
    whole = clip.image_features(pictures())
    monkeypatch.setattr(images_module, "BATCH", 2)
    np.testing.assert_allclose(clip.image_features(pictures()), whole, atol=1e-5)


def test_clip_features_can_be_the_features_of_the_encoder(clip):
    images, targets = pictures(30), np.random.default_rng(0).normal(size=(30, 3))
    encoder = fit_encoder(images, targets, np.ones(30), featurise=clip.image_features)
    assert encoder(images[:4]).shape == (4, 3)


def test_other_models_are_refused(tmp_path):
    BertModel(BertConfig(**SIZES, vocab_size=30)).save_pretrained(tmp_path)
    with pytest.raises(CourseError, match=r"\(bert\) has no joint space.*choose a CLIP or SigLIP"):
        load_clip(str(tmp_path))


def test_a_pickle_is_not_loaded(tmp_path):
    save("clip", tmp_path)
    weights = CLIPModel(CLIPConfig(**PARTS, projection_dim=16)).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CourseError, match="safetensors") as caught:
        load_clip(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_processor_is_one_line(tmp_path):
    CLIPModel(CLIPConfig(**PARTS, projection_dim=16)).save_pretrained(tmp_path)
    with pytest.raises(CourseError, match="tokenizer or processor") as caught:
        load_clip(str(tmp_path))
    assert "\n" not in str(caught.value)


# Pictures of all kinds


def test_grey_palette_and_opacity_become_rgb():
    grey = np.random.default_rng(0).integers(0, 256, size=(30, 40), dtype=np.uint8)
    rgb = np.stack([grey] * 3, axis=2)
    same = [rgb, grey, Image.fromarray(grey), np.dstack([rgb, np.full_like(grey, 255)])]
    same.append(Image.fromarray(grey).convert("P"))
    rows = pixel_features(same)
    np.testing.assert_allclose(rows, np.tile(rows[0], (len(same), 1)))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "one or more images"),
        ("poster.png", "one or more images"),
        (["poster.png"], "a str is not an image: open files"),
        ([np.zeros((8, 8, 2), np.uint8)], r"shape \(8, 8, 2\)"),
        ([np.zeros((8, 8, 3))], "float64"),
        ([np.zeros((0, 8, 3), np.uint8)], r"shape \(0, 8, 3\)"),
        ([np.zeros(8, np.uint8)], r"shape \(8,\)"),
    ],
)
def test_what_is_no_image_is_one_line(clip, images, words, unchecked):
    for features in (pixel_features, clip.image_features):
        with pytest.raises(ValueError, match=words) as caught:
            features(images)
        assert "\n" not in str(caught.value)


# Features of pixels


def test_pixel_features_of_one_colour():
    row = pixel_features([np.full((20, 30, 3), (255, 0, 128), np.uint8)])[0]
    colours, waves = row[:64].reshape(4, 4, 4), row[64:]
    assert colours[3, 0, 2] == 1 and colours.sum() == 1
    assert waves[0] == pytest.approx((255 + 128) / 3 / 255) and np.allclose(waves[1:], 0)


def test_pixel_features_tell_direction_and_fineness_of_stripes():
    def band(periods: int, axis: int) -> tuple[int, int]:
        wave = np.cos(np.pi * 2 * periods * (np.arange(64) + 0.5) / 64)
        image = np.uint8(127.5 + 127 * np.broadcast_to(np.expand_dims(wave, 1 - axis), (64, 64)))
        waves = pixel_features([image])[0, 64:]
        waves[0] = 0
        return tuple(int(n) for n in np.unravel_index(waves.argmax(), (8, 8)))

    assert band(3, 0) == (2, 0) and band(3, 1) == (0, 2)  # three periods are wave 6, in the band of 6, 7 and 8
    assert band(10, 0) == (6, 0)
