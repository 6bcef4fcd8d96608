"""Which way of decoding and scoring is correct for a model: found once per architecture, with a short text.

A model's attention can be more than the engine computes, be fixed when the model is built, or not exist at all, and its
class does not say so. So each way has to reproduce the logits of a plain forward pass before it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from helpers.base.storage import CourseError
from helpers.language.engine.attention import shared_prefixes
from helpers.language.engine.batch import Batch
from helpers.language.engine.grouping import Group
from helpers.language.engine.plain import generate_padded
from helpers.language.models import LanguageModel, inner_model
from helpers.language.prompts import TokenIds

PREFIX, TAILS, NEW = 16, (1, 6), 2  # tokens of the texts that are tried: few, since every process tries them once
TOLERANCE = {torch.float32: 5e-4, torch.float64: 5e-4}  # relative error of logits, on average
ROUGH = 0.1  # of those in half precision: eight bits, rounded in another order
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "index_topk")

Logits = Float[Tensor, "row step token"]
Way = Callable[[PreTrainedModel, Sequence[TokenIds]], Logits]


class Forced:
    """Stands in for `Answers`: keeps the logits, and makes each row go on as its text does."""

    def __init__(self, texts: Sequence[TokenIds]) -> None:
        self.new, self.logits = torch.tensor([text[-NEW:] for text in texts]), list[Tensor]()
        self.ended: set[int] = set()

    def grow(self, logits: Float[Tensor, "row token"], rows: list[int]) -> Int[Tensor, " row"]:
        """The token of the text."""
        self.logits.append(logits.clone())
        return self.new[rows, len(self.logits) - 1].to(logits.device)


def _plain(model: PreTrainedModel, texts: Sequence[TokenIds]) -> Logits:
    rows = [model(input_ids=torch.tensor([text], device=model.device)).logits[0] for text in texts]
    return torch.stack([logits[-NEW - 1 : -1] for logits in rows])


def _engine(model: PreTrainedModel, texts: Sequence[TokenIds]) -> Logits:
    forced, prompts = Forced(texts), [text[:-NEW] for text in texts]
    with shared_prefixes(model):
        Batch(model, prompts, [Group(tuple(range(len(prompts))), PREFIX)], NEW).run(forced, NEW)
    return torch.stack(forced.logits, dim=1)


def _left_padded(model: PreTrainedModel, texts: Sequence[TokenIds]) -> Logits:
    forced = Forced(texts)
    generate_padded(model, [text[:-NEW] for text in texts], forced, NEW)
    return torch.stack(forced.logits, dim=1)


def _one_by_one(model: PreTrainedModel, texts: Sequence[TokenIds]) -> Logits:
    return torch.cat([_left_padded(model, [text]) for text in texts])


def _right_padded(model: PreTrainedModel, texts: Sequence[TokenIds]) -> Logits:
    whole = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    logits = model(input_ids=whole.to(model.device)).logits
    return torch.stack([row[len(text) - NEW - 1 : len(text) - 1] for row, text in zip(logits, texts, strict=True)])


WAYS: dict[str, Way] = {
    "engine": _engine,
    "left padding": _left_padded,
    "one by one": _one_by_one,
    "right padding": _right_padded,
}
_verdicts: dict[tuple, bool] = {}


def decoding_way(model: PreTrainedModel, tokens: int) -> str:
    """The fastest correct way to decode texts of so many tokens: `engine`, `left padding` or `one by one`.

    Raises:
        CourseError: none is correct.
    """
    for way in ("engine", "left padding", "one by one"):
        if (way != "engine" or tokens <= window(model)) and is_right(model, way):
            return way
    remedy = "serve it, with vLLM for instance, and ask it through larger_machines.client.ServerBackend"
    raise CourseError(f"{type(model).__name__} cannot be decoded in this process: {remedy}")


def scoring_way(model: PreTrainedModel, tokens: int) -> str:
    """The fastest correct way to score texts of so many tokens after one prompt: `engine`, or a `padding_way`."""
    if tokens <= window(model) and is_right(model, "engine"):
        return "engine"
    return padding_way(model)


def padding_way(model: PreTrainedModel) -> str:
    """The fastest correct way to score texts after different prompts: `right padding`, or `one by one`."""
    return "right padding" if is_right(model, "right padding") else "one by one"


def window(model: LanguageModel) -> float:
    """In a text of so many tokens every token sees all earlier ones, as the engine has it; infinite without a limit."""
    config = model.config.get_text_config(decoder=True)
    widths = [getattr(config, name, None) for name in WINDOWS]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":  # beyond, rotations depend on the longest text of a batch
        widths.append(rope.get("original_max_position_embeddings"))
    return min((width for width in widths if isinstance(width, int) and width > 0), default=float("inf"))


@torch.no_grad()
def is_right(model: PreTrainedModel, way: str) -> bool:
    """Whether a way reproduces the model's own logits; tested once per process for each architecture."""
    base = inner_model(model)
    key = (
        way,
        type(base),
        base.config.to_json_string(),
        base.config._attn_implementation,
        base.dtype,
        base.device.type,
    )
    if key not in _verdicts:
        with _bare(model):
            _verdicts[key] = bool(_error(model, WAYS[way]) < TOLERANCE.get(model.dtype, ROUGH))
    return _verdicts[key]


def _error(model: PreTrainedModel, way: Way) -> float:
    """Mean relative error of the logits of a next token; infinite if the way fails."""
    generator = torch.Generator().manual_seed(0)
    size = model.config.get_text_config(decoder=True).vocab_size
    prefix, *tails = (
        torch.randint(size, (count,), generator=generator).tolist() for count in (PREFIX, *(n + NEW for n in TAILS))
    )
    texts = [(*prefix, *tail) for tail in tails]
    expected = _plain(model, texts).float()
    try:
        found = way(model, texts).float()
    except Exception:  # whatever a model raises when it is called in a way that it does not support
        return float("inf")
    expected = expected - expected.mean(dim=2, keepdim=True)
    error = (found - found.mean(dim=2, keepdim=True) - expected).norm(dim=2) / expected.norm(dim=2)
    return error.nan_to_num(float("inf")).mean().item()


@contextlib.contextmanager
def _bare(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and without hooks: what they do to states may depend on which tokens a forward pass holds."""
    modules = [(module, module.training, module._forward_hooks) for module in model.modules()]
    for module, _, hooks in modules:
        module.training, module._forward_hooks = False, type(hooks)()
    try:
        yield
    finally:
        for module, training, hooks in modules:
            module.training, module._forward_hooks = training, hooks
