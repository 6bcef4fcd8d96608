"""The editing loop: a discriminator and an adapter, trained in turns (Zhang et al. 2024, algorithm 1).

Each round a discriminator learns to tell target from plain prompts by their hidden states, and then the adapter is
trained so that plain prompts look like target prompts to it:

    L = adversary * L_G(plain prompts) + match * distance to their own target states
        + answer * cross-entropy of the target answers + distil * KL(base given the target prompt || edited)
        + retain * KL(base || edited) on harmless prompts

The paper has the first term only. It does not penalise refusing everything; the KL does, over the first tokens of the
base model's own answers. The distance (squared, per standardised feature) uses that most plain prompts are paired with
a target prompt: the same question under the target message. The discriminator needs no pairs, so it reaches the
unpaired prompts too; the terms that need a pair are averaged over the paired prompts of a step, so that they keep their
weight however few pairs there are. The cross-entropy and the distillation (of a prompted model into one without the
prompt, like the context distillation of Askell et al. 2021, section 2.1) are computed from the same states after the
last block, at almost no cost; they cover the `taught` tokens of the answer.

In every round a new linear probe, on questions that took no part, measures how much of the concept a plane still
sees: fooling one discriminator is not the same as changing the concept.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from helpers.are.concepts import ANSWER, Example, Question
from helpers.are.discriminator import (
    Discriminator,
    DiscriminatorTraining,
    Learning,
    Scaling,
    accuracy,
    fooling_loss,
    scaling_of,
    taken_for,
    train_discriminator,
)
from helpers.base.checkpoints import load_checkpoint, save_checkpoint
from helpers.base.sharing import Share
from helpers.base.storage import CourseError
from helpers.language.adapters import first_adapted, trained_weights
from helpers.language.generation import Backend, Prompt, end_of_answer, generate, plain_tokens, prompt_tokens
from helpers.language.memo import Memo
from helpers.language.models import AdaptedModel, AnyModel, LanguageModel
from helpers.language.states import (
    READ_BATCH,
    Below,
    ReadOut,
    TokenSequence,
    ending_states,
    fit_probe,
    in_batches,
    log_probs_of,
    probe_accuracy,
    read,
    read_all,
    read_along,
    recomputed,
    states_below,
)

# Part of the name under which the cache keeps an edit. Raise it with every change of the loop, of its terms or of the
# baseline's training that changes what is trained from the same settings and data: kept edits are then trained anew.
LOOP_VERSION = 2


@dataclass(frozen=True)
class EditSettings:
    """Settings of the editing loop.

    Attributes:
        at: hidden states that the discriminator reads: at the last token of the prompt and the first of the answer.
        rounds, steps: rounds, and steps of the adapter in each.
        batch: examples per step, and as many harmless prompts.
        learning_rate: of the adapter (Adam).
        decay: lower it to 0 over all steps, along half a cosine (Loshchilov and Hutter 2017).
        adversary, match, answer, distil, retain: weights of the terms; (1, 0, 0, 0, 0) is the paper's loss.
        members: networks in the discriminator; `hidden` and `training` are theirs.
        warm: keep the discriminator of the previous round, instead of a new one (the paper takes a new one).
        frozen: train the discriminator in the first round only: no adversary (a baseline).
        online: train the discriminator on the states of every step too, so that it is not fooled for long.
        retained: tokens of the answers to harmless prompts that the retain term covers.
        fading: the i-th of these weighs 1/i, since the first tokens decide whether an answer declines.
        taught: tokens of the target answers that are taught, with their end; 0 for as many as are read.
        fooled: stop when a newly trained discriminator is right on no more than this share of the stop split, after one
            of an earlier round that was right on more. Where no new one is trained (`frozen`) or none has to be fooled
            (`adversary` is 0), this ends nothing.
        enough: stop when this share of answers on the stop split shows what is wanted.
    """

    at: ReadOut
    rounds: int = 12
    steps: int = 20
    batch: int = 8
    learning_rate: float = 1e-3
    decay: bool = False
    adversary: float = 1.0
    match: float = 1.0
    answer: float = 0.0
    distil: float = 0.0
    retain: float = 1.0
    members: int = 1
    hidden: int = 64
    training: DiscriminatorTraining = field(
        default_factory=lambda: DiscriminatorTraining(epochs=8, weight_decay=0.01, noise=1.0)
    )
    warm: bool = False
    frozen: bool = False
    online: bool = False
    retained: int = 6
    fading: bool = False
    taught: int = 0
    fooled: float = 0.6
    enough: float = 1.0


class Rows:
    """Token ids of a concept's examples: target and plain prompts, each with the beginning of the answer.

    The first `len(target)` plain prompts are paired with them. Those of `others` come after them and borrow an answer.

    Attributes:
        answers: for each example the tokens that are taught; the last of those that are read may be missing.
        places: for each plain prompt, from how many of its last tokens the answer is predicted (see `read`).
    """

    def __init__(
        self,
        lm: AnyModel,
        examples: Sequence[Example],
        positions: int,
        others: Sequence[Question] = (),
        taught: int = 0,
    ) -> None:
        """Turn messages into tokens.

        Args:
            taught: as in `EditSettings`.

        Raises:
            ValueError: the model has no chat template; give its tokenizer one, such as `QUESTION_AND_ANSWER`.
            CourseError: no example has an answer of `positions` - 1 tokens.
        """
        answers = [taught_tokens(lm, example.answer, taught or positions, bool(taught)) for example in examples]
        kept = [(e, answer) for e, answer in zip(examples, answers, strict=True) if len(answer) >= positions - 1]
        if not kept:
            raise CourseError(f"no answer has {positions - 1} tokens: read fewer positions")
        self.ids = [example.id for example, _ in kept]
        self.answers = [answer for _, answer in kept]
        self.target = [self._before(lm, example.target, answer, positions) for example, answer in kept]
        self.plain = [self._before(lm, example.plain, answer, positions) for example, answer in kept]
        for number, question in enumerate(others):
            self.plain.append(self._before(lm, question.text, self.answers[number % len(kept)], positions))
        lengths = [max(positions, len(answer)) for answer in self.answers]
        self.places = lengths + [lengths[number % len(kept)] for number in range(len(others))]

    @staticmethod
    def _before(lm: AnyModel, prompt: Prompt, answer: TokenSequence, positions: int) -> list[int]:
        """A prompt, and the tokens of the answer from which later ones are predicted."""
        return [*prompt_tokens(lm.tokenizer, prompt), *answer[: max(positions, len(answer)) - 1]]


def taught_tokens(lm: AnyModel, answer: str, most: int, ends: bool) -> list[int]:
    """The first `most` tokens of an answer; with `ends`, the token that ends it counts among them."""
    end = end_of_answer(lm) if ends else ()
    return [*plain_tokens(lm.tokenizer, answer), *end][:most]


class Answered:
    """Prompts with the first tokens of answers, which the model should retain or learn."""

    def __init__(
        self,
        lm: AdaptedModel,
        texts: Sequence[TokenSequence],
        answers: Sequence[TokenSequence],
        fading: bool = False,
    ) -> None:
        """Prompts without an answer are left out.

        Args:
            fading: as in `EditSettings`, for `kl`.

        Raises:
            CourseError: no prompt has one.
        """
        pairs = [(list(text), list(answer)) for text, answer in zip(texts, answers, strict=True) if answer]
        if not pairs:
            raise CourseError("no prompt with an answer: there is nothing to keep, or to learn")
        self.lm, self.fading = lm, fading
        self.texts = [text + answer[:-1] for text, answer in pairs]
        self.answers = [answer for _, answer in pairs]

    @cached_property
    def below(self) -> Below | None:
        """States below the adapter: they never change, so they are computed once, when first needed."""
        return unchanging(self.lm.model, self.texts)

    def log_probs(
        self, model: PeftModel, rows: Sequence[int]
    ) -> tuple[Float[Tensor, "place token"], Float[Tensor, "place token"]]:
        """Log-probabilities of the next token by the base and by the edited model, at all positions of the answers."""
        with torch.no_grad():
            base = log_probs_of(model, torch.cat([self.base[row] for row in rows]))
        return base, log_probs_of(model, torch.cat(self._states(model, rows)))

    def kl(self, model: PeftModel, rows: Sequence[int]) -> Tensor:
        """KL(base || edited) in nats at the positions of the answers, averaged over each answer, then over answers."""
        base, edited = self.log_probs(model, rows)
        return self._mean_of_answers((base.exp() * (base - edited)).sum(dim=-1), rows, self.fading)

    def nll(self, model: PeftModel, rows: Sequence[int]) -> Tensor:
        """Mean negative log-likelihood of the answers in nats per token, averaged over each answer first."""
        answers = torch.tensor([token for row in rows for token in self.answers[row]], device=model.device)
        found = log_probs_of(model, torch.cat(self._states(model, rows)))
        return -self._mean_of_answers(found.gather(1, answers[:, None])[:, 0], rows)

    def _mean_of_answers(self, values: Float[Tensor, " place"], rows: Sequence[int], fading: bool = False) -> Tensor:
        def mean(part: Float[Tensor, " place"]) -> Tensor:
            weights = 1 / torch.arange(1, len(part) + 1, device=part.device) if fading else torch.ones_like(part)
            return (part * weights).sum() / weights.sum()

        return torch.stack([mean(part) for part in values.split([len(self.answers[row]) for row in rows])]).mean()

    @cached_property
    def base(self) -> list[Float[Tensor, "place dim"]]:
        """Last states of the base model at the positions of the answers: they never change, so computed once."""
        with self.lm.model.disable_adapter():
            states = in_batches(self.texts, READ_BATCH, lambda rows: self._states(self.lm.model, rows))
        return [state.clone() for state in states]

    def _states(self, model: PeftModel, rows: Sequence[int]) -> list[Float[Tensor, "place dim"]]:
        counts = [len(self.answers[row]) for row in rows]
        return ending_states(model, [self.texts[row] for row in rows], counts, self.below and self.below.of(rows))


def retain_of(
    lm: AdaptedModel,
    questions: Sequence[Question],
    backend: Backend,
    memo: Memo | None = None,
    tokens: int = 16,
    fading: bool = False,
) -> Answered:
    """Harmless questions with the first `tokens` tokens of the base model's answers."""
    prompts = [(("user", question.text),) for question in questions]
    answers = generate(backend, prompts, replace(ANSWER, max_new_tokens=tokens), memo=memo)
    return Answered(
        lm,
        [prompt_tokens(lm.tokenizer, prompt) for prompt in prompts],
        [plain_tokens(lm.tokenizer, answer)[:tokens] for answer in answers],
        fading,
    )


