"""Texts to fixed feature vectors: frozen sentence embeddings and mean hidden states, cached on disk."""

from __future__ import annotations

import functools
import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers.base.compute import default_device, preferred_dtype
from helpers.base.settings import DEFAULT_MODEL, SECOND_MODEL, cache_dir, model_name
from helpers.base.storage import atomic_file, can_keep, explained, locked
from helpers.language import models
from helpers.language.generation import local_backend
from helpers.language.memo import Memo
from helpers.language.models import LoadedModel, language_model
from helpers.language.states import as_deep, in_batches, states_below

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

HIDDEN_LAYER = 8  # of SmolLM2's 30 blocks; the best of 8, 16 and 24 when we compared them by cross-validation
CACHED_FROM = 100  # a domain's texts are worth a file of their own, a few generated ones are not


def cached_features(
    kind: str,
    texts: Sequence[str],
    compute: Callable[[Sequence[str]], Float[np.ndarray, "text ..."]],
    one_by_one: bool = False,
) -> Float[np.ndarray, "text ..."]:
    """`compute(texts)`, cached by the kind of feature and the exact texts if there are many.

    Args:
        one_by_one: the features of a text do not depend on its batch, so that a few texts are cached as well, each by
            itself.
    """
    if len(texts) < CACHED_FROM:
        return _kept_one_by_one(kind, texts, compute) if one_by_one else compute(texts)
    key = hashlib.sha256("\0".join([kind, *texts]).encode()).hexdigest()[:32]
    path = cache_dir() / "features" / f"{kind.replace('/', '-')}-{key}.safetensors"

    def kept() -> Float[np.ndarray, "text ..."] | None:
        try:
            return load_file(path)["features"]
        except (OSError, SafetensorError, KeyError):
            return None

    # Read before locking: a class may share a cache that it cannot write.
    if (features := kept()) is not None:
        return features
    if not can_keep(path):
        return compute(texts)
    with explained("keep features in the cache"), locked(path):
        if (features := kept()) is None:
            features = compute(texts)
            with atomic_file(path) as temporary:
                save_file({"features": np.ascontiguousarray(features)}, temporary)
    return features


def _kept_one_by_one(
    kind: str, texts: Sequence[str], compute: Callable[[Sequence[str]], Float[np.ndarray, "text dim"]]
) -> Float[np.ndarray, "text dim"]:
    """Features of all texts: cached ones, and `compute` of the others all at once."""
    memo = Memo(cache_dir() / "features.sqlite")
    key_of = {text: hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest() for text in texts}
    kept = memo.get(list(key_of.values()))
    if new := [text for text, key in key_of.items() if key not in kept]:
        rows = np.ascontiguousarray(compute(new), dtype="<f4")
        fresh = {key_of[text]: b64encode(row.tobytes()).decode() for text, row in zip(new, rows, strict=True)}
        memo.put(fresh)
        kept |= fresh
    return np.stack([np.frombuffer(b64decode(kept[key_of[text]]), dtype="<f4") for text in texts])


@functools.cache
def sentence_encoder() -> SentenceTransformer:
    """MiniLM in float32, loaded once per process: its unit vectors must not be rounded."""
    return models.load_sentence_encoder(dtype=torch.float32)


def split_fields(texts: Sequence[str]) -> list[list[str]]:
    """The lines of each text, as one list per field: `genres`, then `plot`, for texts of two lines.

    Raises:
        ValueError: no text, an empty text, or texts with different numbers of lines.
    """
    lines = [text.strip().split("\n") for text in texts]
    if not lines or len({len(parts) for parts in lines}) != 1 or not all(map(str.strip, texts)):
        raise ValueError("give one or more non-empty texts with the same number of lines each")
    return [list(field) for field in zip(*lines, strict=True)]


def sentence_features(texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
    """MiniLM embeddings of the lines of each text, 384 numbers per line, concatenated.

    A long plot drowns the genres when both are encoded as one text; as separate fields they keep their weight
    (notebook 02 measures it).
    """

    def embed(lines: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        unique = sorted(set(lines))
        vectors = sentence_encoder().encode(unique, batch_size=32, show_progress_bar=len(unique) > 200)
        return vectors[np.searchsorted(unique, lines)]

    return np.hstack([cached_features("minilm", field, embed, one_by_one=True) for field in split_fields(texts)])


def hidden_state_features(texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
    """Mean hidden state of the course's chat model over the tokens of each text (576 numbers for SmolLM2).

    Read after a quarter of the blocks. The first token is left out: its state is the same for every text and two orders
    of magnitude longer.
    """
    if model_name() == DEFAULT_MODEL:  # known without loading it: the features may be in the cache
        return _mean_states(texts, "smollm2", language_model, HIDDEN_LAYER)
    (layer,) = as_deep(language_model().model, HIDDEN_LAYER)
    return _mean_states(texts, hashlib.sha256(local_backend().name.encode()).hexdigest()[:8], language_model, layer)


def reading_model() -> LoadedModel:
    """The model that reads what another one writes: Gemma 3 270M, or SmolLM2 where Gemma is the chat model.

    In float32: an embedding must not depend on the batch, and in bfloat16 the shape of a batch moved one by 4% of the
    distance between embeddings, enough for a search to choose another text.
    """
    return language_model(DEFAULT_MODEL if model_name() == SECOND_MODEL else SECOND_MODEL, torch.float32)


def other_model_features(texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
    """Mean hidden state of `reading_model` over the tokens of each text (640 numbers for Gemma 3 270M).

    An encoder on the states of the model that writes the texts would share that model's taste.
    """
    kind = "smollm2" if model_name() == SECOND_MODEL else "gemma3"
    return _mean_states(texts, kind, reading_model, HIDDEN_LAYER, torch.float32)


def _mean_states(
    texts: Sequence[str], kind: str, load: Callable[[], LoadedModel], layer: int, dtype: torch.dtype | None = None
) -> Float[np.ndarray, "text dim"]:
    """Mean states after a block, cached under the model's `kind`; the model is loaded only if they are not."""
    if not len(texts) or not all(map(str.strip, texts)):
        raise ValueError("give one or more non-empty texts")

    def compute(texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        model, tokenizer = load()
        tokens = tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]

        def means(rows: list[int]) -> list[np.ndarray]:
            states = states_below(model, [tokens[row] for row in rows], layer).states
            return [(s[1:].float().sum(dim=0) / max(1, len(s) - 1)).cpu().numpy() for s in states]

        return np.stack(in_batches(tokens, 16, means))

    read_in = str(dtype or preferred_dtype(default_device())).removeprefix("torch.")
    return cached_features(f"{kind}-layer{layer}-{read_in}", texts, compute, one_by_one=read_in == "float32")


def term_features(corpus: Sequence[str]) -> Callable[[Sequence[str]], Float[np.ndarray, "text term"]]:
    """Features from the words of a text alone: TF-IDF over the words of a corpus, without any neural network.

    Words in fewer than two texts and stop words are left out. A row has length 1, or 0 when none of its words is known.

    Raises:
        ValueError: no word occurs in two texts.
    """
    vectors = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2).fit(corpus)
    return lambda texts: vectors.transform(texts).toarray()
