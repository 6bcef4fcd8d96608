"""The comparison on real movies: parts that share nothing, and users of both kinds."""

from __future__ import annotations

import pytest

from helpers.eagle import comparison
from helpers.eagle.comparison import COMPARISON_PLANS, comparison_starts
from helpers.embedding.factorization import fit_als
from helpers.embedding.judges import halves


@pytest.fixture(scope="module")
def parts(movies):
    own = halves(movies)[0]
    model = fit_als(*own.triplets, own.n_users, own.n_items)
    return model, *comparison_starts(movies, model, 20, 8)


def test_training_and_test_share_no_movie_no_plot_and_no_user(movies, parts):
    _, train, test = parts
    plots = movies.items["plot_text"]
    assert (len(train), len(test)) == (20, 16)
    for of in (lambda s: s.item, lambda s: plots[s.item], lambda s: s.text, lambda s: s.user):
        assert not set(map(of, train)) & set(map(of, test))
    assert len({start.item for start in train}) == 20 and len({start.item for start in test}) == 8


def test_every_test_movie_has_a_user_who_dislikes_it_and_one_who_likes_it(parts):
    model, train, test = parts

    def stars(start) -> float:
        return model.user_level[start.user] + model.user_embeddings[start.user] @ model.item_embeddings[start.item]

    assert all(stars(a) <= 3 and stars(b) >= 4 for a, b in zip(test[::2], test[1::2], strict=True))
    assert [stars(start) >= 4 for start in train] == [False, True] * 10


def test_the_same_starts_again_and_more_of_them_begin_alike(movies, parts):
    model, train, test = parts
    assert comparison_starts(movies, model, 20, 8) == (train, test)
    assert comparison_starts(movies, model, 30, 8)[0][:20] == train


def test_no_encoder_and_no_aim_knows_a_test_movie(movies, monkeypatch, unchecked):
    seen = {}

    def encoders(domain, left_out):
        seen["left_out"] = set(left_out)
        return "encoders"

    monkeypatch.setattr(comparison, "independent_encoders", encoders)
    monkeypatch.setattr(comparison, "local_backend", lambda: "backend")
    monkeypatch.setattr(comparison, "Steering", lambda encoders, aims, reach, rewriter: aims)
    monkeypatch.setattr(comparison, "with_reach", lambda aims, train: aims)
    monkeypatch.setattr(comparison, "Rewriter", lambda *arguments: None)
    monkeypatch.setattr(comparison, "Comparison", lambda *parts: parts)
    aims, plan, train, test = comparison.load_comparison(domain=movies)
    items = {int(movies.text_items[row]) for aim in aims for row in aim.items}
    assert plan == COMPARISON_PLANS["small"] and len(test) == 2 * plan.test_items and len(train) == plan.train_items
    assert seen["left_out"] == {start.item for start in test} and not items & seen["left_out"]
    assert {start.item for start in train} <= items
