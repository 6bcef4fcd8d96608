"""Sizes against published counts, transformers and autograd; work and time by hand; what fits where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import HEADS, byte_tokenizer, tiny
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from helpers.are import experiment as are
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.models import LoadedModel, load_config
from helpers.language.states import ReadOut, read
from helpers.larger_machines.sizing import (
    H100,
    MEASURED,
    SHAPES,
    AgentWork,
    Device,
    EditWork,
    Reached,
    Rollout,
    Step,
    calibrated,
    edit_fit,
    environment_split,
    measured_device,
    measured_runs,
    rollout_seconds,
    shape_of,
    sizing_table,
    step_seconds,
)

PUBLISHED = {"SmolLM2-1.7B": 1.71, "Llama-3.1-8B": 8.03, "Gemma-3-12B": 11.8, "Llama-3.1-70B": 70.6}  # billions
BY_NAME = {shape.name: shape for shape in SHAPES}
ALL = Reached(1.0, 1.0, 1.0)


# Models ------------------------------------------------------------------------------------------------------------


def test_shapes_have_the_published_number_of_weights():
    assert {shape.name: pytest.approx(shape.parameters / 1e9, rel=5e-3) for shape in SHAPES} == PUBLISHED


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_weights_are_counted_as_transformers_counts_them(kind):
    model = tiny(kind, layers=3).model
    shape = shape_of(kind, model.config)
    assert shape.parameters == model.num_parameters()
    adapter = with_adapter(LoadedModel(model, byte_tokenizer()), modules=are.MODULES, layers=[2, 3]).model
    assert shape.adapter(2) == sum(weight.numel() for weight in trained_weights(adapter))


def test_the_course_model_has_exactly_its_weights():
    config = load_config("smollm2-135m-instruct")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_of("SmolLM2-135M", config).parameters == model.num_parameters() == 134_515_008


def test_keys_and_values_are_as_large_as_a_cache_of_transformers():
    model = tiny(layers=3).model
    cache = model(input_ids=torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True).past_key_values
    size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert size == 5 * shape_of("tiny", model.config).kv_bytes(itemsize=4)


def test_kept_activations_are_those_that_autograd_keeps():
    config = LlamaConfig(vocab_size=257, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, **HEADS)
    lm = LoadedModel(LlamaForCausalLM(config).bfloat16().eval().requires_grad_(False), byte_tokenizer())
    model = with_adapter(lm, modules=are.MODULES, rank=1).model
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept, alive = {}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        alive.append(tensor)
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        read(model, [[1] * 32] * 4, ReadOut((4,)))
    of_a_block = sum(kept.values()) / (4 * 32) / 4
    assert shape_of("wide", config).kept_bytes() == pytest.approx(of_a_block, rel=0.05)


# Runs --------------------------------------------------------------------------------------------------------------


def test_a_forward_pass_takes_two_operations_per_weight_and_token():
    shape = BY_NAME["Llama-3.1-8B"]
    counted = shape.flops(1000, attended=0) + shape.output_flops(1000)
    read_only = shape.vocab * shape.hidden  # input embeddings are looked up
    assert counted == pytest.approx(2 * 1000 * (shape.parameters - read_only), rel=1e-3)
    assert shape.flops(10, 100) - shape.flops(10, 0) == 4 * 4096 * 100 * 10 * 32


def test_new_tokens_are_bound_by_memory_and_prompts_by_operations():
    shape, device = BY_NAME["Llama-3.1-8B"], Device("d", 1e15, 1e12, 80e9)
    weights = 2 * shape.parameters / device.bandwidth
    one, two = (Rollout(1, 0, 1, new).seconds(shape, device, ALL) for new in (100, 200))
    assert two - one == pytest.approx(100 * weights, rel=0.05)
    few, many = (Rollout(1, 0, own, 1).seconds(shape, device, ALL) for own in (1000, 3000))
    assert many - few == pytest.approx(2 * 2000 * 7e9 / device.flops, rel=0.1)


def test_a_step_is_two_forward_passes_and_three_with_recomputation():
    shape, device = BY_NAME["SmolLM2-1.7B"], Device("d", 1e12, 1e12, 80e9)
    forward = shape.flops(8 * 50, 25, layers=5) / device.flops
    step = Step(8, 50, layers=5)
    assert step.seconds(shape, device, ALL) == pytest.approx(2 * forward)
    assert replace(step, recomputed=True).seconds(shape, device, ALL) == pytest.approx(3 * forward)
    assert replace(step, recomputed=True).memory(shape) < step.memory(shape)


def test_the_shares_are_found_from_runs_that_had_them():
    from helpers.larger_machines.sizing import CALIBRATION

    shape, device, true = BY_NAME["SmolLM2-1.7B"], Device("d", 2e11, 3e10, 2e10), Reached(0.6, 0.2, 0.5)
    found = calibrated(shape, device, *(run.seconds(shape, device, true) for run in CALIBRATION))
    assert (found.prompts, found.tokens, found.step) == pytest.approx((0.6, 0.2, 0.5), rel=0.1)


# Work and where it fits ----------------------------------------------------------------------------------------------


def test_work_is_that_of_the_plan():
    work = AgentWork()
    assert work.rewrites == 18 * 100 + 3 * 15 * 5 * 8 + 3 * 24 * 10
    assert EditWork().tokens == 3 * 4 * (20 * 8 * (47 + 52) + 278 * 47) + EditWork().answers.tokens


def test_more_accelerators_help_until_every_row_has_one():
    shape, work = BY_NAME["SmolLM2-1.7B"], AgentWork()
    hours = [work.hours(shape, H100, replicas, MEASURED) for replicas in (1, 8, 64, 5000, 10000)]
    assert hours[0] > hours[1] > hours[2] > hours[3] == hours[4]


def test_a_large_model_is_split_or_does_not_fit():
    small, large = BY_NAME["SmolLM2-1.7B"], BY_NAME["Llama-3.1-70B"]
    assert environment_split(small, H100, AgentWork(), 1) == 1
    assert environment_split(large, H100, AgentWork(), 1) is None and edit_fit(large, H100, EditWork(), 1) is None
    assert environment_split(large, H100, AgentWork(), 8) == 2
    whole, shared = edit_fit(small, H100, EditWork(), 8), edit_fit(large, H100, EditWork(), 8)
    assert not whole.sharded and shared.sharded and shared.processes == 8
    assert 2 * large.parameters / 8 < shared.memory < H100.memory


def test_the_table_has_a_row_for_every_model_and_number():
    table = sizing_table()
    assert len(table) == 12 and table.loc[("Llama-3.1-70B", 1), "edit"] == "does not fit"
    assert table.loc[("Llama-3.1-70B", 8), "agent hours"] > table.loc[("Llama-3.1-8B", 8), "agent hours"] > 0
    assert table["long agent hours"].dropna().gt(table["agent hours"].dropna()).all()


# Measured ----------------------------------------------------------------------------------------------------------


class Ticks:
    """A clock that goes one second further whenever it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_what_is_timed_are_the_runs_that_are_named():
    lm = tiny(layers=6)
    assert rollout_seconds(lm, Rollout(3, 5, 4, 2), Ticks()) == 1.0
    assert step_seconds(lm, Step(2, 6), Ticks()) == 1.0
    reached, runs = measured_runs(lm, tiny("gemma3", layers=6), Ticks())
    assert runs["measured"].eq(1.0).all() and runs["calibration"].sum() == 3 and runs["model"].nunique() == 2
    assert reached.step > 0 and runs["ratio"][2] == pytest.approx(1.0)


def test_a_device_is_measured_in_numbers_of_its_dtype():
    found = measured_device(torch.device("cpu"), torch.float32)
    assert found.flops > 1e9 and found.bandwidth > 1e8 and found.itemsize == 4
