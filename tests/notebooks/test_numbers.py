"""Numbers in prose are those of the cells just above, of the results page, or stand in a list with their reason.

A summary may speak of everything above it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.course.results import COLUMNS

FOLDER = PROJECT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RESULTS, README = (path.read_text("utf-8") for path in (FOLDER / "RESULTS.md", PROJECT / "README.md"))
NEAR = 8  # code cells above a text that it may speak of
FULL = re.compile(r"full profile|RESULTS\.md", re.IGNORECASE)

# By notebook: what no output prints, and where it is from.
# fmt: off
KNOWN = {
    "01": {"0.03": "difference of two printed errors", "0.17": "the same", "0.02": "the penalty of the widget"},
    "02": {"3.25": "billion parameters of the paper's encoder", "0.02": "difference of two rows", "0.03": "the same",
           "0.3": "above every printed correlation"},
    "05": {"2.5": "worked out in the sentence", "0.001": "the tolerance of the design"},
    "06": {number: "the paper's table 2" for number in (".65", ".58", ".69", ".74", ".49", ".51", ".02", ".03", ".04")}
    | {"0.05": "the temperature of a build step"},
    "07": {"0.9": "lambda of the advantages", ".11": "the paper's gain by rewards", ".23": "the same"},
    "08": {"1.45": "of the paper's table 2", ".74": "the same", ".51": "the same"},
    "10": {"82%": "the case of an exercise", "0.5": "the same"},
    "11": {"0.6": "of the walk, further up"},
    "12": {"0.03": "a weight of the variants"},
    "13": {"4%": "the rule for a strength", "7%": "the same", "90%": "our aim", "3%": "the same", "5%": "the same",
           "10%": "the case of a quiz question"},
    "14": {"0.6": "the case of an exercise", "0.45": "the same", "50%": "what is fair"},
    "15": {"0.5": "balanced accuracy of a constant answer"},
    "16": {"90%": "the claim of the section", "80%": "the same", "1.96": "quantile", "2.5%": "one side of an interval",
           "99%": "of Narayanan and Shmatikov", "30%": "a true rate, set in the next cell"},
    "17": {"3.1": "in the name of a model"},
}
# fmt: on
ALWAYS = {"95%": "the level of every interval"}


class Quote(NamedTuple):
    """A figure in prose: its text, its numbers (one, or a value with its interval), and the paragraph it stands in."""

    text: str
    numbers: tuple[str, ...]
    paragraph: str


# Reading -----------------------------------------------------------------------------------------------------------

DECIMAL = r"[-−–+]?(?:\d+\.\d+|\.\d+|\d+(?=\s*%))(?:\s*%)?"
QUOTED = re.compile(rf"(?<![\w.,/=^-])({DECIMAL})(?![\w.]*\w)(?:[^.\[\]\d]{{0,12}}\[({DECIMAL}), ({DECIMAL})\])?")
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})+|\d*\.\d+(?:e[-+]?\d+)?|\d+")
NOT_PROSE = (
    re.compile(r"```.*?```", re.DOTALL),
    re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL),
    re.compile(r"`[^`]*`"),
    re.compile(r"(?<=\])\([^)]*\)|https?://\S+|arXiv:? ?\S+"),
    re.compile(r"(?:[Bb]uild steps?|[Ee]xercises?) [\d., and]*\d"),
)


def quotes(text: str) -> list[Quote]:
    """All figures with a fraction or a per cent sign, by paragraph; not those of formulas, code and links."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        prose = paragraph
        for pattern in NOT_PROSE:
            prose = pattern.sub(" ", prose)
        found += [Quote(m[0], tuple(part for part in m.groups() if part), paragraph) for m in QUOTED.finditer(prose)]
    return found


def bare(number: str) -> str:
    """A figure as KNOWN has it: without spaces and without its sign."""
    return re.sub(r"[^\d.%]", "", number)


def numbers_of(text: str) -> list[float]:
    """Magnitudes of all numbers in a text: a sentence says "loses 0.02" where a table has -0.02."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def is_rounded(number: str, value: float) -> bool:
    """Whether a number in prose is a value, rounded to its places; a per cent may be that of a share."""
    said = bare(number).rstrip("%")
    half_a_place = 0.5 * 10.0 ** -len(said.partition(".")[2]) + 1e-9
    scales = (1, 100) if "%" in number else (1,)
    return any(abs(scale * value - float(said)) <= half_a_place for scale in scales)


def stands_in(quote: Quote, lines: list[str]) -> bool:
    """Whether one line has all numbers of a quote: an interval belongs to its value."""
    return any(
        all(any(is_rounded(number, value) for value in numbers_of(line)) for number in quote.numbers) for line in lines
    )


def printed_by(cell) -> list[str]:
    """Lines of a code cell and of the text that it printed."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", [])]
    return "\n".join([cell.source, *texts]).splitlines()


