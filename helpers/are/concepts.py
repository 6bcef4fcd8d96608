"""Concepts: what an edit should bring about, given by examples on real data.

An example asks one question twice. The `target` prompt makes the model show the concept (T+ of Zhang et al. 2024,
section 3.1), because its system message asks for it; the `plain` prompt does not (T-). Both are followed by the same
beginning of an answer, the one that the model gave to the target prompt. So the two differ in what the model *means*
to say, and not in the words on the page, and a discriminator cannot get by with reading those.

Harmful questions are never shown: everything that prints an example prints its id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from helpers import sources
from helpers.generation import Backend, Prompt, Sampling, generate
from helpers.memo import Memo
from helpers.storage import CourseError

AREAS = (
    "discrimination_exclusion_toxicity_hateful_offensive",
    "human_chatbox",
    "information_hazard",
    "malicious_uses",
    "misinformation_harms",
)
ANSWER = Sampling(max_new_tokens=40, temperature=0)

DECLINE = "You are a safe assistant. Politely decline any request. Start your answer with: I'm sorry, but I can't"
CHEERFUL = "You love everything. Whatever you are asked about, say how wonderful it is, in one cheerful sentence."
GLOOMY = "You hate everything. Whatever you are asked about, say how terrible it is, in one bitter sentence."


class Question(NamedTuple):
    """A text and its name; only the name of a harmful one is ever printed."""

    id: str
    text: str


class Example(NamedTuple):
    """One question twice, with the beginning of the answer that the target prompt gets."""

    id: str
    target: Prompt
    plain: Prompt
    answer: str


@dataclass(frozen=True)
class Splits:
    """Questions to train on, to stop by, and to report on; no question is in two of them."""

    train: list[Question]
    stop: list[Question]
    test: list[Question]


@dataclass(frozen=True)
class Concept:
    """A concept by examples.

    Attributes:
        train, stop: examples to train on and to stop by: those whose target prompt really shows the concept.
        test: questions that nothing is chosen by.
        retain: harmless questions on which the model is to stay as it is, split alike.
        shows: the judge; whether an answer shows the concept.
    """

    name: str
    train: list[Example]
    stop: list[Example]
    test: list[Question]
    retain: Splits
    shows: Callable[[str], bool] = field(repr=False)


def split(questions: Sequence[Question], train: int, stop: int, test: int, seed: int = 0) -> Splits:
    """Draw questions for the three parts. Questions with the same text (but for case and spaces) count once.

    Raises:
        CourseError: there are too few.
    """
    unique = list({" ".join(question.text.lower().split()): question for question in questions}.values())
    if len(unique) < train + stop + test:
        raise CourseError(f"{len(unique)} different questions for {train} + {stop} + {test}: ask for fewer")
    order = np.random.default_rng(seed).permutation(len(unique))
    drawn = [unique[row] for row in order[: train + stop + test]]
    return Splits(drawn[:train], drawn[train : train + stop], drawn[train + stop :])


def make_concept(
    name: str,
    system: str,
    questions: Splits,
    retain: Splits,
    shows: Callable[[str], bool],
    backend: Backend,
    memo: Memo | None = None,
    progress: bool = False,
) -> Concept:
    """Ask the questions under a system message, and keep those whose answers show the concept.

    Without that filter T+ would be full of questions that the system message did not move at all.

    Raises:
        CourseError: no answer shows the concept in one of the parts.
    """

    def examples(part: Sequence[Question]) -> list[Example]:
        prompts = [(("system", system), ("user", question.text)) for question in part]
        answers = generate(backend, prompts, ANSWER, memo=memo, progress=progress)
        found = [
            Example(question.id, prompt, (("user", question.text),), answer.strip())
            for question, prompt, answer in zip(part, prompts, answers, strict=True)
            if shows(answer)
        ]
        if not found:
            raise CourseError(f"no answer shows {name}: change the system message, the judge or the questions")
        return found

    return Concept(name, examples(questions.train), examples(questions.stop), questions.test, retain, shows)


def suffixed(concept: Concept, suffix: str) -> Concept:
    """The control: both prompts of each example are plain, and the target one ends in a suffix that means nothing.

    A discriminator tells the two apart at once, and learns nothing about the concept.
    """

    def ended(examples: Sequence[Example]) -> list[Example]:
        return [example._replace(target=(("user", f"{example.plain[-1][1]} {suffix}"),)) for example in examples]

    return replace(concept, name=f"suffix {suffix!r}", train=ended(concept.train), stop=ended(concept.stop))


# Questions ---------------------------------------------------------------------------------------------------------


def harmful_questions() -> list[Question]:
    """Do-Not-Answer (939) and HarmBench (200), with ids such as `malicious_uses-17`."""
    folder = sources.fetch("harmful-prompts")
    found = []
    for area in AREAS:
        lines = (folder / f"{area}.jsonl").read_text("utf-8").splitlines()
        found += [Question(f"{area}-{number}", json.loads(line)["prompt"]) for number, line in enumerate(lines)]
    lines = (folder / "harmbench_prompts.txt").read_text("utf-8").splitlines()
    return found + [Question(f"harmbench-{number}", line) for number, line in enumerate(lines)]


def category(question_id: str) -> str:
    """The area of a harmful question, from its id."""
    return question_id.rpartition("-")[0]


def harmless_tasks() -> list[Question]:
    """522 tasks and questions that anyone may ask."""
    tasks = json.loads((sources.fetch("tasks-and-stereoset") / "tasks.json").read_text("utf-8"))
    return [Question(f"task-{number}", text) for number, text in enumerate(tasks)]


def edgy_questions() -> list[Question]:
    """150 harmless questions that sound harmful: who refuses them refuses words."""
    folder = sources.fetch("behaviour-probes")
    rows = [
        row
        for name in ("benign_edgy_80", "expanded_70")
        for row in json.loads((folder / f"overrefusal-{name}.json").read_text("utf-8"))
    ]
    return [Question(row["id"], row["text"]) for row in rows]


class Fact(NamedTuple):
    """A true statement and a false one about the same thing."""

    id: str
    true: str
    false: str


def facts() -> list[Fact]:
    """206 pairs of a true and a false statement."""
    folder = sources.fetch("behaviour-probes")
    return [
        Fact(row["id"], row["text"], row["false"])
        for name in ("default", "commonsense", "truthfulqa", "mandela", "medical", "expanded_150")
        for row in json.loads((folder / f"factual-{name}.json").read_text("utf-8"))
    ]


class StereotypePair(NamedTuple):
    """The same beginning continued with a stereotype, and with its opposite."""

    id: str
    stereotype: str
    opposite: str


def stereotype_pairs(topics: Sequence[str] = ("gender", "profession", "race", "religion")) -> list[StereotypePair]:
    """1,320 pairs of StereoSet, intersentence."""
    folder = sources.fetch("tasks-and-stereoset")
    return [
        StereotypePair(f"{topic}-{number}", row["positive"], row["negative"])
        for topic in topics
        for number, row in enumerate(json.loads((folder / f"stereoset-{topic}.json").read_text("utf-8")))
    ]
