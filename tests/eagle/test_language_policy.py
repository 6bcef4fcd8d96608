"""The language-model policy: scores against full prompts, training of the adapter alone, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_world import ACTIONS, DIM, PROFILES, fake_starts, fake_world
from fakes import best_action, expansion, wanted
from safetensors.torch import load_file
from tiny_models import tiny

from helpers.eagle.environment import Observation
from helpers.eagle.language_policy import OUTSIDE, SYSTEM, LanguagePolicy, state_prompt
from helpers.eagle.policy import ValueNetwork, frozen_copy, sampling_from
from helpers.eagle.training import Agent, Settings, fit_reference, kl_of, train
from helpers.language import models
from helpers.language.models import LoadedModel


@pytest.fixture(scope="module")
def lm() -> LoadedModel:
    return tiny()


def observation(users=(0, 1, 2), step: int = 1) -> Observation:
    starts = fake_starts(len(users))
    return Observation([s.text for s in starts], np.zeros((len(users), DIM)), np.array(users), step)


def stir(policy: LanguagePolicy) -> LanguagePolicy:
    """Give the adapter an effect: LoRA starts as nothing, with B = 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.2, generator=generator)
    return policy


def naive_log_probs(policy: LanguagePolicy, seen: Observation) -> torch.Tensor:
    """Every instruction behind its full prompt, one forward pass each."""
    rows, tokenizer = [], policy.lm.tokenizer
    for text, user in zip(seen.texts, seen.users, strict=True):
        idea = f"Movie idea (edit {seen.step + 1} of {policy.world.horizon}):\n{text}"
        asked = f"Viewer: {PROFILES[user]}\n\n{idea}\n\nWhich edit comes next?"
        prompt = tokenizer(f"<system>{SYSTEM}\n<user>{asked}\n<assistant>", add_special_tokens=False)["input_ids"]
        scores = []
        for instruction in policy.world.instructions(user):
            tokens = tokenizer(instruction, add_special_tokens=False)["input_ids"]
            logits = policy.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            scores.append(logits.log_softmax(-1)[range(len(tokens)), tokens].sum())
            scores[-1] = scores[-1] / len(tokens) if policy.per_token else scores[-1]
        rows.append(torch.stack(scores).log_softmax(0))
    return torch.stack(rows)


def adapter(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("per_token", [True, False])
def test_scores_and_gradients_are_those_of_full_prompts(lm, per_token, monkeypatch):
    monkeypatch.setattr("helpers.eagle.language_policy.AT_ONCE", 3)  # 4 actions in two parts
    policy, seen = stir(LanguagePolicy(fake_world(), lm, per_token=per_token)), observation()
    picked = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    found, gradients = [], []
    for log_probs in (naive_log_probs(policy, seen), policy(seen)):
        policy.zero_grad()
        (log_probs * picked).sum().backward()
        found.append(log_probs.detach())
        gradients.append({name: weight.grad.clone() for name, weight in adapter(policy).items()})
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)
        assert gradient.abs().max() > 1e-4
    with torch.no_grad():
        torch.testing.assert_close(policy(seen), found[0], atol=1e-4, rtol=1e-4)
    assert found[0].exp().sum(1) == pytest.approx(1) and found[0].std() > 0.01


def test_what_it_reads_makes_a_difference(lm):
    policy, seen = LanguagePolicy(fake_world(), lm), observation()
    with torch.no_grad():
        log_probs = policy(seen)
        for change in (
            seen._replace(texts=seen.texts[::-1]),
            seen._replace(users=np.array([3, 3, 3])),
            seen._replace(step=0),
        ):
            assert (policy(change) - log_probs).abs().max() > 1e-3
        alone = observation()._replace(texts=seen.texts[2:], users=seen.users[2:])
        torch.testing.assert_close(policy(alone), log_probs[2:])
    assert "(edit 1 of 5)" in state_prompt("x", "y", 0, 5)[1][1]


def test_only_allowed_actions_are_scored(lm):
    world, seen = fake_world(), observation()
    supports = {0: [1, 3], 1: np.array([2]), 2: [3, 0, 1]}
    whole = LanguagePolicy(world, lm)
    part = LanguagePolicy(world, lm, allowed=supports.__getitem__)
    log_probs, of_all = part(seen), whole(seen)
    for row, (_, support) in enumerate(supports.items()):
        others = np.setdiff1d(range(4), support)
        assert (log_probs[row, others] == OUTSIDE).all()
        torch.testing.assert_close(log_probs[row, support], of_all[row, support].log_softmax(0))
    drawn = sampling_from(part)(
        seen._replace(users=np.ones(3, dtype=int)), [np.random.default_rng(i) for i in range(3)]
    )
    assert drawn.tolist() == [2, 2, 2]
    kl = kl_of(log_probs, stir(LanguagePolicy(world, lm, allowed=supports.__getitem__))(seen))
    assert torch.isfinite(kl).all() and kl[1] == 0 and kl[0] > 0


