"""Programs side by side get what they would get alone, in fewer calls of the backend."""

from __future__ import annotations

import threading

import pytest
from fake_world import fake_starts, fake_world
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.eagle import baselines
from helpers.eagle.experiment import Experiment
from helpers.language.generation import Memo, Sampling, generate, side_by_side


class Echo:
    """Answers with prompt, seed and length, in batches of three; remembers what it was asked."""

    name = "echo"

    def __init__(self) -> None:
        self.asked: list[list] = []

    def generate(self, prompts, sampling, seeds, done) -> None:
        self.asked.append(list(zip(prompts, seeds, strict=True)))
        texts = [f"{prompt}/{seed}/{sampling.max_new_tokens}" for prompt, seed in self.asked[-1]]
        for first in range(0, len(texts), 3):
            rows = list(range(first, min(first + 3, len(texts))))
            done(rows, [texts[row] for row in rows])


def dialogue(backend, name: str, sizes: list[int], sampling: Sampling, memo=None):
    """A program that asks `sizes[t]` prompts in round t; the prompts of a round hold the answers of the last."""

    def program() -> list[str]:
        said = [name]
        for size in sizes:
            said = generate(backend, [f"{said[0]}{i}" for i in range(size)], sampling, memo=memo)
        return said

    return program


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=5), st.booleans())
def test_results_are_those_of_one_after_the_other(sizes, same_sampling):
    def programs(backend):
        ways = [Sampling(8), Sampling(8 if same_sampling else 9)]
        return [dialogue(backend, f"p{i}", rounds, ways[i % 2]) for i, rounds in enumerate(sizes)]

    together, alone = Echo(), Echo()
    assert side_by_side(programs(together)) == [program() for program in programs(alone)]
    longest = max(map(len, sizes))
    assert len(together.asked) <= longest * (1 if same_sampling else 2)
    flat = [{question for batch in backend.asked for question in batch} for backend in (together, alone)]
    assert flat[0] == flat[1]


def test_what_two_programs_ask_alike_is_answered_once():
    backend = Echo()
    programs = [dialogue(backend, "same", [2, 3], Sampling(8))] * 3
    first, second, third = side_by_side(programs)
    assert first == second == third
    assert list(map(len, backend.asked)) == [2, 3]


def test_answers_reach_the_memo_batch_by_batch(tmp_path):
    class Dies(Echo):
        def generate(self, prompts, sampling, seeds, done):
            super().generate(prompts[:3], sampling, seeds[:3], done)
            raise KeyboardInterrupt

    memo, dies = Memo(tmp_path / "memo.sqlite"), Dies()
    with pytest.raises(KeyboardInterrupt):
        side_by_side([dialogue(dies, name, [2], Sampling(8), memo) for name in "abc"])
    backend = Echo()
    side_by_side([dialogue(backend, name, [2], Sampling(8), memo) for name in "abc"])
    assert sum(map(len, backend.asked)) == 3, "the first batch of three was kept"


def test_the_error_of_one_program_stops_the_others():
    backend, ended, threads = Echo(), [], threading.active_count()

    def patient() -> None:
        try:
            dialogue(backend, "patient", [1] * 5, Sampling(8))()
        finally:
            ended.append("patient")

    def failing() -> None:
        dialogue(backend, "failing", [1], Sampling(8))()
        raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        side_by_side([patient, failing, patient])
    assert ended == ["patient", "patient"]
    assert threading.active_count() == threads
    assert len(backend.asked) == 1


def test_an_error_of_the_backend_reaches_the_caller():
    class Down(Echo):
        def generate(self, *_):
            raise OSError("down")

    with pytest.raises(OSError, match="down"):
        side_by_side([dialogue(Down(), name, [1], Sampling(8)) for name in "ab"])


def test_nothing_to_do():
    assert side_by_side([]) == []
    assert side_by_side([lambda: 1, lambda: 2]) == [1, 2]


def test_methods_side_by_side_emit_what_they_emit_alone():
    world, starts = fake_world(horizon=5), fake_starts(3)

    def programs():
        return [
            lambda method=method: method(world, starts, budget=10, seed=3)
            for method in (baselines.METHODS["random"], baselines.METHODS["tree"], baselines.METHODS["best_of_n"])
        ]

    together, alone = side_by_side(programs()), [program() for program in programs()]
    assert [outcome.texts for outcome in together] == [outcome.texts for outcome in alone]


def test_two_experiments_expand_their_starts_side_by_side():
    def experiments():
        return [Experiment(fake_world(), None, fake_starts(n), []) for n in (2, 3)]

    alone = [experiment.expansion.z for experiment in experiments()]
    found = []
    expanding = threading.Thread(
        target=lambda: found.extend(side_by_side([lambda e=e: e.expansion.z for e in experiments()])), daemon=True
    )
    expanding.start()
    expanding.join(timeout=30)
    assert len(found) == 2, "one waits for the other"
    assert all((one == other).all() for one, other in zip(found, alone, strict=True))
