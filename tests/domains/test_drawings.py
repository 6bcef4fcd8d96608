"""Drawings: pictures show what they are said to show, ratings follow the known taste, edits do what they say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.ndimage import label

from helpers.domains.drawings import EDITS, LATENT, Poster, draw, latent, make_drawings
from helpers.eagle.utility import ContentGap
from helpers.embedding import evaluation as ev
from helpers.embedding.encoder import fit_encoder, fit_ridge
from helpers.embedding.factorization import fit_als
from helpers.embedding.images import pixel_features

PLAIN = Poster(hue=0.5, light=0.5, vivid=0.5, pattern="plain", density=0.5, motif="circle", size=0.5)


@pytest.fixture(scope="module")
def drawings():
    return make_drawings()


def attribute(poster: Poster, name: str) -> float:
    return latent([poster])[0, LATENT.index(name)]


def colours(poster: Poster) -> int:
    return len(np.unique(draw(poster).reshape(-1, 3), axis=0))


# Pictures


def test_a_picture_has_the_colours_it_should():
    picture = draw(replace(PLAIN, hue=0.0, vivid=1.0))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    red, green, blue = picture[2, 2].astype(int)
    assert red > 150 and green == blue < 50 and (picture[32, 32] == 255).all()
    assert colours(PLAIN) == 2 and colours(replace(PLAIN, pattern="stripes")) == 3


@pytest.mark.parametrize("motif", ["circle", "square", "triangle"])
def test_motifs_are_one_piece_that_grows_with_size(motif):
    areas = []
    for size in (0.0, 0.5, 1.0):
        white = (draw(replace(PLAIN, motif=motif, size=size)) == 255).all(axis=2)
        assert label(white)[1] == 1 and not white[[0, -1]].any() and not white[:, [0, -1]].any()
        areas.append(white.sum())
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("pattern", ["stripes", "dots", "checks"])
def test_a_denser_pattern_changes_colour_more_often(pattern):
    def changes(density: float) -> int:
        row = draw(replace(PLAIN, pattern=pattern, density=density, size=0.0, tilt=10.0))[:, :, 0].astype(int)
        return int((np.diff(row, axis=1) != 0).sum())

    assert changes(1.0) > 1.5 * changes(0.0) > 0


def test_stripes_run_one_way_and_the_tilt_turns_them():
    upright = draw(replace(PLAIN, pattern="stripes", size=0.0))
    turned = draw(replace(PLAIN, pattern="stripes", size=0.0, tilt=90.0))
    assert (upright[0] == upright[5]).all() and not (upright[:, 0] == upright[:, 5]).all()
    assert (turned[:, 0] == turned[:, 5]).all() and not (turned[0] == turned[5]).all()


def test_a_frame_is_black_and_as_wide_on_every_side():
    black = (draw(replace(PLAIN, frame=0.1)) == 0).all(axis=2)
    assert black[:6].all() and not black[7, 7:-7].any()
    assert (black == black[::-1]).all() and (black == black.T).all()


# Taste


def test_ratings_are_the_true_stars_rounded_when_there_is_no_noise():
    drawings = make_drawings(30, 20, per_user=10, noise=0.0)
    for row in drawings.domain.ratings.itertuples():
        true = drawings.taste.stars([drawings.posters[row.item]], row.user)[0]
        assert abs(row.rating - np.clip(true, 1, 5)) <= 0.25 + 1e-9


def test_noise_has_the_size_it_should(drawings):
    ratings = drawings.domain.ratings
    true = [
        drawings.taste.stars([drawings.posters[i]], u)[0] for u, i in zip(ratings["user"], ratings["item"], strict=True)
    ]
    inside = (np.array(true) > 2) & (np.array(true) < 4)
    error = (ratings["rating"] - true)[inside]
    assert np.std(error) == pytest.approx(np.sqrt(0.5**2 + 0.5**2 / 12), rel=0.05)  # noise, and rounding to halves


def test_the_same_seed_gives_the_same_world(drawings):
    again, other = make_drawings(), make_drawings(seed=1)
    assert again.posters == drawings.posters and again.domain.ratings.equals(drawings.domain.ratings)
    assert other.posters != drawings.posters


def test_every_user_rates_so_many_posters_once(drawings):
    ratings = drawings.domain.ratings
    assert (ratings.groupby("user")["item"].nunique() == 40).all() and len(ratings) == 200 * 40


@pytest.mark.parametrize("per_user", [0, 31])
def test_too_many_ratings_are_refused(per_user):
    with pytest.raises(ValueError, match="between 1 and the number of posters, 30"):
        make_drawings(30, 5, per_user=per_user)


def test_taste_has_combinations():
    """Warm and light together are more, or less, than their sum."""
    corners = [replace(PLAIN, hue=hue, light=light) for hue in (0.05, 0.55) for light in (0.0, 1.0)]
    both, alone = latent(corners)[:, LATENT.index("warm and light")], latent(corners)[:, :2]
    np.testing.assert_allclose(both, [-1, 1, 1, -1])
    assert np.linalg.matrix_rank(np.column_stack([alone, both])) == 3


# Edits


@pytest.mark.parametrize(
    ("name", "sees", "sign"),
    [
        ("warmer", "warm", 1),
        ("cooler", "warm", -1),
        ("lighter", "light", 1),
        ("darker", "light", -1),
        ("more vivid", "vivid", 1),
        ("paler", "vivid", -1),
        ("denser", "busy", 1),
        ("sparser", "busy", -1),
        ("stripes", "stripes", 1),
        ("dots", "dots", 1),
        ("circle", "round", 1),
        ("square", "round", -1),
        ("larger motif", "large", 1),
        ("smaller motif", "large", -1),
    ],
)
def test_an_edit_does_what_it_says(name, sees, sign):
    start = replace(PLAIN, hue=0.3, pattern="checks", motif="square" if name == "circle" else "circle")
    assert sign * (attribute(EDITS[name](start), sees) - attribute(start, sees)) > 0


@pytest.mark.parametrize("name", EDITS)
def test_edits_repeated_stay_within_bounds_and_leave_the_start_alone(name):
    poster, before = PLAIN, replace(PLAIN)
    for _ in range(12):
        poster = EDITS[name](poster)
    assert before == PLAIN
    numbers = {f.name: getattr(poster, f.name) for f in fields(poster) if f.name not in ("pattern", "motif", "tilt")}
    assert all(0 <= value <= 1 for value in numbers.values())


def test_hue_stops_at_its_goal_whichever_way_it_comes():
    for hue in np.linspace(0, 1, 13, endpoint=False):
        poster = replace(PLAIN, hue=float(hue))
        for _ in range(3):
            poster = EDITS["warmer"](poster)
        assert attribute(poster, "warm") == pytest.approx(1)


def test_nobody_sees_a_frame_but_the_encoder_does(drawings):
    framed = EDITS["black frame"](PLAIN)
    stars = [drawings.taste.stars([PLAIN, framed], user) for user in range(200)]
    assert all(plain == with_frame for plain, with_frame in stars)
    assert not np.allclose(*pixel_features([draw(PLAIN), draw(framed)]))


# The embedding side of the course, unchanged, on pictures


def test_pixels_predict_taste_for_unseen_posters_and_shuffled_ones_do_not(drawings):
    features = pixel_features([draw(poster) for poster in drawings.posters])
    shuffled = np.random.default_rng(0).permutation(features)
    folds, n_ratings = ev.make_folds(drawings.domain, rank=4), drawings.domain.n_ratings
    results = [ev.cross_validate(folds, x, fit_ridge, n_ratings) for x in (features, shuffled)]
    real, control = (ev.spearman_per_user(drawings.domain, result.scores).mean() for result in results)
    assert real > 0.3 and abs(control) < 0.1
    assert results[0].r2.mean() > 0.15 > 0.05 > results[1].r2.mean()


def test_a_content_gap_takes_encoded_pictures(drawings):
    domain, pictures = drawings.domain, [draw(poster) for poster in drawings.posters]
    model = fit_als(*domain.triplets, domain.n_users, domain.n_items, rank=4)
    encoder = fit_encoder(pictures, model.item_embeddings, domain.n_ratings, featurise=pixel_features)
    gap = ContentGap(encoder(pictures), model.user_embeddings[3], float(model.user_level[3]))
    parts = gap(encoder([pictures[0], draw(replace(drawings.posters[0], frame=0.15))]))
    assert parts.novelty[1] > parts.novelty[0] > 0
    assert np.corrcoef(gap.of_items().rating, drawings.taste.stars(drawings.posters, 3))[0, 1] > 0.5
