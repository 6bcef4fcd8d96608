"""A real browser and JupyterLab for the browser tests; skipped, with the reason, where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from driving import CHROMIUM, MINUTES, TOKEN, listen, served

from helpers.base.settings import PROJECT


def pytest_collection_modifyitems(items):
    for item in items if CHROMIUM is None else []:
        if "browser" in Path(str(item.fspath)).parts:
            item.add_marker(pytest.mark.skip(reason="no Chromium: install your system's package of it"))


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*options, "--use-gl=swiftshader"])
        yield found
        found.close()


@contextmanager
def new_page(browser) -> Iterator:
    """A page that collects what goes wrong in it: `page.complaints`."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    found = context.new_page()
    listen(found)
    found.set_default_timeout(MINUTES)
    yield found
    context.close()


@pytest.fixture
def page(browser):
    """A page for one test."""
    with new_page(browser) as found:
        yield found


@pytest.fixture(scope="module")
def lasting_page(browser):
    """A page for several tests, where it takes long to open what they look at."""
    with new_page(browser) as found:
        yield found


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[str]:
    """Address of a JupyterLab on copies of the notebooks: it saves what it runs."""
    folder = tmp_path_factory.mktemp("lab")
    for notebook in (PROJECT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, folder)
    command = ["jupyter", "lab", "--no-browser", "--ip=localhost", "--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True", f"--notebook-dir={folder}"]
    with served(command, folder, "/lab") as address:
        yield address
