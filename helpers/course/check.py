"""Exercise checks: `f = check.exercise("05.1", f)` says whether `f` is right and keeps the notebook going.

A right answer comes back as it is. An unfinished or wrong one is replaced by the reference, so that the cells
after it still run; the learner reads what is missing, never the solution's code.

With the environment variable STEER_GRADING set to 1, for graders that want an error where a point is lost, a
check raises AssertionError with its verdict unless the answer is right.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

from helpers.base.storage import CourseError
from helpers.course.judge import Exercise, verdict_on

GOES_ON = "The notebook goes on with the reference; change your cell and run it again."


def exercise(name: str, answer: Any, exercises: Mapping[str, Exercise] | None = None) -> Any:
    """Check `answer` to the exercise `name`, print one verdict, return `answer` if right, else the reference.

    Raises:
        CourseError: there is no such exercise.
        AssertionError: the answer is not right, and STEER_GRADING is 1.
    """
    chosen = _exercise_named(name, exercises)
    verdict = verdict_on(chosen, answer)
    if verdict is None:
        print(f"[OK] {name} {chosen.name}")
        return answer
    tag, text = verdict
    if os.environ.get("STEER_GRADING") == "1":
        raise AssertionError(f"[{tag}] {name} {text}")
    print(f"[{tag}] {name} {text}", GOES_ON, sep="\n")
    return copy.deepcopy(chosen.reference)


def right_or_reference(name: str, answer: Any, exercises: Mapping[str, Exercise] | None = None) -> Any:
    """What `exercise` returns, without a verdict and without raising: `answer` if it is right, else the reference.

    A check that raises never gets to the assignment it stands in. One mistake should cost one point, so the edition
    for nbgrader assigns in a cell of its own: a right answer to the next exercise may call this one.

    Raises:
        CourseError: there is no such exercise.
    """
    chosen = _exercise_named(name, exercises)
    return answer if verdict_on(chosen, answer) is None else copy.deepcopy(chosen.reference)


def _exercise_named(name: str, exercises: Mapping[str, Exercise] | None) -> Exercise:
    from helpers.course.exercises import EXERCISES  # loads torch: not when a notebook starts

    known = EXERCISES if exercises is None else exercises
    if name not in known:
        raise CourseError(f"no exercise {name!r}: the course has {', '.join(sorted(known))}")
    return known[name]
