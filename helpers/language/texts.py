"""What can be read from the words of a text: where its sentences end, and how much it repeats itself.

Raw catalogues are cut by rules of their own (`domains.movies.clean_plot`, `domains.clothing.sentences`).
"""

from __future__ import annotations

import re

# A full stop after these, after an initial, or before a lower-case letter does not end a sentence.
TITLES = ("Capt", "Col", "Dr", "Gen", "Jr", "Lt", "Mr", "Mrs", "Ms", "Prof", "Rev", "Sgt", "Sr", "St", "vs")
SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])" + "".join(rf"(?<!\b(?i:{word}))" for word in TITLES) + r"[.!?]+[\"')”’]*(?=\s+[^a-z\s]|\s*$)"
)


def sentence_ends(text: str) -> list[int]:
    """Where the sentences of a text end, each with its closing quotes."""
    return [found.end() for found in SENTENCE_END.finditer(text)]


def whole_sentences(text: str) -> str:
    """The text on one line, without what follows its last whole sentence; as it is when it has none."""
    text = " ".join(text.split())
    ends = [end for end in sentence_ends(text) if not re.search(r"\b\d\.$", text[:end])]  # `1.` of a list ends nothing
    return text[: ends[-1]] if ends else text


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation except apostrophes."""
    return re.findall(r"[a-z0-9']+", text.lower())


def repetition(text: str, n: int = 3) -> float:
    """Share of the n-word sequences of a text that occurred in it before; 0 for a shorter text."""
    words = words_of(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def copied_share(text: str, source: str, n: int = 3) -> float:
    """Share of a text's sequences of n words that occur in another text as well; 0 for a text of fewer words."""
    words, others = words_of(text), words_of(source)
    known = {tuple(others[i : i + n]) for i in range(len(others) - n + 1)}
    own = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(sequence in known for sequence in own) / len(own) if own else 0.0
