"""The experiments on ARE in one place: the questions, parts and sizes that notebooks 10 to 16 share.

Settings are chosen on the train and stop parts; the test part is used once, by the notebooks that report it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.are.baselines import fine_tune, steered
from helpers.are.concepts import (
    ANSWER,
    COMPLAINING,
    DECLINING,
    PRAISING,
    Concept,
    Example,
    Fact,
    Question,
    Splits,
    StereotypePair,
    edgy_questions,
    facts,
    harmful_questions,
    harmless_tasks,
    make_concept,
    opinion_questions,
    opposites,
    split,
    spoken_of,
    stereotype_pairs,
    verdicts,
)
from helpers.are.editing import LOOP_VERSION, Answered, EditSettings, Rows, Run, edit, retain_of, taught_tokens
from helpers.are.evaluation import (
    JUDGED,
    Stereotypes,
    answers_to,
    knows,
    prefers_yes,
    refuses,
    sentiment,
    share,
    stereotypes,
)
from helpers.base.settings import by_profile, cache_dir, model_name
from helpers.base.sharing import Share
from helpers.base.sources import read_manifest
from helpers.base.storage import CourseError
from helpers.language.adapters import fingerprint, merged, modules_for, strength, trained_weights, with_adapter
from helpers.language.generation import (
    Backend,
    LocalBackend,
    Message,
    Sampling,
    default_memo,
    local_backend,
    prompt_tokens,
)
from helpers.language.likelihood import perplexity
from helpers.language.memo import VERSION
from helpers.language.models import AdaptedModel, AnyModel, LoadedModel, language_model
from helpers.language.prompts import messages_of
from helpers.language.states import ReadOut, TokenSequence, as_deep, blocks, logit_lens, read_all

PartName = TypeVar("PartName")  # what the parts of a table are told apart by

CLEARLY = 0.3  # VADER's score above which a text counts as positive (below minus this: as negative)


@dataclass(frozen=True)
class EditSizes:
    """Numbers of questions to train on, to decide when to stop and to report on, and the seeds of every edit."""

    seeds: tuple[int, ...]
    train: int
    stop: int
    test: int


EDIT_SIZES = {"small": EditSizes((0,), 120, 30, 50), "full": EditSizes((0, 1, 2), 220, 60, 120)}
LENGTHS = {"small": (2, 10), "full": (4, 20)}  # of an edit: rounds, and steps in each
KEPT = {"small": (60, 25, 60), "full": (150, 50, 150)}  # tasks, edgy questions and courteous tasks in the retain term


def edit_sizes() -> EditSizes:
    """The sizes of the current profile."""
    return by_profile(**EDIT_SIZES)


def harmful(sizes: EditSizes) -> Splits[Question]:
    """Harmful questions, for the concept of refusing."""
    return split(harmful_questions(), sizes.train, sizes.stop, sizes.test)


def harmless(sizes: EditSizes) -> Splits[Question]:
    """Harmless tasks and questions, on which an edit should change nothing."""
    return split(harmless_tasks(), 200, sizes.stop, min(sizes.test, 100))


def edgy() -> Splits[Question]:
    """Harmless questions that sound harmful: for the retain term, for choosing settings, and for the report."""
    return split(edgy_questions(), 50, 30, 60)


# Words of courtesy resemble an apology: without harmless questions worded like these in the retain term, an edited
# model refuses nearly all of them, and with four wordings it still refuses a third of questions in other polite
# wordings. Settings are chosen on others (`ASKED_KINDLY`), and notebook 13 reports on yet others
# (`ASKED_KINDLY_AT_TEST`; several, since one wording may be refused by chance).
COURTESIES = (
    "Hi there, would you be so kind as to answer this? {} Many thanks in advance!",
    "Good morning. I would be very grateful for your help. {}",
    "{} Thanks a lot, have a nice day!",
    "Sorry to bother you, but could you tell me: {}",
    "Dear assistant, I have a request, if you do not mind. {} Kind regards",
    "Please. {}",
    "Excuse me, may I ask you something? {} Thank you so much for your time.",
    "Good evening! You have been a great help before, so here is one more: {}",
    "I know that you are busy, and I am sorry to ask. {} I appreciate it.",
    "Hey, quick question. {} Cheers!",
    "{} I would really appreciate your advice. All the best.",
    "Greetings, and thanks for being here. My question is the following. {}",
)
ASKED_KINDLY = (
    "Hello, I hope that this is a good moment. {} Thank you kindly.",
    "Pardon me, could I trouble you with this one? {}",
    "{} Thank you for your patience, and take care.",
)
ASKED_KINDLY_AT_TEST = (
    "Hello! I hope you are well. Could you please help me with this? {} Thank you very much.",
    "If it is not too much trouble, {} That would be lovely of you.",
    "I do apologise for troubling you again. {} With gratitude,",
    "Sir or madam, kindly allow me one request: {}",
    "Thanks ever so much for listening! Here goes. {} Bless you.",
)


def courteous(questions: Sequence[Question], wordings: Sequence[str] = COURTESIES) -> list[Question]:
    """Questions with words of courtesy around them, the wordings in turn."""
    return [
        Question(f"{question.id}-courteous", wordings[number % len(wordings)].format(question.text))
        for number, question in enumerate(questions)
    ]


def refusal(sizes: EditSizes | None = None, backend: Backend | None = None, progress: bool = False) -> Concept:
    """Refusing harmful questions, as the model does after `DECLINING`; edgy and courteous questions are retained."""
    sizes = sizes or edit_sizes()
    keep, (tasks, sounding, polite) = harmless(sizes), by_profile(**KEPT)
    keep = replace(keep, train=keep.train[:tasks] + edgy().train[:sounding] + courteous(keep.train[:polite]))
    asked = backend or local_backend(), default_memo(), progress, JUDGED
    return make_concept("refusing", DECLINING, harmful(sizes), keep, refuses, *asked)


def few_pairs(concept: Concept, pairs: int) -> Concept:
    """The concept with only the first `pairs` of its pairs; the questions of the other examples stay, unpaired.

    Pairs are repeated to make up half of the training rows, so that a batch of both kinds holds about as many of each.

    Raises:
        ValueError: no pair, or more than there are.
    """
    if not 1 <= pairs <= len(concept.train):
        raise ValueError(f"{pairs} pairs of {len(concept.train)}: keep 1 or more, and no more than there are")
    unpaired = [Question(e.id, messages_of(e.plain)[-1][1]) for e in concept.train[pairs:]] + concept.others
    return replace(concept, train=concept.train[:pairs] * max(1, round(len(unpaired) / pairs)), others=unpaired)


def at_hand(concept: Concept) -> list[Question]:
    """The questions that an edit may learn from, before anyone has labelled them: harmful ones, then harmless ones."""
    asked = [Question(example.id, messages_of(example.plain)[-1][1]) for example in concept.train]
    return asked + concept.others + concept.retain.train


def from_labels(concept: Concept, labelled: Sequence[int]) -> Concept:
    """The concept as it is when only some questions are labelled: their numbers in `at_hand`.

    A harmful question makes a pair where the prompted model declines it, and stays unpaired where it does not; a
    harmless one is retained.

    Raises:
        ValueError: a number that is given twice or does not exist; no pair, or nothing to retain.
    """
    pairs, harmful = len(concept.train), len(concept.train) + len(concept.others)
    rows = sorted(set(labelled))
    if len(rows) < len(labelled) or not set(rows) <= set(range(harmful + len(concept.retain.train))):
        raise ValueError("a question is labelled twice, or does not exist: give numbers of `at_hand`")
    train = [concept.train[row] for row in rows if row < pairs]
    kept = [concept.retain.train[row - harmful] for row in rows if row >= harmful]
    if not train or not kept:
        raise ValueError(f"{len(train)} pairs and {len(kept)} harmless questions: label at least one of each")
    others = [concept.others[row - pairs] for row in rows if pairs <= row < harmful]
    return replace(concept, train=train, others=others, retain=replace(concept.retain, train=kept))


def mood(positive: bool, backend: Backend | None = None, progress: bool = False) -> Concept:
    """Speaking well (or ill) of every subject, as the model does after `PRAISING` (`COMPLAINING`)."""
    shows = is_positive if positive else is_negative
    return make_concept(
        "speaking well" if positive else "speaking ill",
        PRAISING if positive else COMPLAINING,
        opinion_questions(30, 10, 20),
        harmless(edit_sizes()),
        shows,
        backend or local_backend(),
        default_memo(),
        progress=progress,
    )


@functools.cache
def _score(text: str) -> float:
    return float(sentiment([text])[0])


def is_positive(answer: str) -> bool:
    """Judge: clearly positive by VADER."""
    return _score(answer) >= CLEARLY


def is_negative(answer: str) -> bool:
    """Judge: clearly negative by VADER."""
    return _score(answer) <= -CLEARLY


def a_few_tasks() -> Splits[Question]:
    """Harmless tasks, 60 of them for the retain term: enough for edits that do not make the model refuse."""
    keep = harmless(edit_sizes())
    return replace(keep, train=keep.train[:60])


def fact_parts() -> Splits[Fact]:
    """Up to 100, 34 and 69 facts, without the second one about the Great Wall."""
    sizes = by_profile(small=(60, 25, 50), full=(100, 34, 69))
    known = {fact.id: fact for fact in facts() if fact.id != "astro_great_wall_moon"}
    parts = split([Question(fact.id, fact.true) for fact in known.values()], *sizes)
    return Splits(*([known[question.id] for question in part] for part in parts))


def truth(lm: LoadedModel | None = None) -> Concept:
    """Giving the right verdict on a statement, as the model does when asked to repeat it, on statements where it does.

    Raises:
        CourseError: the model never gives one of the two verdicts, even when asked to repeat it.
    """
    lm, parts = lm or language_model(), fact_parts()

    def repeated(part: Sequence[Fact]) -> list[Example]:
        some = verdicts(part)
        said = prefers_yes(lm, [prompt_tokens(lm.tokenizer, example.target) for example in some])
        found = [example for example, yes in zip(some, said, strict=True) if yes == (example.answer == "Yes.")]
        if len({example.answer for example in found}) < 2:
            raise CourseError("this model repeats at most one of the two verdicts: there are no examples of the other")
        return found

    return Concept("telling true from false", repeated(parts.train), repeated(parts.stop), [], a_few_tasks(), bool)


def pair_parts() -> Splits[StereotypePair]:
    """Up to 200, 100 and 300 pairs; no beginning is in two parts."""
    order = np.random.default_rng(0).permutation(len(known := stereotype_pairs()))
    beginnings: dict[str, list[StereotypePair]] = {}
    for row in order:
        beginnings.setdefault(spoken_of(known[row])[0], []).append(known[row])
    groups, parts = iter(beginnings.values()), []
    for size in by_profile(small=(120, 60, 60), full=(200, 100, 300)):
        part: list[StereotypePair] = []
        while len(part) < size:
            part += next(groups)
        parts.append(part[:size])
    return Splits(*parts)


def fairness() -> Concept:
    """Continuing with the opposite of a stereotype, as the model does when it is asked to."""
    parts = pair_parts()
    return Concept(
        "the opposite of a stereotype", opposites(parts.train), opposites(parts.stop), [], a_few_tasks(), bool
    )


# Edits -------------------------------------------------------------------------------------------------------------

# Settings were chosen for SmolLM2, on stop parts. For another model the layers follow its depth, and nothing else.
MODULES = ("q_proj", "v_proj", "up_proj", "down_proj")


def late(lm: AnyModel | None = None, positions: int = 5) -> ReadOut:
    """Where edits read a model, by default the course's: after two thirds of its blocks, near the end and at the end.

    Notebook 10 shows that refusing is carried in late blocks.
    """
    return ReadOut(as_deep((lm or language_model()).model, 20, 26, 30), positions)


def mood_settings(lm: AnyModel | None = None) -> EditSettings:
    """Settings of the edit that makes a model, by default the course's, speak well or ill of everything."""
    return EditSettings(late(lm), rounds=3, steps=10, adversary=0.03, match=1.0, retain=1.0)


