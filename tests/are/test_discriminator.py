"""The discriminator: learns what can be learnt, refuses the rest, and its loss points where it should."""

from __future__ import annotations

import pytest
import torch

from helpers.are.discriminator import (
    Discriminator,
    DiscriminatorTraining,
    accuracy,
    fooling_loss,
    scaling_of,
    train_discriminator,
)
from helpers.base.storage import CourseError


def clouds(distance: float, n: int = 100, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clouds of points in 8 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    target, plain = torch.randn(2, n, 8, generator=generator)
    return target + distance, plain


def test_it_tells_clouds_apart_that_are_apart():
    made = Discriminator(8, members=2)
    assert train_discriminator(made, *clouds(2.0)) > 0.95
    assert accuracy(made, *clouds(2.0, seed=1)) > 0.95


def test_it_learns_nothing_that_holds_where_there_is_nothing():
    made = Discriminator(8, hidden=16)
    train_discriminator(made, *clouds(0.0))
    assert abs(accuracy(made, *clouds(0.0, n=500, seed=1)) - 0.5) < 0.1


def test_few_targets_weigh_as_much_as_many_plain_states():
    target, plain = clouds(1.0, n=300)
    made = Discriminator(8, hidden=16)
    train_discriminator(made, target[:15], plain)
    fresh, _ = clouds(1.0, n=300, seed=2)
    assert (made(fresh).argmax(-1) == 1).float().mean() > 0.6


def test_the_same_seed_gives_the_same_network_whatever_the_global_generator():
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        made = Discriminator(8, hidden=4, members=2, seed=3)
        train_discriminator(made, *clouds(1.0), seed=3)
        found.append(made(clouds(1.0)[0]))
    assert torch.equal(*found)
    assert not torch.equal(found[0][0], found[0][1])  # members differ


def test_the_fooling_loss_pulls_states_to_the_wanted_side_and_not_the_discriminator():
    made, (target, plain) = Discriminator(8, hidden=16), clouds(2.0)
    train_discriminator(made, target, plain)
    for kind, start in ((1, plain), (0, target)):
        states = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([states], lr=0.1)
        first = fooling_loss(made, states, kind).item()
        for _ in range(50):
            optimiser.zero_grad()
            fooling_loss(made, states, kind).backward()
            optimiser.step()
        assert fooling_loss(made, states, kind).item() < first / 5
        assert (made(states).argmax(-1) == kind).float().mean() > 0.95


def test_scaling_gives_mean_0_and_spread_1_also_for_constant_numbers():
    states = torch.randn(50, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * 30 + 100
    states[..., 0] = 7.0
    rows = scaling_of(states)(states)
    assert rows.shape == (50, 24)
    torch.testing.assert_close(rows.mean(0), torch.zeros(24), atol=1e-3, rtol=0)
    assert rows.isfinite().all()
    assert rows.std(0, correction=0).max() < 1.01


def test_few_states_do_not_make_others_huge():
    """What hardly differs among two states by chance differs among others; of many states each has its own spread."""
    lengths = torch.tensor([1.0, 40.0])[:, None, None]
    states = torch.randn(400, 2, 3, 50, generator=torch.Generator().manual_seed(1)) * lengths
    for few in (2, 4, 8):
        some = states[:few].clone()
        some[:, :, :, 0] = some[:1, :, :, 0]
        assert scaling_of(some)(states).square().mean().sqrt() < 4, "also where two are the same, as in bfloat16"
    torch.testing.assert_close(scaling_of(states).spread, states.std(dim=0, correction=0) + 1e-4)


def test_bad_states_are_refused():
    target, plain = clouds(1.0)
    with pytest.raises(ValueError, match="0 plain states"):
        train_discriminator(Discriminator(8), target, plain[:0])
    with pytest.raises(CourseError, match="not finite: lower its learning rate"):
        train_discriminator(Discriminator(8), target * torch.nan, plain)
    with pytest.raises(CourseError, match="load the model in float32"):
        scaling_of(torch.full((2, 1, 1, 3), torch.inf))


def test_training_settings_are_used():
    untaught = Discriminator(8, hidden=16, seed=1)
    same = Discriminator(8, hidden=16, seed=1)
    train_discriminator(same, *clouds(2.0), DiscriminatorTraining(epochs=0))
    assert torch.equal(untaught(clouds(2.0)[0]), same(clouds(2.0)[0]))
