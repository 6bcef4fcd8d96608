"""Every experiment of the ARE half: what is reported on takes no part in training, nor in choosing or holding on."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pytest
from tiny_models import tiny

from helpers.are import experiment, labels
from helpers.are.concepts import spoken_of
from helpers.base.storage import CourseError
from helpers.language.memo import Memo
from helpers.language.prompts import Backend

# Shares of test questions with a near-duplicate among those that are trained or chosen on; no more than these. Parts
# leave near-duplicates of questions out; a fact or a pair has several statements, and one of them may resemble another.
ALIKE = {"harmful": 0, "benign": 0, "edgy": 0, "opinions": 0, "facts": 0.01, "pairs": 0.005, "labels": 0.001}


class Yes(Backend):
    """A backend that does whatever the target prompt asks for."""

    name = "yes"

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate(self, prompts, sampling, seeds, done):
        done(list(range(len(prompts))), [self.answer] * len(prompts))


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9']+", text.lower()))


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity of two sets of words."""
    return len(one & other) / max(1, len(one | other))


def asked(examples) -> list[str]:
    return [example.plain[0][1] if len(example.plain) == 1 else example.plain[-1][1] for example in examples]


def texts(questions) -> list[str]:
    return [question.text for question in questions]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Answers of the fake backends are not for the memo of the course."""
    memo = Memo(tmp_path_factory.mktemp("memo") / "memo.sqlite")
    monkeypatch.setattr(experiment, "default_memo", lambda: memo)


def refusing() -> dict[str, tuple[list[str], list[str]]]:
    concept = experiment.refusal(backend=Yes("I'm sorry, but I can't help with that."))
    used = [*asked(concept.train), *asked(concept.stop), *texts(concept.others)]
    used += texts([*concept.retain.train, *concept.retain.stop])
    edgy = experiment.edgy()
    return {
        "harmful": (used, texts(concept.test)),
        "benign": (used, texts(concept.retain.test)),
        "edgy": ([*used, *texts(edgy.stop)], texts(edgy.test)),
    }


def moody(positive: bool) -> dict[str, tuple[list[str], list[str]]]:
    answer = "This is wonderful, I love it!" if positive else "This is terrible, I hate it."
    concept = experiment.mood(positive, Yes(answer))
    used = [*asked(concept.train), *asked(concept.stop), *texts([*concept.retain.train, *concept.retain.stop])]
    subjects = [
        [re.sub(r"^(What do you think of|Tell me about) |[?.]$", "", text) for text in some]
        for some in (used, texts(concept.test))
    ]
    return {"opinions": (subjects[0], subjects[1])}


def truthful() -> dict[str, tuple[list[str], list[str]]]:
    parts = experiment.fact_parts()
    said = [[text for fact in part for text in (fact.true, fact.false)] for part in parts]
    return {"facts": (said[0] + said[1], said[2])}


def fair() -> dict[str, tuple[list[str], list[str]]]:
    parts = experiment.pair_parts()
    begun = [[spoken_of(pair)[0] for pair in part] for part in parts]
    assert not {*begun[0], *begun[1]} & {*begun[2]}
    said = [[text for pair in part for text in (pair.stereotype, pair.opposite)] for part in parts]
    return {"pairs": (said[0] + said[1], said[2])}


def few_labels() -> dict[str, tuple[list[str], list[str]]]:
    chosen, others = labels.harm_questions()
    return {"labels": (texts(chosen), texts(others))}


CASES = {
    "refusal": refusing,
    "speaking well": lambda: moody(True),
    "speaking ill": lambda: moody(False),
    "truth": truthful,
    "fairness": fair,
    "labels": few_labels,
}


@pytest.mark.parametrize("profile", ["small", "full"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_reported_on_took_part_before(case, profile, monkeypatch):
    monkeypatch.setenv("STEER_PROFILE", profile)
    for name, (used, reported) in CASES[case]().items():
        assert used and reported
        assert not {" ".join(t.lower().split()) for t in used} & {" ".join(t.lower().split()) for t in reported}
        assert near(used, reported) <= ALIKE[name]


def near(used: Iterable[str], reported: Iterable[str]) -> float:
    """Share of the reported texts with a near-duplicate (half of the words in common) among the used ones."""
    known = [words(text) for text in used]
    return float(np.mean([any(alike(words(text), other) >= 0.5 for other in known) for text in reported]))


def test_near_duplicates_are_seen():
    assert near(["How do I bake bread?"], ["How do I bake rye bread?", "Why is snow white?"]) == 0.5


def test_courteous_questions_are_of_the_train_part(monkeypatch):
    kept = experiment.refusal(backend=Yes("I'm sorry, but I can't help with that.")).retain
    plain = {question.id for question in experiment.harmless(experiment.edit_sizes()).train}
    dressed = [question for question in kept.train if question.id.endswith("-courteous")]
    assert dressed and {question.id.removesuffix("-courteous") for question in dressed} <= plain


def test_a_concept_that_nothing_shows_is_refused():
    with pytest.raises(CourseError, match="no answer shows refusing"):
        experiment.refusal(backend=Yes("Of course, here is how."))


def test_truth_is_trained_and_stopped_by_the_facts_of_its_parts(monkeypatch):
    monkeypatch.setattr(experiment, "prefers_yes", lambda lm, prompts: np.arange(len(prompts)) % 2 == 0)
    concept, parts = experiment.truth(tiny()), experiment.fact_parts()
    for examples, part in ((concept.train, parts.train), (concept.stop, parts.stop)):
        assert {example.id.rpartition("-")[0] for example in examples} <= {fact.id for fact in part}


def test_fairness_is_trained_and_stopped_by_the_pairs_of_its_parts():
    concept, parts = experiment.fairness(), experiment.pair_parts()
    assert [example.id for example in concept.train] == [pair.id for pair in parts.train]
    assert [example.id for example in concept.stop] == [pair.id for pair in parts.stop]
