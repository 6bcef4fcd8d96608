"""Speed, memory and error of factorising generated ratings: `python tests/benchmarks/bench_large_als.py --scale 1`."""

from __future__ import annotations

import argparse

from helpers.larger_machines.ratings import large_als_benchmark

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--scale", type=float, default=0.1, help="1: the size of MovieLens-25M, a minute or two")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    cost = large_als_benchmark(chosen.scale, threads=chosen.threads)
    print(
        f"{cost.n_ratings:,} ratings: {cost.ratings_per_second / 1e6:.1f} million a second in a sweep (aim: 5), "
        f"{cost.fit_seconds:.0f} s in all, peak memory {cost.peak_gb:.2f} GB (aim: 4)\n"
        f"RMSE {cost.rmse:.4f} (biases alone {cost.biases_rmse:.4f}, noise floor {cost.noise_floor:.4f})"
    )
