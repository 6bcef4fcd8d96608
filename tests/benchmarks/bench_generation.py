"""How much faster is the engine than three ways of transformers? Run: python tests/benchmarks/bench_generation.py

All are timed in one run, and only their ratios are meant to be compared. Notebook 04 records them.
"""

from __future__ import annotations

import argparse
import time

import torch

from helpers.course.speed import measure_speedups
from helpers.language import models
from helpers.language.generation import LocalBackend

EXPECTED = {"loop": 10.0, "batched": 1.5, "expand": 3.0, "prefix": 4.0, "prefix_generate": 0.9}
EXPECTED["prefix_generate_expand"] = 1.5


def main() -> None:
    """Print each ratio beside the one we expect."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 if the device has it")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--cpu-time", action="store_true", help="beside other busy programs; with one thread")
    chosen = parser.parse_args()
    lm = models.load_language_model(dtype=getattr(torch, chosen.dtype) if chosen.dtype else None)
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    ratios = measure_speedups(LocalBackend(lm, "benchmark"), n_prompts=chosen.prompts, clock=clock)
    print(f"{str(lm.model.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads")
    for name, ratio in ratios.items():
        print(f"{name:22} {ratio:5.1f} times as fast (expected: at least {EXPECTED[name]:g})")


if __name__ == "__main__":
    main()