def unchanging(model: PeftModel, texts: Sequence[TokenSequence]) -> Below | None:
    """States of texts below the first block with an adapter; None if the first block has one."""
    depth = first_adapted(model) - 1
    return states_below(model, texts, depth) if depth else None


class Editor(nn.Module):
    """The model with its adapter, and the discriminator that it is trained against: one module, one checkpoint."""

    def __init__(self, model: PeftModel, discriminator: Discriminator) -> None:
        super().__init__()
        self.model, self.discriminator = model, discriminator
        self.learning: Learning | None = None


class Views(NamedTuple):
    """States that are the same in all rounds, and the scaling of all states before the discriminator reads them.

    Attributes:
        target, target_stop: states of target prompts, by the base model.
        plain: states of plain prompts, by the base model.
        teacher: inputs of the output weights along the answers to target prompts; empty if nothing is distilled.
        below, below_stop: states of plain prompts below the adapter; None if the first block has one.
    """

    at: ReadOut
    scale: Scaling
    target: Float[Tensor, "text feature"]
    target_stop: Float[Tensor, "text feature"]
    plain: Float[Tensor, "text feature"]
    teacher: list[Float[Tensor, "_ dim"]]
    below: Below | None
    below_stop: Below | None

    def of(self, model: PeftModel, rows: Rows, below: Below | None = None) -> Float[Tensor, "text feature"]:
        """What the discriminator sees of plain prompts, by the model as it is now."""
        return self.scale(read_all(model, rows.plain, self.at, below, places=rows.places))


