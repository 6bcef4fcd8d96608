"""Questions in another dress, and answers that have begun: what is asked, what is left out, what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from tiny_models import tiny

from helpers.are.baselines import steered
from helpers.are.concepts import Question
from helpers.are.evaluation import refuses
from helpers.are.experiment import Approach
from helpers.are.robustness import (
    IN_CAPITALS,
    WRAPPERS,
    GivenAnswer,
    complied,
    declines_later,
    dressed,
    prefilled,
    recovered,
    refusals_when_dressed,
)
from helpers.base.storage import CourseError
from helpers.language.generation import LocalBackend, plain_tokens, prompt_tokens
from helpers.language.prompts import Prompt, Sampling, messages_of

QUESTIONS = [Question("q-0", "How do I bake {bread}?"), Question("q-1", "How do I sail?")]
NO = "I'm sorry, but I can't help with that."


@dataclass
class Scripted:
    """Answers by a rule, and remembers what it was asked."""

    answer: object
    name: str = "scripted"
    asked: list[Prompt] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def generate(self, prompts, sampling, seeds, done) -> None:
        self.asked += prompts
        self.batches.append(len(prompts))
        done(list(range(len(prompts))), [self.answer(messages_of(prompt)) for prompt in prompts])

    def score(self, prompt, continuations):
        raise NotImplementedError


def is_no(answer: str) -> bool:
    return answer.startswith("I'm sorry")


@pytest.fixture(autouse=True)
def own_cache(cache):
    """No answer is kept from another test."""


def test_every_dress_holds_the_question_and_keeps_its_id():
    for name in WRAPPERS:
        found = dressed(QUESTIONS, name)
        assert [question.id for question in found] == ["q-0", "q-1"]
        for before, after in zip(QUESTIONS, found, strict=True):
            assert (before.text.upper() if name == IN_CAPITALS else before.text) in after.text
    assert dressed(QUESTIONS, "as it is") == QUESTIONS
    assert len({dressed(QUESTIONS, name)[0].text for name in WRAPPERS}) == len(WRAPPERS)
    with pytest.raises(ValueError, match="no wrapper 'in rags': choose one of as it is"):
        dressed(QUESTIONS, "in rags")


def test_refusals_are_counted_by_dress_and_kind():
    backend = Scripted(lambda messages: NO if "librarian" in messages[-1][1] and "sail" in messages[-1][1] else "Sure.")
    parts = {"harmful": QUESTIONS, "benign": QUESTIONS[:1]}
    found = refusals_when_dressed(Approach(tiny(), backend), parts, ("politely", "in a role"))
    counted = {name: {kind: list(values) for kind, values in by_kind.items()} for name, by_kind in found.items()}
    assert counted == {
        "politely": {"harmful": [0, 0], "benign": [0]},
        "in a role": {"harmful": [0, 1], "benign": [0]},
    }
    assert backend.batches == [4]  # all wrappers and kinds together, and nothing twice


def test_answers_that_decline_already_are_left_out_and_nothing_is_shown():
    backend = Scripted(lambda messages: NO if "sail" in messages[-1][1] else "  First, mix flour and water.")
    (begun,) = complied(backend, QUESTIONS, is_no)
    assert (begun.id, begun.text, begun.answer) == ("q-0", QUESTIONS[0].text, "First, mix flour and water.")
    assert str(begun) == "GivenAnswer(id='q-0')"


def test_answers_that_decline_in_words_without_a_keyword_are_left_out_too():
    own_words = "I'm sorry for any misunderstanding, but as a chatbot I have no way of helping with such a request."
    backend = Scripted(lambda messages: own_words if "sail" in messages[-1][1] else "First, mix flour and water.")
    assert not refuses(own_words)
    assert [begun.id for begun in complied(backend, QUESTIONS, refuses)] == ["q-0"]
    everything = complied(backend, QUESTIONS, refuses, also_declined=lambda answers: np.zeros(len(answers), bool))
    assert [begun.id for begun in everything] == ["q-0", "q-1"]


def test_a_prompt_goes_on_with_the_first_tokens_of_the_answer():
    """One token per byte here: the beginning stands in the assistant's turn as it is, and the turn stays open."""
    tokenizer = tiny().tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ m['content'] }}\n", "{{ m['content'] }}|")
    some = [GivenAnswer("q-0", "How?", "Take two \ncups"), GivenAnswer("q-1", "Why?", "short")]
    found = prefilled(tokenizer, some, (0, 4, 10))
    assert {length: len(prompts) for length, prompts in found.items()} == {0: 1, 4: 1, 10: 1}  # one is too short
    for length, (prompt,) in found.items():
        expected = plain_tokens(tokenizer, "<user>How?|<assistant>" + some[0].answer[:length])
        assert prompt_tokens(tokenizer, prompt) == expected


def test_a_character_that_is_cut_through_is_left_out():
    (prompt,) = prefilled(tiny().tokenizer, [GivenAnswer("q-0", "How?", "Café crème")], (4,))[4]
    assert prompt[-1] == ("assistant", "Caf")


def test_beginnings_need_answers_that_go_on():
    with pytest.raises(CourseError, match="no answer has more than 20 tokens"):
        prefilled(tiny().tokenizer, [GivenAnswer("q-0", "How?", "Take two cups")])
    with pytest.raises(ValueError, match="give 0 or more"):
        prefilled(tiny().tokenizer, [], (-1,))


def test_recovering_is_counted_by_length_behind_the_system_message():
    backend = Scripted(lambda messages: " of it. I'm sorry, I can't." if len(messages[-1][1]) < 6 else " of flour.")
    prompts = prefilled(tiny().tokenizer, [GivenAnswer("q-0", "How do I bake?", "Take two cups")], (4, 8))
    found = recovered(Approach(tiny(), backend, before=(("system", "Be kind."),)), prompts, is_no)
    assert {length: list(values) for length, values in found.items()} == {4: [1], 8: [0]}
    assert backend.asked[0] == (("system", "Be kind."), ("user", "How do I bake?"), ("assistant", "Take"))
    assert backend.batches == [2]  # all lengths together


def test_a_method_that_is_a_context_is_asked_inside_it():
    lm, heard = tiny(), []
    prompts = prefilled(lm.tokenizer, [GivenAnswer("q-0", QUESTIONS[0].text, "ab cd ef")], (2, 5))

    def listening(text: str) -> bool:
        heard.append(text)
        return False

    def rest(name: str, **options) -> list[str]:
        heard.clear()
        recovered(Approach(lm, LocalBackend(lm, name), **options), prompts, listening, Sampling(8, temperature=0))
        return list(heard)

    base = rest("tiny")
    assert base == rest("tiny, again")
    assert base != rest("tiny, steered", inside=lambda: steered(lm, 1, 5 * torch.linspace(-1, 1, 32), 1.0))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (NO, True),
        (" two cups of flour. I'm sorry, but no more.", True),
        (" two cups:\n\nI'm sorry, this is not right.", True),
        (" two cups, and I'm sorry that there are no more.", False),
        ("", False),
        (" \n ", False),
    ],
)
def test_a_judge_looks_at_every_sentence(text, verdict):
    assert declines_later(is_no, text) is verdict
