"""The command line that trains on several processes: what it starts, what it leaves, and what it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from fake_steering import fake_task, task_starts
from safetensors.torch import load_file
from tiny_models import tiny
from transformers import LlamaConfig

from helpers.base.settings import cache_dir
from helpers.base.storage import CourseError
from helpers.eagle.agent import AgentSettings
from helpers.eagle.comparison import Comparison, ComparisonPlan
from helpers.language.adapters import load_adapter
from helpers.language.models import load_language_model
from helpers.larger_machines import processes as launch
from helpers.larger_machines.processes import main


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A tiny model on disk, as from the hub."""
    lm = tiny(layers=4)
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# Configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "block"), [("llama", "LlamaDecoderLayer"), ("gemma3", "Gemma3DecoderLayer"), ("gpt2", "GPT2Block")]
)
def test_accelerate_reads_the_configuration(tmp_path, kind, block):
    tiny(kind).model.config.save_pretrained(tmp_path / "model")
    out = tmp_path / "new" / "fsdp.yaml"
    assert main(["config", "--model", str(tmp_path / "model"), "--processes", "8", "--out", str(out)]) == 0
    found = load_config_from_file(str(out))
    assert found.distributed_type == DistributedType.FSDP and found.num_processes == 8
    assert found.use_cpu is not torch.cuda.is_available() and found.mixed_precision == "bf16"
    fsdp = found.fsdp_config
    assert fsdp["fsdp_version"] == 2 and fsdp["fsdp_reshard_after_forward"] is True
    assert fsdp["fsdp_transformer_layer_cls_to_wrap"] == block
    assert fsdp["fsdp_activation_checkpointing"] is False


def test_a_large_model_has_its_activations_computed_again(tmp_path):
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)  # its default is the one with 7 billion
    assert launch.fsdp_config(str(tmp_path), 8).fsdp_config["fsdp_activation_checkpointing"] is True


def test_no_model_no_configuration(tmp_path, capsys):
    out = tmp_path / "fsdp.yaml"
    assert main(["config", "--model", str(tmp_path / "none"), "--processes", "2", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: could not load") and said.count("\n") == 1 and not out.exists()


# Runs --------------------------------------------------------------------------------------------------------------


def test_without_a_name_the_model_is_the_course_s_and_sharding_finds_its_answers_in_the_memo(monkeypatch, model_folder):
    monkeypatch.setenv("STEER_MODEL", str(model_folder))
    whole = launch.model_backend()
    assert whole.name == launch.model_backend(str(model_folder)).name and str(model_folder) in whole.name
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    sharded = launch.model_backend()
    assert sharded.name == whole.name and sharded.lm.model.device.type == "cpu"


LOSSES = ("fooling", "distance", "answer_nll", "retain_kl")


@pytest.mark.slow
def test_an_edit_is_launched_from_a_configuration_and_leaves_its_adapter(tmp_path, monkeypatch, model_folder):
    sources = cache_dir() / "sources"
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sources").symlink_to(sources)
    edit = ["edit", "--concept", "stereotypes", "--model", str(model_folder), "--batch", "4"]
    monkeypatch.setenv("STEER_PROFILE", "small")
    launch.write_config(str(model_folder), 2, config := tmp_path / "fsdp.yaml")
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "together"))
    launch.launch(2, [*edit, "--out", str(tmp_path / "together")], config)
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "alone"))
    assert main([*edit, "--out", str(tmp_path / "alone")]) == 0
    curves = [json.loads((tmp_path / name / "curve.json").read_text()) for name in ("together", "alone")]
    for first, second in zip(*curves, strict=True):
        assert [first[name] for name in LOSSES] == pytest.approx([second[name] for name in LOSSES], rel=0.03)
    lm = load_language_model(str(model_folder))
    together, alone = (load_adapter(lm, tmp_path / name / "adapter") for name in ("together", "alone"))
    ids = torch.arange(32)[None]
    with torch.no_grad():
        base, first, second = (part.model(ids).logits.float() for part in (lm, together, alone))
    assert (first - second).abs().mean() < 0.1 * (first - base).abs().mean()  # the model may be in bfloat16


