"""The field's own words: what the course once had a private word for is called what a colleague would call it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from helpers.base.settings import PROJECT

PRIVATE = {
    r"\btwins?\b": "paired prompt, paired state; a movie that is listed twice",
    r"\bdials?\b": "dose, strength",
    r"\bschool(?:ed|ing)\b": "training",
    r"\bdealt out\b": "shuffled, drawn at random",
    r"\bby lot\b": "at random",
    r"\bwell-kept\b": "maintained",
    r"\bbegun answers?\b": "prefilled answer",
    r"\b(?:told|asked) (?:state|verdict|answer|word)s?\b": "state under the target prompt, target answer",
    r"\b(?:being|looks) told\b": "is given the answer in its prompt",
    r"\bone a user\b": "per user",
    r"\bdice\b": "random draws",
    r"\bfresh judge\b": "a discriminator that took no part",
    r"\bNine in (?:ten|twenty)\b": "90%, 95%",
}
PAGES = [
    PROJECT / "README.md",
    *sorted((PROJECT / "notebooks").glob("*.md")),
    *sorted((PROJECT / "notebooks").glob("*.ipynb")),
    *sorted((PROJECT / "helpers").rglob("*.py")),
]


def text_of(path: Path) -> str:
    """What a reader reads: the text cells of a notebook, and the whole of any other file."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text("utf-8")


def private_words(text: str) -> list[str]:
    """Private words with a little of what stands round them, and what to say instead."""
    return [
        f"...{text[max(0, found.start() - 30) : found.end() + 20]!r}: say {better}"
        for pattern, better in PRIVATE.items()
        for found in re.finditer(pattern, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_private_word(path: Path):
    assert private_words(text_of(path)) == []


@pytest.mark.parametrize("text", ["the twins of both", "As the dial turns,", "S is schooled", "Nine in ten, the aim,"])
def test_a_private_word_is_named(text):
    (found,) = private_words(text)
    assert "say" in found


@pytest.mark.parametrize(
    "text", ["He was told to go.", "a dialogue", "intertwined", "the school year", "asked questions"]
)
def test_other_words_pass(text):
    assert private_words(text) == []
