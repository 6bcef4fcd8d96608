"""A small world for tests, without a model: texts name a place on a map, and instructions walk from there."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.domains.domain import Domain
from helpers.eagle.rewriting import Start, seed_of
from helpers.embedding.encoder import Encoder
from helpers.embedding.factorization import Factorization
from helpers.embedding.profiles import Profile
from helpers.embedding.space import EmbeddingSpace
from helpers.language.prompts import Backend

DIM, N_USERS = 3, 4
PROFILES = [
    Profile(("Drama",), (), ("a family under strain",)),
    Profile(("Western", "War"), ("Comedy",), ()),
    Profile(("Comedy",), ("Horror",), ("faith and doubt",)),
    Profile((), (), ()),
]


def place(z: Sequence[float], genres: str = "Drama, Sci-Fi") -> str:
    """The text of a place on the map."""
    x, y, up = z
    return f"Genres: {genres}.\nThe old house stands at x{x:.3f} y{y:.3f} z{up:.3f} on the map."


def encode(texts: Sequence[str]) -> np.ndarray:
    return np.array([[float(number) for number in re.findall(r"[xyz](-?\d+\.\d+)", text)] for text in texts])


def walk(instruction: str) -> np.ndarray:
    """How far an instruction moves a text, on average."""
    return np.random.default_rng(seed_of(instruction)).normal(size=DIM)


class FakeBackend(Backend):
    """Walks as the instruction says, with noise; a share `bad` of the answers cannot be used."""

    name = "fake"

    def __init__(self, noise: float = 0.1, bad: float = 0.0) -> None:
        self.noise, self.bad, self.batches = noise, bad, []

    def generate(self, prompts, sampling, seeds, done) -> None:
        self.batches.append(len(prompts))
        done(list(range(len(prompts))), [self.answer(*pair) for pair in zip(prompts, seeds, strict=True)])

    def answer(self, prompt, seed: int) -> str:
        text, _, instruction = prompt[-2][1].partition("\n\nInstruction: ")
        random = np.random.default_rng(seed_of(text, instruction, seed))
        if random.random() < self.bad:
            return " Drama.\nI cannot."
        z = encode([text])[0] + walk(instruction) + self.noise * random.normal(size=DIM)
        return place(z).removeprefix("Genres:") + "\n\nAnything else?"


def fake_space() -> EmbeddingSpace:
    """The map: twenty items whose texts say where they lie, and users who like some directions."""
    random = np.random.default_rng(0)
    items = random.normal(size=(20, DIM))
    users = random.normal(size=(N_USERS, DIM - 1))
    model = Factorization(3.5, np.linspace(-0.5, 0.5, N_USERS), items[:, -1], users, items[:, :-1])
    texts = pd.DataFrame({"plot_text": [place(z) for z in items], "plot_source": "fake"})
    domain = Domain("fake", texts, N_USERS, pd.DataFrame({"user": [], "item": [], "rating": []}))
    return EmbeddingSpace(domain, model, Encoder(encode, lambda z: z), items)


def fake_starts(n: int) -> list[Start]:
    places = np.random.default_rng(1).normal(size=(n, DIM))
    return [Start(place(z), i % N_USERS, i) for i, z in enumerate(places)]
