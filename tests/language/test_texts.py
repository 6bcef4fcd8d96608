"""Sentences, words and repetition."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.language.texts import copied_share, repetition, sentence_ends, whole_sentences

PIECES = st.sampled_from(
    [". ", ".", "...", "?!", '."', "”", " ", "3.5", "1. ", "Mr. Smith", "U.S. Army", "walks", "A man", "and"]
)


@given(st.one_of(st.text(max_size=100), st.lists(PIECES, max_size=40).map("".join)))
def test_sentence_ends_are_places_behind_punctuation(text):
    ends = sentence_ends(text)
    assert ends == sorted(set(ends))
    assert all(re.search(r"[.!?][\"')”’]*$", text[:end]) and not text[end : end + 1].strip() for end in ends)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?! Four", ["One.", " Two!", " Three?!"]),
        ("Mr. Fox met Dr. J. Hyde. They ran.", ["Mr. Fox met Dr. J. Hyde.", " They ran."]),
        ("It cost 3.5 dollars. It broke.", ["It cost 3.5 dollars.", " It broke."]),
        ("He joins the U.S. Army vs. all odds.", ["He joins the U.S. Army vs. all odds."]),
        ('"Who is it?" she asks. "Me."', ['"Who is it?" she asks.', ' "Me."']),
        ("He waits... and waits. Done.", ["He waits... and waits.", " Done."]),
        ("Sgt. Bilko and SGT. Pepper meet the sgt. of arms", []),
        ("", []),
    ],
)
def test_sentences(text, sentences):
    ends = sentence_ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two! Three", "One. Two!"),
        ("One.\n\n  Two?\nThree.", "One. Two? Three."),
        ("It cost 3.5 million. He left with 2.5 mil", "It cost 3.5 million."),
        ('He says "Go." And then', 'He says "Go."'),
        ('He says "Go!"', 'He says "Go!"'),
        ("1. Add a dog 2", "1. Add a dog 2"),
        ("1. Add a dog. 2. Add a c", "1. Add a dog."),
        ("In 1999. Then", "In 1999."),
        ("Wait... what. And", "Wait... what."),
        ("A dog. Mr. Fox and", "A dog."),
        ("no end at all", "no end at all"),
        ("", ""),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), ("a b", 0), ("a b c", 0), ("a b c a b c", 1 / 4), ("x x x x", 1 / 2), ("! ! ! ! !", 0)],
)
def test_repetition(text, share):
    assert repetition(text) == pytest.approx(share)


SOURCE = "A retired teacher returns to her village."


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (SOURCE, 1.0),
        ("a RETIRED teacher, returns to her village", 1.0),
        ("A retired teacher sings.", 0.5),
        ("Her village returns to a teacher.", 0.0),
        ("A retired", 0.0),
        ("", 0.0),
    ],
)
def test_shares_by_hand(text, share):
    assert copied_share(text, SOURCE) == pytest.approx(share)


@given(st.lists(st.sampled_from(["tea", "rain", "sun"]), min_size=3))
def test_a_text_copies_itself(words):
    assert copied_share(" ".join(words), " ".join(words)) == 1