@pytest.fixture
def on_the_map(monkeypatch) -> Comparison:
    """The comparison on the small map, which `load_comparison` gives too."""
    starts, settings = task_starts(8), AgentSettings(iterations=2, episodes=4, group=2)
    plan = ComparisonPlan(4, 2, 2, (0, 3), settings, rewarded=2)
    comparison = Comparison(fake_task(borrowed=20), plan, starts[:4], starts[4:6], starts[6:])
    monkeypatch.setattr(launch, "load_comparison", lambda progress: comparison)
    return comparison


def agent_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "agent.safetensors")


def curve_in(folder: Path) -> list[dict]:
    return json.loads((folder / "curve.json").read_text())


def test_the_agent_is_that_of_the_comparison(tmp_path, on_the_map):
    for support in (None, "uniform"):
        out = tmp_path / str(support)
        assert main(["agent", "--seed", "3", "--out", str(out), *(["--support", support] if support else [])]) == 0
        policies, curves = on_the_map.agents(support or "optimistic")
        weights = agent_in(out)
        assert all(torch.equal(weights[name], weight) for name, weight in policies[1].state_dict().items())
        assert curve_in(out) == curves[1]
    assert curve_in(tmp_path / "None") != curve_in(tmp_path / "uniform")


def test_another_number_of_episodes_may_be_asked_for(tmp_path, on_the_map, capsys):
    arguments = ["agent", "--out", str(tmp_path), "--episodes"]
    assert main([*arguments, "5"]) == 1
    assert "error: 5 episodes in groups of 2: give two or more, and whole groups" in capsys.readouterr().err
    assert main([*arguments, "6"]) == 0
    plan = on_the_map.plan
    more = replace(on_the_map, plan=replace(plan, settings=replace(plan.settings, episodes=6)), _kept={})
    assert curve_in(tmp_path) == more.agents("optimistic")[1][0]
    assert main([*arguments, "4"]) == 1
    assert "made with other settings" in capsys.readouterr().err  # the checkpoint is of the other run


def test_where_nothing_can_be_written_nothing_is_trained(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["agent", "--out", str(tmp_path / "file/below")]) == 1
    said = capsys.readouterr().err
    assert "could not write to below (Not a directory): the folder cannot be written: choose a folder for --out" in said


@pytest.mark.usefixtures("on_the_map")
def test_an_agent_leaves_weights_and_curve_and_is_not_trained_twice(tmp_path, capsys):
    arguments = ["agent", "--seed", "3", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("iteration ") == 2
    weights, curve = agent_in(tmp_path), curve_in(tmp_path)
    assert [row["iteration"] for row in curve] == [0, 1]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""  # the checkpoint has all of it
    assert all(agent_in(tmp_path)[name].equal(weight) for name, weight in weights.items())
    assert curve_in(tmp_path) == curve


def test_an_agent_is_not_sharded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(CourseError, match="without FSDP"):
        launch.train_agent(Accelerator(cpu=True), tmp_path)


def launcher(folder: Path, monkeypatch, script: str) -> None:
    """Something else in the place of `python -m accelerate.commands.launch`."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_what_a_process_says_is_what_is_raised(tmp_path, monkeypatch):
    said = "Traceback (most recent call last):\nerror: could not load none: check the name\nExitcode 1"
    launcher(tmp_path, monkeypatch, f"echo '{said}' >&2; exit 1")
    with pytest.raises(
        CourseError, match=r"2 processes could not run together \(could not load none: check the name\)"
    ):
        launch.launch(2, ["gradients"])
    launcher(tmp_path, monkeypatch, "echo 'no\nport' >&2; exit 2")
    with pytest.raises(CourseError, match=r"3 processes could not run together \(port\)"):
        launch.launch(3, ["gradients"])
    launcher(tmp_path, monkeypatch, "exec sleep 20")
    with pytest.raises(CourseError, match=r"longer than 0\.1 seconds"):
        launch.launch(2, ["gradients"], seconds=0.1)


def test_the_gradient_error_is_the_largest_relative_difference(monkeypatch):
    alone = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.5])}

    def launched(processes, arguments, config):
        for name, b in (("accelerate", 0.45), ("fsdp", 0.4)):
            launch.save_tensors({"a": torch.tensor([1.1, -4.0]), "b": torch.tensor([b])}, Path(arguments[-1]) / name)

    monkeypatch.setattr(launch, "launch", launched)
    monkeypatch.setattr(launch, "edit_gradients", lambda: alone)
    assert launch.launched_grad_errors() == {"accelerate": pytest.approx(0.1), "fsdp": pytest.approx(0.2)}
