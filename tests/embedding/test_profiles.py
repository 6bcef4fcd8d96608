"""Profiles: no title and no rating in any of them, and they suit their own user."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from helpers.domains.movies import normalise_title
from helpers.domains.wording import MOVIES
from helpers.embedding import profiles as pr
from helpers.embedding.factorization import fit_als, split_ratings
from helpers.embedding.space import build_space


@pytest.fixture(scope="module")
def writer(movies):
    return pr.ProfileWriter(movies)


@pytest.fixture(scope="module")
def everyone(writer, movies):
    return [writer(user) for user in range(movies.n_users)]


# Titles that are also common words of the fixed themes.
COMMON_WORDS = {"stranger", "aliens"}


def test_no_profile_names_a_movie_or_a_rating(movies, everyone):
    titles = {normalise_title(title) for title in movies.items["title"]} - COMMON_WORDS
    titles = sorted((re.escape(title) for title in titles if len(title) > 3), key=len, reverse=True)
    found = re.compile(rf"\b({'|'.join(titles)})\b")
    assert len(everyone) == 943
    for profile in everyone:
        for text in (str(profile), profile.as_item()):
            assert not re.search(r"\d|\bstars?\b|rating", text)
            assert not found.findall(normalise_title(text)), text


def test_profiles_say_something_and_differ(everyone):
    texts = [str(profile) for profile in everyone]
    assert len(set(texts)) > 900
    for profile in everyone:
        assert not set(profile.likes) & set(profile.dislikes)
        assert len(profile.likes) <= 3 and len(profile.dislikes) <= 2 and len(profile.themes) <= 3
    assert all(re.fullmatch(r"Genres: [^\n]+\.\nA story about [^\n]+\.", p.as_item()) for p in everyone)


def test_a_user_without_ratings_is_refused(movies, writer):
    for user in (-1, movies.n_users):
        with pytest.raises(ValueError, match=f"user {user} has no ratings: choose one of 0 to 942"):
            writer(user)
    half = pr.ProfileWriter(movies, ratings=movies.ratings[movies.ratings["user"] != 5])
    with pytest.raises(ValueError, match="user 5 has no ratings"):
        half(5)
    assert half(6) != pr.Profile((), (), ())


def test_likes_follow_the_ratings(movies):
    """A user who gives Westerns 5 stars and everything else 1 likes Westerns; turned round, dislikes them."""
    ratings = movies.ratings.copy()
    western = np.array(["Western" in genres for genres in movies.items["genres"]])[ratings["item"]]
    mine = (ratings["user"] == 0).to_numpy()
    assert (western & mine).sum() >= 2
    for high, low in ((5.0, 1.0), (1.0, 5.0)):
        ratings.loc[mine, "rating"] = np.where(western[mine], high, low)
        profile = pr.ProfileWriter(replace(movies, ratings=ratings))(0)
        assert ("Western" in profile.likes) == (high > low) and ("Western" in profile.dislikes) == (high < low)


def test_only_the_given_ratings_are_used(movies, writer):
    """Profiles from one half of the ratings do not change with the other half."""
    first, _, second = split_ratings(len(movies.ratings), seed=0, validation=0.0, test=0.5)
    changed = movies.ratings.copy()
    changed.iloc[second, changed.columns.get_loc("rating")] = 1.0
    half = pr.ProfileWriter(movies, ratings=movies.ratings.iloc[first])
    other = pr.ProfileWriter(replace(movies, ratings=changed), ratings=movies.ratings.iloc[first])
    assert [half(user) for user in range(5)] == [other(user) for user in range(5)]
    assert [half(user) for user in range(5)] != [writer(user) for user in range(5)]


def test_profiles_suit_their_own_user_better_than_others(movies):
    """Profiles from one half of the ratings, user factors from the other; control: profiles dealt out at random."""
    first, _, second = split_ratings(len(movies.ratings), seed=0, validation=0.0, test=0.5)
    writer = pr.ProfileWriter(movies, ratings=movies.ratings.iloc[first])
    owners = np.intersect1d(movies.ratings["user"].iloc[first], movies.ratings["user"].iloc[second])
    model = fit_als(*(column[second] for column in movies.triplets), movies.n_users, movies.n_items)
    space = build_space(movies, model=model)
    z = space.encoder([writer(user).as_item() for user in owners])[:, :-1] - space.items[:, :-1].mean(axis=0)
    own = pr.profile_percentiles(z, owners, model.user_factors)
    permuted = pr.profile_percentiles(z, np.random.default_rng(0).permutation(owners), model.user_factors)
    error = np.sqrt(own.var() / len(own) + permuted.var() / len(own))
    assert own.mean() - permuted.mean() > 4 * error
    assert abs(permuted.mean() - 0.5) < 0.04


def test_percentiles():
    factors = np.array([[1.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [0.0, -1.1]])  # their mean is 0
    z = np.array([[3.0, 0.0], [3.0, 0.0], [0.1, 1.0]])
    np.testing.assert_allclose(pr.profile_percentiles(z, [0, 1, 2], factors), [1, 0, 1])
    shifted = pr.profile_percentiles(z, [0, 1, 2], 5 * factors + 7)
    np.testing.assert_allclose(shifted, [1, 0, 1])  # neither the mean user nor the length counts


def test_the_strongest_names():
    names = np.array(["a", "b", "c", "d"])
    assert pr.strongest(names, np.array([0.1, 0.5, -1.0, 0.3]), 2) == ("b", "d")
    assert pr.strongest(names, np.array([0.1, 0.5, -1.0, 0.0]), 4) == ("b", "a")  # positive ones only
    assert pr.strongest(names, np.array([0.2, 0.2, 0.2, 0.2]), 3) == ("a", "b", "c")
    assert pr.strongest(names, -np.ones(4), 3) == ()


def test_the_shrunken_mean():
    present = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    liking = np.array([1.0, 0.5])
    np.testing.assert_allclose(pr.shrunken_mean(liking, present), [1.5 / 7, 1 / 6, 0])
    many = pr.shrunken_mean(np.ones(1000), np.ones((1000, 1)))
    assert 0.99 < many[0] < 1  # with many ratings it is the mean


def test_words():
    assert [pr.in_words(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert str(pr.Profile((), (), ())) == "Has no marked taste."
    assert pr.Profile((), (), ()).as_item() == "Genres: unknown.\nA story about people."
    full = pr.Profile(("War", "Drama"), ("Comedy",), ("faith and doubt", "prison and escape"))
    assert str(full) == (
        "Likes War and Drama. Is drawn to stories about faith and doubt; prison and escape. Cares little for Comedy."
    )
    assert full.as_item() == "Genres: War, Drama.\nA story about faith and doubt; prison and escape."


def test_every_movie_with_text_has_its_themes(movies):
    themes = pr.theme_matrix(movies.texts("plot"))
    assert themes.shape == (649, len(MOVIES.themes)) and (themes.sum(axis=1) == 3).all()
    share = themes.mean(axis=0)
    assert share.min() > 0.01 and share.max() < 0.3  # no theme that fits everything or nothing
    titles = movies.items["title"][movies.has_text].tolist()
    assert themes[titles.index("Alien"), MOVIES.themes.index("aliens and space travel")] == 1


def test_themes_are_standardised_per_theme_by_hand(monkeypatch):
    """The first theme is near every plot; what counts is which plot it is nearer to than usual."""
    cosine = np.array([[0.9, 0.1, 0.20], [0.8, 0.3, 0.10], [0.7, 0.2, 0.12]])  # plot by theme
    wording = replace(MOVIES, themes=("a", "b", "c"))

    def features(texts):
        return np.eye(3) if texts[0] == wording.theme.format("a") else cosine

    monkeypatch.setattr(pr, "sentence_features", features)
    # In each theme's standard deviations from its mean: [[1.2, -1.2, 1.4], [0, 1.2, -0.9], [-1.2, 0, -0.5]].
    found = pr.theme_matrix(["one", "two", "three"], n_themes=1, wording=wording)
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 1, 0], [0, 1, 0]])
