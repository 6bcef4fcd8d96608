"""The linters see mistakes that were made here before."""

import subprocess
import sys

import pytest

from helpers.base.settings import PROJECT


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("def _verdicts():\n    pass\n\n\ndef _verdicts():\n    pass\n", "F811"),
        ("def verdicts():\n    pass\n\n\ndef verdicts():\n    pass\n", "F811"),
        ("def one():\n    _left_over = 1\n", "F841"),
        ("def one() -> str:\n    return never_imported\n", "F821"),
    ],
)
def test_a_bad_file_is_noticed(text, rule):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", "helpers/bad.py", "-"]
    done = subprocess.run(command, cwd=PROJECT, input=text, capture_output=True, text=True)
    assert done.returncode == 1 and rule in done.stdout, done.stdout
