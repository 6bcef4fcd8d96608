"""Speed of an edit: `python tests/benchmarks/bench_editing.py`, with `--whole` one refusal edit as notebook 13 has it.

Without the option the same steps are done twice in one run: texts in rows of their own, and behind their common prefix
in one row. With it the edit is that of the profile (`STEER_PROFILE=full` for the reported one), from the answers that
it learns from, which are in the memo or come into it first, to the trained adapter, on one core. Its seconds are
recorded as `are.edit_seconds` when STEER_RESULTS is set.
"""

import argparse
import tempfile
import time
import unittest.mock
from dataclasses import replace
from pathlib import Path

import torch

from helpers.are import editing, experiment
from helpers.are.concepts import DECLINING, Example, Question
from helpers.course import results
from helpers.course.speed import truncated_speedup
from helpers.language import states
from helpers.language.generation import default_memo, local_backend, plain_tokens, prompt_tokens
from helpers.language.models import LoadedModel, load_language_model

REFUSAL = "I'm sorry, but I can't help with that."


def examples(questions: list[Question]) -> list[Example]:
    """Questions with a refusal, which need not be asked for."""
    return [Example(q.id, (*DECLINING, ("user", q.text)), (("user", q.text),), REFUSAL) for q in questions]


def timed_edit(lm: LoadedModel, size: int = 40, steps: int = 5) -> tuple[dict[str, float], list[dict]]:
    """CPU seconds of a short refusal edit and of what it holds on to, and its losses."""
    sizes = experiment.edit_sizes()
    settings = replace(experiment.refusal_settings(), rounds=1, steps=steps)
    model, parts = experiment.with_late_adapter(lm), experiment.harmful(sizes)
    rows = [
        editing.Rows(model, examples(some), settings.at.positions) for some in (parts.train[:size], parts.stop[:10])
    ]
    kept = [prompt_tokens(lm.tokenizer, question.text) for question in experiment.harmless(sizes).train[: 2 * size]]
    answers = [plain_tokens(lm.tokenizer, "Here is one way to do it:")[: settings.retained]] * len(kept)
    began = time.process_time()
    retain = editing.Answered(model, kept, answers)
    _ = retain.base
    prepared = time.process_time()
    curve = editing.edit(editing.Run(model, *rows, retain, settings))
    return {"retained states": prepared - began, "edit": time.process_time() - prepared}, curve


def whole_edit() -> float:
    """Seconds of one core for a refusal edit with the settings and questions of the profile."""
    concept = experiment.refusal(progress=True)
    chosen = experiment.refusal_settings()
    keep = experiment.retain_of(
        local_backend().lm, concept.retain.train, local_backend(), default_memo(), chosen.retained
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        unittest.mock.patch.object(experiment, "_kept_in", lambda _facts: Path(folder, "edit.safetensors")),
    ):
        began = time.process_time()
        _, curve = experiment.edited(concept, chosen)
        seconds = time.process_time() - began
    print(f"{len(concept.train)} examples, {len(keep.texts)} harmless prompts, {len(curve)} rounds: {seconds:.0f} s")
    row = {"n": 1, "seeds": [0], "unit": "s of one core for a refusal edit", "notebook": "tests"}
    results.record("are.edit_seconds", seconds, **row)
    return seconds


def compared() -> None:
    """Print how much faster a step is behind a common prefix."""
    base = load_language_model("smollm2-135m-instruct", dtype=torch.float32)
    timed_edit(base, 4, 1)  # the first call of anything is slower
    arranged = states.layout_of
    states.layout_of = states.in_rows
    (before, slow) = timed_edit(base)
    states.layout_of = arranged
    (after, fast) = timed_edit(base)
    for part in before:
        gain = before[part] / after[part]
        print(f"{part}: {before[part]:.1f} s in rows, {after[part]:.1f} s behind one prefix: {gain:.2f} times as fast")
    for name in ("fooling", "distance", "retain_kl"):
        print(f"{name}: {slow[0][name]:.6f} and {fast[0][name]:.6f}")
    print(f"one step of an adapter, read at half depth: {truncated_speedup(base):.1f} times as fast (aim: 2)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="one refusal edit, as the profile has it")
    torch.set_num_threads(1)
    whole_edit() if parser.parse_args().whole else compared()
