"""A task of aimed actions on the small map of `fake_world`: aims lead some way towards their items, with noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fake_world import DIM, PROFILES, FakeBackend, encode, fake_space, place

from helpers.domains.wording import MOVIES
from helpers.eagle.aims import Aim, targets
from helpers.eagle.rewriting import Rewriter, Start, seed_of
from helpers.eagle.steering import Steering
from helpers.embedding.encoder import Encoder
from helpers.embedding.judges import Encoders
from helpers.embedding.profiles import Profile
from helpers.embedding.space import EmbeddingSpace

THEMES = ("war", "faith", "music", "family", "justice", "the sea", "old age", "secrets", "ghosts", "sport")
LABELS = ("Drama", "Comedy", "Western", "War", "Horror", "Romance")
REACH, BORROWED_REACH = 0.5, 0.8


class AimedBackend(FakeBackend):
    """Goes some of the way to an aim's target; other instructions walk as in `fake_world`."""

    def __init__(self, ways: dict[str, tuple[np.ndarray, float]], noise: float, bad: float) -> None:
        super().__init__(noise, bad)
        self.ways, self.asked = ways, []

    def answer(self, prompt, seed: int) -> str:
        text, _, instruction = prompt[-2][1].partition("\n\nInstruction: ")
        self.asked.append((text, instruction, seed))
        random = np.random.default_rng(seed_of(text, instruction, seed))
        if instruction not in self.ways or random.random() < self.bad:
            return super().answer(prompt, seed)
        z, (there, reach) = encode([text])[0], self.ways[instruction]
        z = z + reach * (there - z) + self.noise * random.normal(size=DIM)
        return place(z).removeprefix("Genres:") + "\n\nAnything else?"


class FakeSteering(Steering):
    """A task whose users have the profiles of `fake_world`; the small map has no ratings to make them of."""

    def profile(self, user: int) -> Profile:
        return PROFILES[user]


def turned(space: EmbeddingSpace, seed: int) -> EmbeddingSpace:
    """The same map with its factors on other axes, and users of somewhat other taste."""
    random, axes = np.random.default_rng(seed), np.eye(DIM)
    axes[:-1, :-1] = np.linalg.qr(random.normal(size=(DIM - 1, DIM - 1)))[0]
    users = (space.model.user_factors + 0.5 * random.normal(size=space.model.user_factors.shape)) @ axes[:-1, :-1]
    model = replace(space.model, user_factors=users)
    return EmbeddingSpace(space.domain, model, Encoder(encode, lambda z: z @ axes), space.items @ axes)


def blind_judge(task: Steering) -> Steering:
    """The same task with a judge that must not be asked."""

    def refuse(texts):
        raise AssertionError("a method has asked the judge")

    judge = replace(
        task.encoders.judge, encoder=Encoder(refuse, refuse), items=np.full_like(task.encoders.judge.items, np.nan)
    )
    return replace(task, encoders=task.encoders._replace(judge=judge))


def fake_task(noise: float = 0.05, bad: float = 0.0, horizon: int = 3, borrowed: int = 0) -> Steering:
    """Twenty aims, each towards one of the twenty items, and some that borrow from one."""
    space = fake_space()
    aims = tuple(Aim((LABELS[i % 6],), f"{THEMES[i % 10]} {'and loss' * (i // 10)}".strip(), (i,)) for i in range(20))
    aims += tuple(replace(aim, idea=f"Genres: War.\nStory {i} of a far land.") for i, aim in enumerate(aims[:borrowed]))
    ways = {
        aim.instruction(MOVIES): (there, BORROWED_REACH if aim.idea else REACH)
        for aim, there in zip(aims, targets(aims, space.items), strict=True)
    }
    encoders, reach = Encoders(space, turned(space, 1), turned(space, 2)), np.array([[REACH, BORROWED_REACH]] * 2)
    return FakeSteering(encoders, aims, reach, Rewriter(AimedBackend(ways, noise, bad)), horizon)


def task_starts(n: int) -> list[Start]:
    """Starts from the items of the map, so that each has an item to leave out."""
    space = fake_space()
    return [Start(place(space.items[i]), i % 4, int(space.domain.text_items[i])) for i in range(n)]
