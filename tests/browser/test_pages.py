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
AXE = Axe()
# Of a page's seconds axe spends nine in ten on the contrast of thousands of coloured words of code and cells of tables.
# Text of which all that the contrast depends on has passed already, in three places, is not looked at a fourth time:
# its own colour, size and weight, and what each element that it stands in does to the ground behind it.
ALIKE = """() => {
  const check = axe._audit.checks["color-contrast"], measure = check.evaluate, grounds = new Map(), passed = new Map();
  const ground = element => {
    if (!element) return "";
    if (!grounds.has(element)) {
      const style = getComputedStyle(element), above = ground(element.parentElement);
      const own = [style.backgroundColor, style.backgroundImage, style.opacity, style.filter, style.mixBlendMode,
        style.position, style.zIndex].join() + "|";
      grounds.set(element, above.startsWith(own) ? above : own + above);
    }
    return grounds.get(element);
  };
  check.evaluate = function (node, ...others) {
    const style = getComputedStyle(node);
    const look = [style.color, style.fontSize, style.fontWeight, style.textShadow, ground(node)].join();
    const times = passed.get(look) ?? 0;
    if (times === 3) return true;
    const answer = measure.call(this, node, ...others);
    if (answer === true) passed.set(look, times + 1);
    return answer;
  };
}"""


def violations(page) -> list[str]:
    """Serious and critical findings of axe: rule, how often, and the first place."""
    page.evaluate(AXE.axe_script)
    page.evaluate(ALIKE)
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then(results => results.violations)")
    return [
        f"{rule['id']} ({rule['impact']}, {len(rule['nodes'])}): {rule['nodes'][0]['html'][:200]}"
        for rule in found
        if rule["impact"] in SERIOUS
    ]


WORD = '<p class="{}">A <a href="#m">link</a> and words.</p>'
BROKEN = {  # what stands after ten paragraphs that are right, and the rule of axe that it breaks, where in both schemes
    "nothing": ("", None),
    "faint": (WORD.format("faint"), "color-contrast"),
    "on its ground": (f'<div class="ground">{WORD.format("right")}</div>', "color-contrast"),
    "half seen": (f'<div style="opacity: 0.4">{WORD.format("right")}</div>', "color-contrast"),
    "image": ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "image-alt"),
    "field": ('<input type="text">', "label"),
}
PLAIN = """<!DOCTYPE html><html lang="en"><head><title>A page</title><style>
:root {{ color-scheme: light dark; background: white; color: black }}
a {{ color: inherit }} .faint {{ color: #bbb }} .ground {{ background: #333 }}
@media (prefers-color-scheme: dark) {{
  :root {{ background: black; color: white }} .faint {{ color: #444 }} .ground {{ background: #ccc }} }}
</style></head><body><main id="m"><h1>A page</h1>{}</main></body></html>"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_what_is_wrong_after_much_that_is_right(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for case, (html, rule) in BROKEN.items():
        page.set_content(PLAIN.format(WORD.format("right") * 10 + html))
        assert [found.split()[0] for found in violations(page)] == ([rule] if rule else []), case


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exported_page_is_accessible(lasting_page, notebook, tmp_path, record_property):
    path = tmp_path / "page.html"
    path.write_text(as_page(nbformat.read(notebook, as_version=4), notebook), "utf-8")
    lasting_page.goto(path.as_uri())
    record_property("axe_serious", len(found := violations(lasting_page)))
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
    [("X1_explore_steering", "follow this aim"), ("X2_explore_editing", "ask")],
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
