"""Policies: what they see, how actions are drawn from them, and copies that stay as they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fake_world import ACTIONS, DIM, fake_starts, fake_world
from fakes import TrueEffects, best_action, same_weights, small_agent
from sklearn.linear_model import Ridge, RidgeCV

from helpers.eagle import effects
from helpers.eagle.effects import Effects
from helpers.eagle.environment import Observation, run_episodes
from helpers.eagle.policy import EmbeddingPolicy, frozen_copy, sampling_from, uniform


def observation(n: int = 6, step: int = 1) -> Observation:
    starts = fake_starts(n)
    z = np.random.default_rng(2).normal(size=(n, DIM))
    return Observation([start.text for start in starts], z, np.array([start.user for start in starts]), step)


def part(whole: Observation, rows: list[int]) -> Observation:
    return Observation([whole.texts[row] for row in rows], whole.z[rows], whole.users[rows], whole.step)


def decided(seed: int = 0) -> EmbeddingPolicy:
    """A policy that is not uniform: its last layer and its bias are random."""
    policy = small_agent(fake_world(), seed).policy
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        policy.network[-1].weight.normal_(generator=generator)
        policy.bias.normal_(generator=generator)
    return policy


def in_other_units(scale: float):
    """The fake world with users in another unit, whatever the factorisation came in."""
    world = fake_world()
    model = dataclasses.replace(world.space.model, user_factors=scale * world.space.model.user_factors)
    return dataclasses.replace(world, space=dataclasses.replace(world.space, model=model), _cache={})


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_network_sees_users_on_one_scale(scale):
    world = in_other_units(scale)
    embeddings = world.space.model.user_embeddings
    z = np.resize(world.space.items, (len(embeddings), DIM))
    observed = Observation(["x"] * len(z), z, np.arange(len(z)), 0)
    seen = small_agent(world).policy.features(observed)[:, 0, DIM : 2 * DIM]
    varies = embeddings.std(axis=0) > 1e-9
    np.testing.assert_allclose(seen.mean(dim=0), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(dim=0, correction=0)[varies], 1, atol=1e-3)


def test_values_do_not_hang_on_the_unit_of_the_users():
    found = []
    for scale in (1.0, 1000.0):
        value = small_agent(in_other_units(scale)).value
        with torch.no_grad():
            value.network[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
            found.append(value(observation()).numpy())
    assert np.ptp(found[0]) > 1e-3
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def fixed(log_probs) -> object:
    """A policy that says the same of every state."""
    return lambda seen: torch.as_tensor(log_probs, dtype=torch.float32).expand(len(seen.texts), -1)


def generators(seeds) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def test_an_untrained_agent_is_uniform_and_expects_nothing():
    agent = small_agent(fake_world())
    log_probs, values = agent([observation(step=t) for t in range(3)])
    torch.testing.assert_close(log_probs, torch.full((3, 6, len(ACTIONS)), -np.log(len(ACTIONS)), dtype=torch.float32))
    torch.testing.assert_close(values, torch.zeros(3, 6))


def test_probabilities_depend_on_state_user_time_and_nothing_beside():
    policy, seen = decided(), observation()
    p = policy(seen).exp()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(policy(part(seen, [4, 1])).exp(), p[[4, 1]])
    for change in (
        seen._replace(z=seen.z + 1),
        seen._replace(users=(seen.users + 1) % 4),
        seen._replace(step=2),
    ):
        assert (policy(change).exp() - p).abs().max() > 0.01


def test_actions_are_told_apart_by_what_they_do():
    policy, seen = decided(), observation()
    with torch.no_grad():
        policy.bias.zero_()
    scores = policy(seen)
    order = [2, 0, 3, 1]
    other = EmbeddingPolicy(policy.world, TrueEffects(policy.world), hidden=8)
    other.load_state_dict(policy.state_dict())
    other.effects = type(
        "Reordered", (), {"of_users": lambda self, u: TrueEffects(policy.world).of_users(u)[:, order]}
    )()
    torch.testing.assert_close(other(seen), scores[:, order])


def test_trust_prefers_what_raises_the_predicted_rating():
    policy, seen = small_agent(fake_world()).policy, observation()
    with torch.no_grad():
        policy.trust.fill_(1.0)
    likeliest = policy(seen).argmax(dim=1).tolist()
    assert likeliest == [best_action(policy.world, user) for user in seen.users]


def test_the_value_is_zero_when_nothing_is_to_come():
    value = small_agent(fake_world(horizon=3)).value
    torch.nn.init.normal_(value.network[-1].weight)
    assert value(observation(step=1)).abs().min() > 0
    assert value(observation(step=3)).abs().max() == 0


def test_the_seed_decides_and_other_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    world = fake_world()
    assert same_weights(small_agent(world, 1), small_agent(world, 1))
    assert not same_weights(small_agent(world, 1), small_agent(world, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draw_depends_on_the_generator_of_its_episode_alone():
    choose, seen = sampling_from(decided()), observation()
    drawn = choose(seen, generators(range(6)))
    for rows in ([0], [5, 2], [3, 4, 0]):
        assert choose(part(seen, rows), generators(rows)).tolist() == drawn[rows].tolist()
    world, starts = fake_world(), fake_starts(4)
    together = run_episodes(world, starts, choose, [10, 11, 12, 13])
    alone = run_episodes(world, starts[2:3], choose, [12])
    assert alone.texts == [texts[2:3] for texts in together.texts]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_actions_are_drawn_as_often_as_the_policy_says(temperature):
    log_probs, n = np.log([0.5, 0.3, 0.0001, 0.1999]), 4000
    seen = Observation([""] * n, np.zeros((n, DIM)), np.zeros(n, dtype=int), 0)
    drawn = sampling_from(fixed(log_probs), temperature)(seen, generators(range(n)))
    expected = np.exp(log_probs / temperature) / np.exp(log_probs / temperature).sum()
    tolerance = 4 * np.sqrt(expected * (1 - expected) / n) + 1e-3
    assert (np.abs(np.bincount(drawn, minlength=4) / n - expected) < tolerance).all()


def test_temperature_zero_takes_the_best_and_draws_nothing():
    policy, seen, rng = decided(), observation(), generators(range(6))
    assert sampling_from(policy, 0)(seen, rng).tolist() == policy(seen).argmax(dim=1).tolist()
    assert [r.random() for r in rng] == [r.random() for r in generators(range(6))]
    with pytest.raises(ValueError, match=r"give 0 .* or a positive number"):
        sampling_from(policy, -1.0)


@pytest.mark.parametrize("draw", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_an_action_of_probability_zero_is_never_drawn(draw):
    class Stuck(np.random.Generator):
        def random(self) -> float:
            return draw

    choose = sampling_from(fixed([-1e4, np.log(0.3), -1e4, np.log(0.7), -1e4]))
    assert choose(observation(1), [Stuck(np.random.PCG64())])[0] in (1, 3)


def test_the_uniform_choice_uses_each_episodes_generator():
    drawn = uniform(observation(), generators(range(6)), 4)
    assert uniform(observation(2), generators([3, 5]), 4).tolist() == drawn[[3, 5]].tolist()
    assert set(uniform(observation(200), generators(range(200)), 4)) == {0, 1, 2, 3}


def test_a_frozen_copy_stays_as_it_is():
    policy, seen = decided(), observation()
    copy = frozen_copy(policy)
    before = copy(seen)
    assert torch.equal(before, policy(seen)) and not before.requires_grad
    assert copy.world is policy.world and copy.effects is policy.effects
    with torch.no_grad():
        policy.bias += torch.arange(4)
    assert torch.equal(copy(seen), before) and not torch.equal(policy(seen), before)
    assert all(weight.requires_grad for weight in policy.parameters())


def test_effects_of_one_fit_are_not_taken_for_those_of_another(monkeypatch):
    monkeypatch.setattr(effects, "sentence_features", lambda texts: np.ones((len(texts), 1)))

    class Says(Ridge):
        def __init__(self, number: float) -> None:
            self.number = number

        def predict(self, rows):
            return np.full((len(rows), DIM), self.number)

    world = fake_world()
    # Each is gone when the next is made.
    said = [Effects(world, Says(float(i)), RidgeCV(), 0.0)(0)[0, 0] for i in range(3)]
    assert said == [0, 1, 2]
