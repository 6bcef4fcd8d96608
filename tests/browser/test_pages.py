"""The pages that readers get besides JupyterLab: voila's explorers and the exported HTML. Axe checks both."""

from __future__ import annotations

import re
import shutil

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from driving import MINUTES, TOKEN, complaints_of, press, served, shot

from helpers.base.settings import PROJECT
from helpers.course.run import as_page

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
SERIOUS = ("serious", "critical")


# Axe measures the contrast of every word of code and of every cell of a table, which takes most of its time. Words of
# the same classes in the same kind of place look alike, and so do rows of a table: three of each, and five, are left.
ALIKE = """() => {
  const seen = {};
  for (const word of document.querySelectorAll("pre span[class]:not(:has(*))")) {
    const place = word.closest("pre").parentElement;
    const kind = [word.className, place.className, place.parentElement.className, getComputedStyle(word).color].join();
    seen[kind] = (seen[kind] || 0) + 1;
    if (seen[kind] > 3) word.replaceWith(word.textContent);
  }
  for (const table of document.querySelectorAll("tbody"))
    [...table.rows].slice(5).forEach(row => row.remove());
}"""


def violations(page) -> list[str]:
    """Serious and critical findings of axe: rule, how often, and the first place."""
    page.evaluate(ALIKE)
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])}): {rule['nodes'][0]['html'][:200]}"
        for rule in found
        if rule["impact"] in SERIOUS
    ]


PALE = "background:#fff;color:#ccc"
WORD = "<span class='k'>if</span> "


@pytest.mark.parametrize(
    ("rule", "inside"),
    [
        ("color-contrast", f"<pre>{9 * WORD}<span class='k' style='{PALE}'>or</span></pre>"),
        ("color-contrast", f'<pre><span class="k">if</span></pre><div class="pale" style="{PALE}"><pre>or</pre></div>'),
        ("color-contrast", f'<table><tbody><tr style="{PALE}"><td>one</td></tr></tbody></table>'),
        ("image-alt", "<img src='data:,'>"),
        (None, f"<pre>{9 * WORD}</pre><table><tbody><tr><td>one</td></tr></tbody></table>"),
    ],
)
def test_what_cannot_be_read_is_found_among_what_looks_alike(page, rule, inside):
    page.set_content(f'<html lang="en"><title>a page</title><main><h1>words</h1>{inside}</main></html>')
    assert [found.split()[0] for found in violations(page)] == ([rule] if rule else [])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exported_page_is_accessible(page, notebook, tmp_path, record_property):
    path = tmp_path / "page.html"
    path.write_text(as_page(nbformat.read(notebook, as_version=4), notebook), "utf-8")
    page.goto(path.as_uri())
    record_property("axe_serious", len(found := violations(page)))
    assert found == []


@pytest.fixture(scope="module")
def explorers(tmp_path_factory):
    """Address of voila with the explorers, as `make explore` serves them."""
    folder = tmp_path_factory.mktemp("explore")
    for notebook in (PROJECT / "notebooks").glob("X*.ipynb"):
        shutil.copy(notebook, folder)
    makefile = (PROJECT / "Makefile").read_text().replace("\\\n", " ")
    options = re.search(r"^VOILA := (.*)$", makefile, re.MULTILINE)[1].split()
    command = ["voila", str(folder), "--no-browser", "--port={port}", f"--Voila.token={TOKEN}", *options]
    with served(command, folder, f"/?token={TOKEN}") as address:
        yield address.partition("/?")[0]


@pytest.mark.parametrize(
    ("name", "button"),
    [("X1_explore_steering", "one step of the agent"), ("X2_explore_editing", "ask")],
    ids=["X1", "X2"],
)
def test_an_explorer_is_a_page_without_code(page, explorers, name, button, record_property):
    page.goto(f"{explorers}/voila/render/{name}.ipynb?token={TOKEN}", timeout=15 * MINUTES)
    page.get_by_role("button", name=button, exact=True).wait_for(timeout=15 * MINUTES)
    assert "import helpers" not in page.content() and "set_style" not in page.content()
    assert press(page, button) == "ready"
    page.wait_for_timeout(500)
    shot(page.locator(".explorer").first, f"{name[:2]}_page")
    record_property("axe_serious", len(found := violations(page)))
    assert found == []
    assert complaints_of(page) == []
