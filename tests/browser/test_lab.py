"""Notebooks and explorers in JupyterLab, in a real browser: they run, and their widgets do what they say."""

from __future__ import annotations

import json
import random
import re

import pytest
from driving import MINUTES, TOKEN, complaints_of, press, settled, shot
from playwright.sync_api import expect

CURRENT = "window.jupyterapp.shell.currentWidget"
IDLE = f"() => {CURRENT}.context.sessionContext.session?.kernel?.status === 'idle'"
OUTPUTS = (
    f"() => {CURRENT}.content.model.cells ? {CURRENT}.content.model.toJSON().cells.flatMap(c => c.outputs ?? []) : []"
)
# A kernel is idle between two cells as well: all cells have run when each has its number, or one has failed.
ENDED = (
    f"() => {{ const code = {CURRENT}.content.model.toJSON().cells.filter(c => c.cell_type === 'code');"
    " return code.every(c => c.execution_count || !c.source.length)"
    " || code.some(c => c.outputs.some(o => o.output_type === 'error')); }"
)


def in_a_warm_kernel(page, lab: str, name: str) -> None:
    """Give a notebook the kernel of the one before: that each runs in its own is tested without a browser.

    A new kernel imports and loads for 10 s before it does anything that these tests look at.
    """
    address, headers = lab.removesuffix("/lab"), {"Authorization": f"token {TOKEN}"}
    running = page.request.get(f"{address}/api/kernels", headers=headers).json()
    kernel = {"id": running[0]["id"]} if running else {"name": "python3"}
    session = {"path": f"{name}.ipynb", "name": name, "type": "notebook", "kernel": kernel}
    assert page.request.post(f"{address}/api/sessions", headers=headers, data=session).ok


def opened(page, lab: str, name: str) -> list[dict]:
    """A notebook in JupyterLab, all its cells run; what they put out."""
    in_a_warm_kernel(page, lab, name)
    page.goto(f"{lab}/tree/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_function(f"() => window.jupyterapp && {CURRENT}?.context?.isReady")
    page.wait_for_function(IDLE, timeout=2 * MINUTES)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_timeout(500)
    page.wait_for_function(ENDED, timeout=15 * MINUTES)
    page.wait_for_function(IDLE, timeout=MINUTES)
    return page.evaluate(OUTPUTS)


def assert_whole(page, outputs: list[dict]) -> None:
    """No cell and nothing on the page went wrong."""
    assert [out["ename"] for out in outputs if out["output_type"] == "error"] == []
    assert any(out["output_type"] == "execute_result" for out in outputs)
    assert complaints_of(page) == []


@pytest.mark.parametrize(("name", "sliders"), [("00_start_here", 0), ("01_behavioural_embeddings", 1)])
def test_a_lesson_runs_in_the_lab(page, lab, name, sliders):
    outputs = opened(page, lab, name)
    assert_whole(page, outputs)
    found = page.get_by_role("slider").all()
    assert len(found) >= sliders
    for slider in found[:1]:
        slider.scroll_into_view_if_needed()
        image = page.locator(".jupyter-widgets img").first
        before = image.get_attribute("src")
        slider.press("ArrowRight")
        page.wait_for_function("before => document.querySelector('.jupyter-widgets img').src !== before", arg=before)
    shot(page, name)


@pytest.fixture(scope="module")
def steering(lasting_page, lab):
    """The explorer of steering, opened and run once for all tests of it; each leaves it ready for the next."""
    assert_whole(lasting_page, opened(lasting_page, lab, "X1_explore_steering"))
    return lasting_page


def test_steering(steering):
    page = steering
    said = page.locator(".jupyter-widgets blockquote").first
    words = page.get_by_text(re.compile("^In words: ")).first
    expect(words).to_contain_text(re.compile("seed 1: [1-5] steps?, .*seed 0: [1-5] steps?, "))  # two episodes
    page.get_by_label("seed").fill("0")
    page.get_by_label("seed").blur()
    expect(words).to_contain_text("seed 0: 0 steps")
    press(page, "forget")
    start = said.inner_text()

    page.get_by_label("your instruction").fill("Make it a comedy about a lazy cat.")
    assert press(page, "rewrite") == "ready"
    expect(words).to_contain_text("1 step,")
    assert said.inner_text() != start
    aims = page.get_by_label("aims, promise in stars")
    aims.select_option(index=3)
    expect(page.get_by_text("The language model will be told:")).to_be_visible()
    assert press(page, "follow this aim") == "ready"
    expect(words).to_contain_text("2 steps")
    press(page, "undo")
    expect(words).to_contain_text("1 step,")
    press(page, "keep to compare")

    page.get_by_label("or your own text").fill("Genres: Sci-Fi.\nTwo robots fall in love on the moon.")
    page.get_by_label("or your own text").blur()
    assert press(page, "use my text") == "ready"
    expect(said).to_contain_text("Two robots")
    expect(words).to_contain_text(re.compile("The Lion King.*The Lion King"))

    page.get_by_label("film (type to search)").fill("No such film")
    page.get_by_label("film (type to search)").blur()
    expect(page.locator(".desk-line").first).to_contain_text("no film")
    page.get_by_label("film (type to search)").fill("GoldenEye")
    page.get_by_label("film (type to search)").blur()
    expect(words).to_contain_text("GoldenEye, viewer 200, seed 0: 0 steps")
    page.get_by_label("viewer (0 to 942)").fill("7")
    page.get_by_label("viewer (0 to 942)").blur()
    expect(words).to_contain_text("GoldenEye, viewer 7, seed 0: 0 steps")

    page.get_by_label("aims to choose among").select_option("ten, G-optimal: a design")
    expect(aims.locator("option")).to_have_count(10)
    assert settled(page) == "ready"
    assert press(page, "episode of the agent") == "ready"
    expect(words).to_contain_text(re.compile(r"GoldenEye, viewer 7, seed 0: [1-5] steps?, .* by the judge"))
    shot(page, "X1")

    press(page, "export")
    with page.expect_download() as download:
        page.get_by_text("save steering_session.json").click()
    runs = json.loads((session := download.value.path()).read_text())
    assert [run["title"] for run in runs] == ["The Lion King", "GoldenEye"] and 2 <= len(runs[1]["steps"]) <= 6
    there = words.inner_text()
    press(page, "forget")
    expect(words).not_to_have_text(there)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="open a session").click()
    chooser.value.set_files(session)
    expect(words).to_have_text(there)
    assert complaints_of(page) == []


