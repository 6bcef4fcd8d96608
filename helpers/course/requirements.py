"""Does this machine have what the course needs? One line per requirement, with the remedy.

The Makefile runs this file with the user's own Python before anything is installed, so it imports only the
standard library at the top and keeps to syntax that an old Python (3.6) can read.
"""

import re
import sys
from contextlib import suppress
from functools import partial

PYTHON_NEEDED = (3, 11)
TORCH_NEEDED = (2, 13)
GIGABYTE = 10**9


class Check:
    """One requirement: `name`, whether it is met (`ok`), what was found (`found`), what to do about it (`remedy`)."""

    def __init__(self, name, ok, found, remedy):
        self.name, self.ok, self.found, self.remedy = name, ok, found, remedy

    def __str__(self):
        line = f"{'[OK]  ' if self.ok else '[FAIL]'} {self.name}: {self.found}"
        return line if self.ok else f"{line} -> {self.remedy}"


def check_python(version=None) -> Check:
    """Is Python new enough? `version` is a tuple such as (3, 11, 7); the running one if None."""
    version = tuple(version or sys.version_info)[:3]
    needed = _dotted(PYTHON_NEEDED)
    remedy = f"install Python {needed} or newer, then run `make lab PYTHON=python{needed}`"
    return Check("Python", version >= PYTHON_NEEDED, _dotted(version), remedy)


def check_torch(version=None) -> Check:
    """Is PyTorch new enough, and does it import? `version` is text such as "2.13.0+cpu"; the installed one if None."""
    if version is None:
        import torch

        version = torch.__version__
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    needed = _dotted(TORCH_NEEDED)
    return Check("PyTorch", numbers >= TORCH_NEEDED, str(version), f"PyTorch {needed} or newer: run `make lab` again")


def check_memory() -> Check:
    """Is enough memory free? Under 2 GB the notebooks swap or are killed; 4 GB is comfortable."""
    import psutil

    free = psutil.virtual_memory().available / GIGABYTE
    found = f"{free:.1f} GB free" + ("" if free >= 4 else " (4 GB recommended)")
    return Check("memory", free >= 2, found, "close other programs or notebook kernels")


def check_disk() -> Check:
    """Is there space for data and models in the cache, or are they there already?"""
    import shutil
    from pathlib import Path

    from helpers.base import settings, sources
    from helpers.language import gguf

    folder = settings.cache_dir()
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(existing).free / GIGABYTE
    wanted = sources.read_manifest().values()
    there = all(sources.is_intact(s) and (gguf.is_converted(s) or not gguf.gguf_of(s)) for s in wanted)
    remedy = "free 2 GB or set STEER_CACHE to a folder on another disk"
    # Notebook 00 is published with this line: it should not reveal whose machine it ran on.
    shown = str(folder).replace(str(Path.home()), "~", 1)
    return Check("disk", there or free >= 2, f"{free:.1f} GB free in {shown}", remedy)


def check_packages() -> Check:
    """Is every package that the course depends on installed at the pinned version?"""
    from importlib import metadata

    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("steering-course") or []]
    wanted = [requirement for requirement in wanted if not requirement.marker or requirement.marker.evaluate()]
    wrong = []
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if version not in requirement.specifier:
            wrong.append(f"{requirement.name} is {version}, not {str(requirement.specifier).lstrip('=')}")
    found = "; ".join(wrong) or f"all {len(wanted)} at the pinned versions"
    return Check("packages", not wrong, found, "run `make lab` again")


def check_source(name: str) -> Check:
    """Are the files of a source of the manifest in the cache, whole, and converted if it is a language model?"""
    from helpers.base import sources
    from helpers.language import gguf

    source = sources.find(name)
    found = "present and intact"
    if not sources.folder_of(name).exists():
        found = "missing"
    elif not sources.is_intact(source):
        found = "damaged"
    elif gguf.gguf_of(source) and not gguf.is_converted(source):
        found = "not yet converted, or damaged"
    return Check(name, found == "present and intact", found, "run `make data`")


def check_device() -> Check:
    """Which device will compute: the processor, unless `STEER_DEVICE` names another that is here."""
    from helpers.base import compute

    return Check("device", True, str(compute.default_device()), "")


def check_sources() -> list:
    """A check for each source of the course."""
    from helpers.base import sources

    names = list(sources.read_manifest())
    return [check for name in names for check in _attempt(name, partial(check_source, name))]


def check_all() -> list:
    """Check every requirement, print a line for each, and return the list of `Check`s."""
    looks = [
        ("Python", check_python),
        ("packages", check_packages),
        ("PyTorch", check_torch),
        ("memory", check_memory),
        ("disk", check_disk),
        ("device", check_device),
        ("data and models", check_sources),
    ]
    checks = [check for name, look in looks for check in _attempt(name, look)]
    for check in checks:
        say(check)
    return checks


def say(text) -> None:
    """Print a line; a console that cannot show a character gets '?' for it."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    with suppress(OSError):  # nobody reads any more
        print(str(text).encode(encoding, "replace").decode(encoding), flush=True)


def main(arguments=None) -> int:
    """Entry point: 0 if all requirements are met, else 1. `--python-only` checks only Python."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--python-only" not in arguments:
        return 0 if all(check.ok for check in check_all()) else 1
    check = check_python()
    if not check.ok:
        say(check)
    return 0 if check.ok else 1


def _dotted(version) -> str:
    return ".".join(str(number) for number in version)


def _attempt(name, look) -> list:
    """The checks that `look` makes; if it cannot, a failed one."""
    try:
        made = look()
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return [Check(name, False, f"could not be checked ({reason})", "run `make lab` again")]
    return made if isinstance(made, list) else [made]


if __name__ == "__main__":
    raise SystemExit(main())
