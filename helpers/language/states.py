"""Hidden states of a language model for a text, after chosen blocks and at its last tokens.

R(x) of Zhang et al. 2024 (section 3.1) is the hidden states of some layers at the last token of the prompt. Here a
read-out may take several last tokens, so that it can include the beginning of an answer.

Three things make reading cheap. The forward pass ends after the deepest block that is read. The prefix that texts have
in common is computed once, with gradients where there are any (`in_one_row`). And when an adapter changes only the
blocks from some depth on, the states below it never change: `states_below` computes them once, and every later pass
starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from helpers.base.storage import CourseError
from helpers.language.engine.attention import PIECE, Packed, common_length, shared_prefixes
from helpers.language.engine.fitting import window
from helpers.language.engine.plain import left_padded
from helpers.language.models import LanguageModel

TokenSequence = Sequence[int]
READ_BATCH = 32


@dataclass(frozen=True)
class ReadOut:
    """Where hidden states are read.

    Attributes:
        layers: numbers of blocks, whose outputs are taken; 1 is the first, -1 the last.
        positions: how many of the last tokens; 1 is the last token alone.

    Raises:
        ValueError: no layer, a layer 0, or no position.
    """

    layers: tuple[int, ...]
    positions: int = 1

    def __post_init__(self) -> None:
        if not self.layers or 0 in self.layers or self.positions < 1:
            raise ValueError(f"layers {self.layers}, {self.positions} positions: name blocks from 1 on, and 1 or more")

    def of(self, model: LanguageModel) -> tuple[int, ...]:
        """The layers of a model, counted from 1.

        Raises:
            ValueError: the model has fewer blocks.
        """
        depth = len(blocks(model))
        unknown = [layer for layer in self.layers if not -depth <= layer <= depth]
        if unknown:
            raise ValueError(f"no layer {unknown[0]}: the model has {depth} blocks, 1 to {depth} or -1 to -{depth}")
        return tuple(layer if layer > 0 else depth + 1 + layer for layer in self.layers)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The transformer blocks of a decoder-only model, also inside an adapter.

    Raises:
        ValueError: the model has no list of as many modules as its configuration says.
    """
    depth = cast(PreTrainedModel, model).config.get_text_config().num_hidden_layers  # an adapter hands it on
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"no list of {depth} blocks in {type(model).__name__}: choose a decoder-only model")


def as_deep(model: nn.Module, *layers: int) -> tuple[int, ...]:
    """The blocks that stand as deep in a model as these do in SmolLM2, which has 30; each once, in order.

    Raises:
        ValueError: as `blocks`.
    """
    depth = len(blocks(model))
    return tuple(sorted({max(1, round(layer * depth / 30)) for layer in layers}))


class Below(NamedTuple):
    """States of some texts after the first `depth` blocks, of shape (token, dim) each."""

    depth: int
    states: list[Float[Tensor, "_ dim"]]

    def of(self, rows: Sequence[int]) -> Below:
        """The same for some of the texts."""
        return Below(self.depth, [self.states[row] for row in rows])


def padded(
    texts: Sequence[TokenSequence], device: torch.device
) -> tuple[Int[Tensor, "text token"], Bool[Tensor, "text token"]]:
    """Token numbers with padding on the left, and which of them are real.

    Raises:
        ValueError: no text, or an empty one.
    """
    _refuse_empty(texts)
    ids, real = left_padded(texts)
    return ids.to(device), real.to(device).bool()


def _refuse_empty(texts: Sequence[TokenSequence]) -> None:
    if not len(texts) or not all(map(len, texts)):
        raise ValueError("no text, or a text without tokens: give one or more, each with tokens")


