"""Small language models with random weights and one token per byte: for tests of mechanics."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from helpers.language.models import LoadedModel

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
COMMON = {"vocab_size": 257, "eos_token_id": 256, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(vocab={**letters, "<end>": len(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", chat_template=TEMPLATE)


def tiny(kind: str = "llama", layers: int = 2, seed: int = 0) -> LoadedModel:
    """A tiny model with larger weights than usual, so that what it reads makes a difference."""
    sizes = {**COMMON, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(**COMMON, n_embd=32, n_layer=layers, n_head=4, n_positions=512))
        elif kind == "gemma3":
            window = {"sliding_window": 8, "head_dim": 8, "layer_types": ["sliding_attention"] * (layers - 1)}
            window["layer_types"].append("full_attention")
            model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **HEADS, **window))
        else:
            config, make = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
            model = make(config(**sizes, **HEADS))
    return LoadedModel(model.eval().requires_grad_(False), byte_tokenizer())
