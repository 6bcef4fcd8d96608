"""The lecture: complete, readable, described, and without anything from a network."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from nbformat import v4

from helpers.base.settings import PROJECT
from helpers.course import slides

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
MAX_WORDS = 90
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


# What a page holds ---------------------------------------------------------------------------------------------


def slides_of(soup: BeautifulSoup) -> list[Tag]:
    """The single slides; reveal.js stacks them in sections of their own."""
    return [section for section in soup.find_all("section") if not section.find("section")]


def visible(slide: Tag) -> Tag:
    """A copy of a slide without what the audience does not see."""
    copy = BeautifulSoup(str(slide), "html.parser")
    for hidden in copy.find_all(["aside", "style", "script"]):
        hidden.decompose()
    return copy


def words(slide: Tag) -> int:
    """Words on a slide; an equation is none, a number neither, and code counts as it is written."""
    copy = visible(slide)
    for equation in copy.find_all("math"):
        equation.decompose()
    for block in copy.find_all("pre"):
        block.string = block.get_text()
    return sum(any(map(str.isalpha, word)) for word in copy.get_text(" ").split())


# The rules: page -> problems -----------------------------------------------------------------------------------


def nothing_remote(soup: BeautifulSoup) -> list[str]:
    found = [tag.get(attribute, "") for name, attribute in LOADED.items() for tag in soup.find_all(name)]
    styles = " ".join(style.get_text() for style in soup.find_all("style"))
    found += re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", styles)
    return [address for address in found if re.match(r"(https?:)?//", address)]


def a_heading_or_a_figure(soup: BeautifulSoup) -> list[str]:
    bare = [slide for slide in slides_of(soup) if not visible(slide).find(["h1", "h2", "h3", "img"])]
    return [slide.get_text(" ", strip=True)[:60] for slide in bare]


def pictures_described(soup: BeautifulSoup) -> list[str]:
    return [str(picture)[:60] for picture in soup.find_all("img") if not (picture.get("alt") or "").strip()]


def few_words(soup: BeautifulSoup) -> list[str]:
    counts = {slide.get_text(" ", strip=True)[:40]: words(slide) for slide in slides_of(soup)}
    return [f"{count} words: {start}" for start, count in counts.items() if count > MAX_WORDS]


def equations_shown(soup: BeautifulSoup) -> list[str]:
    """No dollar or command of TeX is left in what the audience reads."""
    text = " ".join(visible(slide).get_text(" ") for slide in slides_of(soup) if not slide.find(class_="highlight"))
    return re.findall(r"\$[^$]{0,20}|\\[a-z]{3,12}", text)


RULES = (nothing_remote, a_heading_or_a_figure, pictures_described, few_words, equations_shown)


# The lecture of the course -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lecture() -> BeautifulSoup:
    return BeautifulSoup(slides.page(slides.deck(NOTEBOOKS)), "html.parser")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_lecture_keeps(lecture, rule):
    assert rule(lecture) == []


def test_the_lecture_fits_into_45_minutes(lecture):
    assert 20 <= len(slides_of(lecture)) <= 40


def test_the_lecture_covers_both_halves(lecture):
    numbers = {tag.get_text().split()[-1] for tag in lecture.find_all(class_="from")}
    assert {"00", "03", "05", "08", "10", "12", "13", "16"} <= numbers
    assert slides_of(lecture)[0].find("h1") and len(lecture.find_all("img")) >= 10


def test_titles_are_short_and_all_different(lecture):
    titles = [tag.get_text(strip=True) for tag in lecture.select("section h2")]
    assert len(set(titles)) == len(titles)
    assert [title for title in titles if len(title) > 60] == []


def test_speaker_has_notes_and_the_audience_does_not_see_them(lecture):
    assert len(lecture.select("aside.notes")) >= 15


def test_tags_in_the_notebooks_are_known():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            shown, tags = cell.metadata.get("slideshow"), cell.metadata.get("tags", [])
            assert [t for t in tags if t.startswith("slide-") and t not in slides.PARTS] == [], path.stem
            assert shown or not set(tags) & {*slides.PARTS, slides.SHOW_CODE}, path.stem
            assert shown is None or shown["slide_type"] in ("slide", "subslide", "fragment", "notes", "skip", "-")


def test_all_that_the_page_loads_lies_beside_it(tmp_path, monkeypatch):
    fetched = tmp_path / "cached"
    fetched.mkdir()
    for name in ("reveal.js", "reveal.css", "reset.css", "notes.js", "LICENSE"):
        (fetched / name).write_text(name)
    monkeypatch.setattr(slides.sources, "fetch", {"reveal-js": fetched}.__getitem__)
    for _ in range(2):  # again into the same folder
        index = slides.write_slides([], tmp_path / "slides")
    soup = BeautifulSoup(index.read_text("utf-8"), "html.parser")
    wanted = [tag.get(LOADED[tag.name]) for tag in soup.find_all(["script", "link"]) if tag.get(LOADED[tag.name])]
    assert len(wanted) == 4
    assert [name for name in wanted if not (index.parent / name).is_file()] == []


# Cells and parts -----------------------------------------------------------------------------------------------

TEXT = """*Before* the heading. It goes on.

## A heading

First paragraph ends here. There is more, e.g. this.

