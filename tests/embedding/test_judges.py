"""Encoders that share nothing: disjoint halves, unseen items, other features, and how far they agree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers.domains.domain import Domain
from helpers.embedding import judges, space
from helpers.embedding.evaluation import cross_validate, make_folds, spearman_per_user
from helpers.embedding.features import other_model_features, sentence_features, term_features
from helpers.embedding.judges import EncoderAgreement, encoder_agreement, halves, independent_encoders

LEFT_OUT = 12


def pairs(domain: Domain) -> set[tuple[int, int]]:
    return set(zip(domain.ratings["user"], domain.ratings["item"], strict=True))


def test_the_halves_share_no_rating_and_lose_none(movies):
    first, second = halves(movies)
    assert not pairs(first) & pairs(second) and pairs(first) | pairs(second) == pairs(movies)
    sizes = [np.bincount(half.ratings["user"], minlength=movies.n_users) for half in (first, second)]
    assert set(sizes[0] - sizes[1]) <= {-1, 0, 1}
    assert first.ratings.index.is_monotonic_increasing and (first.items is movies.items)


def test_the_seed_draws_the_halves(movies):
    first, again, other = (pairs(halves(movies, seed)[0]) for seed in (0, 0, 1))
    assert first == again != other


def test_a_user_with_one_rating_is_refused(movies):
    one = pd.DataFrame({"user": [0, 0, 1], "item": [0, 1, 0], "rating": [3.0, 4.0, 5.0]})
    with pytest.raises(ValueError, match="fewer than two ratings"):
        halves(Domain("two", movies.items, 2, one))


@pytest.fixture(scope="module")
def left_out(movies) -> np.ndarray:
    return np.random.default_rng(0).permutation(movies.text_items)[:LEFT_OUT]


def test_neither_encoder_is_fitted_on_what_is_left_out_nor_shares_targets(movies, left_out, monkeypatch):
    fitted = []

    def noted(texts, targets, n_ratings, *, featurise, head):
        fitted.append((list(texts), targets, featurise))
        return fit(texts, targets, n_ratings, featurise=featurise, head=head)

    corpora, of_terms = [], judges.term_features
    monkeypatch.setattr(judges, "term_features", lambda texts: corpora.append(list(texts)) or of_terms(texts))
    fit = space.fit_encoder
    monkeypatch.setattr(space, "fit_encoder", noted)
    monkeypatch.setattr(judges, "other_model_features", sentence_features)  # faster than the model, and not looked at
    encoders = independent_encoders(movies, left_out)
    ideas = dict(zip(movies.text_items, movies.texts("idea"), strict=True))
    unseen = {ideas[item] for item in left_out} - {ideas[item] for item in set(movies.text_items) - set(left_out)}
    assert len(unseen) > LEFT_OUT / 2
    assert all(not unseen & set(texts) and len(texts) == len(ideas) - LEFT_OUT for texts, _, _ in fitted)
    (_, paid, _), (_, second, _), (_, judge, _) = fitted
    np.testing.assert_array_equal(paid, second)
    assert paid.shape == judge.shape and not np.allclose(np.abs(paid), np.abs(judge), atol=0.05)
    assert not pairs(encoders.paid.domain) & pairs(encoders.judge.domain)
    assert all(not set(one.domain.ratings["item"]) & set(left_out) for one in encoders), "ratings teach, too"
    assert [len(corpus) for corpus in corpora] == [len(ideas) - LEFT_OUT] and not unseen & set(corpora[0])
    assert all(len(one.items) == len(ideas) for one in encoders), "what is left out is still what exists"


def test_nothing_to_learn_from_is_refused(movies):
    with pytest.raises(ValueError, match="every item is left out"):
        space.build_space(movies, left_out=movies.text_items)


def test_words_alone_know_something_of_unseen_films_and_agree_with_sentences(movies):
    own, other = halves(movies)
    ideas = movies.texts("idea")
    tables = {}
    for name, half, features in (
        ("sentences", own, sentence_features(ideas)),
        ("words", other, lambda fold: term_features([ideas[place] for place in fold.train])(ideas)),
    ):
        found = cross_validate(make_folds(half), features, space.fit_ridge, half.n_ratings[half.text_items])
        tables[name] = found.scores
        assert spearman_per_user(movies, found.scores).mean() > 0.1
    found = encoder_agreement(tables["sentences"], tables["words"])
    assert 0.3 < found.correlation < 0.95 and 0.2 < found.slope < 1.5


def test_agreement_by_hand():
    paid = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 2.0]])
    assert encoder_agreement(paid, 2 * paid + 7) == pytest.approx(EncoderAgreement(1, 2))
    assert encoder_agreement(paid, -paid).correlation == pytest.approx(-1)
    judge = np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 1.0]])  # against, and with half of the step
    assert encoder_agreement(paid, judge) == pytest.approx(EncoderAgreement(0, (-2 + 4 / 3) / (2 + 8 / 3)))


def test_agreement_refuses_other_tables_and_users_without_an_opinion(unchecked):
    with pytest.raises(ValueError, match="same users and items"):
        encoder_agreement(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="all equal"):
        encoder_agreement(np.array([[1.0, 1.0]]), np.array([[1.0, 2.0]]))


@pytest.mark.slow
def test_the_second_encoder_reads_with_a_model_that_does_not_write(movies, monkeypatch):
    texts = movies.texts("idea")[:3]
    assert other_model_features(texts).shape == (3, 640)  # Gemma 3 270M
    monkeypatch.setenv("STEER_MODEL", "gemma-3-270m")
    assert other_model_features(texts).shape == (3, 576)  # SmolLM2


def test_a_text_measures_the_same_whatever_is_read_beside_it(movies):
    texts = movies.texts("idea")[:12]
    together, alone = other_model_features(texts), np.concatenate([other_model_features([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-4 * together.std()


def test_words_that_nobody_knows_are_no_features():
    found = term_features(["red fox runs", "red fox sleeps", "blue"])(["red fox", "unheard words"])
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 0])
