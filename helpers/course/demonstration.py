"""Both methods at work on one example each, fast enough to run while one reads the first page (notebook 00).

This is the shortest form of what the notebooks build step by step: one aim and no agent, one short edit and no search
for its settings. Two examples show what is meant; they measure nothing.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import numpy as np

from helpers.are import experiment
from helpers.are.concepts import COMPLAINING, Question, make_concept, opinion_questions
from helpers.are.evaluation import answers_to
from helpers.domains.movies import load_movies
from helpers.eagle.aims import aims_of, promise, targets
from helpers.eagle.comparison import AIMED_SAMPLING
from helpers.eagle.emission import gains, gap_of_start
from helpers.eagle.rewriting import Rewriter, start_items, start_of
from helpers.eagle.rivals import NEUTRAL
from helpers.embedding.features import term_features
from helpers.embedding.judges import VIEW, halves
from helpers.embedding.profiles import ProfileWriter
from helpers.embedding.space import build_space
from helpers.language.generation import default_memo, local_backend

REACH = 0.3  # share of the way to its aim that a text is expected to go; notebook 04 measures it
_SUBJECTS, _TASKS = 12, 30  # subjects that the edit is trained on, and harmless tasks that it should not change


class Version(NamedTuple):
    """A text, the instruction that it was written from, and its gain over the original by the judge, in stars."""

    instruction: str
    text: str
    judged: float


class Steered(NamedTuple):
    """A viewer in words, a film's own text, and two versions of it."""

    viewer: str
    original: str
    steered: Version
    control: Version


def steer(title: str, viewer: int, seed: int = 0) -> Steered:
    """Rewrite a film's text for a viewer: once as an embedding space suggests, and once only in other words.

    The instruction is the one of highest promise by an encoder on MiniLM features and half of the ratings. The judge
    reads words, was fitted on the other half, and chooses nothing. Neither was fitted on the film.

    Raises:
        ValueError: no film of this title has a text to start from.
    """
    movies = load_movies()
    found = [item for item in start_items(movies) if movies.items["title"].iloc[item] == title]
    if not found:
        raise ValueError(f"no film {title!r} with a text to start from: see movies.items['title']")
    plots = movies.items["plot_text"].to_numpy()
    itself = np.flatnonzero(plots == plots[found[0]])  # a few films are listed twice
    known = replace(movies, ratings=movies.ratings[~movies.ratings["item"].isin(itself)])
    own, other = halves(known)
    rest = ~np.isin(movies.text_items, itself)
    texts = list(compress(movies.texts(VIEW), rest))
    paid = build_space(own, view=VIEW, left_out=itself)
    judge = build_space(other, view=VIEW, left_out=itself, featurise=term_features(texts))

    start, aims = start_of(movies, found[0], viewer), aims_of(movies, itself)
    promised = promise(gap_of_start(paid, start), paid.encoder([start.text])[0], targets(aims, paid.items), REACH)
    best = aims[int(promised.total.argmax())]
    said = [best.instruction(movies.wording), NEUTRAL[0]]
    rewrite = Rewriter(local_backend(), AIMED_SAMPLING, default_memo(), refuse_copies=True)
    new = rewrite([start.text] * 2, said, [seed] * 2).texts
    judged = gains(judge, [start], [new]).total[0]
    versions = [Version(*each) for each in zip(said, new, judged.tolist(), strict=True)]
    return Steered(str(ProfileWriter(movies)(viewer)), start.text, *versions)


def edited_answers(question: str) -> dict[str, str]:
    """Answers of the chat model and of its edited copy, which was trained to speak ill of whatever it is asked about.

    The edit has seen a dozen other subjects. It takes half a minute on two cores, once; then it is in the cache.
    """
    backend, tasks = local_backend(), experiment.a_few_tasks()
    kept = replace(tasks, train=tasks.train[:_TASKS])
    subjects = opinion_questions(_SUBJECTS, 3, 1)
    asked = experiment.is_negative, backend, default_memo()
    concept = make_concept("speaking ill, in short", COMPLAINING, subjects, kept, *asked)
    edited, _ = experiment.edited(concept, replace(experiment.mood_settings(), rounds=2, steps=12))
    models = {"as it came": backend, "edited": experiment.edited_backend(edited)}
    some = [Question("demonstration", question)]
    return {name: answers_to(one, some, memo=default_memo())[0].strip() for name, one in models.items()}
