"""Adapters: nothing at first, shared weights, switched, weakened, merged, kept on disk for their own model only."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import byte_tokenizer, tiny
from transformers import Phi3Config, Phi3ForCausalLM

from helpers.base.storage import CourseError, sha256
from helpers.language.adapters import (
    fingerprint,
    first_adapted,
    linear_layers,
    load_adapter,
    merged,
    modules_for,
    save_adapter,
    strength,
    trained_weights,
    with_adapter,
)
from helpers.language.models import LoadedModel

IDS = torch.tensor([list(b"some text")])


def stirred(lm: LoadedModel, **options) -> LoadedModel:
    """The model with an adapter that does something."""
    edited, generator = with_adapter(lm, rank=2, **options), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trained_weights(edited.model):
            weight.normal_(0, 0.3, generator=generator)
    return edited


def logits(lm: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(IDS).logits


@pytest.fixture
def lm() -> LoadedModel:
    return tiny(layers=3)


def test_a_new_adapter_changes_nothing_and_shares_the_weights(lm):
    edited = with_adapter(lm)
    torch.testing.assert_close(logits(edited), logits(lm), rtol=0, atol=0)
    own = {weight.data_ptr() for weight in lm.model.parameters()}
    assert own <= {weight.data_ptr() for weight in edited.model.parameters()}
    assert not any(weight.requires_grad for weight in lm.model.parameters())


def test_the_layers_that_were_asked_for_get_one(lm):
    edited = with_adapter(lm, layers=[2, 3])
    assert first_adapted(edited.model) == 2
    assert {name.split("layers.")[1][0] for name, w in edited.model.named_parameters() if w.requires_grad} == {"1", "2"}
    assert first_adapted(with_adapter(lm).model) == 1


def test_the_seed_decides_the_start_and_leaves_the_global_generator_alone(lm):
    before = torch.get_rng_state()
    one, same, other = (trained_weights(with_adapter(lm, seed=seed).model)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_strength_goes_from_the_base_model_to_the_edit_and_back(lm):
    edited = stirred(lm)
    whole = logits(edited)
    with strength(edited.model, 0):
        torch.testing.assert_close(logits(edited), logits(lm), rtol=0, atol=1e-6)
    with strength(edited.model, 0.5):
        half = logits(edited)
    assert not torch.allclose(half, whole, atol=1e-3)
    assert not torch.allclose(half, logits(lm), atol=1e-3)
    torch.testing.assert_close(logits(edited), whole, rtol=0, atol=0)
    with edited.model.disable_adapter():
        torch.testing.assert_close(logits(edited), logits(lm), rtol=0, atol=0)
    with pytest.raises(ValueError, match="finite number"), strength(edited.model, float("nan")):
        pass


def test_the_other_layers_are_those_of_the_base_model_while_some_are_chosen(lm):
    edited = stirred(lm)
    with strength(edited.model, 1, layers=[2]):
        found = logits(edited)
    alone = stirred(lm)
    with torch.no_grad():
        for name, weight in alone.model.named_parameters():
            if weight.requires_grad and "layers.1." not in name:
                weight.zero_()
    torch.testing.assert_close(found, logits(alone))
    assert not torch.allclose(found, logits(edited), atol=1e-3)
    with strength(edited.model, 1, layers=[]):
        torch.testing.assert_close(logits(edited), logits(lm))


def test_strength_is_restored_after_an_error(lm):
    edited = stirred(lm)
    whole = logits(edited)
    with pytest.raises(ZeroDivisionError), strength(edited.model, 0.1):
        raise ZeroDivisionError
    torch.testing.assert_close(logits(edited), whole, rtol=0, atol=0)


def test_strength_may_leave_the_edit_to_some_layers(lm):
    edited = stirred(lm)
    with strength(edited.model, 1, layers=[2]):
        second = logits(edited)
    for name, weight in edited.model.named_parameters():
        if "lora_B" in name and "layers.1." not in name:
            weight.data.zero_()
    torch.testing.assert_close(logits(edited), second)
    with strength(edited.model, 1, layers=[1, 3]):
        torch.testing.assert_close(logits(edited), logits(lm))


def test_merging_copies_only_what_the_edit_touches(lm):
    edited = stirred(lm, layers=[3], modules=["v_proj"])
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    plain = merged(edited)
    own = {name for name, weight in plain.model.named_parameters() if weight is not lm.model.get_parameter(name)}
    assert own == {"model.layers.2.self_attn.v_proj.weight"}
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.named_parameters())
    assert not any(weight.requires_grad for weight in plain.model.parameters())


def fused() -> LoadedModel:
    """A model like Phi-3, whose query, key and value are one matrix."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Phi3ForCausalLM(Phi3Config(vocab_size=257, pad_token_id=256, eos_token_id=256, **sizes))
    return LoadedModel(model.eval().requires_grad_(False), byte_tokenizer())


