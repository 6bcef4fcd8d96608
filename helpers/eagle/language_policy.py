"""The paper's kind of policy: a language model that reads the state and says how likely each instruction is.

Tennenholtz et al. 2024 fine-tune a whole language model that writes the next instruction. Here it chooses among
the K instructions of the user: their log-likelihoods as the answer to the state, softmaxed over K, are the policy.
Only a LoRA adapter (Hu et al. 2022) is trained: 0.46M of SmolLM2's 135M weights.

What a state costs, in seconds on one CPU thread (SmolLM2, float32, a prompt of 110 tokens, 12 tokens per
instruction; bfloat16 took about 1.5 times as long on this CPU):

    K = 16:   0.9 to choose an action,   3.1 for forward and backward pass, 1.8 GB of memory in all
    K = 100:  4.8 to choose an action,  18.3 for forward and backward pass, 2.6 GB

An episode of 5 steps needs both passes and the reference's choice at every step: 25 s at K = 16. So on a CPU this
policy is for a few actions (`allowed`) and a few iterations; `policy.EmbeddingPolicy` needs milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.eagle.environment import Integers, Observation, World
from helpers.language.adapters import with_adapter
from helpers.language.generation import Prompt, plain_tokens
from helpers.language.likelihood import log_likelihoods
from helpers.language.models import LoadedModel, inner_model

AT_ONCE = 32  # instructions in one row: with gradients, 100 at once need 4 GB
OUTSIDE = -1e4  # log-probability of an action outside of `allowed`: exp gives 0, and KL and entropy stay finite

SYSTEM = "You edit movie ideas for one viewer. Answer with the single edit that the viewer would like most."


def state_prompt(text: str, profile: object, step: int, horizon: int) -> Prompt:
    """What the policy reads: the viewer's profile, how far the episode has come, and the text."""
    idea = f"Movie idea (edit {step + 1} of {horizon}):\n{text}"
    return (("system", SYSTEM), ("user", f"Viewer: {profile}\n\n{idea}\n\nWhich edit comes next?"))


class LanguagePolicy(nn.Module):
    """pi(a | x, u) = softmax over K of log p(instruction a | state x, profile of u), with a LoRA-tuned model.

    Per token: the log-likelihoods are divided by the number of tokens. Their sums differ by tens of nats, and
    mostly because some instructions are longer: over the bank of 100 the untrained SmolLM2 gave half of all
    probability to one instruction (entropy 1.2 nats; sums correlate -0.6 with length). A policy that never tries
    most of its actions cannot learn from rewards. Means per token start near the uniform policy (4.3 of 4.6 nats).

    The prompt is computed once per state, and all its instructions go through the model in one row. With gradients,
    states go through one at a time and their activations are computed again in the backward pass, so that memory
    does not grow with the batch.

    Raises:
        ValueError: the adapter's modules are not in the model (from peft), or a model without a chat template.
    """

    def __init__(
        self,
        world: World,
        lm: LoadedModel,
        *,
        rank: int = 8,
        modules: Sequence[str] | None = None,
        per_token: bool = True,
        allowed: Callable[[int], Integers] | None = None,
        seed: int = 0,
    ) -> None:
        """A policy that starts as the model is.

        Args:
            lm: left as it is; the policy's model shares its weights and adds the adapter.
            rank, modules: of the adapter, as for `with_adapter`.
            per_token: divide log-likelihoods by the number of tokens.
            allowed: the actions to score for a user, such as the support of a design; the others get probability 0.
        """
        super().__init__()
        self.world, self.per_token, self.allowed = world, per_token, allowed
        self.model = with_adapter(lm, rank=rank, modules=modules, seed=seed).model
        self.lm = LoadedModel(inner_model(self.model), lm.tokenizer)

    def forward(self, observation: Observation) -> Float[Tensor, "episode action"]:
        """Log-probabilities of all actions, in nats."""
        rows = zip(observation.texts, observation.users, strict=True)
        return torch.stack([self._of_state(text, int(user), observation.step) for text, user in rows])

    def _of_state(self, text: str, user: int, step: int) -> Float[Tensor, " action"]:
        allowed = range(len(self.world.actions)) if self.allowed is None else self.allowed(user)
        actions = torch.as_tensor([int(action) for action in allowed], device=self.lm.model.device)
        prompt = state_prompt(text, self.world.profile(user), step, self.world.horizon)
        instructions = self.world.instructions(user)
        scores = self.scores(prompt, [instructions[action] for action in actions])
        log_probs = torch.log_softmax(scores, dim=0)
        return log_probs.new_full((len(instructions),), OUTSIDE).index_copy(0, actions, log_probs)

    def scores(self, prompt: Prompt, instructions: Sequence[str]) -> Float[Tensor, " instruction"]:
        """Log-likelihood in nats of each instruction as the answer, per token if so set."""
        return answer_scores(self.lm, prompt, instructions, self.per_token)


def answer_scores(
    lm: LoadedModel, prompt: Prompt, answers: Sequence[str], per_token: bool = True
) -> Float[Tensor, " answer"]:
    """Log-likelihood in nats of each answer to a prompt, per token if so set.

    With gradients, activations are thrown away and computed once more when the backward pass comes to them.
    """
    if torch.is_grad_enabled():
        parts = [answers[start : start + AT_ONCE] for start in range(0, len(answers), AT_ONCE)]
        scores = torch.cat([checkpoint(log_likelihoods, lm, prompt, part, use_reentrant=False) for part in parts])
    else:
        scores = log_likelihoods(lm, prompt, answers)
    if not per_token:
        return scores
    return scores / torch.tensor([len(plain_tokens(lm.tokenizer, w)) for w in answers], device=scores.device)
