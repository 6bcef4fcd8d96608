"""Reading a language model's answers, whatever they are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fake_world import FakeBackend, fake_starts, place
from hypothesis import example, given, settings
from hypothesis import strategies as st
from messy_texts import GENRES, MARKS, MESSY, WORDS

from helpers.domains.domain import Domain
from helpers.domains.ideas import MAX_GENRES, MAX_PLOT_CHARACTERS, MAX_START_WORDS, ascii_line, idea_of
from helpers.domains.wording import CLOTHES, MOVIES, PRODUCTS
from helpers.eagle.rewriting import (
    Rewriter,
    copies_an_example,
    read_answer,
    rewrite_prompt,
    seed_of,
    start_items,
    start_of,
)
from helpers.language.memo import Memo
from helpers.language.prompts import Backend

PHRASES = ("Mr. Fox", "3.5 miles", "the U.S. Army", "a dog", "runs", "hides", "it's")
SENTENCE = "A tired clerk finds an old map in the cellar of the bank."
# Answers that are nearly right more often: a genre or two, a line end, and pieces of sentences.
ANSWER = st.builds(
    "{} {}\n{}{}".format,
    st.sampled_from(["", "Genres:", "\n"]),
    st.lists(st.sampled_from(GENRES), min_size=1, max_size=6).map(", ".join),
    st.lists(st.sampled_from([*PHRASES, *WORDS, *MARKS]), min_size=8, max_size=40).map(" ".join),
    st.sampled_from([".", "", " and"]),
)
PROBLEMS = {"no genre", "no plot", "unfinished", "repeats itself"}
many = settings(max_examples=300, deadline=None)


def after_genres(idea: str) -> str:
    assert idea.startswith("Genres:")
    return idea.removeprefix("Genres:")


# Answers ---------------------------------------------------------------------------------------------------------


@many
@given(MESSY | ANSWER)
@example("")
@example("\n\n\n")
@example("Drama.\n! ! ! ! !")
@example("Drama.\n1 2 3 4 5 6.")
@example("Drama.\n" + "你" * 100 + ".")
def test_any_answer_is_an_idea_or_has_a_problem(answer):
    idea, problem = read_answer(answer)
    assert bool(idea) != bool(problem)
    if problem:
        assert problem in PROBLEMS
        return
    genres, plot = idea.split("\n")
    assert re.fullmatch(r"Genres: [A-Z][A-Za-z', -]+\.", genres)
    assert plot == ascii_line(plot) and re.search(r"[.!?][\"')]*$", plot) and len(plot) <= MAX_PLOT_CHARACTERS
    assert read_answer(after_genres(idea)) == read_answer(idea) == (idea, "")


@many
@given(
    st.lists(st.sampled_from(GENRES), unique=True, min_size=1, max_size=MAX_GENRES),
    st.lists(st.sampled_from(PHRASES), min_size=5, unique=True),
    st.sampled_from(["", "\n", " \n\nInstruction: Make it funny.", "\nGenres: War.", "\n\n" + SENTENCE]),
)
def test_a_good_answer_is_read_as_it_is(genres, words, rest):
    idea = idea_of(genres, " ".join(words) + ".")
    assert read_answer(after_genres(idea) + rest) == (idea, "")


@pytest.mark.parametrize("extra", ["", "\n", "Genres:", "genres: Genres: ", "\n Genres:\n"])
def test_the_word_genres_may_come_again(extra):
    assert read_answer(f"{extra} Drama, War.\r\n\r\n{SENTENCE}\n") == (f"Genres: Drama, War.\n{SENTENCE}", "")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "no genre"),
        ("\n\n\n", "no genre"),
        (SENTENCE, "no genre"),
        (f"Heartwarming.\n{SENTENCE}", "no genre"),
        ("Drama.", "no plot"),
        ("Drama.\nToo short.", "no plot"),
        ("Drama.\nToo short. The rest of this was cut off by the", "no plot"),
        (f"Drama. {SENTENCE}", "no plot"),
        (f"Drama.\nGenres: Drama.\n{SENTENCE}", "no plot"),
        ("Drama.\n- - - - - - 7 8.", "no plot"),
        ("Drama.\nA man walks into a bar and", "unfinished"),
        ("Drama.\nThe old clerk meets the tall Mr. Smith and", "unfinished"),
        ("Drama.\nThe old clerk pays 3.5 dollars for a", "unfinished"),
        ("Drama.\n" + "a" * 10**5 + " b c d e.", "unfinished"),
        ("Drama.\nHe runs and runs and runs and runs and runs.", "repeats itself"),
        (f"Drama.\n{SENTENCE} {SENTENCE}", "repeats itself"),
    ],
)
def test_problems(answer, problem):
    assert read_answer(answer) == ("", problem)


def test_what_follows_the_last_whole_sentence_is_cut():
    assert read_answer(f"Drama.\n{SENTENCE} He asks Mr. Fox to") == (f"Genres: Drama.\n{SENTENCE}", "")
    endless = " ".join(f"Clerk number {i} opens door {i}." for i in range(500))
    idea, problem = read_answer(f"Drama.\n{endless}")
    assert not problem and MAX_PLOT_CHARACTERS - 40 < len(idea.split("\n")[1]) <= MAX_PLOT_CHARACTERS


@pytest.mark.parametrize("wording", [MOVIES, CLOTHES])
def test_the_examples_of_the_prompt_are_good_answers(wording):
    for text in [text for before, _, after in wording.examples for text in (before, after)]:
        assert read_answer(text.removeprefix(f"{wording.field}:"), wording) == read_answer(text, wording) == (text, "")


def test_every_domain_is_asked_and_read_in_its_own_words():
    prompt = rewrite_prompt("Kind: Skirts.\nA skirt.", "Make it long.", CLOTHES)
    assert prompt[0] == ("system", CLOTHES.system) and prompt[-1] == ("assistant", "Kind:")
    assert prompt[-2] == ("user", "Kind: Skirts.\nA skirt.\n\nInstruction: Make it long.")
    answer = " skirt, Drama & fine gauge.\nThis long skirt has two pockets and a zip."
    idea = "Kind: Skirts, Fine gauge.\nThis long skirt has two pockets and a zip."
    assert read_answer(answer, CLOTHES) == (idea, "")
    assert read_answer(answer) == ("Genres: Drama.\n" + idea.split("\n")[1], "")
    assert read_answer(answer, PRODUCTS) == ("", "no genre")  # a file's own names come with the file


# Rewriting -------------------------------------------------------------------------------------------------------


def test_the_prompt_ends_with_text_instruction_and_the_begun_answer():
    prompt = rewrite_prompt("Genres: War.\nA plot.", "Make it funny.")
    assert prompt[0][0] == "system" and [role for role, _ in prompt[1:]] == ["user", "assistant"] * 4
    assert prompt[-2:] == (("user", "Genres: War.\nA plot.\n\nInstruction: Make it funny."), ("assistant", "Genres:"))
    assert prompt[:-2] == rewrite_prompt("Other.", "Other.")[:-2]


def test_unusable_answers_leave_the_text():
    texts = [start.text for start in fake_starts(30)]
    rewrites = Rewriter(FakeBackend(bad=0.5))(texts, ["Go."] * 30, range(30))
    assert 5 < rewrites.valid.sum() < 25
    for old, new, problem, valid in zip(texts, *rewrites, rewrites.valid, strict=True):
        assert (new == old) == (problem == "no plot") == (not valid)
        assert problem in ("", "no plot")


def test_same_text_instruction_and_seed_give_the_same_rewrite():
    rewrite = Rewriter(FakeBackend())
    a, b = place([1, 2, 3]), place([4, 5, 6])
    texts = rewrite([a, a, b, a, a], ["Go.", "Go.", "Go.", "Run.", "Go."], [1, 1, 1, 1, 2]).texts
    assert texts[0] == texts[1] and len(set(texts)) == 4
    assert rewrite([a], ["Go."], [2]).texts == texts[4:]


def test_a_memo_saves_the_model(tmp_path):
    backend = FakeBackend()
    rewrite = Rewriter(backend, memo=Memo(tmp_path / "memo.sqlite"))
    first = rewrite([place([1, 2, 3])], ["Go."], [1])
    assert rewrite([place([1, 2, 3])], ["Go."], [1]) == first and backend.batches == [1]


@pytest.mark.parametrize("change", [{"texts": []}, {"instructions": ["Go."] * 3}, {"seeds": [1]}])
def test_as_many_texts_as_instructions_and_seeds(change):
    with pytest.raises(ValueError, match="give as many"):
        Rewriter(FakeBackend())(**({"texts": ["a", "b"], "instructions": ["Go."] * 2, "seeds": [1, 2]} | change))


def test_seeds_depend_on_every_part_and_not_on_the_kind_of_integer():
    assert seed_of(1, 2) == seed_of(np.int64(1), np.uint32(2)) == 3477973997
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(12), seed_of("1", 2), seed_of(1, "2"), seed_of()}) == 6


@given(st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=5)), max_size=4))
def test_seeds_fit_everywhere(parts):
    assert 0 <= seed_of(*parts) < 2**32


# Starts ----------------------------------------------------------------------------------------------------------


def test_starts_of_the_real_movies_are_valid_ideas(movies: Domain):
    items = start_items(movies)
    assert len(items) > 400 and len(set(items)) == len(items)
    assert not set(movies.items["plot_source"].iloc[items]) & {"wikipedia", ""}
    for item in items:
        start = start_of(movies, item, 7)
        assert (start.user, start.item) == (7, item) and type(start.item) is int
        assert read_answer(after_genres(start.text)) == (start.text, "")
        assert 8 <= len(start.text.split("\n")[1].split()) <= MAX_START_WORDS


@pytest.mark.parametrize("wording", [MOVIES, CLOTHES])
def test_examples_copy_an_example_and_real_ideas_do_not(wording, movies):
    for _, _, after in wording.examples:
        assert copies_an_example(after, wording)
    if wording is MOVIES:
        assert not any(copies_an_example(idea) for idea in movies.texts("idea"))


def test_a_copied_example_leaves_the_text_when_copies_are_refused():
    class Copies(Backend):
        name = "copies"

        def generate(self, prompts, sampling, seeds, done) -> None:
            done(list(range(len(prompts))), [MOVIES.examples[1][2].removeprefix("Genres:")] * len(prompts))

    text = "Genres: War.\nTwo soldiers wait for a train that never comes."
    kept, refused = (Rewriter(Copies(), refuse_copies=refuse)([text], ["Add tea."], [0]) for refuse in (False, True))
    assert kept.texts == [MOVIES.examples[1][2]] and kept.problems == [""]
    assert refused.texts == [text] and refused.problems == ["copies an example"]
