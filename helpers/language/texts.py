"""Measures of a text that need nothing but its words."""

from __future__ import annotations

import re


def repetition(text: str, n: int = 3) -> float:
    """Share of the n-word sequences of a text that occurred in it before; 0 for a shorter text."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
