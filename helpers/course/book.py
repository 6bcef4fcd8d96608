"""The course as a book: a static site made from the notebooks as they are committed. It executes nothing.

    python -m helpers.course.book      or `make book`: build/book/index.html

Two steps. `write_source` makes a folder of pages for sphinx: solutions are folded, terms and notebooks linked,
references collected. `build` lets sphinx turn it into HTML, which needs no network and no server: equations are
MathML, and fonts, scripts and the search index are files beside the pages.
"""

from __future__ import annotations

import copy
import html
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import nbformat
from latex2mathml.converter import convert
from nbformat import NotebookNode, v4

from helpers.base import settings
from helpers.base.storage import CourseError
from helpers.course import editions, glossary
from helpers.course.slides import CAPTION

HERE = Path(__file__).parent
ASSETS = ("book.css", "book.js")
FONT = "fonts/STIXTwoMath-Regular.ttf"  # in the package `ziamath`; under the SIL Open Font License
WIDGET = "application/vnd.jupyter.widget-view+json"
COURSE_PARTS = {
    "Start": ("00",),
    "Embedding spaces": ("01", "02", "03"),
    "EAGLE: steer texts": ("04", "05", "06", "07", "08", "09"),
    "ARE: edit the model": ("10", "11", "12", "13", "14"),
    "Both, and beyond": ("15", "16", "17", "18"),
    "Explorers": ("X1", "X2"),
}
LOOK_UP = {
    "PRIMER": "Primer",
    "RUNNING": "Running the course",
    "GLOSSARY": "Glossary",
    "RESULTS": "Results",
    "REFERENCES": "References",
    "DATA": "Data and models",
}
NEEDS_KERNEL = (
    '<p class="needs-kernel">Controls stand here in a running notebook; they need a kernel (<code>make lab</code>).</p>'
)
EXPLORER = """
The explorer needs a kernel. This is a picture of it; `make explore` opens it as a page, `make lab` as a notebook.

![{alt}](images/{number}.png)
"""
WELCOME = """
These pages show the notebooks with the outputs that are committed, those of the small profile. Nothing here needs a
network. Write the build steps and exercises before you look: each solution is folded below its task. To run the
course, with checks for what you write:

```
make lab
```
"""
MENTIONED = r"\b(?P<lead>[Nn]otebooks?\s+)(?:\d\d|X\d)(?:(?:,\s+and|,|\s+and|\s+to)\s+(?:\d\d|X\d))*\b(?![.-]\d)"


class BookFailed(CourseError):
    """Sphinx could not build the book, or printed a warning."""


# Cells ---------------------------------------------------------------------------------------------------------


def cells_of(cell: NotebookNode) -> list[NotebookNode]:
    """The cells of the book for a cell of a notebook: for one with a solution two, the task and the folded answer."""
    cell = copy.deepcopy(cell)
    if cell.cell_type == "markdown":
        return [cell]
    task, hidden = (
        editions.COMPARED.sub("", editions.blank(cell)),
        cell.metadata.get("jupyter", {}).get("source_hidden"),
    )
    solved, prompt = bool(editions.regions(cell)), "Show code"
    if solved:
        prompt = "Show solution"
        lines = (line for line in cell.source.split("\n") if not editions.MARK.search(line))
        cell.source = "\n".join(lines)
    tags = cell.metadata.get("tags", [])
    if (solved or hidden) and "hide-input" not in tags:
        tags = [*tags, "hide-input"]
    alt, outputs = shown(cell.outputs)
    shows = {"code_prompt_show": prompt, "code_prompt_hide": prompt.replace("Show", "Hide"), "image": {"alt": alt}}
    cell.update(
        source=editions.COMPARED.sub("", cell.source), outputs=outputs, metadata={"tags": tags, "mystnb": shows}
    )
    return [v4.new_code_cell(task, id=f"{cell.id}-task"[-64:]), cell] if solved else [cell]


def shown(outputs: Iterable[NotebookNode]) -> tuple[str, list[NotebookNode]]:
    """A short description of a cell's figure, and its outputs, with the printed description as a caption."""
    alt, kept = "", []
    for out in outputs:
        if WIDGET in out.get("data", {}):
            kept.append(v4.new_output("display_data", {"text/html": NEEDS_KERNEL}))
            continue
        if out.output_type != "stream":
            kept.append(out)
            continue
        for line in re.split(rf"^({CAPTION}.+\n?)", out.text, flags=re.MULTILINE):
            if line.startswith(CAPTION):
                said = line.removeprefix(CAPTION).strip()
                alt = alt or re.split(r"[;:.,]", said)[0]
                caption = f'<p class="figure-caption">{CAPTION}{html.escape(said)}</p>'
                kept.append(v4.new_output("display_data", {"text/html": caption}))
            elif line.strip():
                kept.append(v4.new_output("stream", name=out.name, text=line))
    return alt or "output of the cell above", kept


# Texts ---------------------------------------------------------------------------------------------------------


