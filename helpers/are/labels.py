"""Fewer labels: which prompts to label, so that a probe trained on them judges all the others well.

A discriminator or probe needs prompts that somebody has labelled. The states of all prompts are known before the first
label, so the choice can be made from them alone: at random, by the G-optimal design of `helpers.eagle.design`, or by
one of its rivals. A prompt is to the design what an action is in the EAGLE half: a row whose value is costly to
measure; here the value is the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from helpers.are.concepts import AREAS, Question, category, edgy_questions, harmful_questions, harmless_tasks, split
from helpers.eagle import design
from helpers.embedding.features import cached_features
from helpers.language.adapters import fingerprint
from helpers.language.generation import prompt_tokens
from helpers.language.models import LoadedModel
from helpers.language.states import ReadOut, fit_probe, read_all

SELECTIONS = ("random", "goptimal", "half", "kmeans", "dpp", "extremes")
HARMFUL = (*AREAS, "harmbench")
Chosen = Int[np.ndarray, " chosen"]


@dataclass(frozen=True)
class Labelled:
    """Some prompts with their hidden states, their labels, and the group that each belongs to."""

    states: Float[np.ndarray, "text dim"]
    labels: Bool[np.ndarray, " text"]
    groups: np.ndarray  # names, one per text

    def of(self, rows: Sequence[int] | np.ndarray) -> Labelled:
        """The same for some of the prompts."""
        return Labelled(self.states[rows], self.labels[rows], self.groups[rows])


# What is labelled --------------------------------------------------------------------------------------------------


def harm_questions() -> tuple[list[Question], list[Question]]:
    """Harmful, harmless and edgy questions without near-duplicates: 300 to choose settings on, and 1,150 others."""
    parts = split([*harmful_questions(), *harmless_tasks(), *edgy_questions()], 700, 300, 450)
    return parts.stop, [*parts.train, *parts.test]


def group_of(question: Question) -> str:
    """Where a question comes from: one of six kinds of harm, `task`, or `edgy`."""
    area = category(question.id)
    return area if area in (*HARMFUL, "task") else "edgy"


def is_harmful(question: Question) -> bool:
    """The label that an annotator would have to give."""
    return group_of(question) in HARMFUL


def states_of(lm: LoadedModel, texts: Sequence[str], layers: tuple[int, ...]) -> Float[np.ndarray, "text layer dim"]:
    """States at the last token of each text as a prompt, after some layers; kept in the course's cache.

    Raises:
        ValueError: as `representations.read`.
    """

    def compute(texts: Sequence[str]) -> Float[np.ndarray, "text layer dim"]:
        tokens = [prompt_tokens(lm.tokenizer, text) for text in texts]
        return read_all(lm.model, tokens, ReadOut(layers), progress=True)[:, :, 0].cpu().numpy()

    model = [*fingerprint(lm).values(), str(lm.model.dtype), *map(str, layers)]
    return cached_features(f"prompts-{sha256(' '.join(model).encode()).hexdigest()[:16]}", texts, compute)


# Which to label ----------------------------------------------------------------------------------------------------


def design_rows(states: Float[np.ndarray, "text dim"], n: int) -> Float[np.ndarray, "text 1+{n}"]:
    """What a linear probe sees of each prompt: a 1 for its intercept, and n principal components, whitened.

    Every feature of a state is standardised first, as the probe does it.

    Raises:
        ValueError: the states do not span n dimensions.
    """
    standard = (states - states.mean(axis=0)) / (states.std(axis=0) + 1e-6)
    return np.column_stack([np.ones(len(states)), design.prepare(standard, n_components=n)])


def directions(k: int) -> int:
    """Principal components to design for with k labels: half as many, at most 32 (notebook 15 compares)."""
    return max(1, min(k // 2, 32))


class Pool(NamedTuple):
    """The unlabelled prompts of one project: row numbers of prompts, and what a linear probe sees of these."""

    members: Int[np.ndarray, " text"]
    rows: Float[np.ndarray, "text column"]


def draw_pools(prompts: Labelled, size: int, n: int, seeds: Sequence[int]) -> list[Pool]:
    """For each seed a random subset of the prompts; the same seeds give the same subsets for every n.

    Raises:
        ValueError: there are fewer prompts than `size`, or they do not span n dimensions.
    """
    parts = [np.random.default_rng(seed).choice(len(prompts.labels), size, replace=False) for seed in seeds]
    return [Pool(part, design_rows(prompts.states[part], n)) for part in parts]


def choose_prompts(method: str, rows: Float[np.ndarray, "text column"], k: int, rng: np.random.Generator) -> Chosen:
    """Row numbers of k prompts to label, in ascending order, chosen without looking at any label.

    "goptimal" rounds the optimal design by exchange; "half" does so for half of the labels and draws the others at
    random; "extremes" takes the prompts of largest leverage among all.

    Raises:
        ValueError: an unknown method, or k is not between 1 and the number of prompts.
    """
    if method not in SELECTIONS:
        raise ValueError(f"method = {method!r} is unknown: choose one of {', '.join(SELECTIONS)}")
    by_chance = design.random_subset(rows, k, rng)  # also refuses a k that is too large
    if method == "goptimal":
        return design.round_design(rows, design.optimal_design(rows), k, "exchange")
    if method == "half":
        designed = choose_prompts("goptimal", rows, k - k // 2, rng)
        others = np.setdiff1d(np.arange(len(rows)), designed)
        return np.sort(np.append(designed, rng.choice(others, k // 2, replace=False)))
    if method == "kmeans":
        return design.kmeans_subset(rows, k, rng)
    if method == "dpp":
        return design.dpp_subset(rows, k)
    even = np.full(len(rows), 1 / len(rows))
    farthest = np.sort(np.argsort(-design.leverages(rows, even), kind="stable")[:k])
    return farthest if method == "extremes" else by_chance


def picks(method: str, pools: Sequence[Pool], k: int, draws: int = 1) -> list[list[Chosen]]:
    """Choices of k prompts from every pool; more than one only where the method is random."""
    return [
        [choose_prompts(method, rows, k, np.random.default_rng([number, k, draw])) for draw in range(draws)]
        for number, (_, rows) in enumerate(pools)
    ]


# What the labels are worth -----------------------------------------------------------------------------------------


def judged_right(
    chosen: Labelled, others: Labelled, strength: float, labels: Bool[np.ndarray, " chosen"] | None = None
) -> Bool[np.ndarray, " text"]:
    """Whether a probe fitted on the chosen prompts judges each of the others correctly.

    Where all chosen labels are the same no probe can be fitted, and every other prompt gets that label.

    Args:
        labels: used for training instead of the true ones, for a control.
    """
    labels = chosen.labels if labels is None else labels
    if labels.all() or not labels.any():
        return others.labels == labels[0]
    probe = fit_probe(chosen.states[labels], chosen.states[~labels], strength)
    return probe.predict(others.states).astype(bool) == others.labels


def after_labels(
    picked: Sequence[Sequence[Chosen]],
    pools: Sequence[Pool],
    prompts: Labelled,
    strength: float,
    others: Labelled | None = None,
    shuffled: bool = False,
) -> Float[np.ndarray, "pool draw text"]:
    """1 where a probe judges a question correctly and 0 where not, for every choice from every pool (see `picks`).

    Args:
        prompts: the prompts that the pools are drawn from, with their labels.
        strength: of the probe, as for `fit_probe`.
        others: questions to judge; by default all prompts outside the pool, with nan for those in it.
        shuffled: a control: the labels of the chosen prompts are shuffled.
    """
    judged, found = others or prompts, []
    for number, (pool, choices) in enumerate(zip(pools, picked, strict=True)):
        for draw, chosen in enumerate(choices):
            labelled, rng = prompts.of(pool.members[chosen]), np.random.default_rng([number, len(chosen), draw])
            given = rng.permutation(labelled.labels) if shuffled else labelled.labels
            right = judged_right(labelled, judged, strength, given).astype(float)
            if others is None:
                right[pool.members] = np.nan
            found.append(right)
    return np.reshape(found, (len(pools), -1, len(judged.labels)))


def balanced(
    right: Float[np.ndarray, "*draw text"], labels: Bool[np.ndarray, " text"]
) -> Float[np.ndarray, "*draw"] | float:
    """Balanced accuracy: 0.5 for a constant verdict, however rare one of the labels is."""
    return (np.nanmean(right[..., labels], axis=-1) + np.nanmean(right[..., ~labels], axis=-1)) / 2


def worst_group(right: Float[np.ndarray, "*draw text"], groups: np.ndarray) -> Float[np.ndarray, "*draw"] | float:
    """The accuracy of the group with the lowest one."""
    return np.min([np.nanmean(right[..., groups == name], axis=-1) for name in np.unique(groups)], axis=0)
