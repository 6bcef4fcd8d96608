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


def violations(page) -> list[str]:
    """Serious and critical findings of axe: rule, how often, and the first place."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])}): {rule['nodes'][0]['html'][:200]}"
        for rule in found
        if rule["impact"] in SERIOUS
    ]


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