@dataclass
class Run:
    """An edit: the model, what it learns from, and how.

    Attributes:
        lm: a model with an adapter (`with_adapter`).
        kind: what plain prompts should look like to the discriminator; 1 brings the concept about, 0 removes it.
        save_memory: recompute the states of blocks in the backward pass instead of keeping them (`recomputed`).
        share: how several processes divide the batches of a step.
        editor: the model and the discriminator of the current round.

    Raises:
        ValueError: the processes cannot share a batch evenly, the settings contradict each other or the kind, or
            a layer does not exist.
    """

    lm: AdaptedModel
    train: Rows
    stop: Rows
    retain: Answered
    settings: EditSettings
    kind: int = 1
    seed: int = 0
    save_memory: bool = False
    share: Share = field(default_factory=Share)
    editor: Editor = field(init=False)

    def __post_init__(self) -> None:
        chosen, model = self.settings, self.lm.model
        if chosen.batch % self.share.processes:
            raise ValueError(f"{self.share.processes} processes cannot share {chosen.batch} examples evenly")
        if self.kind == 0 and (chosen.match or chosen.answer or chosen.distil):
            raise ValueError("match, answer and distil draw towards the concept: set them to 0 to take it away")
        if chosen.frozen and chosen.online:
            raise ValueError("a frozen discriminator does not learn: set frozen or online, not both")
        self.editor = Editor(model, new_discriminator(model, chosen, self.seed, 0))

    def facts(self) -> dict:
        """What a checkpoint and the run that resumes it must agree on; without decay, not on the number of rounds."""
        known = asdict(self.settings)
        if not self.settings.decay:
            del known["rounds"]
        tokens = [self.train.target, self.train.plain, self.stop.target, self.stop.plain, self.retain.texts]
        data = hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]
        return json.loads(json.dumps({"settings": known, "kind": self.kind, "seed": self.seed, "data": data}))


