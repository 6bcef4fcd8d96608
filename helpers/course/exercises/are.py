"""Exercises of notebooks 10 to 15: concepts, the discriminator, edits."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import torch

from helpers.course.judge import Exercise, difference, normal_values

ARE_EXERCISES: dict[str, Exercise] = {}


# --- 10 ----------------------------------------------------------------------------------------------------


def balanced_accuracy(said, truth):
    return float((said[truth].mean() + 1 - said[~truth].mean()) / 2)


def _few_refused(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on 40 prompts of which few are refused."""
    rng = np.random.default_rng([10, seed])
    return rng.random(40) < 0.3, np.arange(40) < 7 + seed


ARE_EXERCISES["10.1"] = Exercise(
    "an accuracy that chance cannot inflate",
    balanced_accuracy,
    cases=_few_refused,
    hint="said[truth].mean() is the share of refused prompts that were called so; do the same for the others",
    wrong=(
        lambda said, truth: float((said == truth).mean()),
        lambda said, truth: float(said[truth].mean()),
        lambda said, truth: float((said[truth].mean() + said[~truth].mean()) / 2),
        lambda said, truth: float((truth[said].mean() + 1 - truth[~said].mean()) / 2),
        lambda said, truth: float(said[truth].mean() + 1 - said[~truth].mean()),
        lambda said, truth: 1 - balanced_accuracy(said, truth),
    ),
)


def share_of_gap(plain, patched, target):
    return float((patched - plain).mean() / (target - plain).mean())


