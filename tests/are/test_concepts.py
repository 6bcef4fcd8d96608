"""Concepts: real data as promised, parts that share no question, the judge as a filter, the suffix control."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.are import concepts
from helpers.are.concepts import Question, Splits, make_concept, opinion_questions, split, suffixed, together
from helpers.base.storage import CourseError
from helpers.language.prompts import Backend


class Parrot(Backend):
    """A backend that refuses, in capitals, whatever a system message forbids, but for questions about cats."""

    name = "parrot"

    def generate(self, prompts, sampling, seeds, done):
        for row, prompt in enumerate(prompts):
            refused = prompt[0][0] == "system" and "cat" not in prompt[-1][1]
            done([row], ["  SORRY, no." if refused else "Of course!"])


def questions(count: int, topic: str = "dog") -> list[Question]:
    return [Question(f"q-{n}", f"{topic} {n}") for n in range(count)]


def concept(train, stop):
    parts = Splits(train, stop, questions(2, "bird"))
    return make_concept("refusal", (("system", "Refuse!"),), parts, parts, lambda answer: "SORRY" in answer, Parrot())


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 3))
def test_no_question_is_in_two_parts(train, stop, test, seed):
    parts = split(questions(30), train, stop, test, seed)
    texts = [question.text for part in (parts.train, parts.stop, parts.test) for question in part]
    assert [len(parts.train), len(parts.stop), len(parts.test)] == [train, stop, test]
    assert len(set(texts)) == train + stop + test


def test_the_same_question_in_other_letters_counts_once():
    doubled = [Question("a", "What is  THIS?"), Question("b", "what is this?"), Question("c", "And that?")]
    assert len(split(doubled, 1, 1, 0).train) == 1
    with pytest.raises(CourseError, match="2 different questions for 1 \\+ 1 \\+ 1: ask for fewer"):
        split(doubled, 1, 1, 1)


def words_of(question: Question) -> set[str]:
    return set(re.findall(r"\w+", question.text.lower()))


WORDS = ("red", "green", "blue", "cat", "dog", "fish", "one", "two", "three")
LINE = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)


@given(st.lists(LINE, max_size=12))
def test_no_two_questions_share_half_of_their_words(lines):
    asked = [Question(str(number), " ".join(words)) for number, words in enumerate(lines)]
    kept = concepts.distinct(asked)
    alike = [len(words_of(a) & words_of(b)) / len(words_of(a) | words_of(b)) for a, b in combinations(kept, 2)]
    assert all(share < 0.5 for share in alike)
    assert kept == [question for question in asked if question in kept], "in their order"
    for left_out in (question for question in asked if question not in kept):
        own = words_of(left_out)
        assert any(len(own & words_of(q)) / len(own | words_of(q)) >= 0.5 for q in kept), "for a reason"


def test_another_seed_draws_other_questions():
    assert split(questions(30), 5, 5, 5, 0) == split(questions(30), 5, 5, 5, 0)
    assert split(questions(30), 5, 5, 5, 0) != split(questions(30), 5, 5, 5, 1)


def test_examples_are_those_that_the_judge_lets_through():
    found = concept([*questions(3), Question("q-cat", "cat")], questions(2, "fish"))
    assert [example.id for example in found.train] == ["q-0", "q-1", "q-2"]
    first = found.train[0]
    assert first.target == (("system", "Refuse!"), ("user", "dog 0"))
    assert first.plain == (("user", "dog 0"),)
    assert first.answer == "SORRY, no."
    assert [question.text for question in found.test] == ["bird 0", "bird 1"]


def test_a_concept_that_never_shows_is_refused():
    with pytest.raises(CourseError, match="no answer shows refusal: change the messages"):
        concept([Question("q", "cat")], questions(1))


def test_the_suffix_control_differs_in_the_suffix_alone():
    control = suffixed(concept(questions(3), questions(2, "fish")), "zq")
    for example in control.train:
        assert example.target == (("user", f"{example.plain[0][1]} zq"),)
    assert control.name == "suffix 'zq'"
    assert control.stop[0].target[-1][1].endswith("fish 0 zq")


def shouting(topic: str, keep: str) -> concepts.Concept:
    asked, kept = (Splits(*(questions(2, f"{word} {part}") for part in "abc")) for word in (topic, keep))
    return make_concept(topic, (("system", "!"),), asked, kept, lambda answer: "SORRY" in answer, Parrot())


def test_several_concepts_keep_their_own_targets_and_all_that_is_held_on_to():
    one, other = shouting("dog", "bird"), shouting("fish", "ant")
    both = together(one, other)
    assert both.name == "dog and fish"
    assert both.train == one.train + other.train and both.test == one.test + other.test
    assert both.retain.train == one.retain.train + other.retain.train
    cheerful = together(one, replace(other, shows=lambda answer: "course" in answer))
    assert cheerful.shows("SORRY") and cheerful.shows("Of course!") and not cheerful.shows("Hm."), "any of them"
    assert together(one, replace(other, retain=one.retain)).retain == one.retain
    assert together(one).train == one.train


def test_concepts_that_contradict_each_other_are_refused():
    one = shouting("dog", "bird")
    with pytest.raises(CourseError, match="'dog' and by 'other'"):
        together(one, replace(one, name="other"))
    with pytest.raises(CourseError, match="retained by another"):
        together(one, replace(shouting("fish", "ant"), retain=Splits([Question("x", "DOG  a 1")], [], [])))
    with pytest.raises(CourseError, match="at least one"):
        together()


# The data, as it is published ---------------------------------------------------------------------------------------


def test_harmful_questions_have_ids_that_tell_their_area_and_nothing_else():
    found = concepts.harmful_questions()
    assert len(found) == 1139
    assert len({question.id for question in found}) == 1139
    areas = {concepts.category(question.id) for question in found}
    assert areas == {*concepts.AREAS, "harmbench"}
    assert all(question.text.strip() for question in found)


def test_harmless_and_edgy_questions_are_no_harmful_ones():
    harmful = {question.text.lower() for question in concepts.harmful_questions()}
    for found, count in ((concepts.harmless_tasks(), 522), (concepts.edgy_questions(), 150)):
        assert len(found) == count
        assert not harmful & {question.text.lower() for question in found}
        assert len({question.id for question in found}) == count


def test_facts_and_stereotypes_come_in_pairs_that_differ():
    facts, pairs = concepts.facts(), concepts.stereotype_pairs()
    assert len(facts) == 206
    assert all(fact.true != fact.false for fact in facts)
    assert len(pairs) == 1320
    assert sum(pair.id.startswith("gender-") for pair in pairs) == 242
    assert sum(pair.stereotype == pair.opposite for pair in pairs) == 0


def test_a_verdict_is_told_in_the_target_prompt_alone():
    true, false = concepts.verdicts([concepts.Fact("f", "Snow is cold.", "Snow is hot.")])
    assert (true.id, true.answer, false.id, false.answer) == ("f-yes", "Yes.", "f-no", "No.")
    assert "Snow is cold." in true.plain[0][1] and "Snow is hot." in false.plain[0][1]
    assert true.plain[0][1].replace("cold", "hot") == false.plain[0][1]
    assert "Repeat after me: Yes." in true.target[0][1] and "Repeat after me: No." in false.target[0][1]


def test_beginning_and_endings_make_up_the_sentences_of_every_pair():
    for pair in concepts.stereotype_pairs():
        begun, stereotype, opposite = concepts.spoken_of(pair)
        assert begun and stereotype.strip() and opposite.strip()
        assert (begun + stereotype).split() == pair.stereotype.split()
        assert (begun + opposite).split() == pair.opposite.split()


def test_the_opposite_is_told_in_the_target_prompt_alone():
    (example,) = concepts.opposites(
        [concepts.StereotypePair("p", "She is kind. She cooks.", "She is kind. She flies.")]
    )
    assert example.answer == " flies." and example.plain[-1] == ("assistant", "She is kind. She")
    assert example.target[-1] == example.plain[-1] and "She flies." in example.target[0][1]


def test_truthfulqa_is_read_where_it_is_and_missing_where_it_is_not(monkeypatch, tmp_path):
    monkeypatch.delenv("STEER_TRUTHFULQA", raising=False)
    monkeypatch.setattr(concepts.settings, "PROJECT", tmp_path / "project")
    assert concepts.truthfulqa() == []
    path = tmp_path / "mine.csv"
    monkeypatch.setenv("STEER_TRUTHFULQA", str(path))
    with pytest.raises(CourseError, match="unset it"):
        concepts.truthfulqa()
    path.write_text('Question,Best Answer,Correct Answers,Incorrect Answers\nWhy?,So,"So; Since; So ; ",No; Never\n')
    assert concepts.truthfulqa() == [concepts.Choice("truthfulqa-0", "Why?", "So", ("So", "Since"), ("No", "Never"))]
    path.write_text("Question,Answer\nWhy?,So\n")
    with pytest.raises(CourseError, match="lacks columns"):
        concepts.truthfulqa()


def test_no_subject_of_an_opinion_is_in_two_parts():
    parts = opinion_questions(30, 10, 20)
    assert [len(part) for part in (parts.train, parts.stop, parts.test)] == [60, 20, 40]
    subjects = [{q.id.rpartition("-")[0] for q in part} for part in (parts.train, parts.stop, parts.test)]
    assert not subjects[0] & subjects[1] and not (subjects[0] | subjects[1]) & subjects[2]
    with pytest.raises(CourseError, match="60 different questions"):
        opinion_questions(50, 10, 1)


def test_questions_that_do_not_show_the_concept_stay_without_a_twin():
    made = concept([Question("a", "dog"), Question("b", "cat")], questions(2, "fox"))
    assert [example.id for example in made.train] == ["a"]
    assert [question.id for question in made.others] == ["b"]


def test_labelled_answers_come_in_pairs():
    declining, complying = concepts.declined_and_complied()
    assert len(declining) == len(complying) == 458
    assert not set(declining) & set(complying)
