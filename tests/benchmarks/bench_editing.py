"""Speed of an edit: `python tests/benchmarks/bench_editing.py`.

The same steps twice in one run: texts in rows of their own, and behind their common prefix in one row.
"""

import time
from dataclasses import replace

import torch

from helpers.are import editing, experiment
from helpers.are.concepts import DECLINING, Example, Question
from helpers.course.speed import truncated_speedup
from helpers.language import states
from helpers.language.generation import plain_tokens, prompt_tokens
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
    answers = [plain_tokens(lm.tokenizer, "Here is one way to do it:")[: experiment.RETAINED_TOKENS]] * len(kept)
    began = time.process_time()
    retain = editing.Answered(model, kept, answers)
    _ = retain.base
    prepared = time.process_time()
    curve = editing.edit(editing.Run(model, *rows, retain, settings))
    return {"retained states": prepared - began, "edit": time.process_time() - prepared}, curve


if __name__ == "__main__":
    torch.set_num_threads(1)
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
