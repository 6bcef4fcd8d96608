"""The language agent: likelihoods against full prompts, what it is taught, and that rewards train the adapter alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts
from fake_world import PROFILES
from safetensors.torch import load_file
from tiny_models import tiny

from helpers.eagle.agent import AgentSettings, LabelledRows, OptionPolicy, OptionValue, label_rows, reinforce
from helpers.eagle.language_agent import STOP_WORDS, SYSTEM, WORDS, LanguageAgent, briefly, fit_language, target_of
from helpers.eagle.steering import State
from helpers.language import models
from helpers.language.models import LoadedModel


@pytest.fixture(scope="module")
def lm() -> LoadedModel:
    return tiny()


@pytest.fixture
def agent(lm) -> LanguageAgent:
    return LanguageAgent(fake_task(), lm)


def states(n: int = 3, step: int = 1) -> list[State]:
    return [State(start, start.text, step) for start in task_starts(n)]


def offered(task, some: list[State], k: int = 4) -> list:
    return [task.options(state, "uniform", k) for state in some]


def adapter(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad and "lora" in name}


def stir(agent: LanguageAgent) -> LanguageAgent:
    """Give the adapter an effect: LoRA starts as nothing, with B = 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapter(agent).values():
            weight.normal_(0, 0.2, generator=generator)
    return agent


def behind_whole_prompts(agent: LanguageAgent, some: list[State]) -> torch.Tensor:
    """Log-probabilities from every answer behind its full prompt, one forward pass each."""
    rows, tokenizer = [], agent.lm.tokenizer
    for state, options in zip(some, offered(agent.world, some), strict=True):
        asked = f"Viewer: {PROFILES[state.start.user]}\n\nMovie idea (edit {state.step + 1} of 3):\n{state.text}"
        words = f"<system>{SYSTEM}\n<user>{asked}\n\nWhich edit comes next?\n<assistant>"
        prompt = tokenizer(words, add_special_tokens=False)["input_ids"]
        said = [agent.world.aims[aim].instruction(agent.world.rewrite.wording) for aim in options.aims] + [STOP_WORDS]
        scores = []
        for answer in said:
            tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
            logits = agent.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            scores.append(logits.log_softmax(-1)[range(len(tokens)), tokens].mean())
        rows.append(torch.stack(scores).log_softmax(0))
    return torch.stack(rows)


def test_an_option_is_as_likely_as_its_words_behind_the_whole_prompt_and_so_are_the_gradients(agent, monkeypatch):
    monkeypatch.setattr("helpers.eagle.language_agent.AT_ONCE", 3)  # 4 aims and STOP in two parts
    some = states()
    picked = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    found, gradients = [], []
    for log_probs in (behind_whole_prompts(stir(agent), some), agent.log_probs(some, offered(agent.world, some))):
        agent.zero_grad()
        (log_probs * picked).sum().backward()
        found.append(log_probs.detach())
        gradients.append({name: weight.grad.clone() for name, weight in adapter(agent).items()})
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)
        assert gradient.abs().max() > 1e-4
    with torch.no_grad():
        without = agent.log_probs(some, offered(agent.world, some))
    torch.testing.assert_close(without, found[0], atol=1e-4, rtol=1e-4)
    assert found[0].std() > 0.01


def test_what_it_reads_makes_a_difference(agent):
    some = states()
    options = offered(agent.world, some)
    with torch.no_grad():
        log_probs = agent.log_probs(some, options)
        for changed in (
            [state._replace(text=other.text) for state, other in zip(some, some[::-1], strict=True)],
            [state._replace(start=state.start._replace(user=3)) for state in some],
            [state._replace(step=2) for state in some],
        ):
            assert (agent.log_probs(changed, options) - log_probs).abs().max() > 1e-3
        torch.testing.assert_close(agent.log_probs(some[2:], options[2:]), log_probs[2:])


def test_it_does_not_stop_before_the_first_step(agent):
    some = states(step=0)
    assert (agent.log_probs(some, offered(agent.world, some)).exp()[:, -1] == 0).all()


def test_the_target_prefers_what_gained_most_and_stop_where_nothing_does():
    later, first = states(1)[0], states(1, 0)[0]
    gains = np.array([0.1, -0.1])
    expected = np.exp([2.0, -2.0, 0.0]) / np.exp([2.0, -2.0, 0.0]).sum()
    np.testing.assert_allclose(target_of(later, gains, 0.05), expected, rtol=1e-5)
    assert target_of(first, gains, 0.05)[-1] == 0 and target_of(first, gains, 0.05).sum() == pytest.approx(1)


def test_it_learns_what_it_is_taught_and_leaves_the_model_as_it_is(lm, agent):
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    rows = label_rows(fake_task(), task_starts(3), promising=4, random=6, deeper=1)
    favourite = int(rows.aims[0])
    gain = np.where(rows.aims == favourite, 0.3, 0.0)
    losses = fit_language(agent, rows, gain, epochs=15, learning_rate=2e-2, k=5)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert all(torch.equal(before[name], weight) for name, weight in lm.model.named_parameters() if name in before)
    assert all(weight.grad is None for weight in agent.parameters() if not weight.requires_grad)
    assert agent.lm.model.lm_head.weight is lm.model.lm_head.weight  # not a second copy in memory


