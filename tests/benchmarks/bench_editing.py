"""Speed of an editing step that runs only where it must: `python tests/benchmarks/bench_editing.py`."""

from helpers.course.speed import truncated_speedup
from helpers.language.models import language_model

if __name__ == "__main__":
    print(
        f"one step of an adapter, read at half depth: {truncated_speedup(language_model()):.1f} times as fast (aim: 2)"
    )
