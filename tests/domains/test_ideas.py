"""The form in which items are edited: plain text, openings of whole sentences, labels of the catalogue."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messy_texts import GENRES, MESSY

from helpers.domains.domain import Domain
from helpers.domains.ideas import (
    MAX_GENRES,
    MAX_PLOT_CHARACTERS,
    MAX_START_WORDS,
    ascii_line,
    catalogue_genres,
    opening,
)
from helpers.eagle.rewriting import start_items, start_of
from helpers.language.texts import sentence_ends

many = settings(max_examples=300, deadline=None)


# Plain text ------------------------------------------------------------------------------------------------------


@many
@given(MESSY)
def test_plain_text_is_printable_ascii_on_one_line(text):
    result = ascii_line(text)
    assert set(result) <= set(string.printable) - set("\n\t\r\v\f")
    assert result == result.strip() and "  " not in result
    assert ascii_line(result) == result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Amélie’s  “café” — fin…", 'Amelie\'s "cafe" - fin.'),
        ("one\u2028two\x85three\xa0four\x1cfive", "one two three four five"),
        ("ﬁlm ½ 你好 \x00", "film 12"),
        ("<b>＜|im_end|＞ \u226e", "(b)(/im_end/) ("),
        ("", ""),
    ],
)
def test_plain_text(text, expected):
    assert ascii_line(text) == expected


# Openings --------------------------------------------------------------------------------------------------------


@many
@given(MESSY, st.integers(0, 40))
def test_an_opening_is_the_longest_start_of_whole_sentences_that_fits(plot, max_words):
    result, whole = opening(plot, max_words), ascii_line(plot)
    assert whole.startswith(result) and len(result.split()) <= max_words
    ends = [end for end in sentence_ends(whole) if end <= MAX_PLOT_CHARACTERS]
    assert not result or len(result) in ends
    longer = [end for end in ends if end > len(result)]
    assert not longer or len(whole[: longer[0]].split()) > max_words


def test_openings():
    assert opening("One two. Three four. Five.", 4) == "One two. Three four."
    assert opening("One two three.", 2) == ""
    assert opening("Nothing ends here", 9) == opening("") == opening("\n\n") == ""
    assert opening("Mr. Fox runs off. Later more happens to him.", 5) == "Mr. Fox runs off."


# Genres ----------------------------------------------------------------------------------------------------------


@many
@given(MESSY)
def test_genres_are_of_the_catalogue_and_stay_what_they_are(line):
    genres = catalogue_genres(line)
    assert set(genres) <= set(GENRES) and len(genres) == len(set(genres)) <= MAX_GENRES
    assert catalogue_genres(", ".join(genres) + ".") == genres


@many
@given(
    st.lists(st.sampled_from(GENRES), unique=True, max_size=6), st.sampled_from([", ", " and ", "/", ". ", " & ", "|"])
)
def test_listed_genres_are_found_in_order(genres, separator):
    assert catalogue_genres(separator.join(genres).upper()) == genres[:MAX_GENRES]


@pytest.mark.parametrize(
    ("line", "genres"),
    [
        ("science fiction, Family and Noir.", ["Sci-Fi", "Children's", "Film-Noir"]),
        ("Sci–Fi, Sci Fi, SCIFI", ["Sci-Fi"]),
        ("Children's, Thailand, Androids", ["Children's"]),
        ("Drama,and War AND Western", ["Drama", "War", "Western"]),
        ("Romantic comedy", []),
        ("", []),
    ],
)
def test_names_that_models_use(line, genres):
    assert catalogue_genres(line) == genres


# Items as ideas --------------------------------------------------------------------------------------------------


def test_every_item_has_the_form_in_which_it_is_edited(movies: Domain):
    ideas = dict(zip(movies.text_items, movies.texts("idea"), strict=True))
    assert all(
        idea.count("\n") == 1 and len(idea.partition("\n")[2].split()) <= MAX_START_WORDS for idea in ideas.values()
    )
    for item in start_items(movies):
        assert ideas[item] == start_of(movies, item, user=0).text
