"""Shares of variance, on numbers whose shares are known."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.eagle.signal import SignalShare, share_intervals, signal_share


def table(main: float, interaction: float, noise: float, dims: int = 1, seed: int = 0) -> np.ndarray:
    """Values of 40 starts, 50 actions and 3 draws with these variances, and starts far apart."""
    random = np.random.default_rng(seed)
    parts = (
        (10.0, (40, 1, 1, dims)),
        (main, (1, 50, 1, dims)),
        (interaction, (40, 50, 1, dims)),
        (noise, (40, 50, 3, dims)),
    )
    return sum(np.sqrt(variance) * random.normal(size=shape) for variance, shape in parts)


@pytest.mark.parametrize(("main", "interaction", "noise"), [(1, 1, 2), (0, 1, 1), (3, 0, 1), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("dims", [1, 4])
def test_shares_are_those_that_the_numbers_were_made_with(main, interaction, noise, dims):
    found = signal_share(table(main, interaction, noise, dims))
    total = main + interaction + noise
    assert found.within == pytest.approx((main + interaction) / total, abs=0.05)
    assert found.across == pytest.approx(main / total, abs=0.1)


def test_noise_alone_has_no_share_and_no_noise_has_all():
    assert max(signal_share(table(0, 0, 1))) < 0.02
    assert signal_share(table(1, 0, 0)) == pytest.approx((1, 1))


def test_one_draw_or_no_change_is_refused():
    with pytest.raises(ValueError, match="1 draws"):
        signal_share(table(1, 1, 1)[:, :, :1])
    with pytest.raises(ValueError, match="nothing ever changes"):
        signal_share(np.ones((3, 4, 2)))


def test_shares_of_a_few_starts_by_hand():
    effects = np.array([[1.0, -1.0], [3.0, -3.0]])  # two starts, two actions; on average +-2, and +-1 beside that
    found = signal_share(effects[..., None] + np.array([1.0, -1.0]))  # draws whose variance is 2
    main, interaction = 8 - 4 / 2, 4 - 2 / 2
    assert found == pytest.approx(((main + interaction) / 11, main / 11))


def test_intervals_are_of_leaving_out_one_start():
    values = table(1, 1, 2)
    found = share_intervals(values)
    for interval, share in zip(found, signal_share(values), strict=True):
        assert interval.mean == share and interval.low < share < interval.high
        assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)
    assert found.within.low < 0.5 < found.within.high
    few = share_intervals(values[:4])
    assert few.across.high - few.across.low > found.across.high - found.across.low


def test_the_jackknife_of_a_mean_is_its_standard_error(monkeypatch):
    monkeypatch.setattr("helpers.eagle.signal.signal_share", lambda values: SignalShare(values.mean(), values.max()))
    values = np.random.default_rng(0).normal(size=(9, 1, 1))
    interval = share_intervals(values).within
    assert interval.high - interval.mean == pytest.approx(1.96 * values.std(ddof=1) / 3)


def test_two_starts_have_no_interval():
    with pytest.raises(ValueError, match="2 starts"):
        share_intervals(table(1, 1, 1)[:2])