$$a = b$$

| a | b |
|---|---|
| 1 | 2 |

- one
- two

<details><summary>Hint</summary>not for slides</details>"""


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        (["slide-heading"], "## A heading"),
        (["slide-first-sentence"], "*Before* the heading."),
        (["slide-first-paragraph"], "*Before* the heading. It goes on."),
        (["slide-equation", "slide-heading"], "## A heading\n\n$$a = b$$"),
        (["slide-table"], "| a | b |\n|---|---|\n| 1 | 2 |"),
        (["slide-list"], "- one\n- two"),
    ],
)
def test_parts_of_a_text(tags, shown):
    assert slides.chosen_parts(TEXT, tags) == shown


def test_a_text_without_such_tags_is_whole_but_for_details():
    whole = slides.chosen_parts(TEXT, ["other"])
    assert "There is more" in whole and "- two" in whole and "Hint" not in whole
    assert "## A heading" not in slides.without_headings(TEXT) and "$$a = b$$" in slides.without_headings(TEXT)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("**A claim in bold.** More.", "**A claim in bold.**"),
        ("About 0.3 of it. Then more.", "About 0.3 of it."),
        ("Is it? Yes.", "Is it?"),
        ("No full stop at all", "No full stop at all"),
    ],
)
def test_the_first_sentence(text, sentence):
    assert slides.first_sentence(text) == sentence


def tagged(cell, slide_type, *tags, **more):
    cell.metadata.update({"slideshow": {"slide_type": slide_type, **more}, "tags": list(tags)})
    return cell


PICTURE = v4.new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})
CAPTION = v4.new_output("stream", text='printed\nFigure: a "line" that rises.\n')


def small_page(tmp_path: Path, *cells) -> BeautifulSoup:
    path = tmp_path / "07_small.ipynb"
    nbformat.write(v4.new_notebook(cells=list(cells)), path)
    return BeautifulSoup(slides.page(slides.deck([path])), "html.parser")


def test_only_tagged_cells_are_shown(tmp_path):
    soup = small_page(
        tmp_path,
        v4.new_markdown_cell("untagged"),
        tagged(v4.new_markdown_cell("# Own heading\n\nhere $x_i$"), "slide"),
        tagged(v4.new_markdown_cell("skipped"), "skip"),
        tagged(v4.new_markdown_cell("## Gone\n\nlater"), "fragment"),
        tagged(v4.new_markdown_cell("for the speaker"), "notes"),
        tagged(v4.new_code_cell("secret = 1", outputs=[PICTURE, CAPTION]), "slide", title="Two"),
        tagged(v4.new_code_cell("shown = 1"), "-", "show-code"),
    )
    title, first, second, closing = slides_of(soup)
    text = soup.get_text()
    assert "untagged" not in text and "skipped" not in text and "Gone" not in text and "secret" not in text
    assert first.h1.get_text() == "Own heading" and first.math and "notebook 07" in first.get_text()
    assert "later" in first.find(class_="fragment").get_text()
    assert "for the speaker" in first.aside.get_text() and "speaker" not in visible(first).get_text()
    assert second.h2.get_text() == "Two" and second.img["alt"] == 'a "line" that rises.'
    assert "printed" in second.get_text() and "Figure:" not in second.get_text()
    assert "shown" in second.find(class_="highlight").get_text()
    assert "laptop" in title.get_text() and "take along" in closing.get_text()


def test_what_is_left_out_of_a_text_goes_to_the_notes(tmp_path):
    cell = tagged(v4.new_markdown_cell("Shown. Left out."), "slide", "slide-first-sentence", title="T")
    slide = slides_of(small_page(tmp_path, cell))[1]
    assert "Left out" not in visible(slide).get_text() and "Left out" in slide.aside.get_text()


# The rules themselves --------------------------------------------------------------------------------------------

GOOD = "<section><section><h2>T</h2><p>word</p><img alt='a line' src='data:x'></section></section>"
BROKEN = [
    (nothing_remote, "<script src='https://example.org/a.js'></script>"),
    (nothing_remote, "<link href='//example.org/a.css'>"),
    (nothing_remote, "<style>@import 'http://example.org/a.css';</style>"),
    (nothing_remote, "<style>a { background: url(https://example.org/a.png) }</style>"),
    (a_heading_or_a_figure, "<section><p>alone</p><aside><h2>hidden</h2></aside></section>"),
    (pictures_described, "<img src='data:x'>"),
    (pictures_described, "<img alt=' ' src='data:x'>"),
    (few_words, f"<section>{'word ' * 91}</section>"),
    (equations_shown, "<section>$x$</section>"),
    (equations_shown, "<section>\\frac</section>"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_page_has_no_problem(rule):
    assert rule(BeautifulSoup(GOOD, "html.parser")) == []


@pytest.mark.parametrize(("rule", "added"), BROKEN)
def test_a_bad_page_is_noticed(rule, added):
    assert len(rule(BeautifulSoup(GOOD + added, "html.parser"))) >= 1


def test_notes_and_equations_are_no_words_on_a_slide():
    slide = f"<section>one <math>{'<mi>x</mi> ' * 100}</math><aside>{'word ' * 100}</aside></section>"
    assert words(BeautifulSoup(slide, "html.parser").section) == 1
