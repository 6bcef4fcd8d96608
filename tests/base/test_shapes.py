"""Types and shapes are checked while the unit tests run, and not in notebooks, where they would cost time."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from helpers.eagle.design import leverages

WRONG = "import numpy; from helpers.eagle.design import leverages; leverages(numpy.eye(2), numpy.ones((2, 1)) / 2)"


@pytest.mark.skipif(os.environ.get("STEER_CHECK_SHAPES") == "0", reason="shapes are not to be checked")
def test_a_wrong_shape_or_type_is_refused():
    for weights in (np.ones((2, 1)) / 2, np.ones(3) / 3, "half", None):
        with pytest.raises(TypeCheckError):
            leverages(np.eye(2), weights)


def test_outside_of_the_tests_the_function_itself_says_what_is_wrong():
    run = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=False)
    assert "ValueError: q must hold 2 non-negative weights" in run.stderr