def test_gradients_reach_the_adapter_alone(lm):
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    prompt = torch.arange(10)[None]
    logits = lm.model(input_ids=prompt).logits
    policy = LanguagePolicy(fake_world(), lm)
    trained = adapter(policy)
    assert set(trained) == {
        f"model.base_model.model.model.layers.{layer}.self_attn.{part}.lora_{side}.default.weight"
        for layer in range(2)
        for part in ("q_proj", "v_proj")
        for side in "AB"
    }
    fit_reference(policy, expansion(3), wanted(3), steps=2)
    assert all(weight.grad is None for weight in policy.parameters() if not weight.requires_grad)
    assert all(weight.abs().max() > 0 for weight in trained.values())
    # The model it was made of is as it was: the environment may be using it.
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    assert torch.equal(lm.model(input_ids=prompt).logits, logits)
    assert policy.lm.model.lm_head.weight is lm.model.lm_head.weight  # not a second copy in memory


def test_supervised_steps_lower_the_loss(lm):
    policy = LanguagePolicy(fake_world(), lm)
    losses = fit_reference(policy, expansion(4), wanted(4), steps=12, learning_rate=2e-2)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
def test_rewards_raise_the_probability_of_what_pays(lm):
    world = fake_world(horizon=1)
    policy = LanguagePolicy(world, lm)
    agent, reference = Agent(policy, ValueNetwork(world)), frozen_copy(policy)
    starts = [start._replace(user=0) for start in fake_starts(6)]
    settings = Settings(iterations=12, episodes=8, learning_rate=1e-2, kl=0.02, group=8)
    curve = train(world, agent, reference, starts, settings)
    best, seen = best_action(world, 0), observation((0, 0, 0), step=0)
    with torch.no_grad():
        before, after = (p(seen).exp()[:, best].mean() for p in (reference, policy))
    assert after > before + 0.25 and curve[-1]["kl"] > 0.02
    assert not adapter(reference) and reference.lm.model is not policy.lm.model
    assert reference.lm.model.lm_head.weight is policy.lm.model.lm_head.weight


def test_a_checkpoint_holds_the_adapter_and_restores_it(lm, tmp_path):
    world = fake_world(horizon=2)

    def run(iterations: int, **options):
        agent = Agent(LanguagePolicy(world, lm, rank=2), ValueNetwork(world, hidden=4))
        reference = frozen_copy(agent.policy)
        settings = Settings(iterations=iterations, episodes=4, learning_rate=1e-2)
        return agent, train(world, agent, reference, fake_starts(4), settings, **options)

    path = tmp_path / "run"
    run(1, checkpoint=path)
    agent, curve = run(3, checkpoint=path)
    whole, expected = run(3)
    assert curve == expected
    mine = adapter(agent)
    assert all(torch.equal(weight, adapter(whole)[name]) for name, weight in mine.items())
    kept = load_file(path)
    assert {name.removeprefix("module.") for name in kept if name.startswith("module.")} == set(mine)
    assert all(torch.equal(kept[f"module.{name}"], weight) for name, weight in mine.items())
    assert sum(tensor.numel() for tensor in kept.values()) < 4 * sum(weight.numel() for weight in mine.values())


def test_the_seed_decides_and_other_random_numbers_are_left_alone(lm):
    before = torch.get_rng_state()
    one, same, other = (adapter(LanguagePolicy(fake_world(), lm, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_real_model():
    lm = models.language_model()
    policy = LanguagePolicy(fake_world(), lm)
    seen = Observation(
        ["Genres: Drama.\nA retired teacher returns to her village."], np.zeros((1, DIM)), np.array([1]), 0
    )
    with torch.no_grad():
        p = policy(seen).exp()[0]
    assert p.sum() == pytest.approx(1, abs=1e-5) and p.min() > 0.03  # near uniform: it can explore
    losses = fit_reference(
        policy, expansion(1)._replace(starts=[fake_starts(1)[0]]), np.eye(len(ACTIONS))[:1], steps=3, learning_rate=1e-3
    )
    assert losses[-1] < losses[0]
    assert sum(weight.numel() for weight in adapter(policy).values()) == 460_800
