"""The form in which items are edited: an idea of two lines, the labels of the catalogue and one or two sentences.

An encoder should be fitted on texts of the form that it is asked about (`Domain.texts("idea")`): means over a whole
plot are other numbers than those over its opening.
"""

from __future__ import annotations

import re
import string
import unicodedata

from helpers.domains.wording import MOVIES, Wording, letters
from helpers.language.texts import sentence_ends

MAX_START_WORDS = 30  # of the plot of a start text, cut after a whole sentence
MAX_PLOT_CHARACTERS = 600  # of a plot, cut after a whole sentence; no token limit should let it grow further
MAX_GENRES = 4


def idea_of(genres: list[str] | tuple[str, ...], plot: str, wording: Wording = MOVIES) -> str:
    """An idea in the form of the environment's texts."""
    return f"{wording.line(genres)}\n{plot}"


def ascii_line(text: str) -> str:
    """The text in printable ASCII on one line: accents dropped, dashes and quotes made plain.

    `<`, `>` and `|` are replaced, so that no text holds a tag or a mark such as `<|im_start|>`, which a tokenizer
    would read as the end of a message when the text stands in the next prompt.
    """
    text = " ".join(text.split()).translate(str.maketrans("–—‘’“”…", "--''\"\"."))
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = text.translate(str.maketrans("<>|", "()/"))  # only now: the normal form of a wide `＜` is `<`
    return " ".join("".join(c for c in text if c in string.printable).split())


def opening(plot: str, max_words: int = MAX_START_WORDS) -> str:
    """The first whole sentences of a plot that fit into `max_words`; empty when the first is longer."""
    text = ascii_line(plot)
    fits = [end for end in sentence_ends(text) if end <= MAX_PLOT_CHARACTERS and len(text[:end].split()) <= max_words]
    return text[: fits[-1]] if fits else ""


def catalogue_genres(line: str, wording: Wording = MOVIES) -> list[str]:
    """The genres of the catalogue that a line names, in order, each once, at most `MAX_GENRES`."""
    known = wording.catalogue
    keys = (letters(word) for word in re.split(r"[,.;/&|]|\band\b", ascii_line(line.lower())))
    return list(dict.fromkeys(known[key] for key in keys if key in known))[:MAX_GENRES]
