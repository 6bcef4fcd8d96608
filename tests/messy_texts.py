"""Texts as catalogues and language models write them at their worst, for tests over kinds of input."""

from __future__ import annotations

from hypothesis import strategies as st

from helpers.domains.wording import MOVIES

GENRES = MOVIES.names
MARKS = (
    "\n",
    "\n\n",
    "\r\n",
    "\u2028",
    "\x1c",
    " ",
    ", ",
    ". ",
    ".",
    "...",
    "?!",
    '."',
    "—",
    "“Why?”",
    "ﬁ",
    "½",
    "你好",
)
WORDS = ("Genres:", "genres :", "Mr. Smith", "3.5", "1. ", "U.S. Army", "A man", "walks home", "and", "an évening")
PIECES = st.sampled_from([*GENRES[:6], *WORDS, *MARKS])
MESSY = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=40).map("".join))
