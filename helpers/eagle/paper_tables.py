"""The paper's tables beside ours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PaperRow(NamedTuple):
    """A row of a table of the paper: U(z) and its printed error, shares of preferences, distance; NaN if not given."""

    utility: float
    error: float
    user: float
    rater: float
    distance: float


PAPER_TABLE_2: dict[str, PaperRow] = {
    "ELM": PaperRow(0.57, np.nan, 0.31, 0.37, 0.52),
    "reference, uniform": PaperRow(0.49, 0.02, 0.59, 0.62, 0.44),
    "reference, optimistic": PaperRow(0.58, 0.02, 0.62, 0.60, 0.34),
    "reference, G-optimal": PaperRow(0.51, 0.02, 0.51, 0.67, 0.45),
    "EAGLE, uniform": PaperRow(0.65, 0.03, 0.69, 0.64, 0.43),
    "EAGLE, optimistic": PaperRow(0.69, 0.04, 0.71, 0.69, 0.25),
    "EAGLE, G-optimal": PaperRow(0.74, 0.03, 0.76, 0.74, 0.47),
}
"""Tennenholtz et al., "Embedding-Aligned Language Models", NeurIPS 2024 (arXiv 2406.00024), table 2."""

PAPER_TABLE_8: dict[str, PaperRow] = {
    "reference, G-optimal": PaperRow(0.45, np.nan, 0.33, np.nan, 0.30),
    "EAGLE, tree search": PaperRow(0.69, np.nan, 0.64, np.nan, 0.34),
}
"""The same paper's table 8, on Amazon's products, where a language model stands in for the users."""
