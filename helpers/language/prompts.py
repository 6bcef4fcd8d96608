"""What goes into a language model: prompts as messages, how to choose the next token, and what answers them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

Message = tuple[str, str]
"""(role, content); a role is `system`, `user` or `assistant`."""

Prompt = str | tuple[Message, ...]
"""A string is one user message; a last message of the assistant is the beginning of the answer to continue."""

TokenIds = tuple[int, ...]
"""A text as the numbers of its tokens."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Stop:
    """A rule that ends an answer where its reader needs no more of it, for instance once a judge has made up its mind.

    The answer is then the shortest prefix of the whole one, in whole words, for which `reached` is true: the same
    text whether decoding ended early, a server ignored the rule, or the whole answer was in the memo.

    Attributes:
        name: part of the memo's keys; two rules that stop differently need different names.
        reached: given the words so far, whether they are enough.
    """

    name: str
    reached: Callable[[str], bool] = field(compare=False)

    def fires(self, begun: str) -> bool:
        """Whether the text so far, whose last word may be incomplete, is enough."""
        return any(self.reached(begun[:end]) for end in _word_ends(begun)[-1:])

    def cut(self, answer: str) -> str:
        """The shortest prefix that is enough; the whole answer where none is."""
        return next((answer[:end] for end in _word_ends(answer) if self.reached(answer[:end])), answer)


def _word_ends(text: str) -> list[int]:
    """Where each word ends that something follows."""
    return [word.end() for word in re.finditer(r"\S+(?=\s)", text)]


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, token after token.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: the logits are divided by it; 0 takes the likeliest token each time (greedy).
        top_k: only the k likeliest tokens can be drawn; 0 for all.
        top_p: of these, only the fewest whose probabilities reach p; 1 for all.
        stop: a rule that ends an answer earlier.

    Raises:
        ValueError: a number outside its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.5
    top_k: int = 50
    top_p: float = 0.95
    stop: Stop | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: ask for at least one")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or a positive number")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"top_k is {self.top_k} and top_p {self.top_p}: give top_k >= 0 and 0 < top_p <= 1")

    @property
    def greedy(self) -> bool:
        """Whether the seed makes no difference."""
        return self.temperature == 0


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """The messages of a prompt.

    Raises:
        ValueError: no message, or not pairs of a known role and a text.
    """
    messages = (("user", prompt),) if isinstance(prompt, str) else tuple(tuple(message) for message in prompt)
    good = all(len(m) == 2 and m[0] in ROLES and isinstance(m[1], str) for m in messages)
    if not (messages and good):
        raise ValueError(f"a prompt is a text or pairs (role, text) with a role of {', '.join(ROLES)}: got {prompt!r}")
    return messages


# Tokens ------------------------------------------------------------------------------------------------------------


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> TokenIds:
    """A prompt in the model's chat template, up to where the answer goes on.

    Raises:
        ValueError: the model has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template: load an instruction-tuned one")
    messages = messages_of(prompt)
    chat = [{"role": role, "content": content} for role, content in messages]
    begun = messages[-1][0] == "assistant"
    text = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
    )
    return plain_tokens(tokenizer, text)


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenIds:
    """A text as it is, without tokens that mark its beginning or end."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# What answers -------------------------------------------------------------------------------------------------------

Done = Callable[[list[int], list[str]], None]
"""Takes row numbers and their answers."""


@runtime_checkable
class Backend(Protocol):
    """Something that answers prompts."""

    @property
    def name(self) -> str:
        """Part of the memo's keys: two backends that answer differently need different names."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """Answer all prompts, each with its own seed; `done` gets row numbers and answers as they are finished.

        An answer may go on behind the place where `sampling.stop` fires: `generation.generate` cuts it there.
        """

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """Log-likelihood in nats of each continuation as the answer to a prompt."""
