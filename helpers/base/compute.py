"""What torch computes on: the device, the number format, and how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from helpers.base.storage import CourseError

CPU_FACTS = Path("/proc/cpuinfo")
# Flags of processors that multiply bfloat16 in hardware: two of Intel and AMD, one of ARM.
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def default_device() -> torch.device:
    """The device to compute on: the CPU, for which the notebooks are written and tested, or what `STEER_DEVICE` says.

    Raises:
        CourseError: `STEER_DEVICE` is set to something else, or to a device that is not here.
    """
    chosen = os.environ.get("STEER_DEVICE", "").strip() or "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(chosen):
        found = ", ".join(name for name, there in here.items() if there)
        raise CourseError(f"STEER_DEVICE is {chosen!r}: leave it out, or set it to a device of this machine ({found})")
    return torch.device(chosen)


def preferred_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 if the device multiplies it in hardware, else float32; or what `STEER_DTYPE` says.

    A rule rather than a measurement: texts depend on the dtype, and must not depend on how busy the machine was. Never
    float16: hidden states of some models exceed its range.

    Raises:
        CourseError: `STEER_DTYPE` is set to something else.
    """
    chosen = os.environ.get("STEER_DTYPE", "").strip()
    if chosen not in ("", "float32", "bfloat16"):
        raise CourseError(f"STEER_DTYPE is {chosen!r}: set it to 'float32' or 'bfloat16', or leave it out")
    return getattr(torch, chosen or ("bfloat16" if _multiplies_bfloat16(torch.device(device)) else "float32"))


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        lines = CPU_FACTS.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return False
    flags = (line.split() for line in lines if line.startswith(("flags", "Features")))
    return device.type == "cpu" and not BFLOAT16_FLAGS.isdisjoint(next(flags, []))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: on matrices this small a second one only spins (up to 5x slower)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
