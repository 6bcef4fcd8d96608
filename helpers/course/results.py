"""Measured numbers, each with its interval, sample size and seeds, kept in one JSON file per run.

A notebook calls `record`; `make course` says where the rows go (`STEER_RESULTS`) and prints the table.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, SupportsFloat

from helpers.base import settings
from helpers.base.storage import CourseError, atomic_file, locked

COLUMNS = ("result", "value", "95% interval", "n", "seeds", "unit", "notebook")
ROUNDING = 1e-12  # nearer to 0 than this is 0, which a sum of floats may miss: it would print as -0.00
PREFACE = """# Results

Written by `make course PROFILE=full`, each section when all its notebooks have run.
Intervals are 95 % intervals over `n` measurements; `seeds` is how many random seeds they span.
"""


def record(
    name: str,
    value: SupportsFloat,
    *,
    ci: tuple[SupportsFloat, SupportsFloat] | None = None,
    n: int,
    seeds: Iterable[int],
    unit: str,
    notebook: str,
) -> dict[str, Any]:
    """Make the row of one result and, when `STEER_RESULTS` names a file, merge it into that file.

    Args:
        name: flat and dotted, such as `eagle.utility.test`; a second row of the same name replaces the first.
        value: a finite number in `unit`, also of numpy or torch; `ci` is its interval (low, high) in the same unit.
        n: how many measurements `value` summarises; `seeds` are the random seeds behind them.
        notebook: number or file stem of the notebook that measured it.

    Raises:
        CourseError: the name is not flat and dotted, or a number is missing, infinite or out of order.
    """
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        raise CourseError(f"result name {name!r}: use letters, digits, '_', '-' and dots, as in 'eagle.utility'")
    bounds = None if ci is None else (_number(name, ci[0]), _number(name, ci[1]))
    if bounds and bounds[0] > bounds[1]:
        low, high = bounds
        raise CourseError(f"result {name!r} has the interval [{low}, {high}]: give the lower bound first")
    row = {
        "value": _number(name, value),
        "ci_low": bounds[0] if bounds else None,
        "ci_high": bounds[1] if bounds else None,
        "n": int(n),
        "seeds": [int(seed) for seed in seeds],
        "unit": unit,
        "notebook": notebook,
        "profile": settings.profile(),
    }
    if settings.model_name() != settings.DEFAULT_MODEL:
        row["model"] = (
            Path(settings.model_name()).name if Path(settings.model_name()).is_dir() else settings.model_name()
        )
    if path := settings.results_file():
        amend(path, lambda rows: rows.update({name: row}))
    return row


def _number(name: str, value: Any) -> float | int:
    """`value` as a plain finite int or float; numpy and torch scalars are unwrapped."""
    if hasattr(value, "item"):
        with contextlib.suppress(ValueError, RuntimeError):  # more than one element: refused below, by name
            value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CourseError(f"result {name!r} has {value!r}: record one finite number")
    return 0 if abs(value) < ROUNDING else value


def load(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty when there is no file yet.

    Raises:
        CourseError: the file is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CourseError(f"{path.name} is not valid JSON: delete it and run `make course` again") from error
    if not isinstance(content, dict):
        raise CourseError(f"{path.name} does not hold a JSON object: delete it and run `make course` again")
    return content


def amend(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the JSON object in `path`; safe when several processes do so at the same time."""
    with locked(path):
        content = load(path)
        change(content)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def of_notebook(results: dict[str, Any], stem: str) -> list[str]:
    """Names of the results that the notebook `stem` (or its number, the part before `_`) recorded."""
    return [name for name, row in results.items() if row["notebook"] in (stem, stem.split("_")[0])]


def forget(path: Path, stem: str) -> None:
    """Drop what an earlier run of the notebook `stem` recorded."""

    def drop(results: dict[str, Any]) -> None:
        for name in of_notebook(results, stem):
            del results[name]

    amend(path, drop)


def _cells(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text in the order of COLUMNS, sorted by name; units name another chat model than the default."""
    rows: list[tuple[str, ...]] = []
    for name, row in sorted(results.items()):
        interval = "" if row["ci_low"] is None else f"[{row['ci_low']:.4g}, {row['ci_high']:.4g}]"
        value = f"{row['value']:.4g}" if isinstance(row["value"], float) else str(row["value"])
        unit = f"{row['unit']}; {row['model']}" if "model" in row else row["unit"]
        rows.append((name, value, interval, str(row["n"]), str(len(row["seeds"])), unit, row["notebook"]))
    return rows


def as_table(results: dict[str, Any]) -> str:
    """The results as aligned plain text, one line each, under a header."""
    lines = [COLUMNS, *_cells(results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_markdown(results: dict[str, Any], *, title: str, machine: str, date: str, commit: str) -> str:
    """The results as a section of a Markdown page that names the machine, the date, the commit and the model."""
    profiles = ", ".join(sorted({row["profile"] for row in results.values()})) or "none"
    models = ", ".join(sorted({row.get("model", settings.DEFAULT_MODEL) for row in results.values()})) or "none"
    lines = [
        f"## {title}",
        "",
        f"Measured on {date}, commit `{commit}`, profile {profiles}, chat model {models}.",
        f"Machine: {machine}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|--:|---|--:|--:|---|---|",
    ]
    lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |" for row in _cells(results)]
    return "\n".join(lines) + "\n"


LAST = 99  # in the order of sections: those without a notebook in their title


def with_section(page: str, section: str) -> str:
    """The results page with a section added, or with the section of that title replaced.

    Each part of the course is a long run of its own; a new run of one keeps the numbers of the others. Sections are
    ordered by the first notebook in their titles.
    """
    sections = {part.splitlines()[0]: part.strip() + "\n" for part in re.split(r"(?m)^(?=## )", page)[1:]}
    sections[section.splitlines()[0]] = section
    in_order = sorted(sections, key=lambda title: int((re.findall(r"\d+", title) or [LAST])[0]))
    return "\n".join([PREFACE, *(sections[title] for title in in_order)])


RESULTS_PAGE = settings.PROJECT / "notebooks" / "RESULTS.md"


def published(prefix: str, page: Path = RESULTS_PAGE, *, single: bool = False) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of the rows of the results page whose names begin with a prefix, under the rest of the name.

    Results of the full profile, for a notebook that shows them beside its own run. Without a results page, as in an
    installed package, the result is empty.

    Args:
        single: with the rows that have no interval, whose low and high are NaN.
    """
    found = {}
    for line in page.read_text(encoding="utf-8").splitlines() if page.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith(prefix) and len(cells) == len(COLUMNS) and (cells[2] or single):
            low, high = (float(end) for end in (cells[2] or "[nan, nan]").strip("[]").split(","))
            found[cells[0].removeprefix(prefix)] = float(cells[1]), low, high
    return found
