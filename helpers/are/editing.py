"""The editing loop: a discriminator and an adapter, trained in turns (Zhang et al. 2024, algorithm 1).

Each round a discriminator learns to tell target from plain prompts by their hidden states, and then the adapter is
trained so that plain prompts look like target prompts to it:

    L = adversary * L_G(plain prompts) + match * distance to their own target states
        + answer * cross-entropy of the target answers + retain * KL(base || edited) on harmless prompts

The paper has the first term only. Nothing in it speaks against refusing everything; the KL does, over the first
tokens of the base model's own answers. The distance (squared, per standardised number) uses that most plain prompts
have a twin: the same question under the target message. The discriminator needs no twins and so teaches the rest.
The cross-entropy is what the same states, after the last block, say of the next tokens; it costs next to nothing.

A fresh linear probe on questions that took no part tells, in every round, how much of the concept a plane still
sees: fooling one discriminator is not the same as changing the concept.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.are.concepts import ANSWER, Example, Question
from helpers.are.discriminator import (
    Discriminator,
    Scaling,
    Schooling,
    accuracy,
    fooling_loss,
    scaling_of,
    train_discriminator,
)
from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.storage import CourseError
from helpers.language.adapters import first_adapted, trained_weights
from helpers.language.generation import Backend, generate, plain_tokens, prompt_tokens
from helpers.language.memo import Memo
from helpers.language.models import LoadedModel
from helpers.language.states import (
    BATCH,
    Below,
    ReadOut,
    Tokens,
    batches,
    blocks,
    finished,
    fit_probe,
    inputs_of,
    log_probs_of,
    padded,
    probe_accuracy,
    read,
    read_all,
    recomputed,
    started_from,
    states_below,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class EditSettings:
    """Settings of the editing loop.

    Attributes:
        at: hidden states that the discriminator reads; the last token of the prompt and the first of the answer.
        rounds, steps: rounds, and steps of the adapter in each.
        batch: examples per step, and as many harmless prompts.
        learning_rate: of the adapter (Adam).
        adversary, match, answer, retain: weights of the terms; (1, 0, 0, 0) is the paper's loss.
        members: discriminators side by side; `hidden` and `schooling` are theirs.
        warm: keep the discriminator of the round before, instead of a new one (the paper's choice is a new one).
        frozen: train the discriminator in the first round only: no adversary (a baseline).
        fooled: stop when a discriminator that was just taught tells no more than this of the stop split right.
        enough: stop when this share of answers on the stop split is as wanted.
    """

    at: ReadOut
    rounds: int = 12
    steps: int = 20
    batch: int = 8
    learning_rate: float = 1e-3
    adversary: float = 1.0
    match: float = 1.0
    answer: float = 0.0
    retain: float = 1.0
    members: int = 1
    hidden: int = 64
    schooling: Schooling = field(default_factory=lambda: Schooling(epochs=8, weight_decay=0.01, noise=1.0))
    warm: bool = False
    frozen: bool = False
    fooled: float = 0.6
    enough: float = 1.0


class Rows:
    """Tokens of a concept's examples, ready to be read: target and plain prompts, each with the answer's beginning.

    The first `len(target)` plain prompts are their twins. Those behind, of `others`, have none, and lend an answer.

    Attributes:
        answers: for each example the tokens that follow at the places that are read; the last may be missing.
    """

    def __init__(
        self, lm: LoadedModel, examples: Sequence[Example], positions: int, others: Sequence[Question] = ()
    ) -> None:
        """Turn messages into tokens.

        Raises:
            ValueError: the model has no chat template; give its tokenizer one (as `generation.second_model` does).
            CourseError: no example has an answer of `positions` - 1 tokens.
        """
        answers = [plain_tokens(lm.tokenizer, example.answer)[:positions] for example in examples]
        kept = [(e, answer) for e, answer in zip(examples, answers, strict=True) if len(answer) >= positions - 1]
        if not kept:
            raise CourseError(f"no answer has {positions - 1} tokens: read fewer positions")
        begun = [(example, answer[: positions - 1]) for example, answer in kept]
        self.ids = [example.id for example, _ in begun]
        self.answers = [answer for _, answer in kept]
        self.target = [[*prompt_tokens(lm.tokenizer, example.target), *answer] for example, answer in begun]
        self.plain = [[*prompt_tokens(lm.tokenizer, example.plain), *answer] for example, answer in begun]
        for number, question in enumerate(others):
            _, answer = begun[number % len(begun)]
            self.plain.append([*prompt_tokens(lm.tokenizer, question.text), *answer])


class Answered:
    """Prompts with the beginnings of answers: what the model is to keep saying, or what it is to learn to say."""

    def __init__(self, lm: LoadedModel, texts: Sequence[Tokens], answers: Sequence[Tokens]) -> None:
        """Prompts without an answer are left out.

        Raises:
            CourseError: no prompt has one.
        """
        pairs = [(list(text), list(answer)) for text, answer in zip(texts, answers, strict=True) if answer]
        if not pairs:
            raise CourseError("no prompt with an answer: there is nothing to hold on to, or to learn")
        self.lm = lm
        self.texts = [text + answer[:-1] for text, answer in pairs]
        self.answers = [answer for _, answer in pairs]

    @cached_property
    def below(self) -> Below | None:
        """States below the adapter: they stay, so they are computed once, when they are first needed."""
        return unchanging(self.lm.model, self.texts)

    def kl(self, model: nn.Module, rows: Sequence[int]) -> Tensor:
        """KL(base || edited) in nats at the places of the answers, averaged over each answer and then over answers."""
        with torch.no_grad():
            base = log_probs_of(model, torch.cat([self.base[row] for row in rows]))
        edited = log_probs_of(model, torch.cat(self._states(model, rows)))
        return self._mean_of_answers((base.exp() * (base - edited)).sum(dim=-1), rows)

    def nll(self, model: nn.Module, rows: Sequence[int]) -> Tensor:
        """Mean negative log-likelihood of the answers in nats per token, averaged over each answer first."""
        answers = torch.tensor([token for row in rows for token in self.answers[row]], device=model.device)
        found = log_probs_of(model, torch.cat(self._states(model, rows)))
        return -self._mean_of_answers(found.gather(1, answers[:, None])[:, 0], rows)

    def _mean_of_answers(self, values: Float[Tensor, " place"], rows: Sequence[int]) -> Tensor:
        return torch.stack([part.mean() for part in values.split([len(self.answers[row]) for row in rows])]).mean()

    @cached_property
    def base(self) -> list[Float[Tensor, "place dim"]]:
        """Last states of the base model at the places of the answers: they stay, so they are computed once."""
        found: dict[int, Tensor] = {}
        with torch.no_grad(), self.lm.model.disable_adapter():
            for rows in batches(self.texts, BATCH):
                found.update(zip(rows, self._states(self.lm.model, rows), strict=True))
        return [found[row].clone() for row in range(len(self.texts))]

    def _states(self, model: nn.Module, rows: Sequence[int]) -> list[Float[Tensor, "place dim"]]:
        ids, real = padded([self.texts[row] for row in rows], model.device)
        with started_from(model, self.below and self.below.of(rows), ids.shape[1]):
            states = model.get_decoder()(**inputs_of(ids, real)).last_hidden_state
        return [states[i, -len(self.answers[row]) :] for i, row in enumerate(rows)]


def retain_of(
    lm: LoadedModel, questions: Sequence[Question], backend: Backend, memo: Memo | None = None, tokens: int = 16
) -> Answered:
    """Harmless questions with the first tokens of the base model's answers."""
    prompts = [(("user", question.text),) for question in questions]
    answers = generate(backend, prompts, ANSWER, memo=memo)
    return Answered(
        lm,
        [prompt_tokens(lm.tokenizer, prompt) for prompt in prompts],
        [plain_tokens(lm.tokenizer, answer)[:tokens] for answer in answers],
    )


def unchanging(model: nn.Module, texts: Sequence[Tokens]) -> Below | None:
    """States of texts below the first block with an adapter; None when the first block has one."""
    depth = first_adapted(model) - 1
    return states_below(model, texts, depth) if depth else None


class Editor(nn.Module):
    """The model with its adapter, and the discriminator that it is trained against: one module, one checkpoint."""

    def __init__(self, model: nn.Module, discriminator: Discriminator) -> None:
        super().__init__()
        self.model, self.discriminator = model, discriminator


class Views(NamedTuple):
    """States that stay the same in all rounds, and the scaling that all states get before they are judged."""

    at: ReadOut
    scale: Scaling
    target: Float[Tensor, "text feature"]
    target_stop: Float[Tensor, "text feature"]
    below: Below | None

    def of(
        self, model: nn.Module, texts: Sequence[Tokens], below: Below | None = None
    ) -> Float[Tensor, "text feature"]:
        """What the discriminator gets to see of texts as the model is now."""
        return self.scale(read_all(model, texts, self.at, below))


def edit(
    lm: LoadedModel,
    train: Rows,
    stop: Rows,
    retain: Answered,
    settings: EditSettings,
    *,
    kind: int = 1,
    seed: int = 0,
    target_rate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    on_round: Callable[[dict], None] | None = None,
    accelerator: Accelerator | None = None,
    save_memory: bool = False,
) -> list[dict]:
    """Train the adapter of `lm` in place and return one row of facts per round.

    Target states are those of the base model, read once: what is to be reached does not run away while the adapter
    changes. (The paper reads both kinds anew in every round.)

    Args:
        lm: a model with an adapter (`with_adapter`).
        kind: what plain prompts should look like to the discriminator; 1 brings the concept, 0 takes it away.
        target_rate: share of answers to prompts of the stop split that show the concept, measured after every round.
        checkpoint: file to keep the state after every round in, and to go on from.
        on_round: gets each new row, in the main process.
        accelerator: shares the batches of a step among its processes and averages their gradients.
        save_memory: compute the states of blocks again in the backward pass instead of keeping them (`recomputed`).

    Raises:
        ValueError: the processes cannot share a batch evenly, or a layer is unknown.
        CourseError: a loss is not finite; the checkpoint is damaged, another run's, or cannot be written.
    """
    if accelerator and settings.batch % accelerator.num_processes:
        raise ValueError(f"{accelerator.num_processes} processes cannot share {settings.batch} examples evenly")
    if kind == 0 and (settings.match or settings.answer):
        raise ValueError("match and answer draw towards the concept: set both to 0 to take the concept away")
    if settings.answer and len(blocks(lm.model)) not in settings.at.of(lm.model):
        raise ValueError("answer needs the states after the last block: add layer -1 to the read-out")
    editor = Editor(lm.model, new_discriminator(lm.model, settings, seed, 0))
    optimiser = torch.optim.Adam(trained_weights(lm.model), lr=settings.learning_rate)
    curve = load_checkpoint(checkpoint, editor, optimiser, run := run_of(train, stop, retain, settings, kind, seed))
    if is_over(curve, settings):
        return curve
    views = views_of(lm.model, train, stop, settings.at)
    plain, plain_stop = states_now(lm.model, train, stop, views)
    while not is_over(curve, settings):
        number, began = len(curve), time.perf_counter()
        schooled = school(editor, plain, views, settings, seed, number)
        told = accuracy(editor.discriminator, views.target_stop, plain_stop)
        with recomputed(lm.model) if save_memory else nullcontext():
            costs = [
                step(editor, train, retain, views, settings, kind, optimiser, rows, accelerator)
                for rows in batches_of_round(train, retain, settings, seed, number)
            ]
        plain, plain_stop = states_now(lm.model, train, stop, views)
        facts = {"round": number, "schooled": schooled, "accuracy": told, **mean_of(costs, accelerator)}
        facts |= verdicts(editor, plain, plain_stop, views)
        facts["target_rate"] = target_rate() if target_rate else None
        seconds = time.perf_counter() - began
        curve.append(facts | {"seconds": seconds, "stopped": reason_to_stop(facts, settings, kind)})
        if accelerator is None or accelerator.is_main_process:
            save_checkpoint(checkpoint, editor, optimiser, run, curve)
            if on_round:
                on_round(curve[-1])
    if accelerator:
        accelerator.wait_for_everyone()
    return curve


def is_over(curve: Sequence[dict], settings: EditSettings) -> bool:
    """Whether all rounds are done, or the last one gave a reason to stop."""
    return len(curve) >= settings.rounds or bool(curve and curve[-1]["stopped"])


def views_of(model: nn.Module, train: Rows, stop: Rows, at: ReadOut) -> Views:
    """Target states of the base model, states below the adapter, and the scaling by both kinds of base states."""
    with model.disable_adapter():
        target, plain = read_all(model, train.target, at), read_all(model, train.plain[: len(train.target)], at)
        target_stop = read_all(model, stop.target, at)
    scale = scaling_of(torch.cat([target, plain]))
    return Views(at, scale, scale(target), scale(target_stop), unchanging(model, train.plain))


def states_now(
    model: nn.Module, train: Rows, stop: Rows, views: Views
) -> tuple[Float[Tensor, "text feature"], Float[Tensor, "stop feature"]]:
    """Plain states of the two parts as the model is now."""
    return views.of(model, train.plain, views.below), views.of(model, stop.plain)


def new_discriminator(model: nn.Module, settings: EditSettings, seed: int, number: int) -> Discriminator:
    """An untrained discriminator for a round."""
    features = len(settings.at.of(model)) * settings.at.positions * model.config.get_text_config().hidden_size
    return Discriminator(features, settings.hidden, settings.members, seed=1000 * seed + number).to(model.device)


def school(
    editor: Editor, plain: Float[Tensor, "text feature"], views: Views, settings: EditSettings, seed: int, number: int
) -> float:
    """Teach the discriminator of a round on fresh states; its accuracy on them."""
    if number and settings.frozen:
        return accuracy(editor.discriminator, views.target, plain)
    if number and not settings.warm:
        editor.discriminator = new_discriminator(editor.model, settings, seed, number)
    return train_discriminator(editor.discriminator, views.target, plain, settings.schooling, seed=number)


def batches_of_round(
    train: Rows, retain: Answered, settings: EditSettings, seed: int, number: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers of the examples and of the harmless prompts of every step; each round has a generator of its own."""
    rng = np.random.default_rng([seed, number])
    for _ in range(settings.steps):
        yield tuple(
            rng.choice(count, settings.batch, replace=count < settings.batch)
            for count in (len(train.plain), len(retain.texts))
        )


def step(
    editor: Editor,
    train: Rows,
    retain: Answered,
    views: Views,
    settings: EditSettings,
    kind: int,
    optimiser: torch.optim.Optimizer,
    batch: tuple[np.ndarray, np.ndarray],
    accelerator: Accelerator | None,
) -> dict[str, float]:
    """One step of the adapter: fool the discriminator, and stay as you are on harmless prompts."""
    processes, turn = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    rows, kept = (numbers[turn::processes] for numbers in batch)
    below = views.below and views.below.of(rows)
    raw = read(editor.model, [train.plain[row] for row in rows], settings.at, below)
    states = views.scale(raw)
    none = states.new_zeros(())
    costs = {
        "fooling": fooling_loss(editor.discriminator, states, kind),
        "distance": distance_to_twins(states, views.target, rows) if settings.match else none,
        "answer_nll": answer_nll(editor.model, raw, settings.at, train, rows) if settings.answer else none,
        "retain_kl": retain.kl(editor.model, kept) if settings.retain else none,
    }
    weights = (settings.adversary, settings.match, settings.answer, settings.retain)
    loss = sum(weight * cost for weight, cost in zip(weights, costs.values(), strict=True))
    if not torch.isfinite(loss):
        raise CourseError("the editing loss is not finite: lower the learning rate")
    optimiser.zero_grad()
    loss.backward()
    if accelerator:
        for weight in trained_weights(editor.model):
            weight.grad = accelerator.reduce(weight.grad, "mean")
    optimiser.step()
    return {name: cost.item() for name, cost in costs.items()}


def distance_to_twins(
    states: Float[Tensor, "text feature"], target: Float[Tensor, "twin feature"], rows: np.ndarray
) -> Tensor:
    """Mean squared distance per number to the target states of the same rows; rows without a twin count 0."""
    paired = torch.as_tensor(rows < len(target), device=states.device)
    apart = states[paired] - target[rows[rows < len(target)]]
    return apart.square().mean(dim=1).sum() / len(rows)


def answer_nll(
    model: nn.Module, states: Float[Tensor, "text layer position dim"], at: ReadOut, train: Rows, rows: np.ndarray
) -> Tensor:
    """Mean negative log-likelihood in nats of the target answers' tokens, as the states after the last block say them.

    Rows without a twin have no answer of their own and count 0.
    """
    last = states[:, at.of(model).index(len(blocks(model)))]
    paired = [(place, train.answers[row]) for place, row in enumerate(rows) if row < len(train.target)]
    if not paired:
        return states.new_zeros(())
    said = log_probs_of(model, finished(model, torch.cat([last[place, : len(answer)] for place, answer in paired])))
    tokens = torch.tensor([token for _, answer in paired for token in answer], device=said.device)
    return -said.gather(1, tokens[:, None]).mean() * len(paired) / len(rows)


def verdicts(
    editor: Editor, plain: Float[Tensor, "text feature"], plain_stop: Float[Tensor, "stop feature"], views: Views
) -> dict[str, float]:
    """What the discriminator, now fooled, and a fresh linear probe make of the stop split after a round."""
    probe = fit_probe(views.target.cpu().numpy(), plain[: len(views.target)].cpu().numpy())
    return {
        "after": accuracy(editor.discriminator, views.target_stop, plain_stop),
        "probe": probe_accuracy(probe, views.target_stop.cpu().numpy(), plain_stop.cpu().numpy()),
    }


def reason_to_stop(facts: dict, settings: EditSettings, kind: int) -> str:
    """Why the loop ends after this round; empty if it does not."""
    rate = facts["target_rate"]
    if rate is not None and (rate if kind else 1 - rate) >= settings.enough:
        return f"{rate:.0%} of the answers on the stop split show the concept"
    if facts["accuracy"] <= settings.fooled:
        return f"a fresh discriminator tells {facts['accuracy']:.0%} of the stop split right: no more to be fooled"
    return ""


def mean_of(rows: Sequence[dict[str, float]], accelerator: Accelerator | None) -> dict[str, float]:
    """Means of the facts of all steps, over all processes."""
    names = list(rows[0])
    means = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64).mean(dim=0)
    if accelerator:
        means = accelerator.reduce(means.to(accelerator.device), "mean")
    return dict(zip(names, means.tolist(), strict=True))


def run_of(train: Rows, stop: Rows, retain: Answered, settings: EditSettings, kind: int, seed: int) -> dict:
    """What a checkpoint must agree on with the run that goes on from it: all but the number of rounds."""
    known = {name: value for name, value in asdict(settings).items() if name != "rounds"}
    tokens = [train.target, train.plain, stop.target, stop.plain, retain.texts]
    data = hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]
    return json.loads(json.dumps({"settings": known, "kind": kind, "seed": seed, "data": data}))