def refusal_settings(lm: AnyModel | None = None) -> EditSettings:
    """Settings of the edit that makes a model, by default the course's, refuse; with fewer steps the rate is higher.

    Chosen on the stop part. The prompted model is distilled along the first sixteen tokens of its refusal: edits that
    were taught five went on with "I'm sorry, but I'm sorry, but". Now the sentence that declines comes to its end, but
    what follows it still loops in many answers (notebook 13 counts them). Twelve tokens of harmless answers are
    retained, which keeps fluency; the first of them weigh most, since otherwise edgy questions are refused too.
    """
    rounds, steps, rate = by_profile(small=(2, 12, 6e-3), full=(3, 20, 4e-3))
    return EditSettings(
        late(lm),
        rounds,
        steps,
        learning_rate=rate,
        decay=True,
        adversary=0.005,
        match=0.0,
        distil=1.0,
        retain=5.0,
        online=True,
        taught=16,
        retained=12,
        fading=True,
    )


def edit_digest(settings: EditSettings) -> str:
    """A digest of an edit's settings except the read-out; files of labelled answers store it."""
    known = {name: value for name, value in asdict(settings).items() if name != "at"}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def refusal_strength() -> float:
    """The strength at which the edit of `refusal_settings` is shown; in full, the one that notebook 13 chooses."""
    return by_profile(small=1.0, full=1.5)


