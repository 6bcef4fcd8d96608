"""A transformer asked many questions at once: what prompts share is computed once, and a batch shrinks as rows end.

`transformers.generate` computes every prompt in full, pads a batch to its longest prompt and sorts the whole
vocabulary at every step. Here keys and values of shared beginnings are computed once and attended to by all rows,
prompts are laid out right-aligned in one buffer, and the next token is chosen among the `top_k` only.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from helpers.base.compute import one_thread
from helpers.language.engine import attention
from helpers.language.engine.attention import Tokens, beginning, common_length, extend, portions, shared_beginnings
from helpers.language.prompts import Sampling

ROWS = 64  # decoded together: more gain little, and memory grows with them
LARGE = 48  # rows from which a batch keeps a thread of its own busy
BUFFER_BYTES = 1 << 30  # for keys and values of one batch
CHECK = 4  # tokens after which a stopping rule is asked again: often enough to save, rarely enough to cost nothing
GROUP_COST = 16  # computing a group's beginning apart costs about as much as this many tokens

# Which rows go together -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Rows that agree in their first `shared` tokens."""

    rows: tuple[int, ...]
    shared: int


def trunk_of(prompts: Sequence[Tokens]) -> int:
    """Length of the beginning common to all rows, 0 if not worth it; the last token of a row is never part of it."""
    first, last = min(prompts), max(prompts)  # in the order of a dictionary these differ most
    trunk = min(common_length(first, last), *(len(prompt) - 1 for prompt in prompts))
    return trunk if trunk >= GROUP_COST else 0


def groups_of(prompts: Sequence[Tokens]) -> list[Group]:
    """Split rows into groups with a beginning of their own behind the trunk, so that most tokens are saved.

    In the order of a dictionary groups are stretches, and the best split of n rows extends one of fewer.
    """
    trunk = trunk_of(prompts)
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    common = [common_length(prompts[a], prompts[b]) - trunk for a, b in itertools.pairwise(order)]
    saved, begins = [0.0], [0]
    for end in range(1, len(order) + 1):
        best, begin, shared = saved[end - 1], end - 1, math.inf
        for start in range(end - 2, max(end - 1 - ROWS, -1), -1):
            shared = min(shared, common[start])
            if (gain := saved[start] + (end - start - 1) * shared - GROUP_COST) > best:
                best, begin = gain, start
        saved.append(best)
        begins.append(begin)
    groups, end = [], len(order)
    while end:
        rows = tuple(order[begins[end] : end])
        shared = trunk_of([prompts[row] for row in rows]) if len(rows) > 1 else trunk
        groups.append(Group(rows, max(shared, trunk)))
        end = begins[end]
    return groups


def batches_of(prompts: Sequence[Tokens], limit: int, most: int = ROWS) -> list[list[Group]]:
    """Groups, longest first, in batches of at most `most` rows and `limit` places for tokens (or a single group)."""

    def longest(group: Group) -> int:
        return max(len(prompts[row]) for row in group.rows)

    batches: list[list[Group]] = []
    rows = width = 0
    for group in sorted(groups_of(prompts), key=longest, reverse=True):
        rows += len(group.rows)
        if not batches or rows > most or rows * width > limit:
            batches.append([])
            rows, width = len(group.rows), longest(group)
        batches[-1].append(group)
    return batches


# Decoding -------------------------------------------------------------------------------------------------------------


