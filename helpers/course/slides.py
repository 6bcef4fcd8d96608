"""A lecture of 45 minutes from the notebooks: the cells tagged for it, on one page that needs no network.

A cell goes into the deck when its metadata has a `slideshow` entry, as JupyterLab's "slide type" writes it:

    {"slideshow": {"slide_type": "slide", "title": "What this slide says"}, "tags": ["slide-equation"]}

`slide` and `subslide` begin a slide, `-` continues the one before, `fragment` appears with a click, and `notes` are
for the speaker (key S). `title` replaces the cell's own headings. Of a code cell the outputs are shown as they were
committed, and its code only with the tag `show-code`. A text is shown whole, or only the parts that the tags in `PARTS`
name; then the whole goes to the speaker's notes. Headings inside a slide are left out.

From a shell: `python -m helpers.course.slides`, or `make slides`, writes build/slides/index.html.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import SlidesExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode, v4
from traitlets.config import Config

from helpers.base import settings, sources
from helpers.base.storage import CourseError, atomic_file

TEMPLATE = Path(__file__).with_name("slides.html.j2")
PARTS = (
    "slide-heading",
    "slide-first-sentence",
    "slide-first-paragraph",
    "slide-equation",
    "slide-table",
    "slide-list",
)
SHOW_CODE = "show-code"
CAPTION = "Figure: "  # what `plots.show` prints below a figure: here the picture's description

LECTURE_TITLE = """
# Steering language models through embedding spaces

Two methods, built step by step and measured on a laptop:
the **EAGLE agent** steers the texts that a frozen model writes;
**ARE** edits the states that a model computes.

*Pictures and numbers are those of the notebooks as they are committed: the small profile, two processor cores.*
"""
CLOSING = """
## What to take along

- A space learnt from ratings, or from examples of behaviour, says **where to push**. It knows a little.
- A method needs a **baseline at the same price**, a **control that must fail**, and a **judge that nobody paid**.
- With its **interval**, an average often says "nobody can tell".
- The method does not know what it is used for. **You choose the direction.**

Start with notebook 00: `make lab`. Numbers at full scale: `notebooks/RESULTS.md`.
"""


# Which parts of a text


def blocks_of(text: str) -> list[str]:
    """Headings, paragraphs, equations, tables and lists of a text, one after the other; hidden details left out."""
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def kind_of(block: str) -> str:
    """What a block is: heading, equation, table, list or paragraph."""
    marks = {"heading": r"#{1,6} ", "equation": r"\$\$", "table": r"\|", "list": r"[-*] |\d+\. "}
    return next((kind for kind, mark in marks.items() if re.match(mark, block)), "paragraph")


def first_sentence(paragraph: str) -> str:
    """A paragraph up to the first full stop, question mark or exclamation mark that ends a sentence."""
    found = re.match(r".*?[.?!](?:\*\*|\*)?(?=\s+[*A-Z]|\s*$)", paragraph, flags=re.DOTALL)
    return found[0] if found else paragraph


def chosen_parts(text: str, tags: Sequence[str]) -> str:
    """The parts of a text that the tags name, in the order of the text; the whole text if they name none."""
    wanted = {tag.removeprefix("slide-") for tag in tags if tag in PARTS}
    blocks, kept, seen_paragraph = blocks_of(text), [], False
    for block in blocks:
        kind = kind_of(block)
        if not wanted or kind in wanted:
            kept.append(block)
        elif kind == "paragraph" and not seen_paragraph:
            kept += [block] if "first-paragraph" in wanted else []
            kept += [first_sentence(block)] if "first-sentence" in wanted else []
        seen_paragraph |= kind == "paragraph"
    return "\n\n".join(kept)


def without_headings(text: str) -> str:
    """A text without its headings."""
    return "\n\n".join(block for block in blocks_of(text) if kind_of(block) != "heading")


# From a cell to the cells of the deck


def written(text: str, slide_type: str = "slide") -> NotebookNode:
    """A cell of text for the deck."""
    return v4.new_markdown_cell(text.strip(), metadata={"slideshow": {"slide_type": slide_type}})


def described(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs in which the printed description of a figure is its alt text."""
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    captions = iter(re.findall(rf"^{CAPTION}(.+)$", printed, flags=re.MULTILINE))
    kept = []
    for out in map(nbformat.from_dict, outputs):
        if out.output_type == "stream":
            out.text = re.sub(rf"^{CAPTION}.*\n?", "", out.text, flags=re.MULTILINE)
        elif "image/png" in out.get("data", {}):
            out.metadata["alt"] = next(captions, "")
        if out.get("text", "kept").strip():
            kept.append(out)
    return kept


