"""What browser tests share: the browser's place, servers on localhost, pictures, and what a page complains of."""

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

from helpers.base.settings import PROJECT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOTS = PROJECT / "build/screenshots"
TOKEN = "for-tests-on-localhost-only"
STARTED = 60  # seconds to wait for a server
MINUTES = 60_000  # milliseconds, as the browser counts

# What a headless browser without a network says, whatever the page. Voila asks a server for icons that we do not use.
HARMLESS = re.compile(
    r"favicon|ResizeObserver|GPU stall|WebGL.*deprecated|Automatic fallback to software|net::ERR_ABORTED|fontawesome"
)


def listen(page) -> None:
    """Collect what goes wrong in a page in `page.complaints`."""
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: page.complaints.append(_told(said)) if said.type == "error" else None)


def _told(said) -> str:
    return f"{said.text} {said.location.get('url', '')}"


def complaints_of(page) -> list[str]:
    """Errors of the page that are its own."""
    return [text for text in page.complaints if not HARMLESS.search(text)]


def settled(page) -> str:
    """Wait until the page of controls has been free for half a second; what its status line says then.

    Between two pieces of work the line is free for a moment, so what it says is taken where it is looked at.
    """
    said = page.wait_for_function(
        "() => { const line = document.querySelector('.desk-line')?.innerText.trim(), now = performance.now();"
        " if (!line || line.endsWith('...')) { window.freeSince = null; return null; }"
        " window.freeSince ??= now;"
        " return now - window.freeSince >= 500 ? line : null; }",
        polling=50,
        timeout=5 * MINUTES,
    ).json_value()
    page.evaluate("() => { window.freeSince = null; }")
    return said


def press(page, name: str) -> str:
    """Press a button and wait; what the status line says."""
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_timeout(300)
    return settled(page)


def shot(page, name: str) -> Path:
    """Keep a picture of a page, or of a part of it, under build/."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path)
    return path


@contextmanager
def served(command: list[str], folder: Path, path: str) -> Iterator[str]:
    """Address of a server on a free port of localhost, stopped at the end. `{port}` in the command stands for it."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    settings = folder / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')  # otherwise a first start asks whether it may
    log, environment = folder / "server.log", os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "config")}
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
    for _ in range(10 * STARTED):
        try:
            urllib.request.urlopen(address, timeout=60).close()
            return
        except OSError:
            time.sleep(0.1)
        if server.poll() is not None:
            break
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