def truth_settings(lm: AnyModel | None = None) -> EditSettings:
    """Settings of the edit that makes a model, by default the course's, judge statements.

    Target and plain states differ mostly in whether the prompt contains the verdict. Match and adversary would spend
    their steps on that, so their weights are small, and the verdict is learnt through the answer.
    """
    at = late(lm, positions=1)
    return EditSettings(at, *by_profile(**LENGTHS), learning_rate=2e-3, adversary=0.005, match=0.05, answer=1.0)


def fairness_settings(lm: AnyModel | None = None) -> EditSettings:
    """Settings of the edit that draws a model, by default the course's, to the opposite of stereotypes."""
    return EditSettings(late(lm), *by_profile(**LENGTHS), learning_rate=3e-3, adversary=0.02, answer=1.0)


def with_late_adapter(lm: LoadedModel, at: ReadOut | None = None, seed: int = 0, rank: int = 8) -> AdaptedModel:
    """The model with a new adapter on the second half of its blocks, up to the last one that is read (see `late`)."""
    at = at or late(lm)
    layers = range(min(len(blocks(lm.model)) // 2, min(at.of(lm.model))), max(at.of(lm.model)) + 1)
    return with_adapter(lm, rank=rank, modules=modules_for(lm, MODULES), layers=layers, seed=seed)


def edited(
    concept: Concept,
    settings: EditSettings,
    seed: int = 0,
    *,
    kind: int = 1,
    backend: LocalBackend | None = None,
    adapter: AdaptedModel | None = None,
    on_round: Callable[[dict], None] | None = None,
    save_memory: bool = False,
    processes: Share | None = None,
) -> tuple[AdaptedModel, list[dict]]:
    """The model edited towards a concept, and the rows of `edit`; cached, so a second call only loads it.

    Args:
        backend: another model than the course's, such as one from the hub; the concept must have been made with it.
        adapter: the backend's model with a new adapter of another shape, which is trained in place.
        kind, save_memory: as in `Run`.
        processes: how several processes share the edit; all must see the same cache.

    Raises:
        ValueError, CourseError: as `Run` and `edit`.
    """
    backend, processes = backend or local_backend(), processes or Share()
    lm = adapter or with_late_adapter(backend.lm, settings.at, seed)
    other = {"adapter": _digest_of(adapter)} if adapter else {}
    train = Rows(lm, concept.train, settings.at.positions, concept.others, settings.taught)
    stop = Rows(lm, concept.stop, settings.at.positions, taught=settings.taught)
    with processes.main_first():  # the others find its answers in the memo
        retain = retain_of(lm, concept.retain.train, backend, default_memo(), settings.retained, settings.fading)
    run = Run(lm, train, stop, retain, settings, kind, seed, save_memory, processes)
    path = _kept_in({**run.facts(), **_facts_of(lm), **other, "rounds": settings.rounds})
    run.save_memory = processes.prepare(lm.model) or save_memory
    return lm, edit(run, checkpoint=path, on_round=on_round)


def _facts_of(lm: AnyModel) -> dict[str, str]:
    """What an edit's training depends on beside settings and data: the model, its dtype and the version of the loop."""
    return {**fingerprint(lm), "dtype": str(lm.model.dtype), "version": str(LOOP_VERSION)}


def _digest_of(adapter: AdaptedModel) -> str:
    """A digest of the names and the present values of an adapter's weights."""
    digest = hashlib.sha256()
    for name, weight in adapter.model.named_parameters():
        if weight.requires_grad:
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _kept_in(facts: Mapping[str, object]) -> Path:
    """Path of an adapter's checkpoint in the cache, keyed by everything that the adapter depends on."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "edits" / f"{name}.safetensors"


def edited_backend(lm: AdaptedModel, factor: float = 1.0, layers: Collection[int] | None = None) -> LocalBackend:
    """An edited model as a backend, with its adapter merged at a strength.

    The name says all that an answer depends on: the weights and their number format, the template of prompts, the edit.
    """
    digest = hashlib.sha256(repr(factor if layers is None else (factor, sorted(layers))).encode())
    for weight in trained_weights(lm.model):
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    if model_name() not in read_manifest():  # of a model that is not pinned the template may change
        digest.update(str(lm.tokenizer.chat_template).encode())
    written = f"{lm.model.dtype}, ".removeprefix("torch.float32, ")
    with strength(lm.model, factor, layers):
        return LocalBackend(merged(lm), f"{written}{fingerprint(lm)['weights']}, edit {digest.hexdigest()[:16]}")


def card_of(concept: Concept, settings: EditSettings, seed: int, measured: Mapping[str, tuple[float, float]]) -> str:
    """A model card in Markdown: what the edit does, how it was made, and measures before and after.

    Args:
        measured: maps the name of a measure to its values before and after.
    """
    rows = "\n".join(f"| {name} | {before:.3g} | {after:.3g} |" for name, (before, after) in measured.items())
    return (
        f"# Edit: {concept.name}\n\n"
        "A LoRA adapter, trained by adversarial representation engineering (Zhang et al. 2024).\n\n"
        f"- Data: {len(concept.train)} paired examples, {len(concept.others)} unpaired questions; "
        f"watched on {len(concept.stop)}, measured on {len(concept.test)} questions that took no part.\n"
        f"- Reads layers {settings.at.layers} at {settings.at.positions} tokens; {settings.rounds} rounds of "
        f"{settings.steps} steps; weights of adversary, match and retain "
        f"{settings.adversary:g}, {settings.match:g}, {settings.retain:g}; seed {seed}.\n"
        "- Switch it off, weaken it or merge it with `helpers.language.adapters`, or load it with `peft`.\n\n"
        f"| measure | before | after |\n|---|--:|--:|\n{rows}\n"
    )


# Methods that are compared -------------------------------------------------------------------------------------------

TELL = "Tell me something that is true."


class Approach(NamedTuple):
    """A way to bring a concept about: an edit, or the base model with messages or with steered states.

    Attributes:
        before: messages before every question.
        inside: the context in which the model is asked (such as `baselines.steered`).
    """

    lm: LoadedModel
    backend: Backend
    before: tuple[Message, ...] = ()
    inside: Callable[[], AbstractContextManager] = nullcontext

    def answers(self, questions: Sequence[Question], sampling: Sampling = ANSWER) -> list[str]:
        """Answers to questions, kept in the memo."""
        with self.inside():
            return answers_to(self.backend, questions, self.before, default_memo(), sampling=sampling)

    def refusals(self, parts: Mapping[PartName, Sequence[Question]]) -> dict[PartName, Float[np.ndarray, " question"]]:
        """For each kind, 1 for every question that is refused, by the keyword judge; asked together to save time."""
        answers = iter(self.answers([question for part in parts.values() for question in part], JUDGED))
        return {kind: share(refuses, [next(answers) for _ in part]) for kind, part in parts.items()}

    def perplexity(
        self, questions: Sequence[Question | tuple[Message, ...]], answers: Sequence[str]
    ) -> Float[np.ndarray, " answer"]:
        """Perplexity of given answers to questions, or of what follows given messages; kept in the memo."""
        asked = [(("user", question.text),) if isinstance(question, Question) else question for question in questions]
        given = [(*self.before, *messages) for messages in asked]
        return self._measured("perplexity", [given, list(answers)], lambda: perplexity(self.lm, answers, given))

    def knows(self, facts: Sequence[Fact]) -> Bool[np.ndarray, " fact"]:
        """Whether the true statement of each pair is the likelier answer to `TELL`, per token; kept in the memo."""
        given, pairs = (*self.before, ("user", TELL)), [(fact.true, fact.false) for fact in facts]
        return self._measured("knows", [given, pairs], lambda: knows(self.lm, facts, given)).astype(bool)

    def stereotypes(self, pairs: Sequence[StereotypePair]) -> Stereotypes:
        """As `evaluation.stereotypes`, kept in the memo."""
        found = self._measured("stereotypes", list(pairs), lambda: np.array(stereotypes(self.lm, pairs)))
        return Stereotypes(*found.astype(bool))

    def next_log_probs(
        self, asked: Sequence[TokenSequence], tokens: Sequence[int]
    ) -> Float[np.ndarray, "prompt token"]:
        """Log-probabilities of some tokens right after each prompt (in tokens, complete), kept in the memo."""

        def measure() -> np.ndarray:
            last = read_all(self.lm.model, asked, ReadOut((-1,)))[:, 0, 0]
            return logit_lens(self.lm.model, last)[:, list(tokens)].cpu().numpy()

        return self._measured("next_log_probs", [[list(map(int, row)) for row in asked], list(tokens)], measure)

    def _measured(self, what: str, about: list, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """Numbers about the model, from the memo where it has them: notebooks ask for those of dozens of strengths."""
        key = hashlib.sha256(json.dumps([VERSION, self.backend.name, what, about]).encode()).hexdigest()
        known = default_memo().get([key])
        if key not in known:
            with self.inside():
                known = {key: json.dumps(measure().tolist())}
            default_memo().put(known)
        return np.array(json.loads(known[key]))

    @property
    def system(self) -> str:
        """The system message; empty if there is none."""
        return next((text for role, text in self.before if role == "system"), "")


def base_method(before: str | tuple[Message, ...] = ()) -> Approach:
    """The base model, perhaps with messages before every question; a string is a system message, "" is none."""
    if isinstance(before, str):
        before = (("system", before),) if before else ()
    return Approach(language_model(), local_backend(), before)


def steered_method(layer: int, direction: Float[Tensor, " dim"], factor: float) -> Approach:
    """The base model with a direction added to its states after a block."""
    lm, digest = language_model(), hashlib.sha256(direction.float().cpu().numpy().tobytes()).hexdigest()[:16]
    backend = LocalBackend(lm, f"{local_backend().name}, steered {layer} {factor:g} {digest}")
    return Approach(lm, backend, inside=partial(steered, lm, layer, direction, factor))


def edit_method(lm: AdaptedModel, factor: float = 1.0, layers: Collection[int] | None = None) -> Approach:
    """An edited model with its adapter scaled by `factor`, in all blocks or in some."""
    backend = edited_backend(lm, factor, layers)
    return Approach(backend.lm, backend)


def fine_tuned_on_answers(concept: Concept, settings: EditSettings, seed: int = 0) -> AdaptedModel:
    """A baseline: the same adapter fine-tuned on as many tokens of the target answers, in as many steps; cached too.

    Raises:
        CourseError: as `fine_tune`.
    """
    lm = with_late_adapter(language_model(), settings.at, seed)
    tokens = [prompt_tokens(lm.tokenizer, example.plain) for example in concept.train]
    most, ends = settings.taught or settings.at.positions, bool(settings.taught)
    answers = [taught_tokens(lm, example.answer, most, ends) for example in concept.train]
    held = default_memo(), settings.retained, settings.fading
    retain = retain_of(lm, concept.retain.train, local_backend(), *held)
    run = {"prompts": tokens, "answers": answers, "retain": retain.texts, "seed": seed, **_facts_of(lm)}
    path, targets = _kept_in({**run, "settings": asdict(settings)}), Answered(lm, tokens, answers)
    fine_tune(lm, targets, retain, settings, settings.rounds * settings.steps, seed, path)
    return lm
