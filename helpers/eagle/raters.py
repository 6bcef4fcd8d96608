"""A language model as rater: which of two texts would a viewer prefer?

It takes the place of the paper's people, and is labelled as such: a model of 135M parameters mostly prefers a letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from helpers.embedding.profiles import Profile
from helpers.language.generation import Backend, Prompt

JUDGE_SYSTEM = "You know what viewers like. You compare two movies and answer with A or B only."


def judge_prompt(profile: Profile, first: str, second: str) -> Prompt:
    """The chat that asks which of two ideas a viewer prefers; the answer ` A` or ` B` follows."""
    task = f"The viewer: {profile}\n\nMovie A\n{first}\n\nMovie B\n{second}\n\nWhich movie does this viewer prefer?"
    return (("system", JUDGE_SYSTEM), ("user", task), ("assistant", "The viewer prefers movie"))


class Judgement(NamedTuple):
    """What the judge says of a pair: one value each from `judge_pair`, arrays from `judge_pairs`.

    Attributes:
        preference: log-odds in nats for the first text, mean of both orders; positive prefers it.
        position_bias: log-odds for whichever text is shown as A, mean of both orders.
        flipped: the judge chose the same letter in both orders, so that the order decided.
    """

    preference: float | Float[np.ndarray, " pair"]
    position_bias: float | Float[np.ndarray, " pair"]
    flipped: bool | Bool[np.ndarray, " pair"]

    @property
    def win_rate(self) -> float:
        """Share of pairs in which the first text is preferred; ties count half."""
        return float((np.sign(self.preference) / 2 + 0.5).mean())


def judge_pair(backend: Backend, profile: Profile, text_a: str, text_b: str) -> Judgement:
    """Which text does a viewer of this profile prefer, by the log-likelihood of ` A` against ` B` in both orders.

    A weak judge: a model of 135M parameters mostly prefers a letter, whatever text it stands for. Report the share
    of flipped pairs and the position bias with every win rate; the paper asked 124 people.
    """
    shown_first = _log_odds(backend, judge_prompt(profile, text_a, text_b))
    shown_second = -_log_odds(backend, judge_prompt(profile, text_b, text_a))
    preference, bias = (shown_first + shown_second) / 2, (shown_first - shown_second) / 2
    return Judgement(preference, bias, shown_first * shown_second < 0)


def _log_odds(backend: Backend, prompt: Prompt) -> float:
    """Log-odds of A over B."""
    a, b = backend.score(prompt, [" A", " B"])
    return float(a - b)


def judge_pairs(
    backend: Backend, profiles: Sequence[Profile], texts_a: Sequence[str], texts_b: Sequence[str]
) -> Judgement:
    """`judge_pair` for each pair, as arrays.

    Raises:
        ValueError: no pair, or not one profile and two texts for each.
    """
    if not len(profiles) == len(texts_a) == len(texts_b) > 0:
        raise ValueError(
            f"{len(profiles)} profiles, {len(texts_a)} and {len(texts_b)} texts: give one of each per pair"
        )
    judged = [judge_pair(backend, *pair) for pair in zip(profiles, texts_a, texts_b, strict=True)]
    return Judgement(*(np.array(column) for column in zip(*judged, strict=True)))
