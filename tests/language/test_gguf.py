"""GGUF to safetensors: made once, whole or not at all, and with the weights of the file."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sources import forget, start, wait_for

from helpers.base import settings, sources
from helpers.language import gguf


@pytest.fixture
def manifest(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with one language model, whose (empty) file is in the cache already."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (sources.folder_of("toy")).mkdir(parents=True)
    (sources.folder_of("toy") / "toy.gguf").touch()
    path = tmp_path / "sources.toml"
    file = f'{{path = "toy.gguf", members = ["toy.gguf"], sha256 = "{empty}", size = 0}}'
    path.write_text(
        f'[toy]\ntitle = "Toy"\nlicence = "CC0"\ncitation = "None"\norigin = "here"\nwheels = []\nfiles = [{file}]\n'
    )
    return path


def write_weights(packed: Path, folder: Path) -> None:
    (folder / "weights").write_bytes(b"0123456789")


def test_a_damaged_conversion_is_made_again(manifest, capsys):
    folder = gguf.convert("toy", manifest=manifest, build=write_weights)
    assert folder == settings.cache_dir() / "models" / "toy"
    assert "damaged" not in capsys.readouterr().out
    gguf.convert("toy", manifest=manifest, build=lambda *arguments: pytest.fail("converted twice"))
    (folder / "weights").write_bytes(b"0123x56789")
    forget()
    gguf.convert("toy", manifest=manifest, build=write_weights)
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert "damaged" in capsys.readouterr().out


def test_a_conversion_of_another_file_is_made_again(manifest):
    folder = gguf.convert("toy", manifest=manifest, build=write_weights)
    written = json.loads((folder / "checksums.json").read_text())
    written["facts"]["gguf"] = "of an earlier version"
    (folder / "checksums.json").write_text(json.dumps(written))
    forget()
    assert not gguf.is_converted(sources.find("toy", manifest))


@pytest.mark.slow
def test_killed_during_conversion(manifest, tmp_path):
    code = """
from helpers.language import gguf
def stuck(packed, folder):
    (folder / "weights").write_bytes(b"01234")
    Path(sys.argv[2]).touch()
    time.sleep(60)
gguf.convert("toy", manifest=Path(sys.argv[1]), build=stuck)
"""
    ready = tmp_path / "ready"
    process = start(code, manifest, ready)
    wait_for(ready, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = gguf.converted_folder("toy")
    assert not folder.exists()
    assert list(folder.parent.glob(".toy.*.partial"))
    gguf.convert("toy", manifest=manifest, build=write_weights)
    assert sorted(p.name for p in folder.parent.iterdir()) == [".toy.lock", "toy"]
    assert (folder / "weights").read_bytes() == b"0123456789"


@pytest.mark.slow
def test_the_converted_weights_are_those_of_the_gguf_file():
    name = "smollm2-135m-instruct"
    if not sources.folder_of(name).is_dir():
        pytest.skip(f"{name} is not in the cache: run `make data`")
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    packed = next(sources.folder_of(name).glob("*.gguf"))
    tensors = {tensor.name: tensor for tensor in GGUFReader(packed).tensors}
    folder = gguf.convert(name)
    assert "gguf" not in (folder / "config.json").read_text().lower()
    pairs = {"token_embd": "embed_tokens", "blk.0.ffn_up": "layers.0.mlp.up_proj"}
    with safe_open(folder / "model.safetensors", "pt") as converted:
        for packed, plain in pairs.items():
            tensor = tensors[f"{packed}.weight"]
            expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
            assert torch.equal(converted.get_tensor(f"model.{plain}.weight"), expected.to(torch.bfloat16))
