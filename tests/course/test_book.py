"""The book: nothing of a notebook is lost on its page, solutions are folded, terms and notebooks are linked."""

from __future__ import annotations

import functools
import re

import nbformat
import pytest
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.base.storage import CourseError
from helpers.course import book, editions, glossary

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((PROJECT / "notebooks").glob("*.ipynb"))}
STEMS = {stem[:2]: stem for stem in NOTEBOOKS}
TERMS = glossary.terms_of((PROJECT / "notebooks/GLOSSARY.md").read_text("utf-8"))
GLOSSARY = """- **ARE**: a method. [10](10_x.ipynb)
- **Baseline (in a comparison)**: what a result must beat. [01](01_x.ipynb)
- **Call**: one use. [08](08_x.ipynb)
- **Gap map**: a picture. [03](03_x.ipynb)
- **Leverage**: how badly $q$ is known. [05](05_x.ipynb)
- **MC1, MC2**: two scores. [14](14_x.ipynb)
- **Sharding (FSDP)**: in parts. [17](17_x.ipynb)
"""


def linked(text: str, number: str) -> str:
    return glossary.linked([text], glossary.terms_of(GLOSSARY), number)[0]


@functools.cache
def page(stem: str):
    return book.book_page(NOTEBOOKS[stem], stem, STEMS, TERMS, "a picture" if stem.startswith("X") else "")


# Glossary ------------------------------------------------------------------------------------------------------


def test_every_entry_of_the_glossary_is_read():
    text = (PROJECT / "notebooks/GLOSSARY.md").read_text("utf-8")
    assert len(TERMS) == len(re.findall(r"^- \*\*", text, re.MULTILINE)) > 100
    made = glossary.glossary_page(text)
    assert "- **" not in made and [term.name for term in TERMS if f"\n{term.name}\n  {term.meaning}" not in made] == []


def test_a_term_is_linked_where_a_page_first_uses_it():
    assert linked("Leverages, and a leverage.", "06") == "{term}`Leverages <Leverage>`, and a leverage."
    terms = glossary.terms_of(GLOSSARY)
    assert glossary.linked(["no", "a gap\nmap", "gap map"], terms, "05") == [
        "no",
        "a {term}`gap map <Gap map>`",
        "gap map",
    ]
    assert linked("MC2 and FSDP", "02") == "{term}`MC2 <MC1, MC2>` and {term}`FSDP <Sharding (FSDP)>`"


@pytest.mark.parametrize(
    "text", ["We are here.", "`leverage`", "## Leverage\n", "[leverage](x)", "$leverage$", "deleverage"]
)
def test_no_term_is_linked_in(text):
    assert linked(text, "10") == text
    assert linked(f"{text} MC1", "10") == f"{text} {{term}}`MC1 <MC1, MC2>`" or text.startswith("##")


def test_a_plain_word_is_linked_from_its_notebook_on_and_an_everyday_one_only_there():
    assert [linked("leverage", number) for number in ("04", "05", "06")] == [
        "leverage",
        "{term}`leverage <Leverage>`",
        "{term}`leverage <Leverage>`",
    ]
    assert [linked("a call", number)[:8] for number in ("07", "08", "09")] == ["a call", "a {term}", "a call"]
    assert [linked("baseline", number)[:6] for number in ("01", "02")] == ["{term}", "baseli"]


# Pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_solutions_are_folded_and_complete(stem):
    made = page(stem)
    answers = {
        cell.id: cell
        for cell in made.cells
        if cell.metadata.get("mystnb", {}).get("code_prompt_show") == "Show solution"
    }
    solved = [cell for cell in NOTEBOOKS[stem].cells if cell.cell_type == "code" and editions.regions(cell)]
    assert list(answers) == [cell.id for cell in solved]
    for cell in solved:
        wanted = [
            line for line in cell.source.split("\n") if not line.strip().startswith(("# BEGIN", "# END", "# NBVAL"))
        ]
        assert answers[cell.id].source.split("\n") == wanted
        assert "hide-input" in answers[cell.id].metadata.tags
    tasks = [cell.source for cell in made.cells if cell.id.endswith("-task")]
    assert len(tasks) == len(solved) and all("NotImplementedError" in task or "= ..." in task for task in tasks)
    assert not any("BEGIN SOLUTION" in cell.source for cell in made.cells)


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_no_output_is_lost(stem):
    made = {cell.id: cell for cell in page(stem).cells}
    for cell in NOTEBOOKS[stem].cells:
        if cell.cell_type != "code":
            continue
        shown = made[cell.id].outputs
        data = [out["data"] for out in cell.outputs if "data" in out and book.WIDGET not in out["data"]]
        assert [found for found in data if found not in [out.get("data") for out in shown]] == []
        printed = "".join(out.text for out in cell.outputs if out.output_type == "stream").split()
        said = "".join(out.text for out in shown if out.output_type == "stream").split()
        captions = " ".join(
            out["data"].get("text/html", "") for out in shown if "figure-caption" in str(out.get("data", ""))
        )
        assert len(printed) == len(said) + len(re.sub("<p [^>]*>|</p>", " ", captions).split())
        widgets = [out for out in cell.outputs if book.WIDGET in out.get("data", {})]
        assert (
            not widgets or stem.startswith("X") or any(book.NEEDS_KERNEL in str(out.get("data", "")) for out in shown)
        )


