"""Both methods at work on one example each, small enough to run while one reads the first page (notebook 00).

What the notebooks build step by step is here in its shortest form: one aim and no agent, one small edit and no search
for its strength. Nothing is measured with these two examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helpers.domains.movies import load_movies
from helpers.eagle.aims import aims_of, promise, targets
from helpers.eagle.comparison import AIMED_SAMPLING
from helpers.eagle.emission import gap_of_start, gains
from helpers.eagle.rewriting import Rewriter, start_of
from helpers.eagle.rivals import NEUTRAL
from helpers.embedding.features import term_features
from helpers.embedding.judges import VIEW, halves
from helpers.embedding.profiles import ProfileWriter
from helpers.embedding.space import build_space
from helpers.language.generation import default_memo, local_backend

REACH = 0.3  # how far a text is expected to go towards its aim; notebook 04 measures it


class Version(NamedTuple):
    """A rewritten text, the instruction that it came from, and what it gains over the original, in stars."""

    instruction: str
    text: str
    paid: float
    judged: float


class Steered(NamedTuple):
    """A viewer's profile, a film's text as it was, and its versions: the steered one and its control."""

    viewer: str
    original: str
    steered: Version
    control: Version


def steer(title: str, user: int, seed: int = 0) -> Steered:
    """Rewrite a film's text for a viewer, once as the embedding space suggests and once only in other words.

    The aim is that of the highest promise by an encoder of MiniLM features on half of the ratings. The judge reads
    words and has learnt from the other half; it chooses nothing. The film took part in neither.

    Raises:
        KeyError: there is no film of this title.
    """
    movies = load_movies()
    item = int(movies.items.index.get_indexer_for(movies.items.index[movies.items["title"] == title])[0])
    known, start = [], start_of(movies, item, user)
    own, other = halves(movies)
    words = term_features([text for text, row in zip(movies.texts(VIEW), movies.text_items, strict=True) if row != item])
    paid = build_space(own, view=VIEW, left_out=[item])
    judge = build_space(other, view=VIEW, left_out=[item], featurise=words)
    aims = aims_of(movies, [item])
    worth = promise(gap_of_start(paid, start), paid.encoder([start.text])[0], targets(aims, paid.items), REACH)
    return worth
