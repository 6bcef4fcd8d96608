"""Weights that do not match their configuration are refused by name; sound folders of many architectures load."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM, BertModel, PreTrainedModel

from helpers.base.storage import CourseError
from helpers.language import loading, models

SIZES = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "tie_word_embeddings": False,
}
OTHER_SIZES = {
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "mpt": {"n_heads": 4},
    "mamba": {"state_size": 4},
    "mixtral": {"num_local_experts": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi3": {"original_max_position_embeddings": 64},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "xglm": {"pad_token_id": 1, "d_model": 32, "ffn_dim": 48, "attention_heads": 4, "num_layers": 2},
}
ARCHITECTURES = """
llama mistral mixtral qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 gpt2 gpt_neox gptj gpt_neo opt bloom mpt falcon olmo
olmo2 stablelm starcoder2 cohere granite nemotron glm smollm3 codegen xglm mamba persimmon helium gpt_bigcode
"""


def saved(folder: Path, kind: str, **options) -> dict[str, torch.Tensor]:
    """A folder with a tiny random model of an architecture; gives the weights that it has in memory."""
    sizes = {name: size for name, size in SIZES.items() if (kind, name) != ("falcon", "head_dim")}
    config = AutoConfig.for_model(kind, **{**sizes, **OTHER_SIZES.get(kind, {}), **options})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model.state_dict()


def load(folder: Path) -> models.LoadedModel:
    return models.load_language_model(str(folder), device="cpu", dtype=torch.float32)


def rewrite(folder: Path, change) -> None:
    """The weights of a folder as `change` makes them of what they were."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def reconfigure(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("kind", ARCHITECTURES.split())
def test_a_sound_folder_loads_and_one_that_lacks_a_weight_does_not(cache, tmp_path, kind):
    expected, loaded = saved(tmp_path, kind), load(tmp_path).model.state_dict()
    assert expected.keys() == loaded.keys() and all(torch.equal(loaded[name], expected[name]) for name in expected)
    weights = load_file(tmp_path / "model.safetensors")
    # One weight of a block, and the last one: what turns states into logits, where it is one of its own.
    for lost in (sorted(weights)[len(weights) // 2], list(weights)[-1]):
        rewrite(tmp_path, lambda kept, lost=lost: {name: weights[name] for name in weights if name != lost})
        with pytest.raises(CourseError, match=r"(\w is missing.*save the plain model|could not load .*conversion)"):
            load(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
def test_tied_weights_need_not_be_there_twice(cache, tmp_path, kind):
    saved(tmp_path, kind, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    model = load(tmp_path).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_constants_of_other_versions_are_no_weights(cache, tmp_path):
    saved(tmp_path, "llama")
    constants = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.position_ids": torch.ones(4)}
    rewrite(tmp_path, lambda kept: kept | constants)
    assert load(tmp_path)


WRONG = {
    "compiled": (
        lambda kept: {f"_orig_mod.{name}": kept[name] for name in kept},
        "lm_head.weight is missing, _orig_mod.lm_head",
    ),
    "peft around it": (lambda kept: {f"base_model.model.{k}": kept[k] for k in kept}, "is missing, base_model.model"),
    "no layer": (lambda kept: {k: kept[k] for k in kept if "layers.1." not in k}, "layers.1.input_layernorm.*missing"),
    "no v_proj": (
        lambda kept: {k: kept[k] for k in kept if "0.self_attn.v_proj" not in k},
        "0.*v_proj.weight is missing",
    ),
    "no lm_head": (lambda kept: {k: kept[k] for k in kept if "lm_head" not in k}, "lm_head.weight is missing"),
    "another shape": (lambda kept: kept | {"model.norm.weight": torch.ones(31)}, "model.norm.weight has another shape"),
    "unknown": (lambda kept: kept | {"model.layers.2.more": torch.ones(2)}, "model.layers.2.more is unknown"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=list(WRONG))
def test_other_weights_than_the_configuration_asks_for_are_refused(cache, tmp_path, change, words):
    saved(tmp_path, "llama")
    rewrite(tmp_path, change)
    with pytest.raises(CourseError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("layers", "words"), [(3, "layers.2.*is missing"), (1, "layers.1.*is unknown")])
def test_a_configuration_of_another_depth_is_refused(cache, tmp_path, layers, words):
    saved(tmp_path, "llama")
    reconfigure(tmp_path, num_hidden_layers=layers)
    with pytest.raises(CourseError, match=words):
        load(tmp_path)


def test_shards_load_whole_or_not_at_all(cache, tmp_path):
    saved(tmp_path, "llama")
    model = load(tmp_path).model
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    for name, weight in load(tmp_path).model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    index = tmp_path / "model.safetensors.index.json"
    facts = json.loads(index.read_text())
    shards = sorted(set(facts["weight_map"].values()))
    facts["weight_map"] = {name: shard for name, shard in facts["weight_map"].items() if shard != shards[-1]}
    index.write_text(json.dumps(facts))
    with pytest.raises(CourseError, match="is missing"):
        load(tmp_path)


# Sentence encoders --------------------------------------------------------------------------------------------------

BERT = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def encoder(folder: Path, kind=BertModel) -> Path:
    torch.manual_seed(0)
    kind(BertConfig(**BERT)).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, None
    tokenizer.save_pretrained(folder)
    return folder


def encode(folder: Path):
    loaded = models.load_sentence_encoder(str(folder), device="cpu", dtype=torch.float32)
    return loaded.encode(["one text"])


def test_a_sentence_encoder_loads_also_from_a_checkpoint_of_another_task(cache, tmp_path):
    plain, masked = encode(encoder(tmp_path / "plain")), encode(encoder(tmp_path / "masked", BertForMaskedLM))
    assert plain.shape == masked.shape == (1, 32)


def without_layer(kept):
    return {name: kept[name] for name in kept if "layer.1." not in name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_layer, "encoder.layer.1.* is missing"),
        (lambda kept: {f"_orig_mod.{name}": kept[name] for name in kept}, "is missing, _orig_mod"),
        (lambda kept: kept | {"encoder.layer.2.output.dense.bias": torch.ones(32)}, "encoder.layer.2.* is unknown"),
    ],
)
def test_a_sentence_encoder_with_other_weights_is_refused(cache, tmp_path, change, words):
    rewrite(encoder(tmp_path), change)
    with pytest.raises(CourseError, match=words):
        encode(tmp_path)


def test_loading_elsewhere_is_as_it_was(cache, tmp_path):
    saved(tmp_path, "llama")
    rewrite(tmp_path, WRONG["no layer"][0])
    with pytest.raises(CourseError):
        load(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), torch.nn.Module)
    with pytest.raises(CourseError, match="could not load x as a model"), loading.one_line("x", "x", "model"):
        raise RuntimeError("boom\nat length")


def test_two_threads_that_load_leave_the_loader_as_it_was():
    """Each puts its own check into the loader and takes it out again, so the second waits for the first."""
    before, inside, leave = vars(PreTrainedModel)["from_pretrained"], threading.Event(), threading.Event()
    order = []

    def first() -> None:
        with loading.one_line("one", "one", "model"):
            inside.set()
            leave.wait(10)
            order.append("first out")

    def second() -> None:
        with loading.one_line("two", "two", "model"):
            order.append("second in")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first out", "second in"]
    assert vars(PreTrainedModel)["from_pretrained"] is before
