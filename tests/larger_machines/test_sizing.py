"""Sizes against published counts, transformers and torch's own counter; the table by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from helpers.language.models import load_config
from helpers.larger_machines import sizing
from helpers.larger_machines.sizing import SHAPES, least_hours, rewrite_flops, shape_of, sizing_table

PUBLISHED = {"SmolLM2-1.7B": 1.71, "Llama-3.1-8B": 8.03, "Gemma-3-12B": 11.8, "Llama-3.1-70B": 70.6}  # billions
BY_NAME = {shape.name: shape for shape in SHAPES}


def test_shapes_have_the_published_number_of_weights():
    assert {shape.name: pytest.approx(shape.parameters / 1e9, rel=6e-3) for shape in SHAPES} == PUBLISHED


@pytest.mark.parametrize("config", [LlamaConfig(), Gemma3TextConfig(), "smollm2-135m-instruct"])
def test_weights_are_counted_as_transformers_counts_them(config):
    config = load_config(config) if isinstance(config, str) else config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of("x", config).parameters == pytest.approx(model.num_parameters(), rel=5e-4)


def test_keys_and_values_are_as_large_as_a_cache_of_transformers():
    model = tiny(layers=3).model
    cache = model(input_ids=torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True).past_key_values
    size = sum(2 * part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    assert size == 5 * shape_of("tiny", model.config).kv_bytes()


def test_operations_are_those_that_torch_counts():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config("smollm2-135m-instruct"), attn_implementation="eager")
        tokens = torch.zeros(2, 100, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens)
    shape = shape_of("SmolLM2-135M", model.config)
    assert shape.flops(200, attended=100) + shape.output_flops(200) == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )


def test_the_table_is_that_of_a_calculation_by_hand():
    table = sizing_table()
    assert table["H100s"].to_dict() == {
        "SmolLM2-1.7B": 1,
        "Llama-3.1-8B": 1,
        "Gemma-3-12B": 1,
        "Llama-3.1-70B": 2,
    }
    llama = table.loc["Llama-3.1-8B"]
    token = 2 * 32 * 8 * 128 * 2
    assert llama["KV cache of a rewrite, MB"] == 97 * token / 1e6
    assert llama["rewrites at once"] == (72e9 - 2 * BY_NAME["Llama-3.1-8B"].parameters - 266 * token) // (97 * token)
    assert llama["teraFLOPs each"] == pytest.approx(2 * 97 * 7.5e9 / 1e12, rel=0.05)


def test_what_hardly_fits_one_accelerator_takes_two(monkeypatch):
    shape = BY_NAME["SmolLM2-1.7B"]
    for name, tokens in (("SHARED", 0), ("OWN", 1), ("NEW_TOKENS", 1)):
        monkeypatch.setattr(sizing, name, tokens)
    needed = (2 * shape.parameters + 2 * shape.kv_bytes()) / 0.9
    for memory, number in ((needed * 1.001, 1), (needed * 0.999, 2), (needed * 0.26, 4)):
        monkeypatch.setattr(sizing, "MEMORY", memory)
        table = sizing_table([shape])
        assert table["H100s"].item() == number and table["rewrites at once"].item() >= 1


def test_copies_help_operations_and_not_the_reading_of_weights():
    shape = BY_NAME["Llama-3.1-8B"]
    few, many = (least_hours(shape, 1200, at_once) for at_once in (40, 400))
    assert few["operations"] == many["operations"] == 1200 * rewrite_flops(shape) / 989e12 / 3600
    assert few["reading weights"] == pytest.approx(10 * many["reading weights"])
    assert many["reading weights"] == pytest.approx(3 * 38 * 2 * 8.03e9 / 3.35e12 / 3600, rel=1e-3)