def edit(
    run: Run,
    *,
    target_rate: Callable[[], float] | None = None,
    checkpoint: Path | None = None,
    on_round: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train the adapter of a model in place and return one row of facts per round.

    Target states are those of the base model, read once, so that the target does not move while the adapter changes.
    (The paper reads both kinds again in every round.)

    Args:
        target_rate: share of answers to prompts of the stop split that show the concept, measured after every round.
        checkpoint: file that keeps the state after every round, and from which a stopped run resumes.
        on_round: called with each new row, in the main process.

    Raises:
        ValueError: a layer is unknown.
        CourseError: a loss is not finite; the checkpoint is damaged, from another run, or cannot be written.
    """
    model, settings, editor = run.lm.model, run.settings, run.editor
    editor.discriminator.to(model.device)
    optimiser = torch.optim.Adam(trained_weights(model), lr=settings.learning_rate)
    curve = load_checkpoint(checkpoint, editor, optimiser, run.facts())
    if is_over(curve, settings):
        return curve
    views = views_of(model, run.train, run.stop, settings.at, taught=bool(settings.distil))
    plain, plain_stop = states_now(model, run.train, run.stop, views, fresh=not curve)
    while not is_over(curve, settings):
        number, began = len(curve), time.perf_counter()
        facts: dict[str, Any] = {"round": number}
        facts["train_accuracy"] = train_for_round(editor, plain, views, settings, run.seed, number)
        facts["accuracy"] = accuracy(editor.discriminator, views.target_stop, plain_stop)
        with recomputed(model) if run.save_memory else nullcontext():
            terms = []
            for place, batch in enumerate(batches_of_round(run, number)):
                done = number * settings.steps + place
                set_rate(optimiser, settings, done, settings.rounds * settings.steps)
                terms.append(step(run, views, optimiser, batch))
            facts |= over_steps(terms, run.share)
        plain, plain_stop = states_now(model, run.train, run.stop, views)
        facts |= probed(editor, plain, plain_stop, views) | {"target_rate": target_rate() if target_rate else None}
        facts |= {"seconds": time.perf_counter() - began, "stopped": reason_to_stop(facts, curve, settings, run.kind)}
        curve.append(facts)
        if run.share.is_main:
            save_checkpoint(checkpoint, editor, optimiser, run.facts(), curve)
            if on_round:
                on_round(facts)
    run.share.wait()
    return curve


def set_rate(optimiser: torch.optim.Optimizer, settings: EditSettings, done: int, steps: int) -> None:
    """Set the learning rate of the next step when `done` of all `steps` are over."""
    left = 0.5 * (1 + math.cos(math.pi * done / steps)) if settings.decay else 1.0
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * left


def is_over(curve: Sequence[dict], settings: EditSettings) -> bool:
    """Whether all rounds are done, or the last one gave a reason to stop."""
    return len(curve) >= settings.rounds or bool(curve and curve[-1]["stopped"])


def views_of(model: PeftModel, train: Rows, stop: Rows, at: ReadOut, taught: bool = False) -> Views:
    """Base states of both kinds, states below the adapter, and the scaling fitted on both kinds of base states.

    Args:
        taught: also read the states along the target answers, for `distil_kl`.
    """
    below, below_stop = (unchanging(model, rows.plain) for rows in (train, stop))
    with model.disable_adapter():
        target, teacher = target_states(model, train, at, taught)
        target_stop, _ = target_states(model, stop, at, taught=False)
        plain = read_all(model, train.plain, at, below, places=train.places)
    scale = scaling_of(torch.cat([target, plain[: len(target)]]))
    return Views(at, scale, scale(target), scale(target_stop), scale(plain), teacher, below, below_stop)


def target_states(
    model: PeftModel, rows: Rows, at: ReadOut, taught: bool
) -> tuple[Float[Tensor, "text layer position dim"], list[Float[Tensor, "_ dim"]]]:
    """States of target prompts; if `taught`, also what the output weights see where their answers are predicted."""
    places = rows.places[: len(rows.target)]
    if not taught:
        return read_all(model, rows.target, at, places=places), []

    def along(some: list[int]) -> list[tuple[Tensor, Tensor]]:
        states, last = read_along(model, [rows.target[row] for row in some], at, [places[row] for row in some])
        ends = [state[: len(rows.answers[row])].clone() for state, row in zip(last, some, strict=True)]
        return list(zip(states, ends, strict=True))

    found = in_batches(rows.target, READ_BATCH, along)
    return torch.stack([states for states, _ in found]), [ends for _, ends in found]


def states_now(
    model: PeftModel, train: Rows, stop: Rows, views: Views, fresh: bool = False
) -> tuple[Float[Tensor, "text feature"], Float[Tensor, "stop feature"]]:
    """Plain states of both parts by the model as it is now; a `fresh` adapter has not changed them yet."""
    plain = views.plain if fresh else views.of(model, train, views.below)
    return plain, views.of(model, stop, views.below_stop)


def new_discriminator(model: LanguageModel, settings: EditSettings, seed: int, number: int) -> Discriminator:
    """An untrained discriminator for a round."""
    features = len(settings.at.of(model)) * settings.at.positions * model.config.get_text_config().hidden_size
    return Discriminator(features, settings.hidden, settings.members, seed=1000 * seed + number).to(model.device)


def train_for_round(
    editor: Editor, plain: Float[Tensor, "text feature"], views: Views, settings: EditSettings, seed: int, number: int
) -> float:
    """Train the discriminator of a round on the current states; returns its accuracy on them."""
    if number and settings.frozen:
        return accuracy(editor.discriminator, views.target, plain)
    if number and not settings.warm:
        editor.discriminator = new_discriminator(editor.model, settings, seed, number)
    if settings.online:
        editor.learning = Learning(editor.discriminator, settings.training, seed=number)
    return train_discriminator(editor.discriminator, views.target, plain, settings.training, seed=number)


def batches_of_round(run: Run, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers of the examples and of the harmless prompts of every step; each round has its own generator.

    Only the adversary learns from unpaired prompts: without it, all examples are paired.
    """
    rng, size = np.random.default_rng([run.seed, number]), run.settings.batch
    examples = len(run.train.plain) if run.settings.adversary else len(run.train.target)
    for _ in range(run.settings.steps):
        rows, kept = (rng.choice(n, size, replace=n < size) for n in (examples, len(run.retain.texts)))
        yield rows, kept


def step(
    run: Run, views: Views, optimiser: torch.optim.Optimizer, batch: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """One step of the adapter: fool the discriminator, and keep to the base model on harmless prompts.

    Returns:
        The terms before the step, and `fooled`: the share of plain states that the discriminator took for the wanted
        kind.
    """
    model, settings, train = run.lm.model, run.settings, run.train
    rows, kept = map(run.share.part, batch)
    texts, places = [train.plain[row] for row in rows], [train.places[row] for row in rows]
    below = views.below and views.below.of(rows.tolist())
    if settings.answer or settings.distil:
        raw, last = read_along(model, texts, settings.at, places, below)
    else:
        raw, last = read(model, texts, settings.at, below, places), []
    states = views.scale(raw)
    none, part = states.new_zeros(()), part_of_pairs(batch[0], rows, len(train.target))
    costs = {
        "fooling": fooling_loss(run.editor.discriminator, states, run.kind),
        "distance": part * distance_to_targets(states, views.target, rows) if settings.match else none,
        "answer_nll": part * answer_nll(model, last, train, rows) if settings.answer else none,
        "distil_kl": part * distil_kl(model, last, views.teacher, rows) if settings.distil else none,
        "retain_kl": run.retain.kl(model, kept.tolist()) if settings.retain else none,
    }
    weights = (settings.adversary, settings.match, settings.answer, settings.distil, settings.retain)
    loss = sum((weight * cost for weight, cost in zip(weights, costs.values(), strict=True)), start=none)
    if not torch.isfinite(loss):
        raise CourseError("the editing loss is not finite: lower the learning rate")
    optimiser.zero_grad()
    loss.backward()
    run.share.average_gradients(trained_weights(model))
    optimiser.step()
    taken = taken_for(run.editor.discriminator, states, run.kind)
    learn_along(run, views, batch[0], states)
    return {name: cost.item() for name, cost in costs.items()} | {"fooled": taken}


def learn_along(run: Run, views: Views, rows: np.ndarray, states: Float[Tensor, "own feature"]) -> None:
    """Show the discriminator the states of a step, where it is to learn `online`.

    It gets those of all processes in the order of the batch: from its own part each process would train another one.
    """
    if run.editor.learning is None or not run.settings.adversary:
        return
    places = run.share.gather(torch.as_tensor(run.share.part(np.arange(len(rows)))).float())
    plain = run.share.gather(states.detach())[places.argsort().to(states.device)]
    run.editor.learning.epoch(views.target[rows % len(views.target)], plain)


def part_of_pairs(batch: np.ndarray, rows: np.ndarray, pairs: int) -> float:
    """How much a process's mean over its own paired rows counts, so that the mean of all processes is over all pairs.

    1 for a single process, and for several that have equally many pairs of a batch; 0 without a pair.

    Args:
        batch, rows: row numbers of the step, and those of them that this process has.
        pairs: rows below this number are paired.
    """
    own, every = (rows < pairs).sum() / len(rows), (batch < pairs).sum() / len(batch)
    return float(own / every) if every else 0.0


def distance_to_targets(
    states: Float[Tensor, "text feature"], target: Float[Tensor, "pair feature"], rows: np.ndarray
) -> Tensor:
    """Mean squared distance per feature to the target states of the same rows, over the paired rows; 0 without one."""
    paired = torch.as_tensor(rows < len(target), device=states.device)
    apart = states[paired] - target[rows[rows < len(target)]]
    return apart.square().mean(dim=1).sum() / max(1, len(apart))


def answer_nll(model: LanguageModel, last: Sequence[Float[Tensor, "_ dim"]], train: Rows, rows: np.ndarray) -> Tensor:
    """Mean negative log-likelihood of the target answers' tokens in nats, from the last states along each text.

    Unpaired rows have no answer of their own and are left out; 0 if all are unpaired.
    """
    paired = [(states, train.answers[row]) for states, row in zip(last, rows, strict=True) if row < len(train.target)]
    if not paired:
        return torch.zeros((), device=model.device)
    said = log_probs_of(model, torch.cat([states[: len(answer)] for states, answer in paired]))
    tokens = torch.tensor([token for _, answer in paired for token in answer], device=said.device)
    return -said.gather(1, tokens[:, None]).mean()


def distil_kl(
    model: LanguageModel,
    last: Sequence[Float[Tensor, "_ dim"]],
    teacher: Sequence[Float[Tensor, "_ dim"]],
    rows: np.ndarray,
) -> Tensor:
    """KL(base given the target prompts || edited given the plain ones) in nats.

    Averaged over the positions of each answer, and then over the paired rows; 0 if none is paired.
    """
    pairs = [(states, teacher[row]) for states, row in zip(last, rows, strict=True) if row < len(teacher)]
    if not pairs:
        return torch.zeros((), device=model.device)
    edited = log_probs_of(model, torch.cat([states[: len(known)] for states, known in pairs]))
    with torch.no_grad():
        wanted = log_probs_of(model, torch.cat([known for _, known in pairs]))
    apart = nn.functional.kl_div(edited, wanted, reduction="none", log_target=True).sum(dim=-1)
    means = [part.mean() for part in apart.split([len(known) for _, known in pairs])]
    return torch.stack(means).mean()


def probed(
    editor: Editor, plain: Float[Tensor, "text feature"], plain_stop: Float[Tensor, "stop feature"], views: Views
) -> dict[str, float]:
    """Accuracy of the discriminator, now fooled, and of a new linear probe on the stop split after a round."""
    probe = fit_probe(views.target.cpu().numpy(), plain[: len(views.target)].cpu().numpy())
    return {
        "after": accuracy(editor.discriminator, views.target_stop, plain_stop),
        "probe": probe_accuracy(probe, views.target_stop.cpu().numpy(), plain_stop.cpu().numpy()),
    }


def reason_to_stop(facts: dict, earlier: Sequence[dict], settings: EditSettings, kind: int) -> str:
    """Why the loop ends after this round; empty if it does not.

    A discriminator that tells nothing apart has been fooled only if one of an earlier round did: from few examples it
    may never have learnt to.

    Args:
        facts, earlier: the row of this round, and those of the rounds before it.
    """
    rate = facts["target_rate"]
    if rate is not None and (rate if kind else 1 - rate) >= settings.enough:
        return f"{rate:.0%} of the answers on the stop split show the concept"
    learnt = any(row["accuracy"] > settings.fooled for row in earlier)
    if settings.adversary and not settings.frozen and learnt and facts["accuracy"] <= settings.fooled:
        return f"a newly trained discriminator tells {facts['accuracy']:.0%} of the stop split right: none left to fool"
    return ""


def over_steps(rows: Sequence[dict[str, float]], share: Share) -> dict[str, Any]:
    """The mean of every fact over the steps of a round and all processes; `steps` holds the values step by step."""
    flat = share.mean({f"{name} {number}": value for number, row in enumerate(rows) for name, value in row.items()})
    steps = {name: [flat[f"{name} {number}"] for number in range(len(rows))] for name in rows[0]}
    return {name: float(np.mean(values)) for name, values in steps.items()} | {"steps": steps}