def equation(tex: str, display: Literal["inline", "block"] = "inline") -> str:
    """An equation as MathML, which browsers show without any script."""
    made = convert(re.sub(r"\\arg\b", r"\\operatorname{arg}", tex), display=display)
    return re.sub(r"<mi>(&#x003(?:9|A)[0-9A-F];)</mi>", r'<mi mathvariant="normal">\1</mi>', made)  # Greek capitals


def with_equations(text: str) -> str:
    """Markdown in which equations inside one-block `<details>`, which stay HTML, are MathML."""

    def folded(block: re.Match) -> str:
        return re.sub(r"\$([^$]+)\$", lambda found: equation(found[1]), block[0])

    return re.sub(r"^<details(?:.+\n?)+", folded, text, flags=re.MULTILINE)


def with_notebooks(texts: Sequence[str], stems: dict[str, str], number: str) -> list[str]:
    """Markdown of page `number`, in which the first "notebook 05" of each is a link; `stems` are {number: file}."""
    seen = {number}

    def link(found: re.Match) -> str:
        if found["lead"] is None:
            return found[0]
        return re.sub(r"(?P<words>[Nn]otebooks?\s+)?(?P<number>\d\d|X\d)", linked, found[0])

    def linked(found: re.Match) -> str:
        if found["number"] in seen or found["number"] not in stems:
            return found[0]
        seen.add(found["number"])
        return f"[{' '.join(found[0].split())}]({stems[found['number']]}.ipynb)"

    pattern = re.compile(f"{glossary.UNLINKED}|{MENTIONED}", re.DOTALL | re.MULTILINE)
    return [pattern.sub(link, text) for text in texts]


def downloads(stem: str) -> str:
    """The line on a page that offers its notebook in both editions."""
    places = {"to fill in": "student", "with solutions and outputs": "executed"}
    links = (f'<a href="notebooks/{folder}/{stem}.ipynb" download>{words}</a>' for words, folder in places.items())
    return f'<p class="downloads">Download this notebook: {" or ".join(links)}</p>'


# Pages ---------------------------------------------------------------------------------------------------------


def book_page(
    book: NotebookNode, stem: str, stems: dict[str, str], terms: Sequence[glossary.Term], alt: str
) -> NotebookNode:
    """A notebook as a page of the book; `alt` describes the picture of an explorer.

    Raises:
        CourseError: a mark of a solution is wrong, see `editions.regions`.
    """
    cells = [part for cell in book.cells for part in cells_of(cell)]
    told = [cell for cell in cells if cell.cell_type == "markdown"]
    texts = [_reworded(with_equations(cell.source)) for cell in told]
    number = stem[:2]
    texts = glossary.linked(with_notebooks(texts, stems, number), terms, number)
    for cell, text in zip(told, texts, strict=True):
        cell.source = text
    cells.insert(1, v4.new_markdown_cell(downloads(stem), id="downloads"))
    if alt:
        place = next(at for at, cell in enumerate(cells) if _has_widget(cell))
        cells.insert(place + 1, v4.new_markdown_cell(EXPLORER.format(alt=alt, number=number), id="explorer"))
        cells[place].outputs = []
    return v4.new_notebook(cells=cells, metadata=book.metadata)


def _has_widget(cell: NotebookNode) -> bool:
    return any(out.get("data", {}).get("text/html") == NEEDS_KERNEL for out in cell.get("outputs", []))


def _reworded(text: str) -> str:
    """A text for the book: without remarks on the edition with solutions, and with minutes below the heading."""
    for old, new in editions.REWORDED.items():
        text = text.replace(old, new)
    return re.sub(r"^(#{2,} .+?) \(([^()]*minutes)\)$", _minutes_below, text, flags=re.MULTILINE)


def _minutes_below(heading: re.Match) -> str:
    return f"{heading[1]}\n\n*{heading[2].capitalize()}.*"


def references(books: dict[str, NotebookNode]) -> str:
    """The page of all references of the notebooks {stem: notebook}, each with links to those that cite it."""
    wordings: dict[str, list[str]] = {}
    citing: dict[str, list[str]] = {}
    for stem, book in books.items():
        for item in cited(book):
            wordings.setdefault(_same(item), []).append(item)
            citing.setdefault(_same(item), []).append(f"[{stem[:2]}]({stem}.ipynb)")
    lines = []
    for key, found in wordings.items():
        best = max(found, key=lambda item: ("arXiv" in item, len(item)))
        where = "notebook" if len(citing[key]) == 1 else "notebooks"
        lines.append(f"- {_with_arxiv(best)} Cited in {where} {', '.join(citing[key])}.")
    lines.sort(key=lambda line: re.sub(r"\W", "", line).casefold())
    return "\n".join(["# References", "", "What the notebooks cite, and where.", "", *lines, ""])


def cited(book: NotebookNode) -> list[str]:
    """The items of a notebook's section of references."""
    text = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    section = re.search(r"^## References$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^- (.+)$", section[1], re.MULTILINE) if section else []


