"""A batch of the engine: its prompts computed into one KV cache, then token after token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from helpers.language.engine import attention
from helpers.language.engine.attention import computed_prefix, extend, portions
from helpers.language.engine.grouping import Group, common_prefix
from helpers.language.engine.plain import Growing
from helpers.language.prompts import TokenIds


class BufferLayer(DynamicLayer):
    """Keys and values of one layer in a buffer for all tokens to come; nothing is copied to make room."""

    def __init__(self, buffer: Float[Tensor, "2 row head token dim"], end: int) -> None:
        super().__init__()
        self.buffer, self.end = buffer, end

    def update(self, key_states: Tensor, value_states: Tensor, *_arguments, **_options) -> tuple[Tensor, Tensor]:
        """Append new ones and return all."""
        start, self.end = self.end, self.end + key_states.shape[2]
        self.buffer[0, :, :, start : self.end] = key_states
        self.buffer[1, :, :, start : self.end] = value_states
        return self.buffer[0, :, :, : self.end], self.buffer[1, :, :, : self.end]


def kv_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Layers, key-value heads and their dimension."""
    config = model.get_decoder().config
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, dim


class Batch:
    """Rows that are decoded together, their prompts computed but for the last token of each.

    A row's keys and values are right-aligned in the buffer, so that all rows write their next ones in one column.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[TokenIds], groups: list[Group], new: int) -> None:
        rows = [row for group in groups for row in group.rows]
        self.model = model
        self.prompts = {row: prompts[row] for row in rows}
        self.start = common_prefix([prompts[row] for row in rows])
        self.shared = computed_prefix(model, prompts[rows[0]][: self.start])
        self.width = max(len(prompts[row]) for row in rows) - 1 - self.start
        layers, heads, dim = kv_shape(model)
        shape = (layers, 2, len(rows), heads, self.width + new, dim)
        self.buffer = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.place = {row: place for place, row in enumerate(rows)}
        for group in _merge_single(groups, self.prompts, self.start):
            self._fill(group)

    def _fill(self, group: Group) -> None:
        """Compute the prompts of a group: what they share, then the rest in small batches of similar length."""
        base = computed_prefix(self.model, self.prompts[group.rows[0]][: group.shared])
        for row in group.rows:
            if base is not None and group.shared > self.start:
                self._write(row, self.start, base[:, :, 0, :, self.start :])
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

    def run(self, answers: Growing, new: int, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Let `answers` grow by up to `new` tokens, until all have ended; rows in the order of groups."""
        model, device = self.model, self.model.device
        alive = list(range(len(self.prompts)))
        tokens = torch.tensor([prompt[-1] for prompt in self.prompts.values()], device=device)
        position = torch.tensor([len(prompt) - 1 for prompt in self.prompts.values()], device=device)
        hidden = torch.arange(self.buffer.shape[4], device=device) < (self.width + self.start - position)[:, None]
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=device)
        mask = mask.masked_fill(hidden, torch.finfo(model.dtype).min)[:, None, None]
        cache = self._cache(self.width, len(alive))
        for step in range(new):
            logits = model(
                input_ids=tokens[:, None],
                attention_mask=mask[..., : self.width + step + 1],
                position_ids=(position + step)[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
                shared=self.shared,
            ).logits[:, -1]
            tokens = answers.grow(logits, alive)
            ended = {index for index, row in enumerate(alive) if row in answers.ended}
            if len(ended) == len(alive) or interrupted():
                break
            if len(ended) * 8 >= len(alive):  # moving rows costs little, but not nothing
                keep = self._compact(ended, len(alive), self.width + step + 1)
                alive = [alive[index] for index in keep]
                tokens, position, mask = (x[keep] for x in (tokens, position, mask))
                cache = self._cache(self.width + step + 1, len(alive))

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


def _merge_single(groups: list[Group], prompts: Mapping[int, TokenIds], start: int) -> list[Group]:
    """Rows without a group as one that shares the batch's prefix; a very long one stays apart, computed in pieces."""
    several = [group for group in groups if len(group.rows) > 1]
    single = [group.rows[0] for group in groups if len(group.rows) == 1]
    long = [row for row in single if len(prompts[row]) - 1 - start > attention.PIECE]
    short = tuple(row for row in single if row not in long)
    several += [Group((row,), len(prompts[row]) - 1) for row in long]
    return [*several, Group(short, start)] if short else several
