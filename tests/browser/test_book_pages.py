"""The book in a real browser, opened from the disk: nothing from a network, readable, searchable, no dead link."""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from driving import complaints_of, shot
from test_pages import violations

from helpers.base.settings import PROJECT
from helpers.course import book

LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
COLOURED = re.compile(r'<span class="\w{1,3}">([^<]*)</span>')  # a word of code: nine in ten tags, none asked for here
LOOKED_AT = ("index", "05_g_optimal_design", "RESULTS")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, float]:
    """The folder of the book, made anew, and the seconds that this took."""
    pytest.importorskip("sphinx_book_theme")
    folder, began = tmp_path_factory.mktemp("book"), time.perf_counter()
    site = book.build(book.write_source(PROJECT, folder / "source"), folder / "book").parent
    return site, time.perf_counter() - began


@pytest.fixture(scope="module")
def site(made) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, BeautifulSoup]:
    texts = {path: COLOURED.sub(r"\1", path.read_text("utf-8")) for path in sorted(site.glob("*.html"))}
    return {path: BeautifulSoup(text, "html.parser") for path, text in texts.items()}


def targets(soup: BeautifulSoup) -> set[str]:
    return {tag["id"] for tag in soup.find_all(id=True)}


def test_every_internal_link_resolves(site, pages):
    ids = {path: targets(soup) for path, soup in pages.items()}
    dead, count = [], 0
    for path, soup in pages.items():
        for link in soup.find_all("a", href=True):
            address = urlsplit(link["href"])
            if address.scheme or address.netloc:
                continue
            count += 1
            to = (site / unquote(address.path)).resolve() if address.path else path
            anchor = unquote(address.fragment)
            if not to.is_file() or (anchor and to in ids and anchor not in ids[to]):
                dead.append(f"{path.name}: {link['href']}")
    assert dead == [] and count > 1000


def test_nothing_is_loaded_from_elsewhere(made, pages, record_property):
    record_property("book.build_seconds", round(made[1], 1))
    record_property("book.pages", len(pages))
    for path, soup in pages.items():
        found = [tag.get(attribute, "") for name, attribute in LOADED.items() for tag in soup.find_all(name)]
        assert [address for address in found if address.startswith(("http", "//"))] == [], path.name
        assert [str(image)[:80] for image in soup.select("article img") if not image.get("alt")] == [], path.name
        assert not [m for m in soup.find_all("math") if "\\" in m.get_text()], path.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_from_the_disk(page, site, name, scheme, record_property):
    requests = []
    page.on("request", lambda asked: requests.append(asked.url))
    page.emulate_media(color_scheme=scheme)
    page.goto((site / f"{name}.html").as_uri())
    page.wait_for_timeout(500)
    assert page.locator("html").get_attribute("data-theme") == scheme
    elsewhere = [url for url in requests if not url.startswith(("file:", "data:"))]
    record_property("book.external_requests", len(elsewhere))
    assert elsewhere == []
    assert complaints_of(page) == []
    shot(page, f"book_{name}_{scheme}")
    record_property("axe_serious", len(found := violations(page)))
    record_property("book.axe_serious", len(found))
    assert found == []


def test_no_page_is_wider_than_a_telephone(page, site):
    page.set_viewport_size({"width": 390, "height": 844})
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_search_finds_a_term(page, site):
    page.goto((site / "search.html").as_uri() + "?q=G-optimal")
    page.locator("#search-results li a").first.wait_for()
    found = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any("05_g_optimal_design.html" in address for address in found)
    assert complaints_of(page) == []


def test_a_solution_opens_by_keyboard(page, site):
    page.goto((site / "05_g_optimal_design.html").as_uri())
    folded = page.locator("details.hide").filter(has_text="Show solution").first
    assert not folded.evaluate("box => box.open")
    folded.locator("summary").focus()
    page.keyboard.press("Enter")
    assert folded.evaluate("box => box.open")
    assert "return" in folded.inner_text()


def test_results_are_sorted_by_keyboard(page, site):
    page.goto((site / "RESULTS.html").as_uri())
    table = page.locator("article table").first
    table.locator("th button").nth(1).focus()

    def values() -> list[float]:
        return table.locator("tbody tr td:nth-child(2)").evaluate_all(
            "cells => cells.map(c => parseFloat(c.innerText))"
        )

    page.keyboard.press("Enter")
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending" and values() == sorted(values())
    page.keyboard.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert table.locator("th[aria-sort]").count() == 1
