"""Prompts that ask for a new idea: they read as they should, and other domains are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_steering import fake_task, task_starts
from fake_world import PROFILES

from helpers.domains.wording import CLOTHES
from helpers.eagle import idea_prompts, rivals
from helpers.eagle.rewriting import read_answer


def test_the_opro_prompt_reads_as_it_should():
    profile = PROFILES[1]
    (_, system), *_, (_, task), prefill = idea_prompts.opro_prompt(profile, {"best\none": 4.0, "worst\none": 1.0})
    assert "higher" in system and prefill == ("assistant", "Genres:")
    assert str(profile) in task and task.index("worst\none\nScore: 20") < task.index("best\none\nScore: 80")


@pytest.mark.parametrize("answer", [idea_prompts.OPRO_EXAMPLE[2], idea_prompts.BLEND_EXAMPLE[1]])
def test_worked_examples_are_in_the_form_that_is_asked_for(answer):
    assert read_answer(answer.removeprefix("Genres:")) == (answer, "")


@pytest.mark.parametrize("method", [rivals.opro_search, rivals.elm_search])
def test_methods_with_words_of_their_own_are_for_movies(method):
    task = fake_task(borrowed=20)
    clothes = replace(task, rewrite=replace(task.rewrite, wording=CLOTHES))
    with pytest.raises(ValueError, match="asks for movies in its own words: use tree or promise_search"):
        method(clothes, task_starts(1), 10, 0)
