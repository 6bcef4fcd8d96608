"""GLOSSARY.md and INSTRUCTOR.md keep up with the notebooks: symbols, exercises and links."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from helpers.base.settings import PROJECT
from helpers.course.exercises import EXERCISES

FOLDER = PROJECT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PAGES = {name: (FOLDER / name).read_text("utf-8") for name in ("GLOSSARY.md", "INSTRUCTOR.md")}
GLOSSARY = PAGES["GLOSSARY.md"]
ROW = re.compile(r"^\|\s*(\$.*?)\s*\|", re.MULTILINE)  # first column of a table row that begins with a symbol


# What the pages hold -------------------------------------------------------------------------------------------


def normal(symbol: str) -> str:
    """A symbol without spaces, braces and fonts, and without what it is defined to be."""
    symbol = re.sub(r"\\(mathrm|text|mathcal|,|;)", "", symbol.split("=")[0])
    return re.sub(r"[\s{}]", "", symbol)


def listed(column: str) -> list[str]:
    """Symbols of a table column such as `$W$, $B$` or `$\\mu, \\sigma$`, normalised."""
    parts = (re.split(r"(?<!\\),\s(?![^(]*\))", math) for math in re.findall(r"\$([^$]+)\$", column))
    return [normal(part) for some in parts for part in some]


def symbols_of(text: str) -> set[str]:
    """Every symbol in the symbol tables of a text."""
    return {symbol for column in ROW.findall(text) for symbol in listed(column)}


def prose(path: Path) -> str:
    """All markdown cells of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def sort_key(entry: str) -> str:
    """Letters and digits of an entry's first symbol or name: what the alphabet goes by."""
    first = re.match(r"\$([^$]+)\$", entry)
    text = re.sub(r"\\(bar|hat|mathrm|mathcal|text|top|cdot|mid)\b", "", first[1] if first else entry)
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def unsorted(entries: list[str]) -> list[str]:
    """Entries that stand before one that should come first."""
    keys = [sort_key(entry) for entry in entries]
    return [entry for entry, key, after in zip(entries, keys, keys[1:], strict=False) if key > after]


def dead_links(text: str, folder: Path) -> list[str]:
    """Relative links to files that are not there, and links to headings that the page does not have."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.casefold()).replace(" ", "-") for heading in headings}
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path and not re.match(r"\w+:", path) and not (folder / path).exists():
            dead.append(target)
        if not path and anchor not in anchors:
            dead.append(target)
    return dead


# The pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    assert re.search(r"\]\(\d\d_\w+\.ipynb\)", PAGES[page]), "the page links to no notebook"
    assert dead_links(PAGES[page], FOLDER) == []


def test_every_entry_says_where_it_is_introduced():
    entries = [line for line in GLOSSARY.splitlines() if line.startswith(("| $", "- **"))]
    assert len(entries) > 200
    assert [line for line in entries if not re.search(r"\[\d\d\]\(\d\d_\w+\.ipynb\)( \|)?$", line)] == []


def test_entries_are_sorted_and_terms_are_unique():
    terms = re.findall(r"^- \*\*(.+?)\*\*:", GLOSSARY, re.MULTILINE)
    assert unsorted(ROW.findall(GLOSSARY)) == [] and unsorted(terms) == []
    assert len({term.casefold() for term in terms}) == len(terms)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_symbol_of_a_notebook_has_an_entry(path):
    missing = symbols_of(prose(path)) - symbols_of(GLOSSARY)
    assert not missing, f"add to GLOSSARY.md: {sorted(missing)}"


def test_every_exercise_is_explained_to_instructors_under_its_title():
    titles = re.findall(r"^### (?:Exercise|Build step) (\S+): (.*?) \(", "\n".join(map(prose, NOTEBOOKS)), re.MULTILINE)
    assert set(EXERCISES) < {number for number, _ in titles}
    assert [title for title in titles if "- **{} {}**".format(*title) not in PAGES["INSTRUCTOR.md"]] == []


# The rules themselves ------------------------------------------------------------------------------------------


def test_symbols_are_found_and_normalised():
    rows = ("$\\mu, \\sigma$", "$\\pi_\\mathrm{ref}(\\cdot \\mid x)$, $h^{+}$", "$\\Sigma(q) = q\\, z$")
    table = "\n".join(f"| {row} | meaning |" for row in rows)
    assert symbols_of(table) == {"\\mu", "\\sigma", "\\pi_ref(\\cdot\\midx)", "h^+", "\\Sigma(q)"}
    assert symbols_of("| state $x_t$ | no symbol first |\n| a | $b$ |") == set()


def test_a_wrong_order_is_noticed():
    assert unsorted(["$\\alpha$", "$b_i$", "$\\bar c$", "$D$"]) == []
    assert unsorted(["Beam search", "Advantage", "Card"]) == ["Beam search"]


def test_a_dead_link_is_noticed(tmp_path):
    (tmp_path / "a.md").touch()
    text = "# One heading!\n[a](a.md) [b](b.md) [c](#one-heading) [d](#two) [e](https://example.org/none)"
    assert dead_links(text, tmp_path) == ["b.md", "#two"]
