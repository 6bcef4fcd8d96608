"""The primer: its code prints what stands below it, its figures are printed, and notebooks lead to every section."""

from __future__ import annotations

import contextlib
import io
import re

import nbformat
import pytest
from test_glossary import dead_links
from test_numbers import ALWAYS, FOLDER, NOTEBOOKS, quotes, stands_in

from helpers.base.settings import PROJECT

PAGE = (FOLDER / "PRIMER.md").read_text("utf-8")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n```text\n(?P<printed>.*?)^```$", re.DOTALL | re.MULTILINE)
SECTIONS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SCREENS = 70  # lines: two screens, and a little


def prints_otherwise(page: str) -> list[str]:
    """Code blocks of a page, run in order in one namespace, that print something else than what stands below them."""
    names: dict = {}
    wrong = []
    for block in BLOCK.finditer(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block["code"], names)
        if printed.getvalue() != block["printed"]:
            wrong.append(f"{block['code']}prints\n{printed.getvalue()}")
    return wrong


def unprinted(section: str) -> list[str]:
    """Figures in the prose of a section that no code or output of it has."""
    lines = [line for block in BLOCK.finditer(section) for line in block[0].splitlines()]
    return [quote.text for quote in quotes(section) if not stands_in(quote, lines) and quote.text not in ALWAYS]


def test_every_block_prints_what_stands_below_it():
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```python") >= 2 * len(SECTIONS)
    assert prints_otherwise(PAGE) == []


@pytest.mark.parametrize("title", SECTIONS)
def test_every_figure_of_a_section_is_printed_there(title):
    assert unprinted(SECTIONS[title]) == []
    assert BLOCK.search(SECTIONS[title]) and "**Where the course needs it.**" in SECTIONS[title]
    assert SECTIONS[title].count("\n") <= SCREENS


def test_no_link_of_the_primer_is_dead_and_each_section_is_listed():
    assert dead_links(PAGE, FOLDER) == []
    assert re.findall(r"^- \[(.+?)\]\(#", PAGE, re.MULTILINE) == list(SECTIONS)


def test_notebooks_lead_to_every_section_and_the_readme_to_the_page():
    prose = "\n".join(
        cell.source for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"
    )
    anchors = {title.casefold().replace(" ", "-") for title in SECTIONS}
    assert set(re.findall(r"\(PRIMER\.md#([\w-]+)\)", prose)) == anchors
    assert "](notebooks/PRIMER.md)" in (PROJECT / "README.md").read_text("utf-8")


# The rules themselves ------------------------------------------------------------------------------------------

GOOD = "It is 0.25.\n\n```python\nprint(f'{1 / 4:.2f}')\n```\n```text\n0.25\n```\n"


def test_a_good_page_passes():
    assert prints_otherwise(GOOD) == unprinted(GOOD) == []


def test_another_output_and_another_figure_are_named():
    assert "prints\n0.25" in prints_otherwise(GOOD.replace("\n0.25\n", "\n0.26\n"))[0]
    assert unprinted(GOOD.replace("It is 0.25", "It is 0.24")) == ["0.24"]
