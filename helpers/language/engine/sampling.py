"""The next token of each row, and the answers that grow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.language.prompts import Sampling

CHECK = 4  # tokens after which a stopping rule is asked again: often enough to save, rarely enough to cost nothing


class Answers:
    """The answers of a batch as they grow: `tokens` of each row, and the rows that have `ended`.

    Args:
        seeds: one per row; it alone decides the draws of that row.
        end: tokens that end an answer, and are not part of it.
        enough: asked every `CHECK` tokens whether a row may end with the tokens it has.
    """

    def __init__(
        self,
        sampling: Sampling,
        seeds: Sequence[int],
        end: Set[int] = frozenset(),
        enough: Callable[[list[int]], bool] | None = None,
    ) -> None:
        self.sampling, self.end, self.enough = sampling, end, enough
        self.draws = uniforms(seeds, sampling.max_new_tokens)
        self.tokens: list[list[int]] = [[] for _ in seeds]
        self.ended: set[int] = set()
        self.steps = 0

    def grow(self, logits: Float[Tensor, "row token"], rows: list[int]) -> Int[Tensor, " row"]:
        """Choose the next token of these rows; a row that has ended gets one that does not count."""
        chosen = next_tokens(logits, self.sampling, self.draws[rows, self.steps].to(logits.device))
        self.steps += 1
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row in self.ended or token in self.end:
                self.ended.add(row)
            else:
                self.tokens[row].append(token)
        if self.enough and self.steps % CHECK == 0:
            self.ended.update(row for row in rows if row not in self.ended and self.enough(self.tokens[row]))
        return chosen


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


def next_tokens(
    logits: Float[Tensor, "row token"], sampling: Sampling, uniform: Float[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """The next token of each row: the likeliest, or the one at `uniform` of the cumulative distribution."""
    if sampling.greedy:
        return logits.argmax(dim=1)
    tokens, probabilities = candidates(logits, sampling)
    places = (probabilities.cumsum(dim=1) <= uniform[:, None]).sum(dim=1)
    places = torch.minimum(places, (probabilities > 0).sum(dim=1) - 1)  # rounding can leave the sum below `uniform`
    return tokens.gather(1, places[:, None])[:, 0]
