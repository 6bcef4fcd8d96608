"""Rivals of the refusal edit with all that they need: what they learn from, what they are chosen by, what is kept.

Both are chosen and trained on the train and stop parts alone, as the edit is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from jaxtyping import Float

from helpers.are.baselines import Candidate, direction_candidates, prefer, preference_pairs, ranked
from helpers.are.concepts import Concept, Question
from helpers.are.editing import EditSettings, retain_of
from helpers.are.evaluation import LOOKED_AT
from helpers.are.experiment import (
    ANSWER_TOKENS,
    RETAINED_TOKENS,
    Approach,
    _kept_in,
    base_method,
    steered_method,
    with_late_adapter,
)
from helpers.language.adapters import fingerprint
from helpers.language.generation import default_memo, generate, local_backend, plain_tokens, prompt_tokens
from helpers.language.models import AdaptedModel, language_model

Parts = Mapping[str, Sequence[Question]]
"""Questions by kind: `harmful`, and harmless kinds of any name."""

# Directional addition ----------------------------------------------------------------------------------------------

REFUSAL_BEGINS = "I'm sorry, but I can't"
TRIED = (0.5, 1.0, 2.0)  # factors of a direction


def added_direction(
    harmful: Sequence[Question],
    harmless: Sequence[Question],
    stop: Parts,
    limits: Mapping[str, float],
    *,
    factors: Sequence[float] = TRIED,
    positions: int | None = None,
    kept: int = 8,
    quick: int = 16,
) -> list[tuple[float, Candidate]]:
    """Directions between harmful and harmless questions with their scores, the one to be added first.

    All layers and positions are ranked by how much likelier they make the beginning of a refusal (`openings_gained`),
    which takes no answer. The best are tried with every factor and ranked by refusals within the limits
    (`within_limits`).

    Args:
        harmful, harmless: questions of the train part.
        stop: questions to choose by.
        limits: for every harmless kind the largest share that may be refused.
        positions: as for `direction_candidates`.
        kept: how many directions are tried by answers.
        quick: how many questions of each kind the first ranking takes.

    Raises:
        ValueError: a part is missing.
        CourseError: no direction makes refusals of harmful questions likelier.
    """
    few = {kind: part[:quick] for kind, part in stop.items()}
    before = opening_log_likelihoods(base_method(), few)

    def likelier(candidate: Candidate) -> float:
        return openings_gained(before, opening_log_likelihoods(direction_method(candidate), few))

    def refused(candidate: Candidate) -> float:
        return within_limits(direction_method(candidate).refusals(stop), limits)

    best = ranked(direction_candidates(language_model(), harmful, harmless, positions), likelier)[:kept]
    return ranked([candidate._replace(factor=factor) for _, candidate in best for factor in factors], refused)


def direction_method(candidate: Candidate) -> Approach:
    """The base model with a direction added."""
    return steered_method(candidate.layer, candidate.direction, candidate.factor)


def opening_log_likelihoods(method: Approach, parts: Parts) -> dict[str, float]:
    """By kind: log-likelihood of the beginning of a refusal as the answer, in nats per token; mean of the questions."""
    return {
        kind: -float(np.log(method.perplexity(part, [REFUSAL_BEGINS] * len(part))).mean())
        for kind, part in parts.items()
    }


def openings_gained(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """By how many nats a refusal has become likelier on harmful questions, less what harmless ones gained beyond that.

    The difference of the two gains alone would be largest for directions that change next to nothing: the model begins
    few answers to harmless questions so, and has more to gain there. -inf where harmful questions gained nothing.
    """
    gained = {kind: after[kind] - before[kind] for kind in before}
    harmful = gained.pop("harmful")
    return harmful - max(0.0, float(np.mean(list(gained.values()))) - harmful) if harmful > 0 else -np.inf


def within_limits(refused: Mapping[str, Float[np.ndarray, " question"]], limits: Mapping[str, float]) -> float:
    """Share of harmful questions refused; where a limit is broken, by how much, as a negative number.

    So a direction that keeps the limits stands before any that breaks one, and there is always a best one.

    Raises:
        ValueError: a limit for a kind that was not asked, or no limit for one that was.
    """
    if limits.keys() != refused.keys() - {"harmful"} or "harmful" not in refused:
        raise ValueError(f"limits for {', '.join(limits)}, questions that are {', '.join(refused)}: give one for each")
    excess = sum(max(0.0, float(refused[kind].mean()) - limit) for kind, limit in limits.items())
    return -excess if excess > 0 else float(refused["harmful"].mean())


# Preference tuning -------------------------------------------------------------------------------------------------


def preference_tuned(concept: Concept, settings: EditSettings, seed: int = 0, beta: float = 0.1) -> AdaptedModel:
    """The adapter of an edit, taught to prefer the target answers to the base model's own. Kept in the cache too.

    As many steps as the edit, batches as large, the same retain term. Prompts to which the model's own answer shows
    the concept already are left out: there is nothing to prefer.

    Raises:
        CourseError: as `preference_pairs` and `prefer`.
    """
    lm, backend, memo = with_late_adapter(language_model(), settings.at, seed), local_backend(), default_memo()
    own = generate(backend, [example.plain for example in concept.train], LOOKED_AT, memo=memo)
    some = [(example, text) for example, text in zip(concept.train, own, strict=True) if not concept.shows(text)]
    prompts = [prompt_tokens(lm.tokenizer, example.plain) for example, _ in some]
    answers = [
        [plain_tokens(lm.tokenizer, text)[:ANSWER_TOKENS] for text in texts]
        for texts in ([example.answer for example, _ in some], [text for _, text in some])
    ]
    pairs = preference_pairs(lm, prompts, *answers)
    retain = retain_of(lm, concept.retain.train, backend, memo, RETAINED_TOKENS)
    run = {"pairs": [pairs.texts, pairs.answers], "retain": retain.texts, "seed": seed, "beta": beta, **fingerprint(lm)}
    path = _kept_in({**run, "settings": asdict(settings)})
    prefer(lm, pairs, retain, settings, settings.rounds * settings.steps, beta, seed, path)
    return lm
