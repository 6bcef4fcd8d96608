"""The language agent: likelihoods against full prompts, what it is taught, and that rewards train the adapter alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts
from fake_world import PROFILES
from tiny_models import tiny

from helpers.eagle.agent import AgentSettings, OptionPolicy, OptionValue, label_rows, reinforce
from helpers.eagle.language_agent import STOP_WORDS, WORDS, LanguageAgent, briefly, fit_language, target_of
from helpers.eagle.language_policy import SYSTEM
from helpers.eagle.steering import State
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


def test_an_option_is_as_likely_as_its_words_behind_the_whole_prompt(agent):
    some = states()
    found = agent.log_probs(some, offered(agent.world, some)).exp()
    for row, (state, options) in enumerate(zip(some, offered(agent.world, some), strict=True)):
        asked = f"Viewer: {PROFILES[state.start.user]}\n\nMovie idea (edit 2 of 3):\n{state.text}"
        words = f"<system>{SYSTEM}\n<user>{asked}\n\nWhich edit comes next?\n<assistant>"
        prompt = agent.lm.tokenizer(words, add_special_tokens=False)["input_ids"]
        said = [agent.world.aims[aim].instruction(agent.world.rewrite.wording) for aim in options.aims] + [STOP_WORDS]
        scores = []
        for answer in said:
            tokens = agent.lm.tokenizer(answer, add_special_tokens=False)["input_ids"]
            logits = agent.model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
            scores.append(logits.log_softmax(-1)[range(len(tokens)), tokens].mean())
        torch.testing.assert_close(found[row], torch.stack(scores).softmax(0), rtol=1e-3, atol=1e-4)


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


def test_unusable_rows_teach_nothing(agent):
    rows = label_rows(fake_task(), task_starts(2), promising=4, random=6, deeper=1)
    assert fit_language(agent, rows._replace(valid=np.zeros_like(rows.valid)), rows.gain[:, 0]) == []


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