def _same(item: str) -> str:
    """A key that two wordings of one reference share: the letters of its title up to a colon."""
    title = re.search(r"\*(.+?)\*", item)
    return re.sub(r"\W", "", (title[1] if title else item).split(":")[0]).casefold()


def _with_arxiv(item: str) -> str:
    return re.sub(r"arXiv[: ](\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", item)


def front(readme: str, stems: dict[str, str]) -> str:
    """The first page: what README.md says of the course, its notebooks by part, and the table of contents."""
    rows = dict(re.findall(r"^\| \[(.+?)\]\(notebooks/.+?\) \| (.+?) \|$", readme, re.MULTILINE))
    described = {name[:2]: (name, text) for name, text in rows.items()}
    opening = readme.split("```")[0].strip().replace("(notebooks/images/", "(images/")
    text, contents = [opening, WELCOME], []
    for part, numbers in COURSE_PARTS.items():
        there = [number for number in numbers if number in stems]
        named = {number: described.get(number, (stems[number].replace("_", " "), "")) for number in there}
        text += [f"## {part}", *(f"- [{named[n][0]}]({stems[n]}.ipynb): {named[n][1]}" for n in there)]
        contents.append(_toctree(part, {stems[n]: named[n][0] for n in there}))
    return "\n\n".join([*text, *contents, _toctree("Look up", LOOK_UP)]).replace("\n\n- [", "\n- [") + "\n"


def _toctree(caption: str, pages: dict[str, str]) -> str:
    lines = "\n".join(f"{title} <{name}>" for name, title in pages.items())
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```"


# From notebooks to a site --------------------------------------------------------------------------------------


def write_source(project: Path, folder: Path) -> Path:
    """Write the pages of the book into a new folder for sphinx; returns the folder.

    Raises:
        CourseError: a mark of a solution is wrong; the message names the notebook.
    """
    shutil.rmtree(folder, ignore_errors=True)
    paths = sorted((project / "notebooks").glob("*.ipynb"))
    books = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    _write_pages(project, folder, books)
    extra = folder / "extra/notebooks"
    editions.write_notebooks(project, extra / "student")
    (extra / "executed").mkdir()
    for path in paths:
        shutil.copy(path, extra / "executed")
    shutil.copytree(project / "notebooks/images", folder / "images")
    (folder / "_static").mkdir()
    for name in ASSETS:
        shutil.copy(HERE / name, folder / "_static")
    shutil.copy(_font(), folder / "_static")
    shutil.copy(HERE / "book_conf.py", folder / "conf.py")
    return folder


def _write_pages(project: Path, folder: Path, books: dict[str, NotebookNode]) -> None:
    stems = {stem[:2]: stem for stem in books}
    listed = (project / "notebooks/GLOSSARY.md").read_text("utf-8")
    readme = (project / "README.md").read_text("utf-8")
    pictures = dict(re.findall(r"^!\[(.+?)\]\(notebooks/images/(\w+)\.png\)$", readme, re.MULTILINE))
    alts, terms = {number: alt for alt, number in pictures.items()}, glossary.terms_of(listed)
    folder.mkdir(parents=True)
    for stem, book in books.items():
        try:
            made = book_page(book, stem, stems, terms, alts.get(stem[:2], ""))
        except CourseError as error:
            raise CourseError(f"{stem}: {error}") from error
        nbformat.write(made, folder / f"{stem}.ipynb")
    texts = {
        "index": front(readme, stems),
        "PRIMER": glossary.linked([(project / "notebooks/PRIMER.md").read_text("utf-8")], terms, "PRIMER")[0],
        "GLOSSARY": glossary.glossary_page(listed),
        "RUNNING": (project / "notebooks/RUNNING.md").read_text("utf-8"),
        "RESULTS": (project / "notebooks/RESULTS.md").read_text("utf-8"),
        "REFERENCES": references(books),
        "DATA": (project / "data/README.md").read_text("utf-8"),
    }
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, "utf-8")


def _font() -> Path:
    """The font of the equations, for systems without a mathematical font."""
    found = importlib.util.find_spec("ziamath")
    if found is None or found.origin is None:
        raise BookFailed("what the book is made with is not installed: `make book` installs it")
    return Path(found.origin).parent / FONT


def build(source: Path, folder: Path) -> Path:
    """Build the site from a folder made by `write_source`; returns its first page.

    Raises:
        BookFailed: sphinx failed or printed a warning, such as a dead link or a term that is not in the glossary.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-d", str(source / "doctrees")]
    done = subprocess.run([*command, str(source), str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise BookFailed(f"sphinx could not make the book:\n{done.stderr.strip()}")
    return folder / "index.html"


def main() -> int:
    """Entry point of `python -m helpers.course.book`: 0, or 1 after a line that says what went wrong."""
    project = settings.checkout()
    try:
        index = build(write_source(project, project / "build/book-source"), project / "build/book")
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{index.relative_to(project)}: open it in a browser; the folder can be copied anywhere")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
