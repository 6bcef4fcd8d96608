"""A real browser, JupyterLab and voila for the browser tests; skipped, with the reason, where there is no Chromium."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.settings import PROJECT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOTS = PROJECT / "build/screenshots"
TOKEN = "for-tests-on-localhost-only"
STARTED = 60  # seconds to wait for a server

# What a headless browser without a network says, whatever the page. Voila asks a server for icons that we do not use.
HARMLESS = re.compile(
    r"favicon|ResizeObserver|GPU stall|WebGL.*deprecated|Automatic fallback to software|net::ERR_ABORTED|fontawesome"
)


def pytest_collection_modifyitems(items):
    if CHROMIUM is None:
        for item in items:
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


@pytest.fixture
def page(browser):
    """A page that collects what goes wrong in it: `page.complaints`."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    found = context.new_page()
    found.complaints = []
    found.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.on("console", lambda said: found.complaints.append(_told(said)) if said.type == "error" else None)
    found.set_default_timeout(60_000)
    yield found
    context.close()


def _told(said) -> str:
    return f"{said.text} {said.location.get('url', '')}"


def complaints_of(page) -> list[str]:
    """Errors of the page that are its own."""
    return [text for text in page.complaints if not HARMLESS.search(text)]


@contextmanager
def served(command: list[str], folder: Path, path: str) -> Iterator[str]:
    """Address of a server on a free port of localhost, stopped at the end. `{port}` in the command stands for it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')  # otherwise a first start asks whether it may
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        address = f"http://localhost:{port}{path}"
        _wait_for(address, server, log)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(STARTED):
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return
        except OSError:
            time.sleep(1)
        if server.poll() is not None:
            break
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


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


def shot(page, name: str) -> Path:
    """Keep a picture of the page under build/."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path)
    return path
