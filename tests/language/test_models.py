"""Loading models: what is refused and why, what is cached, and that the real ones work."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sources import forget, start, wait_for
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from helpers.base import settings, sources
from helpers.base.storage import CourseError
from helpers.language import models

WORDS = ["<s>", "</s>", "<unk>", *["the", "a", "film", "is", "good", "bad", "long"]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two small layers and a tokenizer without a padding token."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return folder


def test_a_local_model_loads_quietly_frozen_and_padded_on_the_left(cache, tiny_llama, capfd):
    model, tokenizer = models.load_language_model(str(tiny_llama), device="cpu", dtype=torch.float32)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    batch = tokenizer(["the film", "the film is good"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert tokenizer.pad_token == "</s>" and model.generation_config.pad_token_id == 1
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape[0] == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("config", "words"),
    [(T5Config(), "an encoder-decoder, not a decoder-only"), (BertConfig(), r"\(bert\) is not a decoder-only")],
)
def test_other_kinds_of_model_are_refused(cache, tmp_path, config, words):
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(CourseError, match=words):
        models.load_language_model(str(tmp_path / "model"), device="cpu", dtype=torch.float32)


def test_pickled_weights_are_never_read(cache, tiny_llama, tmp_path):
    folder = tmp_path / "pickled"
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CourseError, match="weights as safetensors"):
        models.load_language_model(str(folder), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("load", [models.load_language_model, models.load_sentence_encoder])
def test_an_unknown_hub_name_without_network_is_one_line(cache, load):
    with pytest.raises(CourseError) as caught:
        load("nobody/no-such-model", device="cpu", dtype=torch.float32)
    message = str(caught.value)
    assert "\n" not in message and "check the name" in message and "network" in message


def test_the_dtype_is_measured_once_per_machine(cache, monkeypatch):
    seconds = {torch.bfloat16: 1.0, torch.float32: 2.0}
    measured = []

    def measure(device):
        measured.append(device)
        return seconds

    monkeypatch.setattr(models, "_seconds", measure)
    assert [models.preferred_dtype("cpu") for _ in range(2)] == [torch.bfloat16] * 2
    assert len(measured) == 1
    (cache / "machine.json").write_text('{"dtype": [1')
    seconds[torch.bfloat16] = 1.95  # too close to be worth the lost digits
    assert models.preferred_dtype("cpu") == torch.float32
    assert list(json.loads((cache / "machine.json").read_text())["dtype"].values()) == ["float32"]


def test_measuring_the_dtype_leaves_the_random_state_alone(cache):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert models.preferred_dtype("cpu") in (torch.bfloat16, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


# Conversion, with a stand-in for the slow step


@pytest.fixture
def manifest(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with one language model, whose (empty) file is in the cache already."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (sources.folder_of("toy")).mkdir(parents=True)
    (sources.folder_of("toy") / "toy.gguf").touch()
    path = tmp_path / "sources.toml"
    file = f'{{path = "toy.gguf", members = ["toy.gguf"], sha256 = "{empty}", size = 0}}'
    path.write_text(
        '[toy]\ntitle = "Toy"\ndefault = true\nlicence = "CC0"\ncitation = "None"\norigin = "here"\n'
        f"wheels = []\nfiles = [{file}]\n"
    )
    return path


def write_weights(gguf: Path, folder: Path) -> None:
    (folder / "weights").write_bytes(b"0123456789")


def test_a_damaged_conversion_is_made_again(manifest, capsys):
    folder = models.convert("toy", manifest=manifest, build=write_weights)
    assert folder == settings.cache_dir() / "models" / "toy"
    assert "damaged" not in capsys.readouterr().out
    models.convert("toy", manifest=manifest, build=lambda *arguments: pytest.fail("converted twice"))
    (folder / "weights").write_bytes(b"0123x56789")
    forget()
    models.convert("toy", manifest=manifest, build=write_weights)
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert "damaged" in capsys.readouterr().out


def test_a_conversion_of_another_file_is_made_again(manifest):
    folder = models.convert("toy", manifest=manifest, build=write_weights)
    written = json.loads((folder / "checksums.json").read_text())
    written["facts"]["gguf"] = "of an earlier version"
    (folder / "checksums.json").write_text(json.dumps(written))
    forget()
    assert not models.is_converted(sources.find("toy", manifest))


def test_killed_during_conversion(manifest, tmp_path):
    code = """
from helpers.language import models
def stuck(gguf, folder):
    (folder / "weights").write_bytes(b"01234")
    Path(sys.argv[2]).touch()
    time.sleep(60)
models.convert("toy", manifest=Path(sys.argv[1]), build=stuck)
"""
    ready = tmp_path / "ready"
    process = start(code, manifest, ready)
    wait_for(ready, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = models.converted_folder("toy")
    assert not folder.exists()
    assert list(folder.parent.glob(".toy.*.partial"))
    models.convert("toy", manifest=manifest, build=write_weights)
    assert sorted(p.name for p in folder.parent.iterdir()) == [".toy.lock", "toy"]
    assert (folder / "weights").read_bytes() == b"0123456789"


# The real models


def needs(name: str) -> None:
    if not sources.folder_of(name).is_dir():
        pytest.skip(f"{name} is not in the cache: run `make data`")


def test_the_default_chat_model_answers():
    needs("smollm2-135m-instruct")
    model, tokenizer = models.load_language_model(device="cpu")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert "<|im_start|>user\nWhat is the capital of France?<|im_end|>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    batch = tokenizer(prompt, return_tensors="pt")
    tokens = model.generate(**batch, max_new_tokens=10, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_converted_weights_are_those_of_the_gguf_file():
    name = "smollm2-135m-instruct"
    needs(name)
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    gguf = next(sources.folder_of(name).glob("*.gguf"))
    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    folder = models.convert(name)
    assert "gguf" not in (folder / "config.json").read_text().lower()
    pairs = {"token_embd": "embed_tokens", "blk.0.ffn_up": "layers.0.mlp.up_proj"}
    with safe_open(folder / "model.safetensors", "pt") as converted:
        for packed, plain in pairs.items():
            tensor = tensors[f"{packed}.weight"]
            expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
            assert torch.equal(converted.get_tensor(f"model.{plain}.weight"), expected.to(torch.bfloat16))


def test_the_sentence_encoder_puts_paraphrases_close(capfd):
    needs("minilm")
    encoder = models.load_sentence_encoder(device="cpu", dtype=torch.float32)
    texts = ["A man flies to the moon.", "An astronaut travels to the moon.", "The soup needs more salt."]
    embeddings = encoder.encode(texts)
    assert embeddings.shape == (3, 384)
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.3
    assert capfd.readouterr() == ("", "")
