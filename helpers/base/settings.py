"""What a user can set from outside: folders, offline wheels, and the scale of a run.

Every setting is an environment variable, read when it is asked for, so a notebook can change one and go on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import platformdirs

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Folder for data, models and memos: `STEER_CACHE`, or `steering-course` under the user's cache home."""
    chosen = os.environ.get("STEER_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("steering-course"))


def wheel_folder() -> Path | None:
    """Folder of wheels to use instead of a package index (`STEER_WHEELS`), for a lab without network."""
    chosen = os.environ.get("STEER_WHEELS")
    return Path(chosen).expanduser() if chosen else None


def profile() -> str:
    """Scale of a run, `small` (default) or `full`, from `STEER_PROFILE`.

    Raises:
        ValueError: the variable holds anything else.
    """
    chosen = os.environ.get("STEER_PROFILE") or "small"
    if chosen not in ("small", "full"):
        raise ValueError(f"STEER_PROFILE is {chosen!r}: set it to 'small' or 'full'")
    return chosen


def by_profile(*, small: T, full: T) -> T:
    """The value that belongs to the current profile."""
    return {"small": small, "full": full}[profile()]


def results_file() -> Path | None:
    """Where results are recorded (`STEER_RESULTS`, set by `make course`), or None: then nothing is written."""
    chosen = os.environ.get("STEER_RESULTS")
    return Path(chosen) if chosen else None
