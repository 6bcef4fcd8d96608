"""One step of the environment: a frozen language model rewrites a text under an instruction.

The text is an idea of two lines: of a movie its genres and one or two sentences (the paper's state is a whole plot
with reasons to like and dislike it; that is too much for a model of 135M parameters). The domain's `Wording` has the
first word of the text and the prompt; this module speaks of genres and plots whatever the domain.

A small language model does not always answer in that form. An answer that cannot be used leaves the text as it
was, and is counted (`Rewrites.problems`): a broken answer must neither stop a run nor earn a reward.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from helpers.domains.domain import Domain
from helpers.domains.ideas import MAX_PLOT_CHARACTERS, ascii_line, catalogue_genres, idea_of, opening
from helpers.domains.wording import MOVIES, Wording
from helpers.embedding.space import EmbeddingSpace
from helpers.language.generation import Backend, Memo, Prompt, Sampling, generate
from helpers.language.texts import copied_share, repetition, sentence_ends

SAMPLING = Sampling(max_new_tokens=48, temperature=0.5)
MIN_WORDS = 5  # of a plot that a rewrite must have
MAX_REPETITION = 0.25  # share of three-word sequences that occurred before in the same text
MAX_COPIED = 0.3  # share of three-word sequences of a plot that stand in a worked example of the prompt


def rewrite_prompt(text: str, instruction: str, wording: Wording = MOVIES) -> Prompt:
    """The chat that asks for one rewrite: three worked examples, the task, and the first word of the answer.

    The state stands before the instruction, so that all instructions on one state share a long prefix.
    """
    messages = [("system", wording.system)]
    for before, change, after in wording.examples:
        messages += [("user", f"{before}\n\nInstruction: {change}"), ("assistant", after)]
    return (*messages, ("user", f"{text}\n\nInstruction: {instruction}"), ("assistant", f"{wording.field}:"))


def _n_words(text: str) -> int:
    """Words with a letter in them: neither dashes nor bare numbers."""
    return len(re.findall(r"[A-Za-z]\S*", text))


def read_answer(answer: str, wording: Wording = MOVIES) -> tuple[str, str]:
    """(idea, "") from what the model wrote after the first word, as in `Genres:`, or ("", problem).

    Problems: `no genre`, `no plot` (under `MIN_WORDS` words), `unfinished` (no sentence ends within the token
    limit or `MAX_PLOT_CHARACTERS`) and `repeats itself`.
    """
    # Models that cannot continue a prefilled answer write the word again.
    prefill = rf"^(\s*{re.escape(wording.field)}\s*:)+"
    line, _, plot = re.sub(prefill, "", answer, flags=re.IGNORECASE).strip().partition("\n")
    genres, plot = catalogue_genres(line, wording), ascii_line(plot.strip().partition("\n")[0])
    if not genres:
        return "", "no genre"
    ends = [end for end in sentence_ends(plot) if end <= MAX_PLOT_CHARACTERS]
    if _n_words(plot) >= MIN_WORDS and not ends:
        return "", "unfinished"
    plot = plot[: ends[-1]] if ends else plot
    if _n_words(plot) < MIN_WORDS:
        return "", "no plot"
    if repetition(plot) > MAX_REPETITION:
        return "", "repeats itself"
    return idea_of(genres, plot, wording), ""


class Rewrites(NamedTuple):
    """New texts, and for each what was wrong with the answer ("" if nothing): then it is the old text."""

    texts: list[str]
    problems: list[str]

    @property
    def valid(self) -> Bool[np.ndarray, " text"]:
        return np.array([not problem for problem in self.problems], dtype=bool)


@dataclass(frozen=True)
class Rewriter:
    """The transition P(x' | x, a): a frozen language model, its sampling settings, and a memo of its answers.

    Attributes:
        refuse_copies: an answer that copies a worked example of the prompt cannot be used either.
    """

    backend: Backend
    sampling: Sampling = SAMPLING
    memo: Memo | None = None
    progress: bool = False
    wording: Wording = MOVIES
    refuse_copies: bool = False

    def __call__(self, texts: Sequence[str], instructions: Sequence[str], seeds: Sequence[int]) -> Rewrites:
        """Rewrite each text under its instruction; the same text, instruction and seed give the same answer."""
        if not len(texts) == len(instructions) == len(seeds):
            raise ValueError(f"{len(texts)} texts, {len(instructions)} instructions, {len(seeds)} seeds: give as many")
        prompts = [
            rewrite_prompt(text, instruction, self.wording)
            for text, instruction in zip(texts, instructions, strict=True)
        ]
        answers = generate(self.backend, prompts, self.sampling, list(seeds), memo=self.memo, progress=self.progress)
        read = [self.read(answer) for answer in answers]
        new = [idea or old for (idea, _), old in zip(read, texts, strict=True)]
        return Rewrites(new, [problem for _, problem in read])

    def read(self, answer: str) -> tuple[str, str]:
        """`read_answer`, and ("", "copies an example") where those are refused."""
        idea, problem = read_answer(answer, self.wording)
        if self.refuse_copies and idea and copies_an_example(idea, self.wording):
            return "", "copies an example"
        return idea, problem


def copies_an_example(idea: str, wording: Wording = MOVIES) -> bool:
    """Whether too much of an idea's plot stands in a worked example of the prompt."""
    return any(copies(idea, text) for before, _, after in wording.examples for text in (before, after))


def copies(idea: str, shown: str) -> bool:
    """Whether too much of an idea's plot stands in the plot of another; nothing copies an empty text."""
    return copied_share(idea.partition("\n")[2], shown.partition("\n")[2]) > MAX_COPIED


def seed_of(*parts: int | str) -> int:
    """A seed that depends on all parts, the same on every machine."""
    parts = tuple(part if isinstance(part, str) else int(part) for part in parts)  # numpy's integers print otherwise
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


class Start(NamedTuple):
    """Where an episode begins: a text, for a user, from the item with this number (-1: none)."""

    text: str
    user: int
    item: int = -1


def start_items(domain: Domain, left_out: Sequence[str] = ("wikipedia",)) -> Int[np.ndarray, " item"]:
    """Items whose plot opens with whole sentences of 8 to `MAX_START_WORDS` words and that have genres.

    Args:
        left_out: sources of plots that are not used; Wikipedia's openings mention directors and awards.
    """
    rows = domain.items[domain.has_text]
    fits = [
        row.plot_source not in left_out
        and bool(catalogue_genres(",".join(row.genres), domain.wording))
        and len(opening(row.plot_text).split()) >= 8
        for row in rows.itertuples()
    ]
    return domain.text_items[np.array(fits)]


def start_of(domain: Domain, item: int, user: int) -> Start:
    """An episode's start from an existing item, shortened to the form of the environment."""
    row, wording = domain.items.iloc[item], domain.wording
    genres = catalogue_genres(",".join(row["genres"]), wording)
    return Start(idea_of(genres, opening(row["plot_text"]), wording), int(user), int(item))


def ranked_ideas(
    space: EmbeddingSpace,
    usable: Int[np.ndarray, " item"],
    start: Start,
    cost: Callable[[Float[np.ndarray, "other dim"]], Float[np.ndarray, " other"]],
    n: int,
) -> list[str]:
    """The n usable items of least cost as ideas, the cost given by position; never the start's own."""
    others = usable[usable != start.item]
    at = space.items[np.searchsorted(space.domain.text_items, others)]
    return [start_of(space.domain, item, start.user).text for item in others[np.argsort(cost(at), kind="stable")[:n]]]