def test_modules_that_the_model_lacks_are_refused_by_name(lm):
    with pytest.raises(ValueError, match=r"no module q_proj, v_proj in the model: choose among down_proj, .*qkv_proj"):
        with_adapter(fused(), modules=["q_proj", "v_proj", "down_proj"])
    with pytest.raises(ValueError, match="no module o in the model"):
        with_adapter(lm, modules=["o"])
    with pytest.raises(ValueError, match="choose among"):
        with_adapter(lm, modules=[])


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "qwen2", "phi3"])
def test_preferred_modules_give_way_to_all_linear_layers(kind):
    model = fused() if kind == "phi3" else tiny(kind)
    chosen = modules_for(model, ("q_proj", "down_proj"))
    assert chosen == (("q_proj", "down_proj") if kind in ("gemma3", "qwen2") else tuple(linear_layers(model)))
    for modules, expected in ((chosen, chosen), (None, modules_for(model, ("q_proj", "v_proj")))):
        weights = [name for name, _ in with_adapter(model, modules=modules, rank=1).model.named_parameters()]
        adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name in weights if "lora_A" in name}
        assert adapted == set(expected)


def test_merging_gives_a_model_of_its_own(lm):
    edited = stirred(lm)
    base, whole = logits(lm), logits(edited)
    plain = merged(edited)
    assert not isinstance(plain.model, PeftModel)
    torch.testing.assert_close(logits(plain), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(lm), base, rtol=0, atol=0)
    torch.testing.assert_close(logits(edited), whole, rtol=0, atol=0)


def test_a_kept_adapter_comes_back_the_same_also_by_peft_alone(lm, tmp_path):
    edited, folder = stirred(lm, layers=[2]), tmp_path / "edit"
    save_adapter(edited, folder, "# A card\n", {"concept": "test"})
    torch.testing.assert_close(logits(load_adapter(lm, folder)), logits(edited), rtol=0, atol=1e-6)
    by_peft = PeftModel.from_pretrained(tiny(layers=3).model, str(folder))
    torch.testing.assert_close(by_peft(IDS).logits, logits(edited), rtol=0, atol=1e-6)
    assert (folder / "README.md").read_text("utf-8") == "# A card\n"
    assert len(load_file(folder / "adapter_model.safetensors")) == 4
    assert not list(folder.glob("*.bin"))
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}, "others who share the cache read it"


