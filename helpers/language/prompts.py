"""What goes into a language model: prompts as messages, how to sample the next token, and backends that answer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

Message = tuple[str, str]
"""(role, content); a role is `system`, `user` or `assistant`."""

Prompt = str | tuple[Message, ...]
"""A string is one user message; a last message of the assistant is a prefilled answer, which is continued."""

TokenIds = tuple[int, ...]
"""A text as the numbers of its tokens."""

ROLES = ("system", "user", "assistant")

# A chat template for models that were not trained to chat: their training texts often look like this. An answer begins
# a line, so that its first token is the same as in a chat, without a space.
QUESTION_AND_ANSWER = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}Question: {{ m.content }}\nAnswer:{{ '\\n' }}"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}"
    "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Stop:
    """A rule that ends an answer when its reader needs no more of it, for instance when a judge can decide.

    The answer is then the shortest prefix of the whole one, in whole words, for which `reached` is true: the same
    text whether decoding ended early, a server ignored the rule, or the whole answer was in the memo.

    Attributes:
        name: part of the memo's keys; two rules that stop differently need different names.
        reached: given the words so far, whether they are enough.
    """

    name: str
    reached: Callable[[str], bool] = field(compare=False)

    def fires(self, answer: str) -> bool:
        """Whether the text so far, whose last word may be incomplete, is enough."""
        return any(self.reached(answer[:end]) for end in _word_ends(answer)[-1:])

    def cut(self, answer: str) -> str:
        """The shortest prefix that is enough; the whole answer where none is."""
        return next((answer[:end] for end in _word_ends(answer) if self.reached(answer[:end])), answer)


def _word_ends(text: str) -> list[int]:
    """The ends of all words that something follows."""
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
    pairs = (("user", prompt),) if isinstance(prompt, str) else tuple(tuple(message) for message in prompt)
    if not pairs or not all(len(m) == 2 and m[0] in ROLES and isinstance(m[1], str) for m in pairs):
        raise ValueError(f"a prompt is a text or pairs (role, text) with a role of {', '.join(ROLES)}: got {prompt!r}")
    return tuple((role, text) for role, text in pairs)


# Tokens ------------------------------------------------------------------------------------------------------------


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> TokenIds:
    """A prompt in the model's chat template, up to where the answer begins or continues.

    If the template has no system role, the system text is put before the first user message; if roles must alternate,
    neighbours of one role are joined; if contents must be lists of parts, they are.

    Raises:
        ValueError: the model has no chat template, or one that accepts the prompt in none of these forms.
    """
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template: load an instruction-tuned one")
    messages, reason = messages_of(prompt), ""
    for form in _forms(messages):
        for content in (str, _as_parts):
            try:
                text = _rendered(tokenizer, [{"role": role, "content": content(said)} for role, said in form])
            except Exception as error:  # a template is a program of its author's: it raises many kinds
                reason = reason or str(error) or type(error).__name__
                continue
            if _holds(text, [said for _, said in form]):
                return plain_tokens(tokenizer, text)
    roles, reason = ", ".join(role for role, _ in messages), (reason or "it leaves out a message").splitlines()[0]
    raise ValueError(f"the model's chat template does not take a prompt of {roles} ({reason}): use other roles")


def plain_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenIds:
    """A text as it is, without tokens that mark its start or end."""
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def opening_tokens(tokenizer: PreTrainedTokenizerBase) -> TokenIds:
    """What a tokenizer puts before every text by itself, such as Gemma's <bos>; nothing for others, such as SmolLM2's.

    A model that has never read a text without it is lost without it.
    """
    marked, plain = tokenizer("a", verbose=False)["input_ids"], plain_tokens(tokenizer, "a")
    begins = (place for place in range(len(marked)) if tuple(marked[place : place + len(plain)]) == plain)
    return tuple(marked[: next(begins, 0)])


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages as they are, without a system role, and with roles that alternate."""
    yield list(messages)
    system = [text for role, text in messages if role == "system"]
    rest = [message for message in messages if message[0] != "system"]
    first = next((place for place, (role, _) in enumerate(rest) if role == "user"), len(rest))
    if system:
        rest[first : first + 1] = [("user", "\n\n".join([*system, *(text for _, text in rest[first : first + 1])]))]
    yield rest
    yield [(role, "\n\n".join(text for _, text in run)) for role, run in groupby(rest, key=lambda m: m[0])]


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: list[dict]) -> str:
    prefilled = chat[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not prefilled, "continue_final_message": prefilled}
    return str(tokenizer.apply_chat_template(chat, tokenize=False, **options))


def _holds(text: str, said: Sequence[str]) -> bool:
    """Whether the text contains each message, spaces aside: some templates silently drop what they do not know."""
    rest = "".join(text.split())
    for part in sorted(("".join(part.split()) for part in said), key=len, reverse=True):
        if part not in rest:
            return False
        rest = rest.replace(part, "\n", 1)  # so that a short one is not found inside a longer one
    return True


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

        An answer may continue after `sampling.stop` fires: `generation.generate` cuts it there.
        """

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """Log-likelihood in nats of each continuation as the answer to a prompt."""