class BufferLayer(DynamicLayer):
    """Keys and values of one layer in a buffer for all tokens to come; nothing is copied to make room."""

    def __init__(self, buffer: Float[Tensor, "2 row head token dim"], end: int) -> None:
        super().__init__()
        self.buffer, self.end = buffer, end

    def update(self, key_states: Tensor, value_states: Tensor, *_arguments, **_options) -> tuple[Tensor, Tensor]:
        """Write new ones behind the last and return all."""
        start, self.end = self.end, self.end + key_states.shape[2]
        self.buffer[0, :, :, start : self.end] = key_states
        self.buffer[1, :, :, start : self.end] = value_states
        return self.buffer[0, :, :, : self.end], self.buffer[1, :, :, : self.end]


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    sampling: Sampling,
    seeds: Sequence[int],
    stop: Set[int],
    done: Callable[[list[int], list[list[int]]], None],
    enough: Callable[[list[int]], bool] | None = None,
) -> None:
    """Continue every prompt until a token of `stop` (not part of the answer) or for `sampling.max_new_tokens`.

    Args:
        seeds: one per prompt; it alone decides the draws of that row.
        done: called with row numbers and their new tokens after each batch.
        enough: asked every `CHECK` tokens whether a row may end with the tokens it has.
    """
    config = model.get_decoder().config
    token_bytes = 2 * config.num_hidden_layers * _kv_size(config)[0] * _kv_size(config)[1] * model.dtype.itemsize
    workers = _workers(model, len(prompts))
    batches = batches_of(prompts, BUFFER_BYTES // token_bytes // workers, min(ROWS, -(-len(prompts) // workers)))
    interrupted, one_at_a_time = threading.Event(), threading.Lock()

    def answer(groups: list[Group]) -> None:
        if interrupted.is_set():
            return
        rows = [row for group in groups for row in group.rows]
        with torch.inference_mode():
            batch = Batch(model, prompts, groups, sampling.max_new_tokens)
            answers = batch.run(sampling, [seeds[row] for row in rows], stop, interrupted, enough)
        with one_at_a_time:
            if interrupted.is_set():
                return
            try:
                done(rows, answers)
            except BaseException:
                interrupted.set()  # before another batch can call `done`
                raise

    with shared_beginnings(model):
        if workers == 1:
            for groups in batches:
                answer(groups)
            return
        with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                list(pool.map(answer, batches))
            finally:
                interrupted.set()  # after an error, or Ctrl-C, the other batches end at their next token
                pool.shutdown(cancel_futures=True)


def _workers(model: PreTrainedModel, rows: int) -> int:
    """How many batches are computed at a time: on a CPU several, with one thread each, where they are large.

    Two batches on a thread each took 0.74 of the time of one after the other on two threads (128 rows, 2 cores),
    but two halves of one batch longer than the whole.
    """
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    return threads if rows >= threads * LARGE else 1


def _kv_size(config) -> tuple[int, int]:
    """Number of key-value heads and their dimension."""
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, dim


class Batch:
    """Rows that are decoded together, their prompts computed but for the last token of each.

    A row's keys and values lie right-aligned in the buffer, so that all rows write their next ones in one column.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Tokens], groups: list[Group], new: int) -> None:
        rows = [row for group in groups for row in group.rows]
        self.model = model
        self.prompts = {row: prompts[row] for row in rows}
        self.trunk = trunk_of([prompts[row] for row in rows])
        self.shared = beginning(model, prompts[rows[0]][: self.trunk])
        self.width = max(len(prompts[row]) for row in rows) - 1 - self.trunk
        config = model.get_decoder().config
        heads, dim = _kv_size(config)
        shape = (config.num_hidden_layers, 2, len(rows), heads, self.width + new, dim)
        self.buffer = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.place = {row: place for place, row in enumerate(rows)}
        for group in _merge_single(groups, self.prompts, self.trunk):
            self._fill(group)

    def _fill(self, group: Group) -> None:
        """Compute the prompts of a group: what they share, then the rest in small batches of similar length."""
        base = beginning(self.model, self.prompts[group.rows[0]][: group.shared])
        for row in group.rows:
            if group.shared > self.trunk:
                self._write(row, self.trunk, base[:, :, 0, :, self.trunk :])
        for some in portions(group.rows, lambda row: len(self.prompts[row]) - 1 - group.shared):
            pieces = [torch.tensor(self.prompts[row][group.shared : -1], dtype=torch.long) for row in some]
            if len(pieces[-1]):
                padded = pad_sequence(pieces, batch_first=True).to(self.model.device)
                computed = extend(self.model, base, padded)
                for index, row in enumerate(some):
                    self._write(row, group.shared, computed[:, :, index, :, : len(pieces[index])])

    def _write(self, row: int, position: int, computed: Float[Tensor, "layer 2 head token dim"]) -> None:
        start = self.width - (len(self.prompts[row]) - 1) + position
        self.buffer[:, :, self.place[row], :, start : start + computed.shape[3]] = computed

    def run(
        self,
        sampling: Sampling,
        seeds: Sequence[int],
        stop: Set[int],
        interrupted: threading.Event,
        enough: Callable[[list[int]], bool] | None = None,
    ) -> list[list[int]]:
        """The new tokens of each row; fewer when `interrupted`."""
        model, device = self.model, self.model.device
        answers: list[list[int]] = [[] for _ in self.prompts]
        alive = list(range(len(answers)))
        tokens = torch.tensor([prompt[-1] for prompt in self.prompts.values()], device=device)
        position = torch.tensor([len(prompt) - 1 for prompt in self.prompts.values()], device=device)
        draws = uniforms(seeds, sampling.max_new_tokens).to(device)
        columns = torch.arange(self.buffer.shape[4], device=device)
        hidden = columns < (self.width + self.trunk - position)[:, None]
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=device)
        mask = mask.masked_fill(hidden, torch.finfo(model.dtype).min)[:, None, None]
        cache = self._cache(self.width, len(alive))
        ended: set[int] = set()
        for step in range(sampling.max_new_tokens):
            logits = model(
                input_ids=tokens[:, None],
                attention_mask=mask[..., : self.width + step + 1],
                position_ids=(position + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                shared=self.shared,
            ).logits[:, -1]
            tokens = choose(logits, sampling, draws[:, step])
            for index, token in enumerate(tokens.tolist()):
                if index in ended or token in stop:
                    ended.add(index)
                else:
                    answers[alive[index]].append(token)
            if enough and step % CHECK == CHECK - 1:
                ended.update(i for i, row in enumerate(alive) if i not in ended and enough(answers[row]))
            if len(ended) == len(alive) or interrupted.is_set():
                break
            if len(ended) * 8 >= len(alive):  # moving rows costs little, but not nothing
                keep = self._compact(ended, len(alive), self.width + step + 1)
                alive = [alive[index] for index in keep]
                tokens, position, draws, mask = (x[keep] for x in (tokens, position, draws, mask))
                cache, ended = self._cache(self.width + step + 1, len(alive)), set()
        return answers

    def _cache(self, end: int, rows: int) -> Cache:
        return Cache(layers=[BufferLayer(layer[:, :rows], end) for layer in self.buffer])

    def _compact(self, ended: set[int], rows: int, end: int) -> list[int]:
        """Move the last rows into the places of ended ones; the rows that are left, in their new order."""
        left = rows - len(ended)
        holes = [index for index in range(left) if index in ended]
        movers = [index for index in range(left, rows) if index not in ended]
        order = list(range(left))
        for hole, mover in zip(holes, movers, strict=True):
            self.buffer[:, :, hole, :, :end] = self.buffer[:, :, mover, :, :end]
            order[hole] = mover
        return order


def _merge_single(groups: list[Group], prompts: Mapping[int, Tokens], trunk: int) -> list[Group]:
    """Rows without a group as one that shares the trunk; a very long one stays apart, to be computed in pieces."""
    several = [group for group in groups if len(group.rows) > 1]
    single = [group.rows[0] for group in groups if len(group.rows) == 1]
    long = [row for row in single if len(prompts[row]) - 1 - trunk > attention.PIECE]
    short = tuple(row for row in single if row not in long)
    several += [Group((row,), len(prompts[row]) - 1) for row in long]
    return [*several, Group(short, trunk)] if short else several


# The next token -------------------------------------------------------------------------------------------------------


def uniforms(seeds: Sequence[int], count: int) -> Float[Tensor, "row step"]:
    """A stream of numbers in [0, 1) for each seed; it does not depend on the other rows nor on `count`."""
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def candidates(
    logits: Float[Tensor, "row token"], sampling: Sampling
) -> tuple[Int[Tensor, "row candidate"], Float[Tensor, "row candidate"]]:
    """The tokens that can be drawn, likeliest first, and their probabilities (0 outside top-p)."""
    count = min(sampling.top_k or logits.shape[1], logits.shape[1])
    values, tokens = logits.float().topk(count, dim=1)
    probabilities = (values / sampling.temperature).softmax(dim=1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return tokens, probabilities / probabilities.sum(dim=1, keepdim=True)


def choose(
    logits: Float[Tensor, "row token"], sampling: Sampling, uniform: Float[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """The next token of each row: the likeliest, or the one at `uniform` of the cumulative distribution."""
    if sampling.greedy:
        return logits.argmax(dim=1)
    tokens, probabilities = candidates(logits, sampling)
    places = (probabilities.cumsum(dim=1) <= uniform[:, None]).sum(dim=1)
    places = torch.minimum(places, (probabilities > 0).sum(dim=1) - 1)  # rounding can leave the sum below `uniform`
    return tokens.gather(1, places[:, None])[:, 0]