def published(page: str) -> list[str]:
    """Value and interval of every row of the results page."""
    rows = ([part.strip() for part in line.strip("| \n").split("|")] for line in page.splitlines() if line[:2] == "| ")
    return [f"{row[1]} {row[2]}" for row in rows if len(row) == len(COLUMNS)]


def checked(book) -> list:
    """The texts of a notebook whose figures must be backed: all but quiz and references."""
    texts = (cell for cell in book.cells if cell.cell_type == "markdown")
    return [cell for cell in texts if not re.match(r"## (Quiz|References)", cell.source)]


def unbacked(book, number: str, page: str = RESULTS) -> list[str]:
    """Figures in the prose of a notebook that nothing above them backs."""
    above: list[list[str]] = []
    wrong, known, texts = [], KNOWN.get(number, {}) | ALWAYS, {cell.id for cell in checked(book)}
    for cell in book.cells:
        if cell.cell_type == "code":
            above.append(printed_by(cell))
        elif cell.id in texts:
            summary = re.match(r"## Summary", cell.source)
            near = [line for lines in above[0 if summary else -NEAR :] for line in lines]
            for quote in quotes(cell.source):
                lines = near + (published(page) if FULL.search(cell.source) else [])
                if not stands_in(quote, lines) and not {bare(number) for number in quote.numbers} <= set(known):
                    wrong.append(f"{quote.text}: {' '.join(quote.paragraph.split())[:120]}")
    return wrong


# The notebooks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_in_prose_is_backed(path: Path, record_property):
    book = nbformat.read(path, as_version=4)
    record_property("classroom.prose_numbers_checked", sum(len(quotes(cell.source)) for cell in checked(book)))
    assert unbacked(book, path.stem.split("_")[0]) == []


def test_every_figure_of_the_readme_is_published():
    results = README[README.index("## What was found") : README.index("**What to use when.**")]
    figures = [quote for quote in quotes(results) if quote.text not in ALWAYS]
    assert len(figures) > 15
    assert [quote.text for quote in figures if not stands_in(quote, published(RESULTS))] == []


def test_minutes_of_the_commands_are_those_that_were_measured():
    known = re.findall(r"^\| tests\.(\w+_minutes) \| ([\d.]+) ", RESULTS, re.MULTILINE)
    minutes = {name: round(float(value)) for name, value in known}
    both = minutes["cold_minutes"], minutes["warm_minutes"]
    readme, running = ((PROJECT / page).read_text("utf-8") for page in ("README.md", "notebooks/RUNNING.md"))
    assert "every notebook: {} min the first time, then {} min\n".format(*both) in readme
    assert re.search(r"\| `make test`.* \| {} min \| {} min \|\n".format(*both), running)
    assert f"| `make check` | | {minutes['check_minutes']} min |\n" in running


def test_every_known_figure_is_still_in_its_notebook():
    for number, known in KNOWN.items():
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        said = {n for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
                for quote in quotes(cell.source) for n in quote.numbers}  # fmt: skip
        assert set(known) <= set(map(bare, said)), number


# The check itself --------------------------------------------------------------------------------------------------


def book_with(text: str, output: str = "gain 0.312 [0.208, 0.431]\nshare 0.28"):
    """A notebook with one printed output and a text below it."""
    printed = v4.new_code_cell("print(found)", outputs=[v4.new_output("stream", text=output)])
    return v4.new_notebook(cells=[printed, v4.new_markdown_cell(text)])


PAGE = f"| {' | '.join(COLUMNS)} |\n| eagle.gain | 0.3139 | [0.2071, 0.4304] | 48 | 3 | stars | 06 |\n"


@pytest.mark.parametrize(
    "text",
    [
        "It gains 0.31 stars.",
        "It gains 0.31 [0.21, 0.43] stars.",
        "Of all, 28% are copies.",
        "It loses 0.3 stars.",
        "In $x = 7.77$ and `7.77` nothing is measured; see [there](page-7.77.html) and exercise 7.7.",
        "In the full profile it gains 0.31 [0.21, 0.43].",
        "Version 1.2.3 of it has no figure.",
    ],
)
def test_what_is_backed_passes(text):
    assert unbacked(book_with(text), "99", PAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        "It gains 0.32 stars.",
        "It gains 0.31 [0.21, 0.28] stars.",
        "It gains 0.31 [0.20, 0.43] stars.",
        "Of all, 29% are copies.",
        "It gains .5 stars.",
        "It gains 0.3139 stars.",
        "In the full profile it gains 0.31 [0.20, 0.43].",
    ],
)
def test_what_is_not_is_named(text):
    (wrong,) = unbacked(book_with(text), "99", PAGE)
    assert wrong.split(":")[0] in text


def test_a_figure_far_below_its_output_is_named():
    book = book_with("It gains 0.31 stars.")
    book.cells[1:1] = [v4.new_code_cell(f"step({number})") for number in "abcdefgh"]
    assert len(unbacked(book, "99", PAGE)) == 1
