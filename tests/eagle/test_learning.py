"""What trained policies share: estimators against their definitions, copies that stay as they are, threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny

from helpers.eagle.agent import OptionPolicy
from helpers.eagle.language_agent import LanguageAgent
from helpers.eagle.learning import LARGE, fitting_threads, frozen_copy, gae, kl_of, own_copy
from helpers.eagle.steering import State


def naive_gae(rewards, values, gae_lambda: float):
    horizon, n = rewards.shape
    advantages = np.zeros((horizon, n))
    for t in range(horizon):
        for later in range(t, horizon):
            following = values[later + 1] if later + 1 < horizon else 0.0
            advantages[t] += gae_lambda ** (later - t) * (rewards[later] + following - values[later])
    return advantages


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), horizon=st.integers(1, 6), n=st.integers(1, 4), gae_lambda=st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_surprises(seed, horizon, n, gae_lambda):
    rewards, values = numbers(seed, horizon, n), numbers(seed + 1, horizon, n)
    expected = naive_gae(rewards.numpy(), values.numpy(), gae_lambda)
    np.testing.assert_allclose(gae(rewards, values, gae_lambda), expected, atol=1e-9)


def test_limits_of_gae():
    rewards, values = numbers(0, 5, 3), numbers(1, 5, 3)
    following = torch.cat([values[1:], torch.zeros(1, 3)])
    torch.testing.assert_close(gae(rewards, values, 0.0), rewards + following - values)
    torch.testing.assert_close(gae(rewards, values, 1.0), rewards.flip(0).cumsum(0).flip(0) - values)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_a_reward_at_the_end_and_rewards_on_the_way_give_the_same_advantages(gae_lambda):
    utility, to_come = numbers(2, 4, 7), numbers(3, 3, 7)
    utility[0] = 0  # gains are counted from the start
    at_the_end = torch.zeros(3, 7).double()
    at_the_end[-1] = utility[-1]
    expected = gae(at_the_end, utility[:-1] + to_come, gae_lambda)  # V of the whole return: what is there + to come
    torch.testing.assert_close(gae(utility.diff(dim=0), to_come, gae_lambda), expected)


def test_kl_is_exact():
    p, q = (numbers(seed, 2, 3, 5).log_softmax(-1) for seed in (5, 6))
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in (p, q)))
    torch.testing.assert_close(kl_of(p, q), expected)
    torch.testing.assert_close(kl_of(p, p), torch.zeros(2, 3).double())
    impossible = torch.tensor([0.0, -1e4])  # both give the second action no probability
    assert kl_of(impossible, impossible) == 0


def test_a_frozen_copy_stays_as_it_is():
    policy, states = OptionPolicy(1.0), [State(start, start.text, 1) for start in task_starts(3)]
    torch.nn.init.ones_(policy.linear.weight)
    seen = states, [fake_task().options(state, "uniform") for state in states]
    copy = frozen_copy(policy)
    before = copy.log_probs(*seen)
    assert torch.equal(before, policy.log_probs(*seen)) and not before.requires_grad
    with torch.no_grad():
        policy.linear.weight += torch.arange(policy.linear.weight.numel())
    assert torch.equal(copy.log_probs(*seen), before) and not torch.equal(policy.log_probs(*seen), before)
    assert all(weight.requires_grad for weight in policy.parameters())


def test_the_copy_of_a_language_agent_has_an_adapter_of_its_own_and_all_else_in_common():
    agent = LanguageAgent(fake_task(), tiny())
    copy = frozen_copy(agent)
    assert copy.world is agent.world and copy.lm.model is not agent.lm.model
    assert copy.lm.model.lm_head.weight is agent.lm.model.lm_head.weight
    pairs = zip(agent.parameters(), copy.parameters(), strict=True)
    assert all((one is not other) == one.requires_grad and not other.requires_grad for one, other in pairs)


def test_a_small_network_is_fitted_with_one_thread_and_a_large_one_with_all():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for weights, threads in ((LARGE - 1, 1), (LARGE, 2)):
            with fitting_threads(torch.nn.Linear(weights, 1, bias=False)):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_copy_of_ones_own_is_trained_without_the_first():
    first = torch.nn.Linear(2, 1)
    first.bias.requires_grad_(False)
    other = own_copy(first)
    assert other.weight.requires_grad and other.bias is first.bias and other.weight is not first.weight
    with torch.no_grad():
        other.weight += 1
    assert torch.equal(other.weight, first.weight + 1)
