"""The paper's tables as printed, and ours beside them."""

from __future__ import annotations

import math

from helpers.eagle.paper_tables import PAPER_TABLE_2, PAPER_TABLE_8


def test_the_papers_numbers():
    """Table 2 as printed; the bar that its authors' agent sets."""
    assert [row.utility for row in PAPER_TABLE_2.values()] == [0.57, 0.49, 0.58, 0.51, 0.65, 0.69, 0.74]
    assert [row.user for row in PAPER_TABLE_2.values()] == [0.31, 0.59, 0.62, 0.51, 0.69, 0.71, 0.76]
    assert [row.rater for row in PAPER_TABLE_2.values()] == [0.37, 0.62, 0.60, 0.67, 0.64, 0.69, 0.74]
    assert [row.distance for row in PAPER_TABLE_2.values()] == [0.52, 0.44, 0.34, 0.45, 0.43, 0.25, 0.47]
    errors = [row.error for row in PAPER_TABLE_2.values()]
    assert math.isnan(errors[0]) and errors[1:] == [0.02, 0.02, 0.02, 0.03, 0.04, 0.03]
    assert next(iter(PAPER_TABLE_2)) == "ELM" and list(PAPER_TABLE_2)[-1] == "EAGLE, G-optimal"


def test_the_paper_table_on_products():
    assert [row.utility for row in PAPER_TABLE_8.values()] == [0.45, 0.69]
    assert [(row.user, row.distance) for row in PAPER_TABLE_8.values()] == [(0.33, 0.30), (0.64, 0.34)]
