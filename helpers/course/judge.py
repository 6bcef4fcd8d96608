"""Exercises, verdicts on answers to them, and differences between answer and expectation in words."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

SEEDS = range(5)
Verdict = tuple[str, str]  # tag, text
UNFINISHED: Verdict = ("TODO", "not finished yet: the hints above open one by one")


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is right, and how to try an answer.

    `name` is a short title. `reference` is a value, or a function: then it is tried on the arguments
    `cases(seed)` (a tuple) for several seeds.
    `compare(answer, expected)` returns what is wrong, or None; by default `difference` within `tolerance`.
    `attempt(function, *arguments)` tries a function, where one plain call does not show all that is asked.
    `wrong` are plausible wrong answers that the tests require to be rejected.
    """

    name: str
    reference: Any
    cases: Callable[[int], tuple] = lambda seed: ()
    compare: Callable[[Any, Any], str | None] | None = None
    attempt: Callable[..., Any] = lambda function, *arguments: function(*arguments)
    tolerance: float = 1e-4
    wrong: tuple = ()

    def problem(self, answer: Any, expected: Any) -> str | None:
        """What is wrong with one answer, or None."""
        compare = self.compare or (lambda a, b: difference(a, b, tolerance=self.tolerance))
        return compare(answer, expected)


def normal_values(seed: int, *shape: int) -> Float[np.ndarray, " ..."]:
    """Standard normal numbers for a case of an exercise; they depend on seed and shape."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def verdict_on(chosen: Exercise, answer: Any) -> Verdict | None:
    """None for a right answer, else TODO, WRONG and what differs, or ERROR and what was raised."""
    if not callable(chosen.reference):
        return _verdict(chosen, "", lambda: answer, chosen.reference)
    if not callable(answer):
        return UNFINISHED if _is_stub(answer) else ("WRONG", f"type {kind(answer)}, expected function")
    for seed in SEEDS:
        given = copy.deepcopy(chosen.cases(seed))
        own, of_reference = copy.deepcopy(given), copy.deepcopy(given)
        expected = chosen.attempt(chosen.reference, *of_reference)
        answered = partial(chosen.attempt, answer, *own)
        verdict = _verdict(chosen, f"case {seed}: ", answered, expected, blank=seed == SEEDS[0])
        verdict = verdict or _overwritten(chosen, given, own, of_reference)
        if verdict is not None:
            return verdict
    return None


def _overwritten(chosen: Exercise, given: tuple, own: tuple, of_reference: tuple) -> Verdict | None:
    """The verdict on an answer that changes an argument which the reference leaves: the notebook uses it again."""
    names = [*inspect.signature(chosen.reference).parameters, *("an argument" for _ in given)]
    for name, before, after, allowed in zip(names, given, own, of_reference, strict=False):
        if has_changed(before, after) and not has_changed(before, allowed):
            return "WRONG", f"right, but it changes `{name}` in place, which later cells use: work on a copy"
    return None


def has_changed(before: Any, after: Any) -> bool:
    """Whether data has changed: numbers, texts, arrays, tables and containers of them. Other objects may change."""
    if kind(before) != kind(after):
        return True
    if _instance(before, "scipy.sparse", "sparray", "spmatrix"):
        before, after = before.toarray(), after.toarray()
    if isinstance(before, str | bytes) or kind(before) in ("tensor", "array", "number", "bool"):
        return difference(after, before, tolerance=0) is not None
    was, is_now = _parts(before) or {}, _parts(after) or {}
    return was.keys() != is_now.keys() or any(has_changed(part, is_now[name]) for name, part in was.items())


def _verdict(
    chosen: Exercise, where: str, answer: Callable[[], Any], expected: Any, blank: bool = True
) -> Verdict | None:
    """The verdict on one call; with `blank`, None or `...` is an unfinished answer, else one branch without a value."""
    try:
        value = answer()
        if _is_stub(value) and not _is_stub(expected):
            missing = f"{where}returned {value}, expected {kind(expected)}: a branch ends without a value"
            return UNFINISHED if blank else ("WRONG", missing)
        problem = chosen.problem(value, expected)
    except NotImplementedError:
        return UNFINISHED
    except Exception as error:
        if "ellipsis" in str(error).lower():  # a `...` left in the stub went into an operation
            return UNFINISHED
        return "ERROR", f"{where}your code raised {type(error).__name__}: {error}"
    return None if problem is None else ("WRONG", f"{where}{problem}")


def _is_stub(value: Any) -> bool:
    return value is None or value is Ellipsis


def kind(value: Any) -> str:
    """The kind of a value, in one word for the learner: numbers of any precision are the same kind."""
    if _instance(value, "torch", "Tensor"):
        return "tensor"
    if _instance(value, "pandas", "DataFrame", "Series"):
        return type(value).__name__
    if callable(value) and not isinstance(value, type):
        return "function"
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | float | complex | np.number):
        return "number"
    if isinstance(value, np.ndarray):
        return "array"
    return next((t.__name__ for t in (dict, list, tuple, str) if isinstance(value, t)), type(value).__name__)


def _instance(value: Any, module: str, *names: str) -> bool:
    """isinstance without importing: a value of a library's type implies that the library is loaded."""
    library = sys.modules.get(module)
    return library is not None and any(isinstance(value, getattr(library, name)) for name in names)


