"""A transformer asked many questions at once: what prompts share is computed once, and a batch shrinks as rows end.

`transformers.generate` computes every prompt in full, pads a batch to its longest prompt and sorts the whole
vocabulary at every step. Here keys and values of shared prefixes are computed once and attended to by all rows,
prompts are laid out right-aligned in one KV cache, and the next token is chosen among the `top_k` only. A model that
the engine does not fit is decoded by `generate`, with the same sampler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import PreTrainedModel

from helpers.base.compute import one_thread
from helpers.language.engine import fitting, grouping
from helpers.language.engine.attention import shared_prefixes
from helpers.language.engine.batch import Batch, kv_shape
from helpers.language.engine.grouping import Group, batches_of
from helpers.language.engine.plain import generate_padded
from helpers.language.engine.sampling import Answers
from helpers.language.prompts import Sampling, TokenIds

LARGE_BATCH = 48  # rows from which a batch keeps a thread of its own busy
PLAIN_ROWS = 16  # padded together for `generate`
BUFFER_BYTES = 1 << 30  # for keys and values of one batch

Finished = Callable[[list[int], list[list[int]]], None]
"""Takes row numbers and their new tokens."""


def decode_prompts(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    sampling: Sampling,
    seeds: Sequence[int],
    end: Set[int],
    done: Finished,
    enough: Callable[[list[int]], bool] | None = None,
) -> None:
    """Continue every prompt until a token of `end` (not part of the answer) or for `sampling.max_new_tokens`.

    Args:
        seeds: one per prompt; it alone decides the draws of that row.
        done: called after each batch.
        enough: asked every few tokens whether a row may end with the tokens it has.

    Raises:
        CourseError: the model can be decoded in no way (`fitting.decoding_way`).
    """
    way = fitting.decoding_way(model, max(map(len, prompts)) + sampling.max_new_tokens)
    interrupted, one_at_a_time = threading.Event(), threading.Lock()

    def answer(batch: list[Group]) -> None:
        rows = [row for group in batch for row in group.rows]
        answers = Answers(sampling, [seeds[row] for row in rows], end, enough)
        with torch.inference_mode():
            if interrupted.is_set():
                return
            if way == "engine":
                Batch(model, prompts, batch, sampling.max_new_tokens).run(
                    answers, sampling.max_new_tokens, interrupted.is_set
                )
            else:
                generate_padded(model, [prompts[row] for row in rows], answers, sampling.max_new_tokens)
        with one_at_a_time:
            if interrupted.is_set():
                return
            try:
                done(rows, answers.tokens)
            except BaseException:
                interrupted.set()  # before another batch can call `done`
                raise

    if way != "engine":
        for batch in _plain_batches(prompts, PLAIN_ROWS if way == "left padding" else 1):
            answer(batch)
        return
    workers = _workers(model, len(prompts))
    layers, heads, dim = kv_shape(model)
    room = BUFFER_BYTES // (2 * layers * heads * dim * model.dtype.itemsize) // workers
    batches = batches_of(prompts, room, min(grouping.BATCH_ROWS, -(-len(prompts) // workers)))
    with shared_prefixes(model):
        if workers == 1:
            for batch in batches:
                answer(batch)
            return
        with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                list(pool.map(answer, batches))
            finally:
                interrupted.set()  # after an error, or Ctrl-C, the other batches end at their next token
                pool.shutdown(cancel_futures=True)


def _plain_batches(prompts: Sequence[TokenIds], size: int) -> list[list[Group]]:
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
    return [[Group(tuple(order[first : first + size]), 0)] for first in range(0, len(order), size)]


def _workers(model: PreTrainedModel, rows: int) -> int:
    """How many batches are computed at a time: on a CPU several, with one thread each, if they are large.

    Two batches on one thread each took 0.74 of the time of one after the other on two threads (128 rows, 2 cores), but
    two halves of one batch took longer than the whole.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    return threads if rows >= threads * LARGE_BATCH else 1