def _patched(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain, gap = -8 + normal_values(seed, 12), 5 + 2 * normal_values(seed + 50, 12)
    return plain, plain + 0.6 * gap + 0.5 * normal_values(seed + 100, 12), plain + gap


ARE_EXERCISES["10.2"] = Exercise(
    "the share of the gap",
    share_of_gap,
    cases=_patched,
    hint="mean of patched - plain, divided by the mean of target - plain",
    wrong=(
        lambda plain, patched, target: float(((patched - plain) / (target - plain)).mean()),
        lambda plain, patched, target: float((patched - plain).mean()),
        lambda plain, patched, target: float(patched.mean() / target.mean()),
        lambda plain, patched, target: float((target - patched).mean() / (target - plain).mean()),
        lambda plain, patched, target: (patched - plain) / (target - plain),
        lambda plain, patched, target: float((target - plain).mean() / (patched - plain).mean()),
        lambda plain, patched, target: float(np.median(patched - plain) / np.median(target - plain)),
    ),
)


# --- 11 ----------------------------------------------------------------------------------------------------


def mean_fooling_loss(logits, kind):
    return float((np.logaddexp(logits[..., 0], logits[..., 1]) - logits[..., kind]).mean())


def _logits(seed: int) -> tuple[np.ndarray, int]:
    """Mild logits, and in the last case such that a naive softmax overflows."""
    return normal_values(seed, 3, 5, 2) * (500 if seed == 4 else 2), 1 - seed % 2


ARE_EXERCISES["11.1"] = Exercise(
    "the fooling loss",
    mean_fooling_loss,
    cases=_logits,
    hint="log of the sum of both exponentials (np.logaddexp) minus the logit of the wished-for kind, then the mean",
    wrong=(
        lambda logits, kind: mean_fooling_loss(logits, 1 - kind),
        lambda logits, kind: -mean_fooling_loss(logits, kind),
        lambda logits, kind: mean_fooling_loss(logits, kind) * logits.shape[0],
        lambda logits, kind: mean_fooling_loss(logits.mean(axis=0), kind),
        lambda logits, kind: float((logits[..., 1 - kind] - logits[..., kind]).mean()),
        lambda logits, kind: float(
            -np.log(np.exp(np.clip(logits, -50, 50))[..., kind] / np.exp(np.clip(logits, -50, 50)).sum(-1)).mean()
        ),
        lambda logits, kind: mean_fooling_loss(logits, 1),
    ),
)


def at_right_angles(rows, direction):
    u = direction / np.linalg.norm(direction)
    return rows - (rows @ u)[:, None] * u


ARE_EXERCISES["11.2"] = Exercise(
    "sideways",
    at_right_angles,
    cases=lambda seed: (normal_values(seed, 5, 7), (2 + seed) * normal_values(seed, 7)),
    hint="make the direction a unit vector u, then take (rows @ u)[:, None] * u off",
    wrong=(
        lambda rows, direction: rows - (rows @ direction)[:, None] * direction,
        lambda rows, direction: rows - at_right_angles(rows, direction),
        lambda rows, direction: 2 * at_right_angles(rows, direction) - rows,
        lambda rows, direction: rows - direction / np.linalg.norm(direction),
        lambda rows, direction: rows - (rows @ direction).mean() * direction / (direction @ direction),
        lambda rows, direction: (
            at_right_angles(rows, direction) / np.linalg.norm(at_right_angles(rows, direction), axis=1, keepdims=True)
        ),
    ),
)


# --- 12 ----------------------------------------------------------------------------------------------------


def _torch_normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(normal_values(seed, *shape), dtype=torch.float32)


def mean_distance_to_pairs(states, target, rows):
    paired = rows < len(target)
    apart = states[paired] - target[rows[paired]]
    return apart.square().mean(dim=1).sum() / len(rows)


def _states_with_pairs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of six of which some are paired with one of five; in the last case none is."""
    rows = np.random.default_rng([12, seed]).permutation(9)[:6] if seed < 4 else np.arange(5, 11)
    return _torch_normal(seed, 6, 4), _torch_normal(seed + 50, 5, 4), torch.as_tensor(rows)


ARE_EXERCISES["12.1"] = Exercise(
    "the distance to the paired states",
    mean_distance_to_pairs,
    cases=_states_with_pairs,
    hint="a mask of the paired rows; squared differences; mean over features, sum over prompts, over the batch size",
    wrong=(
        lambda states, target, rows: mean_distance_to_pairs(states, target, rows) * states.shape[1],
        lambda states, target, rows: (
            mean_distance_to_pairs(states, target, rows) * len(rows) / (rows < len(target)).sum().clamp(min=1)
        ),
        lambda states, target, rows: mean_distance_to_pairs(states, target, torch.arange(len(rows))),
        lambda states, target, rows: (states - target[rows % len(target)]).square().mean(),
        lambda states, target, rows: (states - target[rows.clamp(max=len(target) - 1)]).square().mean(),
        lambda states, target, rows: mean_distance_to_pairs(states, target, rows).sqrt(),
        lambda states, target, rows: mean_distance_to_pairs(states, target, rows) * len(rows),
    ),
)


def kl_over_answers(base, edited, counts):
    at_places = (base.exp() * (base - edited)).sum(dim=1)
    return torch.stack([part.mean() for part in at_places.split(counts)]).mean()


def _next_words(seed: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Log-probabilities of seven tokens along three answers of different lengths."""
    base, edited = (torch.log_softmax(2 * _torch_normal(seed + shift, 8, 7), dim=1) for shift in (0, 50))
    return base, edited, [1 + seed % 3, 5 - seed % 3, 2]


ARE_EXERCISES["12.2"] = Exercise(
    "stay as you were",
    kl_over_answers,
    cases=_next_words,
    hint="at each place the base model's probabilities times the difference of the logarithms; then two means",
    wrong=(
        lambda base, edited, counts: kl_over_answers(edited, base, counts),
        lambda base, edited, counts: -kl_over_answers(base, edited, counts),
        lambda base, edited, counts: (base.exp() * (base - edited)).sum(dim=1).mean(),
        lambda base, edited, counts: kl_over_answers(base, edited, counts) * len(counts),
        lambda base, edited, counts: kl_over_answers(base, edited, counts) / base.shape[1],
        lambda base, edited, counts: kl_over_answers(base, edited, counts[::-1]),
        lambda base, edited, counts: torch.stack(
            [p.square().sum(1).mean() for p in (base - edited).split(counts)]
        ).mean(),
    ),
)


class TinyEdit:
    """A generator of two numbers and a discriminator of two, for a loop to be tried on: each depends on the other."""

    def __init__(self, seed: int) -> None:
        self.place, self.seed = torch.nn.Parameter(_torch_normal(seed, 2)), seed

    def states_now(self):
        return self.place.detach() * torch.tensor([[1.0, 2.0], [3.0, 1.0]])

    def new_S(self, number: int):
        return torch.full((2,), 0.1 * (number + 1))

    def train_S(self, S, plain, number: int) -> None:
        S += plain.mean(dim=0) + number

    def batches(self, number: int):
        return list(torch.as_tensor(normal_values(10 * self.seed + number, 3, 2), dtype=torch.float32))

    def loss_of(self, S, batch):
        loss = ((self.place - S) * batch).square().sum()
        return loss, {"loss": loss.item(), "S": S[0].item(), "place": self.place[0].item()}


def adversarial_rounds(rounds, states_now, new_S, train_S, batches, loss_of, optimiser):
    curve = []
    for number in range(rounds):
        plain, S = states_now(), new_S(number)
        train_S(S, plain, number)
        for batch in batches(number):
            loss, facts = loss_of(S, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            curve.append({"round": number, **facts})
    return curve


def _tiny_edit(seed: int) -> tuple:
    edit = TinyEdit(seed)
    parts = edit.states_now, edit.new_S, edit.train_S, edit.batches, edit.loss_of
    return (3, *parts, torch.optim.SGD([edit.place], lr=0.02))


def _one_discriminator(rounds, states_now, new_S, train_S, batches, loss_of, optimiser):
    kept = new_S(0)
    return adversarial_rounds(rounds, states_now, lambda number: kept, train_S, batches, loss_of, optimiser)


def _one_reading(rounds, states_now, new_S, train_S, batches, loss_of, optimiser):
    plain = states_now()
    return adversarial_rounds(rounds, lambda: plain, new_S, train_S, batches, loss_of, optimiser)


def _never_replaced(rounds, states_now, new_S, train_S, batches, loss_of, optimiser):
    S = new_S(0)
    train_S(S, states_now(), 0)
    parts = states_now, lambda number: S, lambda *_: None
    return adversarial_rounds(rounds, *parts, batches, loss_of, optimiser)


def _gradients_add_up(rounds, states_now, new_S, train_S, batches, loss_of, optimiser):
    forgetful = SimpleNamespace(zero_grad=lambda: None, step=optimiser.step)
    return adversarial_rounds(rounds, states_now, new_S, train_S, batches, loss_of, forgetful)


ARE_EXERCISES["12.3"] = Exercise(
    "discriminator and adapter in turns",
    adversarial_rounds,
    cases=_tiny_edit,
    hint="per round: states, a new discriminator, train it; per batch: loss, gradients to zero, backward, step, terms",
    wrong=(
        _one_discriminator,
        _one_reading,
        _never_replaced,
        _gradients_add_up,
        lambda n, now, new, teach, batches, loss, opt: adversarial_rounds(
            n, now, new, lambda *_: None, batches, loss, opt
        ),
        lambda n, now, new, teach, batches, loss, opt: adversarial_rounds(n - 1, now, new, teach, batches, loss, opt),
        lambda n, now, new, teach, batches, loss, opt: adversarial_rounds(
            n, now, new, teach, lambda _: batches(0), loss, opt
        ),
        lambda *parts: [{k: v for k, v in row.items() if k != "round"} for row in adversarial_rounds(*parts)],
        lambda *parts: adversarial_rounds(*parts)[-1],
        lambda n, now, new, teach, batches, loss, opt: [
            {"round": r, **loss(new(r), batch)[1]} for r in range(n) for batch in batches(r)
        ],
    ),
)


def merge(weight, a, b, scale, factor):
    return weight + factor * scale * b @ a


def _adapter(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    return (
        normal_values(seed, 5, 4),
        normal_values(seed + 10, 2, 4),
        normal_values(seed + 20, 5, 2),
        1.5 + seed,
        0.5 + seed,
    )


ARE_EXERCISES["12.4"] = Exercise(
    "merge an adapter",
    merge,
    cases=_adapter,
    hint="B A has the shape of W; scale it twice, once by the adapter's own scale",
    wrong=(
        lambda weight, a, b, scale, factor: weight + scale * b @ a,
        lambda weight, a, b, scale, factor: weight + factor * b @ a,
        lambda weight, a, b, scale, factor: factor * (weight + scale * b @ a),
        lambda weight, a, b, scale, factor: weight - factor * scale * b @ a,
        lambda weight, a, b, scale, factor: factor * scale * b @ a,
        lambda weight, a, b, scale, factor: weight + factor * scale * (b[:, :1] @ a[:1]),
    ),
)


def strength_needed(strengths, effects, wanted):
    reached = np.flatnonzero(effects >= wanted)
    if len(reached) == 0:
        return np.nan
    above = reached[0]
    if above == 0:
        return float(strengths[0])
    part = (wanted - effects[above - 1]) / (effects[above] - effects[above - 1])
    return float(strengths[above - 1] + part * (strengths[above] - strengths[above - 1]))


def _dose_response(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A curve that falls again at the end; one case is reached at strength 0, another one never."""
    effects = np.array([0.1, 0.2 + 0.05 * seed, 0.6, 0.9, 0.3])
    return np.array([0.0, 0.25, 0.5, 1.0, 2.0]), effects, (0.5, 0.8, 0.05, 0.95, 0.7)[seed]


ARE_EXERCISES["12.5"] = Exercise(
    "the weakest strength that is enough",
    strength_needed,
    cases=_dose_response,
    hint="find the first strength that is enough; the wanted effect lies on the line from the point before it",
    wrong=(
        lambda strengths, effects, wanted: float(np.interp(wanted, effects, strengths)),
        lambda strengths, effects, wanted: float(strengths[np.argmax(effects >= wanted)]),
        lambda strengths, effects, wanted: float(strengths[np.argmax(effects)]),
        lambda strengths, effects, wanted: float(strengths[np.abs(effects - wanted).argmin()]),
        lambda strengths, effects, wanted: np.nan_to_num(strength_needed(strengths, effects, wanted)),
        lambda strengths, effects, wanted: strength_needed(strengths, effects - effects[0], wanted),
        lambda strengths, effects, wanted: strength_needed(np.arange(len(strengths)), effects, wanted),
        lambda strengths, effects, wanted: strength_needed(strengths[::-1], effects[::-1], wanted),
        lambda strengths, effects, wanted: (
            strength_needed(strengths, effects, wanted) if wanted > effects[0] else float(np.nan)
        ),
    ),
)


# --- 13 ----------------------------------------------------------------------------------------------------


def kappa(a, b):
    equal = (a == b).mean()
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float((equal - chance) / (1 - chance))


def _two_judges(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two judges on 40 answers; the second one differs in up to a third of them."""
    a, b = normal_values(seed, 2, 40) > 0.4
    return a, np.where(np.arange(40) % 3 == 0, b, a)


ARE_EXERCISES["13.1"] = Exercise(
    "Cohen's kappa",
    kappa,
    cases=_two_judges,
    hint="by chance both say yes with the product of their rates, and both no with the product of the rests",
    wrong=(
        lambda a, b: float((a == b).mean()),
        lambda a, b: float((a == b).mean() - a.mean() * b.mean()),
        lambda a, b: float(((a == b).mean() - a.mean() * b.mean()) / (1 - a.mean() * b.mean())),
        lambda a, b: float(((a == b).mean() - 0.5) / 0.5),
        lambda a, b: float(np.corrcoef(a, ~b)[0, 1]),
        lambda a, b: kappa(a, b) * (1 - (a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))),
    ),
)


def dominated(harmful, edgy):
    as_good = (harmful[:, None] >= harmful) & (edgy[:, None] <= edgy)
    better = (harmful[:, None] > harmful) | (edgy[:, None] < edgy)
    return (as_good & better).any(axis=0)


def _frontier(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rates = np.round(np.random.default_rng(seed).random((2, 9)), 1)
    rates[:, 0] = rates[:, 1]  # two methods that are level do not beat each other
    rates[:, 0:2] = [[0.95], [0.05]]
    return rates[0], rates[1]


ARE_EXERCISES["13.2"] = Exercise(
    "who is beaten",
    dominated,
    cases=_frontier,
    hint="at least as good in both and strictly better in one, for every pair; then any over the rivals",
    wrong=(
        lambda harmful, edgy: ((harmful[:, None] >= harmful) & (edgy[:, None] <= edgy)).any(axis=0),
        lambda harmful, edgy: ((harmful[:, None] > harmful) & (edgy[:, None] < edgy)).any(axis=0),
        lambda harmful, edgy: dominated(harmful, -edgy),
        lambda harmful, edgy: dominated(-harmful, edgy),
        lambda harmful, edgy: ~dominated(harmful, edgy),
        lambda harmful, edgy: harmful < harmful.max(),
    ),
)


# --- 14 ----------------------------------------------------------------------------------------------------


def verdicts_on_facts(scores, yes, no):
    said = np.array([row[yes] > row[no] for row in scores])
    pairs = said.reshape(-1, 2)
    return said, (pairs == np.array([True, False])).mean(axis=1)


def _answer_tables(seed: int) -> tuple[np.ndarray, int, int]:
    """Logits of nine tokens behind the statements of five facts; neither word need be the likeliest token."""
    return 2 * normal_values(seed, 10, 9), 2 + seed % 3, 6 - seed % 2


def _half_said_halves(said):
    true, false = np.split(said, 2)
    return (true.astype(float) + ~false) / 2


ARE_EXERCISES["14.1"] = Exercise(
    "verdicts and accuracy",
    verdicts_on_facts,
    cases=_answer_tables,
    hint="compare two columns; every other row is of a true statement; right is Yes there, and No in the rows between",
    wrong=(
        lambda scores, yes, no: verdicts_on_facts(scores, no, yes),
        lambda scores, yes, no: (scores.argmax(axis=1) == yes, verdicts_on_facts(scores, yes, no)[1]),
        lambda scores, yes, no: (scores[:, yes] > 0, verdicts_on_facts(scores, yes, no)[1]),
        lambda scores, yes, no: (scores[:, yes] > scores[:, no], (scores[:, yes] > scores[:, no]).astype(float)),
        lambda scores, yes, no: (verdicts_on_facts(scores, yes, no)[0], verdicts_on_facts(scores, yes, no)[1].mean()),
        lambda scores, yes, no: (
            verdicts_on_facts(scores, yes, no)[0],
            _half_said_halves(verdicts_on_facts(scores, yes, no)[0]),
        ),
        lambda scores, yes, no: (
            verdicts_on_facts(scores, yes, no)[0],
            verdicts_on_facts(scores, yes, no)[0].reshape(-1, 2).mean(axis=1),
        ),
        lambda scores, yes, no: (
            verdicts_on_facts(scores, yes, no)[0],
            (verdicts_on_facts(scores, yes, no)[1] == 1).astype(float),
        ),
        lambda scores, yes, no: verdicts_on_facts(scores, yes, no)[1],
    ),
)


def five_marks(statement, negation):
    marks = [len(statement.split()), len(statement), sum(letter == "," for letter in statement)]
    return [float(mark) for mark in (*marks, bool(negation.findall(statement)), any(map(str.isdigit, statement)))]


def _statements(seed: int) -> tuple[str, re.Pattern]:
    """A sentence of its own for each seed; two negations in one, and a word that only looks like one in another."""
    texts = (
        "Snow is white, cold and wet.",
        "It is not true, and never was, that fish have 2 legs.",
        "Nothing  in the notebook of 1999 says so.",
        "NO whale is a fish.",
        "Tea grows on bushes, not on trees, in 40 countries.",
    )
    return texts[seed], re.compile(r"\b(not|no|never)\b", re.IGNORECASE)


ARE_EXERCISES["14.2"] = Exercise(
    "the surface of a sentence",
    five_marks,
    cases=_statements,
    hint="len of split, len, count of commas, and whether negation.search and re.search of a digit find something",
    wrong=(
        lambda text, negation: [float(len(text.split(" "))), *five_marks(text, negation)[1:]],
        lambda text, negation: [*five_marks(text, negation)[:3], float(len(negation.findall(text))), 0.0],
        lambda text, negation: [*five_marks(text, negation)[:3], float("no" in text), five_marks(text, negation)[4]],
        lambda text, negation: [*five_marks(text, negation)[:4], float(sum(map(str.isdigit, text)))],
        lambda text, negation: [*five_marks(text, negation)[:1], float(len(text.replace(" ", ""))), 0.0, 0.0, 0.0],
        lambda text, negation: [*five_marks(text, negation)[:3], float(negation.match(text) is not None), 0.0],
        lambda text, negation: five_marks(text, negation)[::-1],
        lambda text, negation: np.array(five_marks(text, negation)),
    ),
)


class TowardsTrue:
    """A probe for checks: how far along the difference of two means, from the point between them."""

    def __init__(self, true, false) -> None:
        self.along, self.middle = true.mean(axis=0) - false.mean(axis=0), (true.mean(axis=0) + false.mean(axis=0)) / 2

    def decision_function(self, features):
        return (features - self.middle) @ self.along

    def predict(self, features):
        return (self.decision_function(features) > 0).astype(int)


def order_of_pairs(train, stop, alike, fit):
    scores = fit(train[0], train[1]).decision_function(np.concatenate(stop)).reshape(2, -1)
    won = np.diff(scores, axis=0)[0] < 0
    return {"all": float(np.mean(won)), "alike": float(np.mean(won[np.flatnonzero(alike)]))}


def _pairs_of_states(seed: int) -> tuple:
    """Twelve facts to fit on and sixteen to judge, where a fact's own place matters more than whether it is true."""
    rng = np.random.default_rng([143, seed])
    parts = []
    for facts in (12, 16):
        place = 2 * rng.normal(size=(facts, 4))
        parts.append(tuple(place + shift + 0.7 * rng.normal(size=(facts, 4)) for shift in (0.5, 0.0)))
    return *parts, np.arange(16) % 3 == seed % 3, TowardsTrue


def _by_threshold(train, stop, alike, fit):
    probe = fit(*train)
    right = (np.append(probe.predict(stop[0]), 1 - probe.predict(stop[1])) == 1).reshape(2, -1).mean(axis=0)
    return {"all": float(right.mean()), "alike": float(right[alike].mean())}


ARE_EXERCISES["14.3"] = Exercise(
    "which of two statements is true?",
    order_of_pairs,
    cases=_pairs_of_states,
    hint="fit(*train); decision_function of both tables of stop; true above false, its mean, and its mean where alike",
    wrong=(
        _by_threshold,
        lambda train, stop, alike, fit: order_of_pairs(stop, stop, alike, fit),
        lambda train, stop, alike, fit: order_of_pairs(train, stop[::-1], alike, fit),
        lambda train, stop, alike, fit: order_of_pairs(train, stop, ~alike, fit),
        lambda train, stop, alike, fit: order_of_pairs(train, train, alike[:12], fit),
        lambda train, stop, alike, fit: order_of_pairs(train, stop, alike, fit)["all"],
        lambda train, stop, alike, fit: {
            "all": order_of_pairs(train, stop, alike, fit)["all"],
            "alike": order_of_pairs(train, stop, alike, fit)["alike"] * float(alike.mean()),
        },
        lambda train, stop, alike, fit: {
            name: float(fit(*train).predict(stop[0][rows]).mean())
            for name, rows in (("all", alike | True), ("alike", alike))
        },
    ),
)


class TinyTable:
    """Stands for a model: logits of seven next tokens that depend on the last token and on how many there are."""

    def __init__(self, seed: int) -> None:
        self.weights = torch.nn.Parameter(3 * _torch_normal(seed, 7, 7))

    def next_logits(self, tokens):
        return self.weights[tokens[-1]] + 0.1 * len(tokens) * self.weights[0]


def mean_verdict_loss(next_logits, texts, verdicts):
    logits = torch.stack([next_logits(text) for text in texts])
    return torch.nn.functional.cross_entropy(logits, torch.tensor([verdict[0] for verdict in verdicts]))


def _stated_verdicts(seed: int) -> tuple:
    texts = np.random.default_rng([144, seed]).integers(7, size=(4, 3)).tolist()
    return (
        TinyTable(seed).next_logits,
        [text[: 1 + n % 3] for n, text in enumerate(texts)],
        [[5, 2], [3], [5, 2], [3, 1]],
    )


def _same_loss_and_gradient(answer, expected):
    """What differs in value, or that no gradient flows."""
    if isinstance(answer, torch.Tensor) and not answer.requires_grad:
        return "the result has no gradient: keep tensors until the end"
    return difference(answer, expected)


def _all_tokens_of_verdicts(next_logits, texts, verdicts):
    losses = [-next_logits(text).log_softmax(-1)[verdict].sum() for text, verdict in zip(texts, verdicts, strict=True)]
    return torch.stack(losses).mean()


ARE_EXERCISES["14.4"] = Exercise(
    "the loss of a verdict",
    mean_verdict_loss,
    cases=_stated_verdicts,
    hint="for each prompt: next_logits(text).log_softmax(dim=-1) at the verdict's first token; minus, stack, mean",
    compare=_same_loss_and_gradient,
    wrong=(
        _all_tokens_of_verdicts,
        lambda f, texts, verdicts: -mean_verdict_loss(f, texts, verdicts),
        lambda f, texts, verdicts: mean_verdict_loss(f, texts, verdicts) * len(texts),
        lambda f, texts, verdicts: mean_verdict_loss(f, texts, [v[-1:] for v in verdicts]),
        lambda f, texts, verdicts: -torch.stack([f(t)[v[0]] for t, v in zip(texts, verdicts, strict=True)]).mean(),
        lambda f, texts, verdicts: torch.tensor(mean_verdict_loss(f, texts, verdicts).item()),
        lambda f, texts, verdicts: mean_verdict_loss(f, texts, verdicts).item(),
        lambda f, texts, verdicts: torch.stack(
            [1 - f(t).softmax(-1)[v[0]] for t, v in zip(texts, verdicts, strict=True)]
        ).mean(),
        lambda f, texts, verdicts: (
            -torch.stack([f(t).softmax(-1)[v[0]] for t, v in zip(texts, verdicts, strict=True)]).mean().log()
        ),
    ),
)


def verdict_directions(target, plain, is_yes):
    apart = target - plain
    yes, no = (apart[torch.nonzero(rows)[:, 0]].mean(dim=0) for rows in (is_yes, ~is_yes))
    return yes, no, float(torch.nn.functional.cosine_similarity(yes, no, dim=0))


def _target_and_plain(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of nine prompts that moved the same way, and a little by their verdict; more Yes than No."""
    is_yes = torch.as_tensor(np.random.default_rng([145, seed]).permutation(9) < 6)
    plain, shared, verdict = _torch_normal(seed, 9, 5), _torch_normal(seed, 5), _torch_normal(seed + 50, 5)
    signs = torch.where(is_yes, 1.0, -1.0)[:, None]
    return plain + 2 * shared + 0.5 * signs * verdict + 0.2 * _torch_normal(seed + 90, 9, 5), plain, is_yes


def _with_unit_length(target, plain, is_yes):
    yes, no, cosine = verdict_directions(target, plain, is_yes)
    return yes / yes.norm(), no / no.norm(), cosine


ARE_EXERCISES["14.5"] = Exercise(
    "one direction or two?",
    verdict_directions,
    cases=_target_and_plain,
    hint="mean of target minus mean of plain, once with the mask and once with ~mask; dot product over both lengths",
    wrong=(
        _with_unit_length,
        lambda target, plain, is_yes: verdict_directions(plain, target, is_yes),
        lambda target, plain, is_yes: verdict_directions(target, plain, ~is_yes),
        lambda target, plain, is_yes: verdict_directions(target, torch.zeros_like(plain), is_yes),
        lambda target, plain, is_yes: (
            *verdict_directions(target, plain, is_yes)[:2],
            float(torch.dot(*verdict_directions(target, plain, is_yes)[:2])),
        ),
        lambda target, plain, is_yes: verdict_directions(target - target[is_yes].mean(dim=0), plain, is_yes),
        lambda target, plain, is_yes: (
            target[is_yes].mean(dim=0) - target[~is_yes].mean(dim=0),
            *verdict_directions(target, plain, is_yes)[1:],
        ),
        lambda target, plain, is_yes: (
            *verdict_directions(target, plain, is_yes)[:2],
            torch.tensor(verdict_directions(target, plain, is_yes)[2]),
        ),
        lambda target, plain, is_yes: tuple(
            part if n == 2 else part * int((is_yes if n == 0 else ~is_yes).sum())
            for n, part in enumerate(verdict_directions(target, plain, is_yes))
        ),
    ),
)


def score_of_answer(logits, start, tokens):
    about = logits[start - 1 : start - 1 + len(tokens)]
    return float((about[range(len(tokens)), tokens] - about.logsumexp(dim=1)).sum())


def _prompt_and_answer(seed: int) -> tuple[torch.Tensor, int, list[int]]:
    """Logits of six tokens along a prompt of two to four tokens and an answer of one to five."""
    start, length = 2 + seed % 3, 1 + seed
    tokens = np.random.default_rng([146, seed]).integers(6, size=length).tolist()
    return 2 * _torch_normal(seed, start + length, 6), start, tokens


ARE_EXERCISES["14.6"] = Exercise(
    "how likely is this answer?",
    score_of_answer,
    cases=_prompt_and_answer,
    hint="log_softmax; row start - 1 scores the first token of the answer, the next row the second one; add them",
    wrong=(
        lambda logits, start, tokens: score_of_answer(logits, start + 1, tokens[: len(logits) - start]),
        lambda logits, start, tokens: score_of_answer(logits, start, tokens) / len(tokens),
        lambda logits, start, tokens: -score_of_answer(logits, start, tokens),
        lambda logits, start, tokens: float(logits[range(start - 1, start - 1 + len(tokens)), tokens].sum()),
        lambda logits, start, tokens: float(np.exp(score_of_answer(logits, start, tokens))),
        lambda logits, start, tokens: score_of_answer(logits, 1, tokens),
        lambda logits, start, tokens: score_of_answer(logits, start, tokens[:1]),
        lambda logits, start, tokens: torch.tensor(score_of_answer(logits, start, tokens)),
        lambda logits, start, tokens: score_of_answer(logits, start, tokens[::-1]),
    ),
)


def mc(scores, correct):
    p = np.exp(scores - scores.max())
    return bool(scores[0] > scores[~correct].max()), float(p[correct].sum() / p.sum())


def _choices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of answers, the best one first; in the last case so low that a plain exp gives 0."""
    rng = np.random.default_rng([14, seed])
    correct = np.array([True, *rng.permutation([True, False, False])])
    return rng.normal(size=4) - (2000 if seed == 4 else 1), correct


ARE_EXERCISES["14.7"] = Exercise(
    "multiple choice",
    mc,
    cases=_choices,
    hint="p = np.exp(scores - scores.max()); MC1 looks at scores[0] and scores[~correct], MC2 at p[correct]",
    wrong=(
        lambda scores, correct: (mc(scores, correct)[0], float(correct.mean())),
        lambda scores, correct: (mc(scores, ~correct)[0] if not correct.all() else True, mc(scores, correct)[1]),
        lambda scores, correct: (mc(scores, correct)[0], mc(scores, ~correct)[1]),
        lambda scores, correct: (bool(scores.argmax() == 0), mc(scores, correct)[1]),
        lambda scores, correct: (
            mc(scores, correct)[0],
            float(np.exp(scores)[correct].sum() / np.exp(scores).sum()) if scores[0] > -1000 else 0.0,
        ),
        lambda scores, correct: (mc(scores, correct)[0], float(scores[correct].sum() / scores.sum())),
    ),
)


def by_two_yardsticks(log_p, lengths):
    (one, other), (tokens, others) = log_p.T, lengths.T
    return one * others > other * tokens, one > other


def _endings(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of both endings of thirty pairs, of three to twelve tokens each."""
    lengths = np.random.default_rng([148, seed]).integers(3, 13, size=(30, 2))
    return -lengths * (2 + 0.5 * normal_values(seed, 30, 2)), lengths


ARE_EXERCISES["14.8"] = Exercise(
    "two yardsticks",
    by_two_yardsticks,
    cases=_endings,
    hint="divide log_p by lengths and compare the columns; then compare the columns of log_p itself",
    wrong=(
        lambda log_p, lengths: by_two_yardsticks(log_p, lengths)[::-1],
        lambda log_p, lengths: by_two_yardsticks(-log_p, lengths),
        lambda log_p, lengths: by_two_yardsticks(log_p, lengths[:, ::-1]),
        lambda log_p, lengths: by_two_yardsticks(log_p[:, ::-1], lengths[:, ::-1]),
        lambda log_p, lengths: by_two_yardsticks(log_p, np.ones_like(lengths)),
        lambda log_p, lengths: tuple(which.mean() for which in by_two_yardsticks(log_p, lengths)),
        lambda log_p, lengths: (by_two_yardsticks(log_p, lengths)[0], lengths[:, 0] < lengths[:, 1]),
        lambda log_p, lengths: (log_p[:, 0] * lengths[:, 0] > log_p[:, 1] * lengths[:, 1], log_p[:, 0] > log_p[:, 1]),
        lambda log_p, lengths: tuple(np.logical_and(*by_two_yardsticks(log_p, lengths)) for _ in range(2)),
    ),
)


def way_to_fair(before, after):
    if before == 0.5:
        return 0.0 if after == 0.5 else -np.inf
    return 1 - abs(after - 0.5) / abs(before - 0.5)


ARE_EXERCISES["14.9"] = Exercise(
    "halfway to fair",
    way_to_fair,
    cases=lambda seed: [(0.6, 0.45), (0.4, 0.45), (0.5, 0.5), (0.7, 0.8), (0.5, 0.6)][seed],
    hint="one minus the distance to one half afterwards, divided by the distance before",
    wrong=(
        lambda before, after: (before - after) / (before - 0.5) if before != 0.5 else 0.0,
        lambda before, after: 1 - abs(after - 0.5) / abs(before - 0.5) if before != 0.5 else 0.0,
        lambda before, after: abs(after - 0.5) / abs(before - 0.5) if before != 0.5 else 0.0,
        lambda before, after: abs(before - 0.5) - abs(after - 0.5),
        lambda before, after: max(0.0, way_to_fair(before, after)),
        lambda before, after: 1 - abs(after - before) / abs(before - 0.5) if before != 0.5 else 0.0,
    ),
)


# --- 15 ----------------------------------------------------------------------------------------------------


def whitened_rows(states, n):
    standard = (states - states.mean(axis=0)) / states.std(axis=0)
    lengths, axes = np.linalg.eigh(standard.T @ standard / len(states))
    largest = np.argsort(-lengths)[:n]
    return np.hstack([np.ones((len(states), 1)), standard @ axes[:, largest] / np.sqrt(lengths[largest])])


def _but_for_signs(answer, expected):
    """What differs when each column behind the first one may be turned round."""
    if isinstance(answer, np.ndarray) and answer.shape == expected.shape:
        signs = np.where((answer * expected).sum(axis=0) < 0, -1.0, 1.0)
        answer = answer * np.concatenate([[1.0], signs[1:]])
    return difference(answer, expected)


def _uneven_states(seed: int) -> tuple[np.ndarray, int]:
    """States of 30 prompts in six dimensions, of different mean and spread, correlated in part."""
    mixed = normal_values(seed, 30, 6) @ (np.eye(6) + 0.5 * normal_values(seed, 6, 6))
    return mixed * np.array([5.0, 3.0, 2.0, 1.0, 0.5, 0.2]) + 3 * normal_values(seed, 6), 2 + seed % 3


ARE_EXERCISES["15.1"] = Exercise(
    "the row of a prompt",
    whitened_rows,
    cases=_uneven_states,
    hint="standardise, SVD, the first n columns of its first factor times the root of the number of prompts, and a 1",
    compare=_but_for_signs,
    wrong=(
        lambda states, n: whitened_rows(states, n)[:, 1:],
        lambda states, n: whitened_rows(states, n - 1),
        lambda states, n: np.roll(whitened_rows(states, n), -1, axis=1),
        lambda states, n: np.column_stack(
            [np.ones(len(states)), whitened_rows(states, n)[:, 1:] / np.sqrt(len(states))]
        ),
        lambda states, n: np.column_stack(
            [np.ones(len(states)), _principal((states - states.mean(axis=0)) / states.std(axis=0), n)]
        ),
        lambda states, n: np.column_stack([np.ones(len(states)), _whitened(states - states.mean(axis=0), n)]),
        lambda states, n: np.column_stack([np.ones(len(states)), _whitened(states / states.std(axis=0), n)]),
        lambda states, n: np.column_stack(
            [
                np.ones(len(states)),
                _whitened((states - states.mean(axis=1, keepdims=True)) / states.std(axis=1, keepdims=True), n),
            ]
        ),
        lambda states, n: _whitened(np.column_stack([np.ones(len(states)), states]), n + 1),
    ),
)


def _principal(moved: np.ndarray, n: int) -> np.ndarray:
    left, lengths, _ = np.linalg.svd(moved, full_matrices=False)
    return left[:, :n] * lengths[:n]


def _whitened(moved: np.ndarray, n: int) -> np.ndarray:
    return np.sqrt(len(moved)) * np.linalg.svd(moved, full_matrices=False)[0][:, :n]


def multiplied_shares(rows, steps):
    q = np.ones(len(rows)) / len(rows)
    for _ in range(steps):
        inverse = np.linalg.inv(np.einsum("i,ij,ik->jk", q, rows, rows))
        q = q * np.einsum("ij,jk,ik->i", rows, inverse, rows) / rows.shape[1]
    return q


def _prompts_and_steps(seed: int) -> tuple[np.ndarray, int]:
    """Rows that begin with a 1, and 1 to 9 steps."""
    return np.column_stack([np.ones(20), normal_values(seed, 20, 3)]), 1 + 2 * seed


def _leverages_once(rows, steps):
    first = multiplied_shares(rows, 1) * len(rows)
    return first**steps / len(rows)


def _by_the_worst_prompt(rows, steps):
    q = np.ones(len(rows)) / len(rows)
    for _ in range(steps):
        sigma = rows.T @ (q[:, None] * rows)
        leverages = (rows @ np.linalg.inv(sigma) * rows).sum(axis=1)
        q = q * leverages / leverages.max()
    return q


ARE_EXERCISES["15.2"] = Exercise(
    "how many labels each prompt gets",
    multiplied_shares,
    cases=_prompts_and_steps,
    hint="begin with 1 / number of prompts; in a loop: times leverages_naive(rows, q), divided by rows.shape[1]",
    wrong=(
        _leverages_once,
        _by_the_worst_prompt,
        lambda rows, steps: np.ones(len(rows)) / len(rows),
        lambda rows, steps: multiplied_shares(rows, steps + 1),
        lambda rows, steps: multiplied_shares(rows, steps) * (rows.shape[1] / (rows.shape[1] - 1)) ** steps,
        lambda rows, steps: multiplied_shares(rows, steps) * len(rows),
        lambda rows, steps: multiplied_shares(rows[:, 1:], steps),
        lambda rows, steps: multiplied_shares(rows, steps) * rows.shape[1] ** steps,
        lambda rows, steps: multiplied_shares(rows, steps).round(2),
    ),
)


def swapped_prompts(rows, chosen, rounds=100, score=np.max):
    def known_badly(some):
        some = list(some)
        return score(np.einsum("ij,jk,ik->i", rows, np.linalg.inv(rows[some].T @ rows[some]), rows) * len(some))

    here = list(chosen)
    for _ in range(rounds):
        start = list(here)
        for place in range(len(here)):
            others = [new for new in range(len(rows)) if new not in here]
            worst = [known_badly([*here[:place], new, *here[place + 1 :]]) for new in others]
            best = others[int(np.argmin(worst))]
            if min(worst) < known_badly(here) * (1 - 1e-6):
                here[place] = best
        if here == start:
            break
    return np.sort(here)


def _prompts_on_a_list(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin with a 1, and a list of six in no order."""
    rows = np.column_stack([np.ones(24), normal_values(seed, 24, 2)])
    return rows, np.random.default_rng([153, seed]).choice(24, 6, replace=False)


def _one_prompt_twice(rows, chosen):
    found = swapped_prompts(rows, chosen)
    return np.sort([*found[1:], found[-1]])


ARE_EXERCISES["15.3"] = Exercise(
    "exchange prompts",
    swapped_prompts,
    cases=_prompts_on_a_list,
    hint="while something changes: for each place the largest leverage with every other prompt there; keep the best",
    wrong=(
        lambda rows, chosen: np.sort(chosen),
        lambda rows, chosen: swapped_prompts(rows, chosen, rounds=1),
        lambda rows, chosen: swapped_prompts(rows, chosen, score=np.mean),
        lambda rows, chosen: swapped_prompts(rows, chosen, score=np.median),
        lambda rows, chosen: swapped_prompts(rows, chosen, score=lambda leverages: -leverages.max()),
        lambda rows, chosen: swapped_prompts(rows[:, 1:], chosen),
        lambda rows, chosen: swapped_prompts(rows, chosen)[::-1],
        lambda rows, chosen: swapped_prompts(rows, chosen)[:-1],
        _one_prompt_twice,
    ),
)


def least_explained(rows, k, noise):
    kernel = rows @ rows.T + noise * (rows**2).sum(axis=1).mean() * np.eye(len(rows))
    chosen: list[int] = []
    for _ in range(k):
        known = kernel[:, chosen]
        explained = known @ np.linalg.inv(kernel[np.ix_(chosen, chosen)]) @ known.T
        left = np.diag(kernel - explained)
        chosen.append(max((row for row in range(len(rows)) if row not in chosen), key=left.__getitem__))
    return np.array(sorted(chosen))


def _diverse(seed: int) -> tuple[np.ndarray, int, float]:
    """Fewer labels than unknowns in the first case, and more in the others; much noise in the last one."""
    rows = np.column_stack([np.ones(30), normal_values(seed, 30, 4) * np.array([3.0, 2.0, 1.0, 0.5])])
    return rows, 4 + 2 * seed, 1e-3 if seed < 4 else 0.3


def _longest(rows, k, noise):
    return np.sort(np.argsort(-(rows**2).sum(axis=1), kind="stable")[:k])


def _by_covariance_with_last(rows, k, noise):
    kernel = rows @ rows.T
    chosen = [int(kernel.diagonal().argmax())]
    while len(chosen) < k:
        nearness = np.abs(kernel[chosen[-1]]).copy()
        nearness[chosen] = np.inf
        chosen.append(int(nearness.argmin()))
    return np.sort(chosen)


ARE_EXERCISES["15.4"] = Exercise(
    "greedy diversity",
    least_explained,
    cases=_diverse,
    hint="k rounds: the largest variance among those not taken; then take the outer product of its column off",
    wrong=(
        _longest,
        _by_covariance_with_last,
        lambda rows, k, noise: least_explained(rows[:, 1:], k, noise),
        lambda rows, k, noise: least_explained(rows / np.linalg.norm(rows, axis=1, keepdims=True), k, noise),
        lambda rows, k, noise: least_explained(rows, k, 1.0),
        lambda rows, k, noise: least_explained(rows, k + 1, noise),
        lambda rows, k, noise: least_explained(rows, k, noise)[::-1],
        lambda rows, k, noise: np.arange(k),
        lambda rows, k, noise: np.repeat(least_explained(rows, 1, noise), k),
    ),
)


class NearerMean:
    """A probe for checks: which of two means is nearer."""

    def __init__(self, target, plain) -> None:
        self.means = np.stack([plain.mean(axis=0), target.mean(axis=0)])

    def predict(self, states):
        return np.linalg.norm(states[:, None] - self.means, axis=2).argmin(axis=1)


def _said_right(states, labels, taught, fit):
    kinds = {bool(labels[row]) for row in taught}
    if len(kinds) == 1:
        return (labels == kinds.pop()).astype(float)
    probe = fit(states[[row for row in taught if labels[row]]], states[[row for row in taught if not labels[row]]])
    return (probe.predict(states).astype(bool) == labels).astype(float)


def judged_elsewhere(states, labels, members, chosen, fit):
    at_hand = np.isin(np.arange(len(labels)), members)
    return np.where(at_hand, np.nan, _said_right(states, labels, members[chosen], fit))


def _project(seed: int) -> tuple:
    """Forty prompts, fifteen at hand, six labelled; in the last two cases all labels are alike."""
    rng = np.random.default_rng([155, seed])
    labels = rng.random(40) < 0.5
    states, members = normal_values(seed, 40, 3) + 0.8 * labels[:, None], rng.permutation(40)[:15]
    order = np.argsort(labels[members], kind="stable")
    chosen = rng.choice(15, 6, replace=False) if seed < 3 else order[:3] if seed == 3 else order[-3:]
    return states, labels, members, chosen, NearerMean


def _never_alike(states, labels, members, chosen, fit):
    if len(set(labels[members[chosen]])) == 1:
        return np.where(np.isin(np.arange(len(labels)), members), np.nan, 0.5)
    return judged_elsewhere(states, labels, members, chosen, fit)


def _judged_by_all(states, labels, members, chosen, fit):
    return judged_elsewhere(states, labels, members, np.arange(len(members)), fit)


def _labelled_left_out(states, labels, members, chosen, fit):
    return judged_elsewhere(states, labels, members[chosen], np.arange(len(chosen)), fit)


def _nothing_left_out(states, labels, members, chosen, fit):
    return _said_right(states, labels, members[chosen], fit)


def _counted_among_all(states, labels, members, chosen, fit):
    at_hand = np.isin(np.arange(len(labels)), members)
    return np.where(at_hand, np.nan, _said_right(states, labels, chosen, fit))


ARE_EXERCISES["15.5"] = Exercise(
    "what the labels are worth",
    judged_elsewhere,
    cases=_project,
    hint="members[chosen] are labelled; fit on their two kinds, or say the one label; predict, compare, nan at hand",
    wrong=(
        _never_alike,
        _judged_by_all,
        _labelled_left_out,
        _nothing_left_out,
        lambda states, labels, members, chosen, fit: judged_elsewhere(states, labels, members, chosen % 6, fit),
        _counted_among_all,
        lambda states, labels, members, chosen, fit: judged_elsewhere(
            states, labels, members, chosen, lambda target, plain: fit(plain, target)
        ),
        lambda states, labels, members, chosen, fit: np.nan_to_num(
            judged_elsewhere(states, labels, members, chosen, fit)
        ),
        lambda states, labels, members, chosen, fit: 1 - judged_elsewhere(states, labels, members, chosen, fit),
        lambda states, labels, members, chosen, fit: np.nanmean(judged_elsewhere(states, labels, members, chosen, fit)),
    ),
)


def accuracy_of_worst_group(right, groups):
    names, numbers = np.unique(groups, return_inverse=True)
    known = ~np.isnan(right)
    hits = np.bincount(numbers[known], right[known], minlength=len(names))
    return float((hits / np.bincount(numbers[known], minlength=len(names))).min())


def _groups_of_answers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on four groups of different sizes, not all of them judged; the rarest is not always the worst."""
    rng = np.random.default_rng([15, seed])
    groups = np.repeat(list("abcd"), [20, 12, 7, 5])
    chance = np.repeat(rng.permutation([0.9, 0.8, 0.6, 0.3]), [20, 12, 7, 5])
    right = (rng.random(len(groups)) < chance).astype(float)
    right[[1, 5, 11, 22, 33, 40]] = np.nan
    order = rng.permutation(len(groups))
    return right[order], groups[order]


ARE_EXERCISES["15.6"] = Exercise(
    "the worst group",
    accuracy_of_worst_group,
    cases=_groups_of_answers,
    hint="one np.nanmean per group, then the smallest of them",
    wrong=(
        lambda right, groups: float(np.nanmean(right)),
        lambda right, groups: float(max(np.nanmean(right[groups == name]) for name in np.unique(groups))),
        lambda right, groups: float(np.mean([np.nanmean(right[groups == name]) for name in np.unique(groups)])),
        lambda right, groups: float(min(right[groups == name].mean() for name in np.unique(groups))),
        lambda right, groups: float(min(np.nan_to_num(right)[groups == name].mean() for name in np.unique(groups))),
        lambda right, groups: float(min(np.nansum(right[groups == name]) for name in np.unique(groups))),
        lambda right, groups: float(min(np.nansum(right[groups == name]) / len(right) for name in np.unique(groups))),
        lambda right, groups: 1 - accuracy_of_worst_group(right, groups),
        lambda right, groups: float(np.nanmin(right)),
    ),
)


def worst_known(rows, chosen):
    inverse = np.linalg.inv(rows[chosen].T @ rows[chosen] + np.eye(rows.shape[1]))
    variance = (rows @ inverse * rows).sum(axis=1)
    return int(variance.argmax()), float(variance.max())


def _some_labelled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that begin with a 1, and five of them to label."""
    rows = np.column_stack([np.ones(30), 2 * normal_values(seed, 30, 3)])
    return rows, np.random.default_rng([15, seed]).choice(30, 5, replace=False)


ARE_EXERCISES["15.7"] = Exercise(
    "the worst-known prompt",
    worst_known,
    cases=_some_labelled,
    hint="invert X_c'X_c + I, make x' inverse x of every row, then argmax and max",
    wrong=(
        lambda rows, chosen: worst_known(rows[chosen], np.arange(len(chosen))),
        lambda rows, chosen: worst_known(rows, np.arange(len(rows))),
        lambda rows, chosen: worst_known(rows, chosen)[::-1],
        lambda rows, chosen: worst_known(rows, chosen)[1],
        lambda rows, chosen: (worst_known(rows, chosen)[0], worst_known(rows, chosen)[1] ** 0.5),
        lambda rows, chosen: (worst_known(rows, chosen)[0], worst_known(rows, chosen)[1] * len(chosen)),
        lambda rows, chosen: worst_known(rows * len(chosen) ** -0.5, chosen),
    ),
)
