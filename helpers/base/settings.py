"""What a user can set from outside: folders, offline wheels, and the scale of a run.

Every setting is an environment variable, read at each use, so that a notebook can change one while it runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import platformdirs

from helpers.base.storage import CourseError

Value = TypeVar("Value")

PROJECT = Path(__file__).resolve().parents[2]  # of a checkout; where `helpers` was installed it is site-packages
PACKAGED = Path(__file__).resolve().parents[1] / "data"  # what an installed package has instead of the checkout's data/

OWN_DATA = {"STEER_TRUTHFULQA": "truthfulqa/TruthfulQA.csv", "STEER_AMAZON": "amazon"}  # settings, and where without

DEFAULT_MODEL = "smollm2-135m-instruct"
SECOND_MODEL = "gemma-3-270m"  # for what the chat model must not do itself, such as judging its own texts


def in_checkout() -> bool:
    """Whether `helpers` runs from a checkout of the course, with its notebooks, and not as an installed package."""
    return not PACKAGED.is_dir()


def checkout() -> Path:
    """The root of the checkout, for code that needs notebooks and tests.

    Raises:
        CourseError: `helpers` is an installed package.
    """
    if not in_checkout():
        raise CourseError("this needs the notebooks, and helpers is installed without them: run it in a checkout")
    return PROJECT


def data_file(name: str) -> Path:
    """A file of `data/`: in the checkout, or in the installed package."""
    return (PROJECT / "data" if in_checkout() else PACKAGED) / name


def path_setting(name: str) -> Path | None:
    """The path in an environment variable; None if it is unset or empty.

    `~` is the user's home. A relative path starts at the project's root, since make runs there and kernels run in
    notebooks/; without a checkout it starts at the working directory.
    """
    chosen = os.environ.get(name, "").strip()
    root = PROJECT if in_checkout() else Path.cwd()
    return root / os.path.expanduser(chosen) if chosen else None


def cache_dir() -> Path:
    """Folder for data, models and memos: `STEER_CACHE`, or `steering-course` under the user's cache home."""
    return path_setting("STEER_CACHE") or Path(platformdirs.user_cache_dir("steering-course"))


def wheel_folder() -> Path | None:
    """Folder of wheels to use instead of a package index (`STEER_WHEELS`), for a lab without network."""
    return path_setting("STEER_WHEELS")


def own_data(name: str) -> Path | None:
    """The path of data that no package contains: that of a setting (`OWN_DATA`), else below ../shared/data if there.

    A path from a setting is returned whether it exists or not: its reader reports what is missing.
    """
    beside = PROJECT.parent / "shared" / "data" / OWN_DATA[name]
    return path_setting(name) or (beside if in_checkout() and beside.exists() else None)


def model_name() -> str:
    """The chat model of the course: `STEER_MODEL`, a name in the manifest or on the hub, or the path of a folder."""
    chosen, folder = os.environ.get("STEER_MODEL", "").strip(), path_setting("STEER_MODEL")
    if folder and (folder.is_dir() or chosen[0] in "~/."):
        return str(folder.resolve())
    return chosen or DEFAULT_MODEL


def model_title() -> str:
    """The name of the course's chat model in titles and tables: SmolLM2, or that of another one without its owner."""
    return "SmolLM2" if model_name() == DEFAULT_MODEL else Path(model_name()).name


def profile() -> str:
    """Scale of a run, `small` (default) or `full`, from `STEER_PROFILE`.

    Raises:
        ValueError: the variable holds anything else.
    """
    chosen = os.environ.get("STEER_PROFILE") or "small"
    if chosen not in ("small", "full"):
        raise ValueError(f"STEER_PROFILE is {chosen!r}: set it to 'small' or 'full'")
    return chosen


def by_profile(*, small: Value, full: Value) -> Value:
    """The value that belongs to the current profile."""
    return {"small": small, "full": full}[profile()]


def results_file() -> Path | None:
    """Where results are recorded (`STEER_RESULTS`, set by `make course`), or None: then nothing is written."""
    return path_setting("STEER_RESULTS")
