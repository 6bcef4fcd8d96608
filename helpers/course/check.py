"""Exercise checks: `f = check.exercise("05.1", f)` says whether `f` is right and keeps the notebook going.

A right answer is returned as it is. An unfinished or wrong one is replaced by the reference, so that later cells still
run; the learner reads what is missing, never the solution's code.

If the environment variable STEER_GRADING is 1, for graders that need an error where a point is lost, a check raises
AssertionError with its verdict unless the answer is right. In the student edition checks count tries and right answers
(see `helpers.course.progress`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from helpers.base.storage import CourseError
from helpers.course import progress
from helpers.course.judge import Exercise, Verdict, verdict_on

HANDED_OUT = "this is the reference that a check handed out: run the cell with your function first, then this one."
GOES_ON = "The notebook goes on with the reference; change your cell and run it again."


def exercise(name: str, answer: Any, exercises: Mapping[str, Exercise] | None = None) -> Any:
    """Check `answer` to the exercise `name`, print one verdict, return `answer` if right, else the reference.

    Raises:
        CourseError: there is no such exercise.
        AssertionError: the answer is not right, and STEER_GRADING is 1.
    """
    chosen = _exercise_named(name, exercises)
    verdict = _verdict(chosen, answer)
    if exercises is None and _is_try(answer, verdict):
        progress.note(name, passed=verdict is None)
    if verdict is None:
        print(f"[OK] {name} {chosen.name}")
        return answer
    tag, text = verdict
    if os.environ.get("STEER_GRADING") == "1":
        raise AssertionError(f"[{tag}] {name} {text}")
    print(f"[{tag}] {name} {text}", GOES_ON, sep="\n")
    return copy.deepcopy(chosen.reference)


def assert_right(name: str, answer: Any, exercises: Mapping[str, Exercise] | None = None) -> None:
    """Raise unless `answer` is right, whatever the settings: the test that otter-grader gives a point for.

    Raises:
        CourseError: there is no such exercise.
        AssertionError: the answer is not right; the text is the verdict.
    """
    verdict = _verdict(_exercise_named(name, exercises), answer)
    if verdict is not None:
        raise AssertionError(f"[{verdict[0]}] {name} {verdict[1]}")


def right_or_reference(name: str, answer: Any, exercises: Mapping[str, Exercise] | None = None) -> Any:
    """What `exercise` returns, without a verdict and without raising: `answer` if it is right, else the reference.

    When a check raises, its assignment is never reached. One mistake should cost one point, so the edition for nbgrader
    assigns in another cell: a right answer to the next exercise may call this one.

    Raises:
        CourseError: there is no such exercise.
    """
    chosen = _exercise_named(name, exercises)
    return answer if verdict_on(chosen, answer) is None else copy.deepcopy(chosen.reference)


def _verdict(chosen: Exercise, answer: Any) -> Verdict | None:
    """The verdict on an answer; a reference that a check has assigned to the learner's name does not count.

    Otherwise a check that runs a second time would call the exercise solved.
    """
    if callable(answer) and answer is chosen.reference:
        return "TODO", HANDED_OUT
    return verdict_on(chosen, answer)


def _is_try(answer: Any, verdict: Verdict | None) -> bool:
    """Whether an answer counts as a try: a blank one does not, nor do the wrong lambdas that notebook 00 shows."""
    if verdict is None:
        return True
    return verdict[0] != "TODO" and getattr(answer, "__name__", "") != "<lambda>"


def _exercise_named(name: str, exercises: Mapping[str, Exercise] | None) -> Exercise:
    from helpers.course.exercises import EXERCISES  # loads torch: not when a notebook starts

    known = EXERCISES if exercises is None else exercises
    if name not in known:
        raise CourseError(f"no exercise {name!r}: the course has {', '.join(sorted(known))}")
    return known[name]