def inputs_of(ids: Int[Tensor, "text token"], real: Bool[Tensor, "text token"]) -> dict:
    """Arguments of a model for padded texts."""
    position = (real.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": real.long(), "position_ids": position, "use_cache": False}


class Layout(NamedTuple):
    """Some texts as inputs of a model, and the place of each of their tokens in its outputs.

    Attributes:
        inputs: arguments of the model.
        rows, columns: for every text the row of the batch, and the columns of its tokens.
    """

    inputs: dict
    rows: list[int]
    columns: list[Int[Tensor, " _"]]

    def last(self, states: Float[Tensor, "row column dim"], counts: Sequence[int]) -> list[Float[Tensor, "_ dim"]]:
        """States of the last tokens of every text, as many as are asked for."""
        places = zip(self.rows, self.columns, counts, strict=True)
        return [states[row, columns[-count:]] for row, columns, count in places]

    def attended(self, model: LanguageModel) -> AbstractContextManager[None]:
        """A context for a pass: texts in one row need an attention that keeps them apart."""
        return shared_prefixes(model) if "packed" in self.inputs else nullcontext()

    def put(self, known: Sequence[Float[Tensor, "_ dim"]]) -> Float[Tensor, "row column dim"]:
        """States of every text, laid out as the model gets its tokens."""
        states = known[0].new_zeros(*self.inputs["input_ids"].shape, known[0].shape[1])
        for row, columns, state in zip(self.rows, self.columns, known, strict=True):
            states[row, columns] = state
        return states


def in_rows(texts: Sequence[TokenSequence], model: LanguageModel) -> Layout:
    """One row per text, padded on the left."""
    ids, real = padded(texts, model.device)
    return Layout(inputs_of(ids, real), list(range(len(texts))), [row.nonzero()[:, 0] for row in real])


def in_one_row(texts: Sequence[TokenSequence], model: LanguageModel) -> Layout:
    """All texts in one row: their common prefix once, then what is left of each, which sees the prefix and itself."""
    _refuse_empty(texts)
    shared = _shared(texts)
    own = [range(len(text) - shared) for text in texts]
    ids = [*texts[0][:shared], *(token for text in texts for token in text[shared:])]
    position = torch.tensor([*range(shared), *(shared + place for places in own for place in places)])
    columns = list(torch.arange(shared, len(ids)).split([len(places) for places in own]))
    inputs = {
        "input_ids": torch.tensor([ids], device=model.device),
        "position_ids": position[None].to(model.device),
        "use_cache": False,
        "packed": _packed(shared, columns, model.device),
    }
    return Layout(inputs, [0] * len(texts), [torch.cat([torch.arange(shared), own]) for own in columns])


def _packed(shared: int, columns: list[Int[Tensor, " _"]], device: torch.device) -> Packed:
    places = pad_sequence(columns, batch_first=True)
    real = torch.arange(places.shape[1]) < torch.tensor([len(own) for own in columns])[:, None]
    return Packed(shared, places.to(device), real.flatten().nonzero()[:, 0].to(device))


Arrange = Callable[[Sequence[TokenSequence], LanguageModel], Layout]
_arranged: WeakKeyDictionary[nn.Module, Arrange] = WeakKeyDictionary()


def layout_of(texts: Sequence[TokenSequence], model: LanguageModel) -> Layout:
    """Texts in the cheapest layout in which this model's states of a text do not depend on the others.

    Which layout that is, is tried once per model on two short texts.

    Raises:
        ValueError: no text, or an empty one.
        CourseError: there is none.
    """
    if model not in _arranged:
        _arranged[model] = _tried(model)
    width = max(map(len, texts), default=0)
    # Behind one prefix, all scores of a text's attention are in memory at once.
    return _arranged[model](texts, model) if width <= min(PIECE, window(model)) else in_rows(texts, model)


def _shared(texts: Sequence[TokenSequence]) -> int:
    """Length of the common prefix."""
    return common_length(tuple(min(map(tuple, texts))), tuple(max(map(tuple, texts))))


@torch.no_grad()
def _tried(model: LanguageModel) -> Arrange:
    size = model.config.get_text_config().vocab_size
    texts = [[number % size for number in text] for text in ((11, 7, 5, 3, 13), (11, 7, 17))]

    def states(layout: Layout) -> Float[Tensor, "text dim"]:
        with layout.attended(model):
            found = model.get_decoder()(**layout.inputs).last_hidden_state
        return torch.cat(layout.last(found, [1] * len(layout.rows))).float()

    alone = torch.cat([states(in_rows([text], model)) for text in texts])
    for arrange in (in_one_row, in_rows):
        try:
            error = (states(arrange(texts, model)) - alone).norm() / alone.norm()
        except Exception:  # a model may refuse a mask in many ways
            continue
        if not error > (1e-3 if model.dtype == torch.float32 else 0.1):  # the callers refuse values that are not finite
            return arrange
    raise CourseError(f"{type(model).__name__} reads a text differently in a batch: choose a model with attention only")


def read(
    model: LanguageModel,
    texts: Sequence[TokenSequence],
    at: ReadOut,
    below: Below | None = None,
    places: Sequence[int] | None = None,
) -> Float[Tensor, "text layer position dim"]:
    """Hidden states of a batch of texts in float32, with gradients where the model has any.

    Args:
        below: what `states_below` gave for these very texts; the pass starts from there.
        places: for each text how many of its last tokens an answer is predicted from; the first `at.positions` of
            them are read. Not given, the text ends where the read-out ends.

    Raises:
        ValueError: an unknown layer, a text with fewer tokens than positions, or states from above the read-out.
    """
    layers, places = at.of(model), _checked(model, texts, at, places, below)
    states, layout = _pass(model, texts, layers, below)
    return _first_of(states, layout, layers, places, at.positions)


def read_along(
    model: LanguageModel, texts: Sequence[TokenSequence], at: ReadOut, places: Sequence[int], below: Below | None = None
) -> tuple[Float[Tensor, "text layer position dim"], list[Float[Tensor, "place dim"]]]:
    """What `read` gives, and from the same pass what the output weights see at all places of each text.

    Raises:
        ValueError: as `read`.
    """
    layers, places, depth = at.of(model), _checked(model, texts, at, places, below), len(blocks(model))
    states, layout = _pass(model, texts, (*layers, depth), below)
    last = layout.last(states[depth], places)
    done = finished(model, torch.cat(last))
    return _first_of(states, layout, layers, places, at.positions), list(done.split([len(part) for part in last]))


def _checked(
    model: LanguageModel, texts: Sequence[TokenSequence], at: ReadOut, places: Sequence[int] | None, below: Below | None
) -> Sequence[int]:
    """The places of each text, where they are enough for the read-out, and `below` lies below it."""
    places = [at.positions] * len(texts) if places is None else places
    if min((min(len(text), n) for text, n in zip(texts, places, strict=True)), default=0) < at.positions:
        raise ValueError(f"a text has fewer than {at.positions} tokens: read fewer positions")
    if below and below.depth >= min(at.of(model)):
        raise ValueError(f"states after block {below.depth} cannot start a read-out of block {min(at.of(model))}")
    return places


def _first_of(
    states: dict[int, Float[Tensor, "row column dim"]],
    layout: Layout,
    layers: Sequence[int],
    places: Sequence[int],
    positions: int,
) -> Float[Tensor, "text layer position dim"]:
    """States of some layers at the first of the places of each text."""
    found = [torch.stack([own[:positions] for own in layout.last(states[layer], places)]) for layer in layers]
    return torch.stack(found, dim=1).float()


def read_all(
    model: LanguageModel,
    texts: Sequence[TokenSequence],
    at: ReadOut,
    below: Below | None = None,
    *,
    places: Sequence[int] | None = None,
    batch: int = READ_BATCH,
    progress: bool = False,
) -> Float[Tensor, "text layer position dim"]:
    """Hidden states of many texts without gradients, in batches of similar length; arguments as for `read`."""

    def states(rows: list[int]) -> Float[Tensor, "row layer position dim"]:
        own = None if places is None else [places[row] for row in rows]
        return read(model, [texts[row] for row in rows], at, below and below.of(rows), own)

    return torch.stack(in_batches(texts, batch, states, progress))


def states_below(model: LanguageModel, texts: Sequence[TokenSequence], depth: int) -> Below:
    """States after the first `depth` blocks; worth keeping only while these blocks do not change.

    Raises:
        ValueError: no such depth.
    """
    (layer,) = ReadOut((depth,)).of(model)

    def whole(rows: list[int]) -> list[Float[Tensor, "_ dim"]]:
        states, layout = _pass(model, [texts[row] for row in rows], (layer,))
        return layout.last(states[layer], [len(texts[row]) for row in rows])

    return Below(layer, in_batches(texts, READ_BATCH, whole))


def batches(texts: Sequence[TokenSequence], size: int) -> list[list[int]]:
    """Row numbers in batches of similar length, so that little is padding."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    return [order[first : first + size] for first in range(0, len(order), size)]


@torch.no_grad()
def in_batches(
    texts: Sequence[TokenSequence], size: int, of_rows: Callable[[list[int]], Iterable], progress: bool = False
) -> list:
    """What `of_rows` finds for each text, in their order; it gets row numbers in batches of similar length."""
    found: dict[int, Any] = {}
    for rows in tqdm(batches(texts, size), desc="hidden states", disable=not progress, leave=False):
        found.update(zip(rows, of_rows(rows), strict=True))
    return [found[row] for row in range(len(texts))]


class _Reached(Exception):
    """Ends a forward pass that has computed all that is needed."""


def _pass(
    model: LanguageModel, texts: Sequence[TokenSequence], layers: Sequence[int], below: Below | None = None
) -> tuple[dict[int, Float[Tensor, "row column dim"]], Layout]:
    """Outputs of some blocks; the pass begins after `below` and ends after the deepest of them."""
    layout, stack, states = layout_of(texts, model), blocks(model), {}

    def keep(layer: int):
        def hook(_module, _inputs, output) -> None:
            states[layer] = output if isinstance(output, Tensor) else output[0]
            if layer == max(layers):
                raise _Reached

        return hook

    with ExitStack() as exits:
        exits.enter_context(_skipping(model, below and below.depth, below and layout.put(below.states)))
        for layer in set(layers):
            exits.callback(stack[layer - 1].register_forward_hook(keep(layer)).remove)
        exits.enter_context(layout.attended(model))
        try:
            model(**layout.inputs)
        except _Reached:
            return states, layout
    raise RuntimeError("the forward pass ended without reaching the deepest layer")


def ending_states(
    model: LanguageModel, texts: Sequence[TokenSequence], counts: Sequence[int], below: Below | None = None
) -> list[Float[Tensor, "_ dim"]]:
    """What the output weights see at the last tokens of each text, as many as are asked for, with gradients.

    Args:
        below: as for `read`.

    Raises:
        ValueError: no text, or an empty one.
    """
    layout = layout_of(texts, model)
    with layout.attended(model), _skipping(model, below and below.depth, below and layout.put(below.states)):
        return layout.last(model.get_decoder()(**layout.inputs).last_hidden_state, counts)


@contextmanager
def started_from(model: LanguageModel, below: Below | None, width: int) -> Iterator[None]:
    """Inside the block, forward passes of texts padded on the left to `width` begin after the known states."""
    start = below and torch.stack([nn.functional.pad(state, (0, 0, width - len(state), 0)) for state in below.states])
    with _skipping(model, below and below.depth, start):
        yield


@contextmanager
def _skipping(model: LanguageModel, depth: int | None, start: Float[Tensor, "row column dim"] | None) -> Iterator[None]:
    """Inside the block, the first blocks are not computed: the states after them are these."""
    skipped = blocks(model)[: depth or 0]
    for block in skipped:
        block.forward = lambda *_args, **_kwargs: start
    try:
        yield
    finally:
        for block in skipped:
            del block.forward  # the method of its class again


@contextmanager
def recomputed(model: LanguageModel) -> Iterator[None]:
    """A context for training passes with gradient checkpointing (Chen et al. 2016): only the input of a block is kept.

    That takes less memory and about a third more time, and gives the same gradients: only the blocks are put into
    training mode, so dropout stays off.

    Raises:
        ValueError: the model's blocks cannot be recomputed.
    """
    model.activation_checkpointing_enable({"use_reentrant": False})  # the other way needs inputs with gradients
    were = [block.training for block in blocks(model)]
    for block in blocks(model):
        block.training = True
    try:
        with shared_prefixes(model):  # blocks run again in the backward pass, with the attention of the first time
            yield
    finally:
        for block, training in zip(blocks(model), were, strict=True):
            block.training = training
        model.activation_checkpointing_disable()
        model.disable_input_require_grads()


@contextmanager
def changed(model: LanguageModel, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the states after one of the model's blocks are what `change` makes of them.

    Patching puts the states of another text in their place; steering adds a direction.

    Raises:
        ValueError: an unknown layer.
    """
    (number,) = ReadOut((layer,)).of(model)

    def hook(_module, _inputs, output):
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    handle = blocks(model)[number - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# What a state says -------------------------------------------------------------------------------------------------


def finished(model: LanguageModel, states: Float[Tensor, "text dim"]) -> Float[Tensor, "text dim"]:
    """Inputs of the output weights if the model ended with these states: all blocks are skipped, only the
    final norm is applied.

    Raises:
        ValueError: no state.
    """
    if not len(states):
        raise ValueError("no state: give one or more")
    below = Below(len(blocks(model)), [state[None] for state in states.to(model.device, model.dtype)])
    ids = torch.zeros(len(states), 1, dtype=torch.long, device=model.device)
    with started_from(model, below, 1):
        return model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, 0]


class _Given(BaseModelOutputWithPast):
    """The output of a decoder with these last states; all other fields are None."""

    def __getattr__(self, _name: str) -> None:
        return None


def log_probs_of(model: LanguageModel, states: Float[Tensor, "place dim"]) -> Float[Tensor, "place token"]:
    """Log-probabilities of the next token from the last states of a model, in float32, by the model's own head.

    The whole model runs, except its decoder: some models scale or cap their logits. Only at the places that count, and
    as one row: with padding, `logits_to_keep` makes torch copy the whole matrix of output weights for every text.
    """
    decoder, ids = model.get_decoder(), torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    decoder.forward = lambda *_args, **_kwargs: _Given(last_hidden_state=states[None])
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        del decoder.forward  # the method of its class again
    return logits.float().log_softmax(dim=-1)


@torch.no_grad()
def logit_lens(model: LanguageModel, states: Float[Tensor, "text dim"]) -> Float[Tensor, "text token"]:
    """Log-probabilities of the next token if the model ended with these states (nostalgebraist 2020).

    With states of the last block these are the model's own log-probabilities.

    Raises:
        ValueError: no state.
    """
    return log_probs_of(model, finished(model, states))


# Probes ------------------------------------------------------------------------------------------------------------


def fit_probe(
    positive: Float[np.ndarray, "positive dim"], negative: Float[np.ndarray, "negative dim"], strength: float = 0.01
) -> Pipeline:
    """A linear probe: can a plane tell the two kinds of states apart? Logistic regression on standardised states.

    Both kinds have the same weight, however many there are of each.

    Args:
        strength: inverse of the L2 penalty; states have more dimensions than there are texts.

    Raises:
        ValueError: one of the two is empty, or a state is not finite.
    """
    if not len(positive) or not len(negative):
        raise ValueError(f"{len(positive)} positive and {len(negative)} negative states: a probe needs some of both")
    states = np.concatenate([positive, negative])
    if not np.isfinite(states).all():
        raise ValueError("a hidden state is not finite: load the model in float32 or bfloat16")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500, class_weight="balanced"))
    return probe.fit(states, np.repeat([1, 0], [len(positive), len(negative)]))


def probe_accuracy(
    probe: Pipeline, positive: Float[np.ndarray, "positive dim"], negative: Float[np.ndarray, "negative dim"]
) -> float:
    """Balanced accuracy of a probe: share of states on their side of the plane, averaged over both kinds."""
    return float((probe.predict(positive).mean() + 1 - probe.predict(negative).mean()) / 2)
