"""What a larger model needs, before anything is downloaded: weights, KV cache and operations, from its config.

- A weight takes 2 bytes in bfloat16. Keys and values of one token: two vectors per layer and KV head.
- A forward pass takes 2 operations per weight and token, and attention 4 per head, dimension and token attended to.
- No run is shorter than its operations at the speed of the data sheet, nor than reading all weights once for each new
  token of each batch (`least_hours`). Real runs take a few times as long: measure before you buy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from transformers import PreTrainedConfig

BYTES = 2  # of a number in bfloat16
FILLED = 0.9  # share of the memory that may be used, since allocators need the rest
SPEED, BANDWIDTH, MEMORY = 989e12, 3.35e12, 80e9  # NVIDIA's H100 (SXM): dense bfloat16 FLOPs/s, bytes/s, bytes
# Tokens of one rewrite: prompt shared with all others, own prompt, and new ones. Means over the course's prompts with
# SmolLM2's tokenizer; other tokenizers differ by about a tenth.
SHARED, OWN, NEW_TOKENS = 266, 59, 38


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only transformer with a gated MLP. Norms and biases, a ten-thousandth, are left out."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = True

    @property
    def block(self) -> int:
        """Weights of one block."""
        return self.hidden * (2 * self.head_dim * (self.heads + self.kv_heads) + 3 * self.intermediate)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layers * self.block + self.vocab * self.hidden * (1 if self.tied else 2)

    def kv_bytes(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES

    def flops(self, tokens: float, attended: float) -> float:
        """FLOPs of a forward pass through the blocks, with each token attending to `attended` tokens."""
        return tokens * self.layers * (2 * self.block + 4 * self.heads * self.head_dim * attended)

    def output_flops(self, tokens: float) -> float:
        """FLOPs of the output weights, for tokens after which another is sampled."""
        return 2 * tokens * self.vocab * self.hidden


# Public configurations. Of Gemma 3 12B only the text model, without the 0.4 billion weights of the vision encoder.
SHAPES = (
    Shape("SmolLM2-1.7B", 2048, 24, 32, 32, 64, 8192, 49152),
    Shape("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256, tied=False),
    Shape("Gemma-3-12B", 3840, 48, 16, 8, 256, 15360, 262208),
    Shape("Llama-3.1-70B", 8192, 80, 64, 8, 128, 28672, 128256, tied=False),
)
_COLUMNS = [
    "billion weights",
    "weights, GB",
    "KV cache of a rewrite, MB",
    "H100s",
    "rewrites at once",
    "teraFLOPs each",
]


def shape_of(name: str, config: PreTrainedConfig) -> Shape:
    """The shape of a model of the Llama, Qwen or Gemma family from its configuration."""
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = text.num_attention_heads, text.num_key_value_heads, size
    rest = text.intermediate_size, text.vocab_size, text.tie_word_embeddings
    return Shape(name, text.hidden_size, text.num_hidden_layers, *heads, *rest)


def rewrite_flops(shape: Shape) -> float:
    """FLOPs of a rewrite; the shared part of the prompt is computed once for all and does not count."""
    return shape.flops(OWN + NEW_TOKENS, SHARED + (OWN + NEW_TOKENS) / 2) + shape.output_flops(NEW_TOKENS)


def sizing_table(shapes: Iterable[Shape] = SHAPES) -> pd.DataFrame:
    """One row per model: what it needs, and the fewest H100s (1, 2, 4, ...) that hold it and one rewrite."""
    rows = {}
    for shape in shapes:
        weights, each = BYTES * shape.parameters, (OWN + NEW_TOKENS) * shape.kv_bytes()
        number, once = 1, weights + SHARED * shape.kv_bytes()
        while number * FILLED * MEMORY < once + each:
            number *= 2
        at_once = int((number * FILLED * MEMORY - once) // each)
        sizes = shape.parameters / 1e9, weights / 1e9, each / 1e6
        rows[shape.name] = (*sizes, number, at_once, rewrite_flops(shape) / 1e12)
    return pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS).rename_axis("model")


def least_hours(shape: Shape, rewrites: int, at_once: int) -> dict[str, float]:
    """Two lower bounds on the hours that rewrites take on one H100, in batches of `at_once`."""
    reading = -(-rewrites // at_once) * NEW_TOKENS * BYTES * shape.parameters / BANDWIDTH
    return {"operations": rewrites * rewrite_flops(shape) / SPEED / 3600, "reading weights": reading / 3600}