def test_an_interrupt_stops_an_episode_and_unlocks_the_page(steering):
    page = steering
    seed = str(random.randrange(10_000))  # none whose answers are known already
    page.get_by_label("seed").fill(seed)
    page.get_by_label("seed").blur()
    expect(page.get_by_text(re.compile("^In words: ")).first).to_contain_text(f"seed {seed}: 0 steps")
    assert press(page, "start again") == "ready"
    button = page.get_by_role("button", name="episode of the agent", exact=True)
    button.click()
    expect(button).to_be_disabled()
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    expect(page.locator(".desk-line").first).to_have_text("stopped", timeout=MINUTES)
    expect(button).to_be_enabled()
    assert press(page, "undo") == "ready"
    assert complaints_of(page) == []


def test_a_lasso_lists_its_films(steering):
    page = steering
    canvas = page.locator(".jupyter-widgets canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.22)]
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]:
        page.mouse.move(x, y, steps=12)
    page.mouse.up()
    films = page.get_by_label("films in your lasso").locator("option")
    films.first.wait_for(state="attached", timeout=15_000)
    title = films.nth(1).inner_text()
    page.get_by_label("films in your lasso").select_option(title)
    expect(page.get_by_label("film (type to search)")).to_have_value(title)


def test_editing(page, lab):
    assert_whole(page, opened(page, lab, "X2_explore_editing"))
    meters = page.get_by_text(re.compile("^In words: ")).first
    answers = page.locator(".jupyter-widgets table").first
    before, first = meters.inner_text(), answers.inner_text()
    assert "harmful questions refused" in before

    slider = page.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    slider.press("Home")
    below = answers.locator("xpath=following-sibling::p").first
    expect(below).to_have_text("The two answers are the same.", timeout=2 * MINUTES)
    assert settled(page) == "ready"
    slider.press("ArrowRight")  # by keyboard, and then the number itself: the answers of each strength take 2 s
    page.wait_for_timeout(300)
    assert settled(page) == "ready"
    expect(slider).to_have_attribute("aria-valuetext", "0.25")
    page.locator(".jupyter-widgets .widget-readout").first.fill("2")
    page.locator(".jupyter-widgets .widget-readout").first.press("Enter")
    page.wait_for_timeout(300)
    assert settled(page) == "ready"
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"^2(\.0+)?$"))
    expect(meters).not_to_have_text(before)
    page.get_by_label("or your own", exact=True).fill("What is the capital of France?")
    page.get_by_label("or your own", exact=True).blur()
    assert press(page, "ask") == "ready"
    expect(answers).to_contain_text("Paris")
    assert answers.inner_text() != first
    shot(page, "X2")
    page.get_by_label("edit", exact=True).select_option("speaking ill")
    expect(meters).to_contain_text("negative", timeout=10 * MINUTES)
    assert settled(page) == "ready"
    assert complaints_of(page) == []
