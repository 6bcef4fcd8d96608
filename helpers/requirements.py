"""Does this machine have what the course needs? One line per requirement, with the remedy.

The Makefile runs this file with the user's own Python before anything is installed, so it imports only the
standard library at the top and keeps to syntax that an old Python can read.
"""

import sys

PYTHON_NEEDED = (3, 11)
TORCH_NEEDED = (2, 13)


class Check:
    """One requirement: `name`, whether it is met (`ok`), what was found (`found`), how to mend it (`remedy`)."""

    def __init__(self, name, ok, found, remedy):
        self.name, self.ok, self.found, self.remedy = name, ok, found, remedy

    def __str__(self):
        line = "%s %s: %s" % ("[OK]  " if self.ok else "[FAIL]", self.name, self.found)  # noqa: UP031
        return line if self.ok else line + " -> " + self.remedy