def content(cell: NotebookNode, slide_type: str, titled: bool) -> list[NotebookNode]:
    """What is shown of a tagged cell; a text that is shown in part goes whole to the speaker's notes."""
    tags = cell.metadata.get("tags", [])
    if cell.cell_type == "markdown":
        whole, part = (
            without_headings(text) if titled else text for text in (cell.source, chosen_parts(cell.source, tags))
        )
        notes = [written(whole, "notes")] if set(tags) & set(PARTS) and slide_type != "notes" else []
        return [written(part, slide_type), *notes]
    metadata = {"slideshow": {"slide_type": slide_type}, "transient": {"remove_source": SHOW_CODE not in tags}}
    return [v4.new_code_cell(cell.source, outputs=described(cell.outputs), metadata=metadata)]


def slide_cells(cell: NotebookNode, number: str) -> list[NotebookNode]:
    """The cells of the deck for a cell of notebook `number`: none if it is not tagged."""
    tagged = cell.metadata.get("slideshow", {})
    kind, title = tagged.get("slide_type", "-"), tagged.get("title")
    if not tagged or kind == "skip":
        return []
    if kind not in ("slide", "subslide"):
        return content(cell, kind, titled=True)
    head = f"## {title}\n\n" if title else ""
    start = written(f'{head}<p class="from">notebook {number}</p>', kind)
    return [start, *content(cell, "-", titled=title is not None)]


def deck(notebooks: Sequence[Path]) -> NotebookNode:
    """The lecture as a notebook: a title, the tagged cells in the order of the course, and a closing slide."""
    cells = [written(LECTURE_TITLE)]
    for path in notebooks:
        for cell in nbformat.read(path, as_version=4).cells:
            cells += slide_cells(cell, path.stem[:2])
    metadata = {"title": "Steering language models: slides", "language_info": {"name": "python"}}
    return v4.new_notebook(cells=[*cells, written(CLOSING)], metadata=metadata)


# From the deck to a page


class MathRenderer(IPythonRenderer):
    """Text to HTML, with equations as MathML, which browsers show without any script."""

    def block_math(self, body: str) -> str:
        """An equation on a line of its own."""
        return f'<div class="equation">{mathml(body.strip(), display="block")}</div>'

    def inline_math(self, body: str) -> str:
        """An equation inside a line."""
        return mathml(body)


def to_html(text: str) -> str:
    """Markdown to HTML."""
    renderer = MathRenderer(escape=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(text)


def page(book: NotebookNode) -> str:
    """The deck as HTML; reveal.js is expected beside it, in the folder `reveal`."""
    config = Config({"CSSHTMLHeaderPreprocessor": {"style": "default"}})
    exporter = SlidesExporter(config=config, template_file=str(TEMPLATE))
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    exporter.register_filter("markdown2html", to_html)
    return exporter.from_notebook_node(book)[0]


def write_slides(notebooks: Sequence[Path], folder: Path) -> Path:
    """Write index.html and all that it needs to `folder`; the path of the page.

    Raises:
        CourseError: reveal.js is not in the cache and cannot be downloaded.
    """
    html, reveal = page(deck(notebooks)), sources.fetch("reveal-js")
    shutil.copytree(reveal, folder / "reveal", dirs_exist_ok=True)
    index = folder / "index.html"
    with atomic_file(index) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return index


def main() -> int:
    """Entry point of `python -m helpers.course.slides`: 0, or 1 after one line that says what went wrong."""
    try:
        found = sorted((settings.checkout() / "notebooks").glob("*.ipynb"))
        index = write_slides(found, settings.PROJECT / "build" / "slides")
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{index.relative_to(settings.PROJECT)}: open it in a browser; S shows the speaker's notes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