def difference(answer: Any, expected: Any, *, tolerance: float = 1e-4) -> str | None:
    """The first difference in kind, shape, dtype or value, in words; None when the two agree.

    `tolerance` is relative, with a hundredth of it absolute. Containers are compared item by item.
    """
    if kind(answer) != kind(expected):
        return f"type {kind(answer)}, expected {kind(expected)}"
    if kind(expected) in ("tensor", "array", "number", "bool"):
        return _array_difference(_as_array(answer), _as_array(expected), tolerance)
    if kind(expected) == "function":
        return None if answer is expected else "another function than expected"
    found, wanted = _parts(answer), _parts(expected)
    if found is None or wanted is None:
        return None if answer == expected else f"{answer!r:.60}, expected {expected!r:.60}"
    return _parts_difference(found, wanted, tolerance)


def _as_array(value: Any) -> np.ndarray:
    if _instance(value, "torch", "Tensor"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value  # numpy has no bfloat16
    return np.asarray(value)


def _array_difference(answer: np.ndarray, expected: np.ndarray, tolerance: float) -> str | None:
    if answer.shape != expected.shape:
        return f"shape {answer.shape}, expected {expected.shape}"
    # A plain number may be an int where a float is meant; in an array the dtype is part of the answer.
    if answer.ndim and answer.dtype.kind != expected.dtype.kind:
        return f"dtype {answer.dtype}, expected {expected.dtype}"
    if {answer.dtype.kind, expected.dtype.kind} & set("fc"):
        apart = ~np.isclose(answer, expected, rtol=tolerance, atol=tolerance / 100, equal_nan=True)
    else:
        apart = np.asarray(answer != expected)
    if not apart.any():
        return None
    if not answer.ndim:
        return "value {}, expected {}".format(*_told_apart(answer[()], expected[()]))
    first = tuple(int(i) for i in np.argwhere(apart)[0])
    share = f"{max(1, round(100 * apart.mean()))}% of the values differ"
    found, wanted = _told_apart(answer[first], expected[first])
    return f"values differ at index {first}: {found}, expected {wanted}; {share}"


def _told_apart(found: Any, wanted: Any) -> tuple[str, str]:
    """Both values in four digits, or in seven where four look the same."""
    digits = 4 if _short(found) != _short(wanted) else 7
    about = "about " if isinstance(wanted, float | np.floating) else ""
    return _short(found, digits), about + _short(wanted, digits)


def _short(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float | np.floating) else str(value)


def _parts(value: Any) -> dict[str, Any] | None:
    """A container as named parts, compared one after the other; None for anything else."""
    if _instance(value, "pandas", "DataFrame"):
        columns = {f"column {name!r}: ": value.iloc[:, i].to_numpy() for i, name in enumerate(value.columns)}
        return {"columns: ": list(value.columns), "index: ": value.index.to_numpy()} | columns
    if _instance(value, "pandas", "Series"):
        return {"index: ": value.index.to_numpy(), "": value.to_numpy()}
    if isinstance(value, Mapping):
        return {f"key {name!r}: ": part for name, part in value.items()}
    if isinstance(value, list | tuple):
        return {"length: ": len(value)} | {f"item {i}: ": part for i, part in enumerate(value)}
    if dataclasses.is_dataclass(value):
        return {f"field {field.name}: ": getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _parts_difference(answer: dict[str, Any], expected: dict[str, Any], tolerance: float) -> str | None:
    for where, part in expected.items():
        if where not in answer:
            return f"{where}missing"
        if (problem := difference(answer[where], part, tolerance=tolerance)) is not None:
            return where + problem
    unexpected = [where for where in answer if where not in expected]
    return f"{unexpected[0]}not expected" if unexpected else None
