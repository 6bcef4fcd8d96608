"""The paper's tables as printed, and ours beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helpers.eagle.paper_tables import PAPER_TABLE_2, PAPER_TABLE_8, beside_paper


def test_the_papers_numbers():
    """Table 2 as printed; the bar that its authors' agent sets."""
    assert [row.utility for row in PAPER_TABLE_2.values()] == [0.57, 0.49, 0.58, 0.51, 0.65, 0.69, 0.74]
    assert [row.user for row in PAPER_TABLE_2.values()] == [0.31, 0.59, 0.62, 0.51, 0.69, 0.71, 0.76]
    assert [row.rater for row in PAPER_TABLE_2.values()] == [0.37, 0.62, 0.60, 0.67, 0.64, 0.69, 0.74]
    assert [row.distance for row in PAPER_TABLE_2.values()] == [0.52, 0.44, 0.34, 0.45, 0.43, 0.25, 0.47]
    errors = [row.error for row in PAPER_TABLE_2.values()]
    assert math.isnan(errors[0]) and errors[1:] == [0.02, 0.02, 0.02, 0.03, 0.04, 0.03]
    assert next(iter(PAPER_TABLE_2)) == "ELM" and list(PAPER_TABLE_2)[-1] == "EAGLE, G-optimal"


def test_the_table_beside_the_paper():
    table = beside_paper({"reference, G-optimal": 4.0, "EAGLE, G-optimal": 5.0, "tree": 4.4})
    assert list(table.index) == [*PAPER_TABLE_2, "tree"]
    assert list(table) == ["paper", "ours", "paper, relative", "ours, relative"]
    agent = table.loc["EAGLE, G-optimal"]
    np.testing.assert_allclose(agent, [0.74, 5.0, 0.74 / 0.51 - 1, 0.25])
    assert agent["paper, relative"] >= 0.45 and 0.74 / table.loc["EAGLE, uniform", "paper"] - 1 >= 0.13
    assert table.loc["reference, G-optimal", ["paper, relative", "ours, relative"]].tolist() == [0, 0]
    assert np.isnan(table.loc["tree", "paper"]) and table.loc["tree", "ours, relative"] == pytest.approx(0.1)
    assert np.isnan(table.loc["ELM", "ours"])
    users = beside_paper({"ELM": 1.0}, reference="ELM", measure="user")
    assert users.loc["EAGLE, G-optimal", "paper, relative"] == pytest.approx(0.76 / 0.31 - 1)


def test_beside_the_table_on_products():
    table = beside_paper({"reference, G-optimal": 4.0, "EAGLE, tree search": 4.2}, table=PAPER_TABLE_8)
    assert list(table.index) == list(PAPER_TABLE_8)
    np.testing.assert_allclose(table.loc["EAGLE, tree search"], [0.69, 4.2, 0.69 / 0.45 - 1, 0.05])


@pytest.mark.parametrize(("ours", "reference"), [({"tree": 1.0}, "tree"), ({"tree": 1.0}, "ELM")])
def test_a_missing_reference_is_refused(ours, reference):
    with pytest.raises(ValueError, match="must both have the reference"):
        beside_paper(ours, reference)
