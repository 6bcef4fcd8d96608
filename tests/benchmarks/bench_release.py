"""A class without network, for real: `python tests/benchmarks/bench_release.py FOLDER` (20 minutes, 15 GB of disk).

From a clone of the last commit: `make wheels`, `make release WHEELS=...`, the zip unpacked, and `make lab` in it, with
an empty cache, no settings of pip, and no network: in a network namespace of its own, with nothing but localhost. Then
notebook 00 runs, and a package that no wheel has is asked for, which must fail. Needs Linux and the right to make
namespaces (root, or `unshare -r`). Sizes and minutes are recorded as `release.*` when STEER_RESULTS is set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterable
from pathlib import Path

from helpers.base.settings import PROJECT
from helpers.course import report, results

PORT = 8931
WAIT = 45 * 60  # seconds until JupyterLab has to answer


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files; links are not followed."""
    return sum(path.lstat().st_size for path in paths if path.is_file() and not path.is_symlink())


def gigabytes(folder: Path) -> float:
    """Size of all that lies in a folder."""
    return round(size_of(folder.rglob("*")) / 1e9, 2)


class Clock:
    """Minutes since it was made: on the wall, and of processors that finished commands have used (beside other work,
    the second number says more).
    """

    def __init__(self) -> None:
        self.started = time.monotonic(), self._used()

    @staticmethod
    def _used() -> float:
        return sum(os.times()[2:4])

    def read(self, name: str) -> dict[str, float]:
        """Both numbers, under the names of two results."""
        wall, used = time.monotonic() - self.started[0], self._used() - self.started[1]
        return {f"{name}_minutes": round(wall / 60, 2), f"{name}_cpu_minutes": round(used / 60, 2)}


def timed(name: str, command: list[str], where: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command that must succeed; minutes that it took."""
    clock = Clock()
    subprocess.run(command, cwd=where, env=environment, check=True)
    return clock.read(name)


def answers(address: str) -> bool:
    """Whether a server on localhost answers with a page."""
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def lab_opens(name: str, where: Path, environment: dict[str, str]) -> dict[str, float]:
    """`make lab` until JupyterLab answers; minutes that it took. The server is then stopped."""
    clock, started = Clock(), time.monotonic()
    with (where / "lab.log").open("w") as log:
        server = subprocess.Popen(
            ["make", "lab"], cwd=where, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not answers(f"http://127.0.0.1:{PORT}/api"):
                if server.poll() is not None or time.monotonic() - started > WAIT:
                    raise SystemExit((where / "lab.log").read_text()[-3000:])
                time.sleep(1)
        finally:
            wall = clock.read(name)[f"{name}_minutes"]
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    return clock.read(name) | {f"{name}_minutes": wall}


def on_the_laptop(folder: Path) -> None:
    """What happens in the unpacked release, where there is no network; what was measured, as JSON in a file."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # kernels talk to the lab through localhost
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "STEER_CACHE": str(folder / "cache"),
        "STEER_WHEELS": "wheels",
        "PIP_CONFIG_FILE": os.devnull,
        "PYTHON": sys.base_exec_prefix + "/bin/python3",
        "JUPYTER_PORT": str(PORT),
        "BROWSER": "true",  # opens nothing
    }
    (folder / "home").mkdir()
    (laptop,) = folder.glob("steering-course-*/")
    measured = lab_opens("lab", laptop, environment) | lab_opens("lab_again", laptop, environment)
    measured |= timed("notebook", ["make", "course", "NOTEBOOKS=00"], laptop, environment)
    missing = subprocess.run(
        [laptop / ".venv/bin/pip", "install", "six-of-one"], env=environment, capture_output=True, text=True
    )
    if missing.returncode == 0:
        raise SystemExit("there was a network after all")
    measured["venv_gb"], measured["cache_gb"] = gigabytes(laptop / ".venv"), gigabytes(folder / "cache")
    (folder / "measured.json").write_text(json.dumps(measured))


def at_the_teachers(folder: Path) -> dict[str, float]:
    """Wheels, release, and the release unpacked in `folder`; sizes and minutes."""
    checkout, wheels = folder / "checkout", folder / "wheels"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(checkout)], check=True)
    environment = os.environ | {"STEER_CACHE": str(folder / "teachers-cache")}
    measured = timed("wheels", ["make", "wheels", f"DIR={wheels}"], checkout, environment)
    measured |= timed("zip", ["make", "release", f"WHEELS={wheels}"], checkout, environment)
    (made,) = (checkout / "build").glob("*.zip")
    clock = Clock()
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
        of_wheels = sum(entry.compress_size for entry in archive.infolist() if "/wheels/" in entry.filename)
    measured["unpack_minutes"] = clock.read("unpack")["unpack_minutes"]
    measured["zip_gb"] = round(made.stat().st_size / 1e9, 2)
    measured["zip_without_wheels_mb"] = round((made.stat().st_size - of_wheels) / 1e6, 2)
    measured["wheels"] = len(list(wheels.iterdir()))
    shutil.rmtree(checkout)
    shutil.rmtree(wheels)
    return measured


UNITS = {"minutes": "minutes", "gb": "GB", "mb": "MB", "wheels": "packages, data and models"}


def main() -> None:
    """Print each number, and record it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder, removed at the end")
    parser.add_argument("--on-the-laptop", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    if chosen.on_the_laptop:
        return on_the_laptop(folder)
    folder.mkdir(parents=True)
    measured = at_the_teachers(folder)
    alone = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    subprocess.run([*alone, sys.executable, __file__, str(folder), "--on-the-laptop"], check=True)
    measured |= json.loads((folder / "measured.json").read_text())
    for name, value in measured.items():
        unit = "minutes of processors" if "_cpu_" in name else UNITS[name.rsplit("_", 1)[-1]]
        print(f"release.{name:24} {value:8} {unit}")
        results.record(f"release.{name}", value, n=1, seeds=[], unit=unit, notebook=report.OFFLINE)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