def test_every_widget_page_says_how_to_open_it():
    for stem in ("X1_explore_steering", "X2_explore_editing"):
        sources = "\n".join(cell.source for cell in page(stem).cells)
        assert "`make explore` opens it" in sources and f"![a picture](images/{stem[:2]}.png)" in sources


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_a_term_and_a_notebook_are_linked_once(stem):
    text = "\n\n".join(cell.source for cell in page(stem).cells if cell.cell_type == "markdown")
    terms = re.findall(r"\{term\}`[^<]+ <([^>]+)>`", text)
    links = re.findall(r"\]\((\w+)\.ipynb\)", text)
    assert len(set(terms)) == len(terms) and len(set(links)) == len(links)
    assert stem not in links and set(links) <= set(NOTEBOOKS)
    assert not re.search(r"^#.*\{term\}", text, re.MULTILINE)
    assert f"notebooks/student/{stem}.ipynb" in text and f"notebooks/executed/{stem}.ipynb" in text


def test_notebooks_are_linked_in_lists_but_not_in_code_and_not_twice():
    stems = {"03": "03_a", "04": "04_b"}
    texts = ["`notebook 03` and notebooks 03 and\n04; notebook 04", "In notebook 03, 99 of notebook 05."]
    assert book.with_notebooks(texts, stems, "05") == [
        "`notebook 03` and [notebooks 03](03_a.ipynb) and\n[04](04_b.ipynb); notebook 04",
        "In notebook 03, 99 of notebook 05.",
    ]


def test_equations_in_hints_and_names_of_operators():
    made = book.with_equations("<details><summary>Hint</summary>All of $x$.</details>\n\n$y$")
    assert "<math" in made and "$x$" not in made and made.endswith("\n\n$y$")
    assert "\\" not in book.equation(r"\arg\min_x") and 'mathvariant="normal">&#x003A3;' in book.equation(r"\Sigma")


def test_a_caption_is_escaped_and_describes_its_picture():
    out = v4.new_output("stream", text="before\nFigure: a < b; more\nafter\n")
    alt, shown = book.shown([out])
    assert alt == "a < b" and "Figure: a &lt; b; more" in shown[1]["data"]["text/html"]
    assert [shown[0].text, shown[2].text] == ["before\n", "after\n"]


# Front page, references and the folder -------------------------------------------------------------------------


def test_each_notebook_is_in_one_part_in_order():
    assert [number for numbers in book.COURSE_PARTS.values() for number in numbers] == sorted(STEMS)
    front = book.front((PROJECT / "README.md").read_text("utf-8"), STEMS)
    assert re.findall(r"<(\w\w_\w+)>$", front, re.MULTILINE) == list(NOTEBOOKS)
    assert [stem for stem in NOTEBOOKS if not re.search(rf"\]\({stem}\.ipynb\): \w", front)] == []


def test_references_are_collected_once_each_with_all_who_cite():
    made = book.references(NOTEBOOKS)
    items = {stem: book.cited(found) for stem, found in NOTEBOOKS.items()}
    assert all(items.values())
    for stem, found in items.items():
        for item in found:
            title = re.search(r"\*(.+?)\*", item)
            lines = [
                line for line in made.split("\n") if not title or book._same(item) in re.sub(r"\W", "", line).casefold()
            ]
            assert any(f"]({stem}.ipynb)" in line for line in lines), item
    lines = [line for line in made.split("\n") if line.startswith("- ")]
    assert sum("Embedding-Aligned Language Models" in line for line in lines) == 1 and len(set(lines)) == len(lines)


def test_the_folder_is_the_same_twice_and_holds_the_downloads(tmp_path):
    pytest.importorskip("ziamath")
    first, second = (book.write_source(PROJECT, tmp_path / name) for name in ("one", "two"))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [file for file in files if (first / file).read_bytes() != (second / file).read_bytes()] == []
    for stem in NOTEBOOKS:
        student = (first / f"extra/notebooks/student/{stem}.ipynb").read_text("utf-8")
        assert "BEGIN SOLUTION" not in student
        executed = first / f"extra/notebooks/executed/{stem}.ipynb"
        assert executed.read_bytes() == (PROJECT / f"notebooks/{stem}.ipynb").read_bytes()


def test_a_wrong_mark_names_its_notebook(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name in (
        "README",
        "data/README",
        *(f"notebooks/{page}" for page in ("PRIMER", "RUNNING", "GLOSSARY", "RESULTS")),
    ):
        (tmp_path / f"{name}.md").write_text("")
    bad = v4.new_notebook(cells=[v4.new_markdown_cell("# A"), v4.new_code_cell("# BEGIN SOLUTION")])
    nbformat.write(bad, tmp_path / "notebooks/03_bad.ipynb")
    with pytest.raises(CourseError, match=r"03_bad: .*without END"):
        book.write_source(tmp_path, tmp_path / "source")


def test_sphinx_says_what_is_wrong(tmp_path):
    pytest.importorskip("sphinx")
    (tmp_path / "index.md").write_text("# A\n\n[nowhere](missing.md)\n")
    (tmp_path / "conf.py").write_text('extensions = ["myst_nb"]\n')
    with pytest.raises(book.BookFailed, match="missing"):
        book.build(tmp_path, tmp_path / "html")
