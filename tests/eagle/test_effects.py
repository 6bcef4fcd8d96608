"""What instructions do: effects that are known, found again."""

from __future__ import annotations

import numpy as np
import pytest
from fake_world import DIM, N_USERS, fake_starts, fake_world, walk

from helpers.eagle import effects
from helpers.eagle.actions import Action
from helpers.eagle.effects import fit_effects
from helpers.eagle.environment import World, expand

PLAIN = tuple(
    Action(f"{verb} it {how}.", "plot", False) for verb in ("Make", "Tell") for how in ("sad", "odd", "short")
)


@pytest.fixture(autouse=True)
def wordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence embeddings that hold exactly what a wording does in the fake world, and something besides."""
    rest = np.random.default_rng(0).normal(size=(DIM, 4))

    def features(texts):
        return np.array([np.r_[walk(text), np.tanh(walk(text) @ rest)] for text in texts])

    monkeypatch.setattr(effects, "sentence_features", features)


def true_effects(world: World, user: int) -> np.ndarray:
    """Walks of a user's instructions beyond what they have in common."""
    walks = np.array([walk(instruction) for instruction in world.instructions(user)])
    return walks - walks.mean(axis=0)


def test_known_effects_are_found_again():
    world = fake_world(noise=0.3, actions=PLAIN)
    found = fit_effects(world, expand(world, fake_starts(12), n_samples=4))
    np.testing.assert_allclose(found(0), true_effects(world, 0), atol=0.2)
    noisy = expand(world, fake_starts(1), n_samples=1).displacement[0]
    error = np.abs(found(0) - true_effects(world, 0)).mean()
    assert error < np.abs(noisy - noisy.mean(axis=0) - true_effects(world, 0)).mean() / 2  # what many starts are for
    assert found.explained > 0.9


def test_a_displacement_is_drift_plus_effect():
    world, starts = fake_world(actions=PLAIN), fake_starts(40)
    expansion, pull = expand(world, starts), np.array([0.5, 0.2, 0.0])
    # What the fake world lacks: every rewrite pulls a text towards the point (1, 1, 1), some axes more.
    drifted = expansion._replace(z=expansion.z + (pull * (1 - expansion.origin))[:, None, None])
    found, z = fit_effects(world, drifted), np.array([2.0, -1.0, 0.0])
    walks = np.array([walk(instruction) for instruction in world.instructions(0)])
    np.testing.assert_allclose(found.displacement(z, 0), walks + pull * (1 - z), atol=0.15)
    np.testing.assert_allclose(found(0), fit_effects(world, expansion)(0), atol=1e-6)  # the drift is not in them


def test_noise_explains_nothing_on_other_starts():
    world = fake_world(noise=50.0, actions=PLAIN)
    assert fit_effects(world, expand(world, fake_starts(12))).explained < 0.05


def test_one_start_is_too_few():
    world = fake_world()
    with pytest.raises(ValueError, match="expand two or more"):
        fit_effects(world, expand(world, fake_starts(1)))


def test_what_one_users_wording_does_carries_over_to_another():
    actions = tuple(Action(f"{verb} it a {{liked}} movie.", "theme", True) for verb in ("Make", "Call", "Turn", "Film"))
    world = fake_world(noise=0.0, actions=actions + PLAIN)
    starts = [start._replace(user=i % 2) for i, start in enumerate(fake_starts(12))]  # users 0 and 1, never 2
    assert world.instructions(2)[0] not in {world.instructions(user)[0] for user in range(2)}
    found = fit_effects(world, expand(world, starts))(2)
    true, new = true_effects(world, 2), slice(len(actions))
    between = [(effect - effect.mean(axis=0))[new] for effect in (found, true)]
    assert np.abs(between[0] - between[1]).mean() < 0.3 * np.abs(between[1]).mean()


def test_effects_of_users():
    world = fake_world()
    found = fit_effects(world, expand(world, fake_starts(N_USERS)))
    block = found.of_users([2, 0, 2])
    assert block.shape == (3, 4, DIM)
    np.testing.assert_array_equal(block, [found(2), found(0), found(2)])
    assert (found(0)[1] != found(2)[1]).any() and found(0) is found(0)


def test_effects_fitted_later_do_not_remember_earlier_ones():
    world, fresh = fake_world(), []
    for seed in range(6):
        found = fit_effects(world, expand(world, fake_starts(5), seed=seed))
        fresh.append(np.allclose(found(0), found.wording.predict(effects.sentence_features(world.instructions(0)))))
        del found
    assert all(fresh)