def test_a_folder_with_other_files_is_not_overwritten(lm, tmp_path):
    edited, folder = stirred(lm), tmp_path / "edit"
    for _ in range(2):  # an older adapter is replaced
        save_adapter(edited, folder, "", {})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    with pytest.raises(CourseError, match="notes holds other files, which would be lost: choose a folder"):
        save_adapter(edited, tmp_path / "notes", "", {})
    assert (tmp_path / "notes/mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    save_adapter(edited, tmp_path / "empty", "", {})


def test_an_adapter_of_another_model_is_refused(lm, tmp_path):
    save_adapter(stirred(lm), tmp_path / "edit", "", {})
    with pytest.raises(CourseError, match="trained on another model: load that one \\(llama, 3 x 32\\)"):
        load_adapter(tiny(layers=3, seed=1), tmp_path / "edit")
    with pytest.raises(CourseError, match="another model"):
        load_adapter(merged(stirred(lm)), tmp_path / "edit")


def test_the_fingerprint_does_not_depend_on_dtype_or_adapter(lm):
    rounded = LoadedModel(tiny(layers=3).model.bfloat16(), lm.tokenizer)
    again = LoadedModel(tiny(layers=3).model.bfloat16().float(), lm.tokenizer)
    assert fingerprint(rounded) == fingerprint(again) == fingerprint(stirred(again))


def test_damage_is_told_in_one_line(lm, tmp_path):
    with pytest.raises(CourseError, match="does not hold an adapter of this course"):
        load_adapter(lm, tmp_path)
    folder = tmp_path / "edit"
    save_adapter(stirred(lm), folder, "", {})
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CourseError, match=r"is damaged \(.*\): train it again"):
        load_adapter(lm, folder)
    (folder / "edit.json").write_text(json.dumps([1]))
    with pytest.raises(CourseError, match="does not hold an adapter"):
        load_adapter(lm, folder)


def weights_without(part: str):
    def change(folder):
        path = folder / "adapter_model.safetensors"
        save_file({name: weight for name, weight in load_file(path).items() if part not in name}, path)

    return change


def renamed(folder):
    path = folder / "adapter_model.safetensors"
    save_file({name.replace("layers.0", "layers.7"): weight for name, weight in load_file(path).items()}, path)


def only_pickled(folder):
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()


def configured(**values):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


BROKEN = {
    "half of the weights": weights_without("lora_B"),
    "one weight": weights_without("layers.1.self_attn.v_proj.lora_A"),
    "none": weights_without(""),
    "renamed": renamed,
    "only a pickle": only_pickled,
    "modules": configured(target_modules=["q_proj"]),
    "more modules": configured(target_modules=["q_proj", "v_proj", "o_proj"]),
    "layers": configured(layers_to_transform=[0, 1]),
}


@pytest.mark.parametrize("change", [*BROKEN.values(), configured(lora_alpha=99), configured(r=1)])
def test_an_adapter_that_was_changed_since_is_refused(lm, tmp_path, change):
    save_adapter(stirred(lm), tmp_path, "", {})
    change(tmp_path)
    with pytest.raises(
        CourseError, match=r"is damaged \((there is no|adapter_\w+.\w+ has changed).*train it again"
    ) as caught:
        load_adapter(lm, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", BROKEN.values(), ids=list(BROKEN))
def test_weights_are_compared_both_ways_also_where_checksums_are_right(lm, tmp_path, change):
    save_adapter(stirred(lm), tmp_path, "", {})
    assert load_adapter(lm, tmp_path)
    change(tmp_path)
    facts = json.loads((tmp_path / "edit.json").read_text())
    facts["checksums"] |= {name: sha256(tmp_path / name) for name in facts["checksums"] if (tmp_path / name).exists()}
    (tmp_path / "edit.json").write_text(json.dumps(facts))
    with pytest.raises(CourseError, match="is damaged"):
        load_adapter(lm, tmp_path)


@pytest.mark.parametrize("missing", ["all", "adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_without_a_checksum_is_refused(lm, tmp_path, missing):
    """Otherwise a changed strength would pass where somebody removed one line."""
    save_adapter(stirred(lm), tmp_path, "", {})
    facts = json.loads((tmp_path / "edit.json").read_text())
    facts.pop("checksums") if missing == "all" else facts["checksums"].pop(missing)
    (tmp_path / "edit.json").write_text(json.dumps(facts))
    with pytest.raises(CourseError, match=r"has changed since it was saved.*train it again"):
        load_adapter(lm, tmp_path)


def test_saving_again_replaces_the_whole_folder(lm, tmp_path):
    folder = tmp_path / "edit"
    save_adapter(stirred(lm), folder, "one", {})
    (folder / "left over").write_text("")
    save_adapter(stirred(lm), folder, "two", {})
    assert (folder / "README.md").read_text() == "two"
    assert not (folder / "left over").exists()
