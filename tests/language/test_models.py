"""Loading models: what is refused and why, what is cached, and that the real ones work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from helpers.base import sources
from helpers.base.storage import CourseError
from helpers.language import models
from helpers.language.prompts import QUESTION_AND_ANSWER

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


def test_a_model_of_the_manifest_without_a_chat_template_gets_the_course_s(cache, tiny_llama, monkeypatch):
    assert models.load_language_model(str(tiny_llama), device="cpu").tokenizer.chat_template is None
    monkeypatch.setattr(models, "_place", lambda name, manifest: str(tiny_llama))
    assert models.load_language_model("gemma-3-270m", device="cpu").tokenizer.chat_template == QUESTION_AND_ANSWER


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


def test_the_sentence_encoder_puts_paraphrases_close(capfd):
    needs("minilm")
    encoder = models.load_sentence_encoder(device="cpu", dtype=torch.float32)
    texts = ["A man flies to the moon.", "An astronaut travels to the moon.", "The soup needs more salt."]
    embeddings = encoder.encode(texts)
    assert embeddings.shape == (3, 384)
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.3
    assert capfd.readouterr() == ("", "")
