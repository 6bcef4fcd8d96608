"""The experiment's splits: nothing of the test starts, neither movie, plot nor user, is met in training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_world import FakeBackend

from helpers.domains.clothing import load_clothing
from helpers.domains.domain import Domain
from helpers.domains.movies import load_movies
from helpers.eagle.actions import BANK
from helpers.eagle.comparison import CLOTHING_HIGH, CLOTHING_LOW, HIGH, LOW
from helpers.eagle.environment import World
from helpers.eagle.experiment import split_starts
from helpers.eagle.rewriting import Rewriter, Start
from helpers.embedding.encoder import Encoder
from helpers.embedding.factorization import fit_als
from helpers.embedding.space import EmbeddingSpace

Split = Callable[[int, int, int], tuple[list[Start], list[Start]]]
SPLITS = {"movies": (load_movies, LOW, HIGH), "clothes": (load_clothing, CLOTHING_LOW, CLOTHING_HIGH)}


@pytest.fixture(scope="module", params=SPLITS)
def experiment(request) -> tuple[World, float, float]:
    """The real items and users, with embeddings good enough to tell who likes what."""
    load, low, high = SPLITS[request.param]
    domain: Domain = load()
    model = fit_als(*domain.triplets, domain.n_users, domain.n_items, rank=2, n_sweeps=2)
    space = EmbeddingSpace(domain, model, Encoder(len, lambda n: np.zeros((n, 3))), model.item_embeddings)
    return World(space, BANK, Rewriter(FakeBackend(), wording=domain.wording)), low, high


@pytest.mark.parametrize("seed", range(5))
def test_training_meets_no_user_item_or_plot_of_the_test_starts(experiment, seed):
    world, low, high = experiment
    train, test = split_starts(world, 10_000, 15, seed, low, high)  # all other items are for training
    assert len(train) > 15 and len(test) == 30
    assert not {start.user for start in train} & {start.user for start in test}
    assert not {start.item for start in train} & {start.item for start in test}
    assert not {start.text for start in train} & {start.text for start in test}
    plots = world.space.domain.items["plot_text"]
    assert not {plots[start.item] for start in train} & {plots[start.item] for start in test}


def test_every_start_has_a_user_of_the_kind_it_is_for(experiment):
    world, low, high = experiment
    train, test = split_starts(world, 10, 10, 0, low, high)
    model = world.space.model

    def stars(start: Start) -> float:
        return model.user_level[start.user] + model.user_embeddings[start.user] @ model.item_embeddings[start.item]

    for content, other in zip(test[1::2], test[::2], strict=True):  # two users per movie, the critical one first
        assert content.item == other.item
        assert stars(other) <= low < high <= stars(content)
    assert all(stars(start) <= low for start in train[::2]) and all(stars(start) >= high for start in train[1::2])


def test_starts_depend_on_the_seed_alone(experiment):
    world, low, high = experiment
    assert split_starts(world, 4, 3, 1, low, high) == split_starts(world, 4, 3, 1, low, high)
    assert split_starts(world, 4, 3, 1, low, high) != split_starts(world, 4, 3, 2, low, high)