def test_unusable_rows_teach_nothing(agent):
    rows = label_rows(fake_task(), task_starts(2), promising=4, random=6, deeper=1)
    assert fit_language(agent, rows._replace(valid=np.zeros_like(rows.valid)), rows.gain[:, 0]) == []


def test_starts_that_were_drawn_twice_count_twice_and_offer_each_aim_once(agent, monkeypatch):
    rows = label_rows(fake_task(), task_starts(3), promising=4, random=6, deeper=1)
    twice = np.concatenate([np.arange(len(rows.gain)), np.flatnonzero(rows.start == 1)])
    numbers = rows.features[twice], rows.gain[twice], rows.start[twice], rows.valid[twice]
    many = LabelledRows(*numbers, [rows.states[row] for row in twice], rows.aims[twice])
    offered = []
    log_probs = agent.log_probs
    monkeypatch.setattr(agent, "log_probs", lambda s, o: offered.append((s[0], o[0].aims)) or log_probs(s, o))
    fit_language(agent, many, many.gain[:, 0], k=8)
    assert all(len(set(aims.tolist())) == len(aims) for _, aims in offered)
    counts = Counter(state.start for state, _ in offered)
    assert [counts[start] for start in task_starts(3)] == [2, 4, 2]  # a first state and one that came of it


def test_half_of_the_options_are_enough_to_learn_from(agent):
    rows = label_rows(fake_task(), task_starts(2), promising=2, random=4, deeper=1)
    assert np.bincount([state.step for state in rows.states]).tolist() == [12, 6]
    losses = [len(fit_language(agent, rows, rows.gain[:, 0], batch=1, k=k)) for k in (12, 13, 14)]
    assert losses == [2, 2, 0]


def test_the_temperature_divides(agent):
    some = states()
    before = agent.scores(some, offered(agent.world, some))
    torch.nn.init.constant_(agent.log_temperature, np.log(2))
    torch.testing.assert_close(agent.scores(some, offered(agent.world, some)), before / 2)


def test_rewards_train_it_with_the_loop_of_the_small_agent(agent):
    weights = {name: w.clone() for name, w in agent.named_parameters() if w.requires_grad}
    settings = replace(AgentSettings(), iterations=2, episodes=4, group=2)
    (curve,) = reinforce(agent.world, [agent], [OptionValue(OptionPolicy())], "uniform", task_starts(4), settings)
    assert [row["kl"] > 1e-6 for row in curve] == [False, True]
    changed = {name for name, w in agent.named_parameters() if w.requires_grad and not torch.equal(weights[name], w)}
    assert any("lora" in name for name in changed) and "log_temperature" in changed


def test_it_reads_the_first_words_of_an_instruction_alone():
    short, long = "Make it a comedy.", " ".join(f"word{n}" for n in range(40))
    assert briefly(short) == short and briefly(long) == " ".join(f"word{n}" for n in range(WORDS))


def test_no_more_states_are_taught_than_asked_for(agent):
    rows = label_rows(fake_task(), task_starts(3), promising=4, random=6, deeper=1)
    assert [len(fit_language(agent, rows, rows.gain[:, 0], batch=1, k=5, most=most)) for most in (1, 2)] == [1, 2]


def test_a_checkpoint_holds_the_adapter_and_restores_it(lm, tmp_path):
    task, path = fake_task(horizon=2), tmp_path / "run"

    def trained(iterations: int, **options):
        agent, value = LanguageAgent(task, lm, rank=2), OptionValue(OptionPolicy(), hidden=4)
        settings = AgentSettings(iterations=iterations, episodes=4, group=2, learning_rate=1e-2)
        return agent, reinforce(task, [agent], [value], "uniform", task_starts(4), settings, **options)

    trained(1, checkpoint=path)
    agent, curves = trained(3, checkpoint=path)
    whole, expected = trained(3)
    assert curves == expected
    assert all(torch.equal(weight, adapter(whole)[name]) for name, weight in adapter(agent).items())
    kept = load_file(path)
    mine = {f"module.0.{name}": weight for name, weight in agent.named_parameters() if weight.requires_grad}
    assert {name for name in kept if name.startswith("module.0.")} == set(mine)
    assert all(torch.equal(kept[name], weight) for name, weight in mine.items())


def test_the_seed_decides_and_other_random_numbers_are_left_alone(lm):
    before = torch.get_rng_state()
    one, same, other = (adapter(LanguageAgent(fake_task(), lm, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_real_model():
    agent, some = LanguageAgent(fake_task(), models.language_model()), states(1)
    with torch.no_grad():
        p = agent.log_probs(some, offered(agent.world, some)).exp()[0]
    assert p.sum() == pytest.approx(1, abs=1e-5) and p.min() > 0.03  # near uniform: it can explore
    rows = label_rows(fake_task(), task_starts(1), promising=2, random=2, deeper=1)
    losses = fit_language(agent, rows, rows.gain[:, 0], epochs=3, learning_rate=1e-3, k=4)
    assert losses[-1] < losses[0]
    assert sum(weight.numel() for weight in adapter(agent).values()) == 460_800
