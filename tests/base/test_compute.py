"""The device and its number format: a rule, which nothing but the hardware and the setting decides."""

from __future__ import annotations

import pytest
import torch

from helpers.base import compute
from helpers.base.storage import CourseError

CPUS = {
    "flags\t: fpu sse avx2 avx512f avx512_bf16": torch.bfloat16,
    "flags\t: fpu amx_bf16 amx_tile": torch.bfloat16,
    "Features\t: fp asimd bf16 i8mm": torch.bfloat16,
    "flags\t: fpu sse avx2 avx512f bf16x": torch.float32,
    "Features\t: fp asimd": torch.float32,
    "": torch.float32,
}


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("STEER_DTYPE", raising=False)
    monkeypatch.delenv("STEER_DEVICE", raising=False)


@pytest.mark.parametrize(("facts", "dtype"), CPUS.items())
def test_a_processor_computes_in_bfloat16_if_it_multiplies_it(monkeypatch, tmp_path, facts, dtype):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: bf16 in its name\n{facts}\n")
    monkeypatch.setattr(compute, "CPU_FACTS", tmp_path / "cpuinfo")
    assert compute.preferred_dtype("cpu") == dtype
    assert compute.preferred_dtype("mps") == torch.float32


def test_a_system_that_says_nothing_of_its_processor_computes_in_float32(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "CPU_FACTS", tmp_path / "nothing")
    assert compute.preferred_dtype("cpu") == torch.float32


def test_the_processor_computes_unless_the_setting_names_a_device_that_is_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert compute.default_device() == torch.device("cpu")  # notebooks are written for it
    for chosen in ("cuda", "cpu"):
        monkeypatch.setenv("STEER_DEVICE", chosen)
        assert compute.default_device() == torch.device(chosen)
    for chosen in ("mps", "tpu"):
        monkeypatch.setenv("STEER_DEVICE", chosen)
        with pytest.raises(CourseError, match=rf"^STEER_DEVICE is '{chosen}': .* \(cpu, cuda\)$"):
            compute.default_device()


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_a_graphics_card_computes_in_bfloat16_from_ampere_on(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert compute.preferred_dtype("cuda") == dtype


def test_the_setting_decides_first_and_others_are_refused(monkeypatch):
    for chosen in ("float32", "bfloat16"):
        monkeypatch.setenv("STEER_DTYPE", chosen)
        assert compute.preferred_dtype("cpu") == getattr(torch, chosen)
    monkeypatch.setenv("STEER_DTYPE", "float16")
    with pytest.raises(CourseError, match="STEER_DTYPE is 'float16': set it to 'float32' or 'bfloat16'"):
        compute.preferred_dtype("cpu")
