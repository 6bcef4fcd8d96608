"""Attention to a prefix that all rows share, and a KV cache of the prefixes of earlier prompts.

The texts of a batch stand in rows of their own behind a computed prefix (decoding), or all in one row with the prefix
in front (hidden states and training, where the prefix has gradients too).
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from helpers.language.models import LanguageModel
from helpers.language.prompts import TokenIds

KeysValues = Float[Tensor, "layer 2 _row #kv _token dim"]
"""Of a prefix (one row) or of what follows it, which have rows and tokens of their own; one head may serve all."""

PIECE = 512  # tokens computed at once: matrix products gain nothing beyond, scores of attention grow
REMEMBERED = 4096  # tokens of prefixes kept per model
HARMLESS = {"cache_position", "dropout", "position_ids", "return_dict", "use_cache"}
HARMLESS |= {"sliding_window"}  # no text gets here that is longer than the window


class UnfitError(Exception):
    """This attention does not compute what the model asks for."""


class Packed(NamedTuple):
    """Where texts stand that share one row: their common prefix first, then the rest of each.

    Attributes:
        prefix: tokens of the prefix.
        places: column of every token after the prefix, one row per text, filled up at the end with any column.
        order: for each column behind the prefix, which of `places`, flattened, stands there.
    """

    prefix: int
    places: Int[Tensor, "text place"]
    order: Int[Tensor, " column"]


def shared_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "row head query dim"],
    key: Float[Tensor, "row kv key dim"],
    value: Float[Tensor, "row kv key dim"],
    attention_mask: Float[Tensor, "#row 1 query key"] | None,
    scaling: float | None = None,
    shared: KeysValues | None = None,
    packed: Packed | None = None,
    **options,
) -> tuple[Float[Tensor, "row query head dim"], None]:
    """Attention to the keys of a prefix that all rows share (no mask) and to the row's own keys (added mask).

    With `packed` there is one row, and its mask is not needed: every text sees the prefix and itself.

    Raises:
        UnfitError: the model wants more of its attention, such as a cap on scores (Gemma 2) or sinks (gpt-oss).
    """
    unknown = {name for name, option in options.items() if option is not None and not name.startswith("output_")}
    if unknown := unknown - HARMLESS:
        raise UnfitError(f"attention with {', '.join(sorted(unknown))}")
    scaling = scaling or query.shape[-1] ** -0.5
    if packed is not None:
        return _packed_attention(query, key, value, scaling, packed), None
    if shared is None and attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, **options)
    if shared is None:
        return _attention(query, key, value, scaling, attention_mask), None
    layer = module.layer_idx
    assert isinstance(layer, int)
    return _attention(query, key, value, scaling, attention_mask, *shared[layer, :, 0]), None


def _packed_attention(
    query: Float[Tensor, "1 head query dim"],
    key: Float[Tensor, "1 kv key dim"],
    value: Float[Tensor, "1 kv key dim"],
    scaling: float,
    packed: Packed,
) -> Float[Tensor, "1 query head dim"]:
    """Attention inside the prefix, and of every text to the prefix and to itself: no score of two texts is computed."""
    q, k, v = (part[:, :, : packed.prefix] for part in (query, key, value))
    found = []
    if packed.prefix:
        found.append(_attention(q, k, v, scaling, causal_mask(packed.prefix, query.dtype, query.device)))
    if len(packed.order):
        own_q, own_k, own_v = (part[0, :, packed.places].transpose(0, 1) for part in (query, key, value))
        mask = causal_mask(packed.places.shape[1], query.dtype, query.device)  # fillers come last: nothing sees them
        prefix = (k[0], v[0]) if packed.prefix else ()
        texts = _attention(own_q, own_k, own_v, scaling, mask, *prefix)
        found.append(texts.flatten(0, 1)[None, packed.order])
    return torch.cat(found, dim=1)


def _attention(
    query: Float[Tensor, "row head query dim"],
    key: Float[Tensor, "row kv key dim"],
    value: Float[Tensor, "row kv key dim"],
    scaling: float,
    mask: Float[Tensor, "#row 1 query key"] | None,
    common_key: Float[Tensor, "kv common dim"] | None = None,
    common_value: Float[Tensor, "kv common dim"] | None = None,
) -> Float[Tensor, "row query head dim"]:
    """Attention to common keys and to the row's own.

    Heads that use the same keys are stacked, so that neither keys nor values are copied for each of them.
    """
    rows, heads, queries, dim = query.shape
    kv = key.shape[1]
    stacked = (query * scaling).reshape(rows, kv, -1, dim)
    scores = stacked @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.view(rows, kv, -1, queries, key.shape[2]) + mask[:, :, None]
        scores = scores.view(rows, kv, -1, key.shape[2])
    if common_key is None or common_value is None:
        mixed = _softmax(scores) @ value
    else:
        flat = stacked.transpose(0, 1).reshape(kv, -1, dim)  # one product for all rows
        common = (flat @ common_key.transpose(1, 2)).view(kv, rows, -1, common_key.shape[1]).transpose(0, 1)
        weights = _softmax(torch.cat([common, scores], dim=-1))
        common, own = weights.split([common.shape[-1], scores.shape[-1]], dim=-1)
        mixed = own @ value
        flat = common.transpose(0, 1).reshape(kv, -1, common_key.shape[1])
        mixed = mixed + (flat @ common_value).view(kv, rows, -1, dim).transpose(0, 1)
    return mixed.reshape(rows, heads, queries, dim).transpose(1, 2).contiguous()


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)


AttentionInterface.register("shared", shared_attention)

_access = threading.Lock()  # batches that are computed at the same time share models and the memory of prefixes
_inside: dict[int, tuple[int, str]] = {}  # by configuration: passes under way, and the attention outside of them


@contextlib.contextmanager
def shared_prefixes(model: LanguageModel) -> Iterator[None]:
    """A context in which the model attends with `shared_attention`; threads may be inside at the same time."""
    config = model.get_decoder().config
    with _access:
        inside, before = _inside.get(id(config), (0, config._attn_implementation))
        _inside[id(config)] = inside + 1, before
        config._attn_implementation = "shared"
    try:
        yield
    finally:
        with _access:
            inside, before = _inside.pop(id(config))
            if inside > 1:
                _inside[id(config)] = inside - 1, before
            else:
                config._attn_implementation = before


def causal_mask(queries: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 1 query query"]:
    """What to add to scores, so that no token sees a later one."""
    return torch.full((1, 1, queries, queries), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)


def extend(model: PreTrainedModel, shared: KeysValues | None, tokens: Int[Tensor, "row token"]) -> KeysValues:
    """Keys and values of tokens that follow the prefix of all rows; rows may be padded on the right."""
    start = 0 if shared is None else shared.shape[4]
    queries = tokens.shape[1]
    cache = DynamicCache()
    model.get_decoder()(
        input_ids=tokens,
        attention_mask=None if shared is None else causal_mask(queries, shared.dtype, shared.device),
        position_ids=torch.arange(start, start + queries, device=tokens.device)[None],
        past_key_values=cache,
        use_cache=True,
        shared=shared,
    )
    layers = cast(list[DynamicLayer], cache.layers)  # such a cache makes no others, and the pass has filled all
    return torch.stack([torch.stack(cast(list[Tensor], [layer.keys, layer.values])) for layer in layers])


# Prefixes of earlier prompts ------------------------------------------------------------------------------------------


_prefixes: WeakKeyDictionary[PreTrainedModel, tuple[tuple, OrderedDict[TokenIds, KeysValues]]]
_prefixes = WeakKeyDictionary()


def computed_prefix(model: PreTrainedModel, tokens: TokenIds) -> KeysValues | None:
    """Keys and values of the prefix of a prompt; None if it is empty.

    The last ones are kept while the model stays the same: most prompts of one program begin alike.
    """
    if not tokens:
        return None
    with _access:
        memory = _memory(model)
        known, shared = 0, None
        for others, computed in memory.items():
            common = common_length(tokens, others)
            if common > known:
                known, shared, source = common, computed[..., :common, :], others
        if known:
            memory.move_to_end(source)
    if known == len(tokens):
        return shared
    for start in range(known, len(tokens), PIECE):
        piece = torch.tensor([tokens[start : start + PIECE]], device=model.device)
        new = extend(model, shared, piece)
        shared = new if shared is None else torch.cat([shared, new], dim=4)
    with _access:
        memory[tokens] = cast(Tensor, shared)  # there are tokens, so it is no longer None
        while len(memory) > 1 and sum(map(len, memory)) > REMEMBERED:
            memory.popitem(last=False)
    return shared


def forget_prefixes() -> None:
    """Forget all prefixes, as after an edit of a model that no one can see, or before timing."""
    _prefixes.clear()


def _memory(model: PreTrainedModel) -> OrderedDict[TokenIds, KeysValues]:
    """Prefixes remembered for the model as it is now; a new, temporary memory if its state cannot be determined."""
    state = None if needs_gradient(model) else _state(model)
    if state is None:
        return OrderedDict()
    if model not in _prefixes or _prefixes[model][0] != state:
        _prefixes[model] = (state, OrderedDict())
    return _prefixes[model][1]


def needs_gradient(model: PreTrainedModel) -> bool:
    """Whether what is computed now may be differentiated later."""
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())


def _state(model: PreTrainedModel) -> tuple | None:
    """Changes whenever weights do; None with hooks or adapters, which can change the model unseen."""
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks or type(module).__module__.startswith("peft"):
            return None
    samples = [p.detach().flatten()[:: max(1, p.numel() // 64)] for p in model.parameters()]
    # Versions count edits in place; edits through `.data` are not counted, but show in a sample of the numbers.
    versions = tuple((p.data_ptr(), p._version) for p in model.parameters())
    return versions, torch.cat([sample.double() for sample in samples]).cpu().numpy().tobytes()


def common_length(first: TokenIds, second: TokenIds) -> int:
    """How many tokens two sequences have in common at their start."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def portions(rows: Iterable[int], length: Callable[[int], int]) -> Iterator[list[int]]:
    """Rows in portions of similar length, each at most `PIECE` tokens when padded (or one longer row)."""
    some: list[int] = []
    for row in sorted(rows, key=length):
        if some and (len(some) + 1) * length(row) > PIECE:
            yield some
            some = []
        some.append(row)
    if some:
        yield some
