"""The paper's kind of agent: a language model that reads the text and the viewer and picks the next instruction.

Tennenholtz et al. 2024 fine-tune a whole language model that writes the next instruction. Here it chooses among k aims
written as instructions, with a sentence for STOP. It sees no embedding and no promise, only words: the state and the
profile. The policy is the softmax of each option's log-likelihood per token as the answer. A LoRA adapter (Hu et al.
2022), 0.46M of SmolLM2's 135M weights, is trained on the labelled rows of the supervised stage, and then by reward with
the same loop as the small agent (`agent.reinforce`).

Per token, since sums of log-likelihoods differ by tens of nats, mostly because some instructions are longer. Over a
bank of 100 instructions the untrained SmolLM2 gave half of all probability to one (entropy 1.2 nats; sums correlate
-0.6 with length), and a policy that never tries most of its options cannot learn from rewards. Means per token start
near the uniform policy (4.3 of 4.6 nats).

What a state costs on one CPU thread (SmolLM2 in bfloat16, a prompt of 120 tokens, ten aims of up to `WORDS` words and
STOP): 0.5 seconds to choose, 2.2 for forward and backward pass. Rewards need both and the reference's scores for every
step, so on a CPU they are for a few iterations; the small agent needs milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.eagle.agent import LabelledRows
from helpers.eagle.learning import fitting_threads
from helpers.eagle.steering import SUPPORT, Options, State, Steering
from helpers.eagle.trajectories import NEVER, StatePolicy
from helpers.language.adapters import with_adapter
from helpers.language.generation import Prompt, plain_tokens
from helpers.language.likelihood import log_likelihoods
from helpers.language.models import LoadedModel, inner_model

AT_ONCE = 32  # answers in one row: with gradients, 100 at once need 4 GB

SYSTEM = "You edit movie ideas for one viewer. Answer with the single edit that the viewer would like most."
STOP_WORDS = "Stop here: the idea is good as it is."
WORDS = 16  # of an instruction that the agent reads: ten whole ideas to borrow from would take twice the time


def state_prompt(text: str, profile: object, step: int, horizon: int) -> Prompt:
    """The agent's prompt: the viewer's profile, the step of the episode, and the text."""
    idea = f"Movie idea (edit {step + 1} of {horizon}):\n{text}"
    return (("system", SYSTEM), ("user", f"Viewer: {profile}\n\n{idea}\n\nWhich edit comes next?"))


def answer_scores(lm: LoadedModel, prompt: Prompt, answers: Sequence[str]) -> Float[Tensor, " answer"]:
    """Log-likelihood of each answer to a prompt, in nats per token.

    With gradients, activations are discarded and recomputed in the backward pass (gradient checkpointing), so that
    memory does not grow with the batch.
    """
    if torch.is_grad_enabled():
        parts = [answers[start : start + AT_ONCE] for start in range(0, len(answers), AT_ONCE)]
        scores = torch.cat([checkpoint(log_likelihoods, lm, prompt, part, use_reentrant=False) for part in parts])
    else:
        scores = log_likelihoods(lm, prompt, answers)
    return scores / torch.tensor([len(plain_tokens(lm.tokenizer, w)) for w in answers], device=scores.device)


class LanguageAgent(StatePolicy):
    """pi(option | text, viewer) by the likelihood of its words, with a temperature of its own.

    Args:
        lm: left as it is; the agent's model shares its weights and adds a LoRA adapter of this `rank`.
        temperature: in nats per token, to begin with.

    Raises:
        ValueError: a model without a chat template.
    """

    def __init__(
        self, task: Steering, lm: LoadedModel, *, rank: int = 8, temperature: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.world = task
        self.model = with_adapter(lm, rank=rank, seed=seed).model
        self.lm = LoadedModel(inner_model(self.model), lm.tokenizer)
        self.log_temperature = nn.Parameter(torch.tensor(float(np.log(temperature))))

    def scores(self, states: Sequence[State], options: Sequence[Options]) -> Float[Tensor, "state option"]:
        """Nats per token over the temperature; states go through the model one by one."""
        return torch.stack([self._of_state(*pair) for pair in zip(states, options, strict=True)])

    def _of_state(self, state: State, options: Options) -> Float[Tensor, " option"]:
        task = self.world
        prompt = state_prompt(state.text, task.profile(state.start.user), state.step, task.horizon)
        answers = [*map(briefly, task.said(options.aims)), STOP_WORDS]
        scores = answer_scores(self.lm, prompt, answers).float().cpu()  # where targets, features and temperature are
        return scores / self.log_temperature.exp()


def briefly(instruction: str) -> str:
    """The first `WORDS` words of an instruction."""
    words = instruction.split()
    return instruction if len(words) <= WORDS else " ".join(words[:WORDS])


def fit_language(
    agent: LanguageAgent,
    rows: LabelledRows,
    gain: Float[np.ndarray, " row"],
    *,
    batch: int = 4,
    epochs: int = 1,
    learning_rate: float = 3e-4,
    temperature: float = 0.05,
    k: int = SUPPORT,
    most: int | None = None,
    seed: int = 0,
) -> list[float]:
    """Teach an agent which of the aims that were tried in a state gained most, in place; the loss of every step.

    The target on k of them and STOP is softmax(gain / temperature), with a gain of 0 for STOP; the loss is the
    cross-entropy above that of the target itself (their Kullback-Leibler divergence), in nats.

    Args:
        batch: states per step; most: states in all, drawn at random, where there are more.
    """
    rng = np.random.default_rng(seed)
    tasks = list(_tasks(rows, gain, k, rng))
    tasks = [tasks[row] for row in rng.permutation(len(tasks))[:most]]
    optimiser = torch.optim.Adam([w for w in agent.parameters() if w.requires_grad], lr=learning_rate)
    losses = []
    with fitting_threads(agent):
        for _ in range(epochs):
            order = rng.permutation(len(tasks))
            for first in range(0, len(order), batch):
                some = [tasks[row] for row in order[first : first + batch]]
                found = [agent.log_probs([state], [options])[0] for state, options, _ in some]
                wanted = [target_of(state, gains, temperature) for state, _, gains in some]
                loss = torch.stack(
                    [(torch.xlogy(w, w) - w * p).sum() for w, p in zip(wanted, found, strict=True)]
                ).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
    return losses


def target_of(state: State, gains: Float[np.ndarray, " k"], temperature: float) -> Float[Tensor, " option"]:
    """softmax(gain / temperature) over aims and STOP, which is not available in the first step."""
    stop = 0.0 if state.step else NEVER * temperature
    return torch.softmax(torch.as_tensor([*gains, stop], dtype=torch.float32) / temperature, dim=0)


def _tasks(rows: LabelledRows, gain: np.ndarray, k: int, rng: np.random.Generator):
    """For each state k of the aims that were tried and usable there, at random, with their gains.

    A bootstrap sample has all rows of a start as often as it was drawn: as many tasks, each with different aims.
    """
    by_state: dict[State, dict[int, list[int]]] = {}
    for row, (state, aim) in enumerate(zip(rows.states, rows.aims.tolist(), strict=True)):
        if rows.valid[row]:
            by_state.setdefault(state, {}).setdefault(aim, []).append(row)
    for state, by_aim in by_state.items():
        copies = min(map(len, by_aim.values()))
        for _ in range(copies if len(by_aim) >= k // 2 else 0):  # a few unusable answers do not exclude a state
            chosen = rng.permutation([same[0] for same in by_aim.values()])[:k]
            yield state, Options(rows.aims[chosen], rows.features[chosen]), gain[chosen]
