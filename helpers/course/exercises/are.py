"""Exercises of notebooks 10 to 15: concepts, the discriminator, edits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from helpers.course.judge import Exercise, normal_values

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


def mc(scores, correct):
    p = np.exp(scores - scores.max())
    return bool(scores[0] > scores[~correct].max()), float(p[correct].sum() / p.sum())


def _choices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of answers, the best one first; in the last case so low that a plain exp gives 0."""
    rng = np.random.default_rng([14, seed])
    correct = np.array([True, *rng.permutation([True, False, False])])
    return rng.normal(size=4) - (2000 if seed == 4 else 1), correct


ARE_EXERCISES["14.1"] = Exercise(
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


def way_to_fair(before, after):
    if before == 0.5:
        return 0.0 if after == 0.5 else -np.inf
    return 1 - abs(after - 0.5) / abs(before - 0.5)


ARE_EXERCISES["14.2"] = Exercise(
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


def lowest_group(right, groups):
    return float(min(right[groups == name].mean() for name in np.unique(groups)))


def _groups_of_answers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers in four groups of different sizes; the rarest is not always the worst."""
    rng = np.random.default_rng([15, seed])
    groups = np.repeat(list("abcd"), [20, 12, 7, 5])
    chance = np.repeat(rng.permutation([0.9, 0.8, 0.6, 0.3]), [20, 12, 7, 5])
    return rng.random(len(groups)) < chance, groups


ARE_EXERCISES["15.1"] = Exercise(
    "the worst group",
    lowest_group,
    cases=_groups_of_answers,
    hint="one mean per group, then the smallest of them",
    wrong=(
        lambda right, groups: float(right.mean()),
        lambda right, groups: float(max(right[groups == name].mean() for name in np.unique(groups))),
        lambda right, groups: float(np.mean([right[groups == name].mean() for name in np.unique(groups)])),
        lambda right, groups: float(min(right[groups == name].sum() for name in np.unique(groups))),
        lambda right, groups: float(min(right[groups == name].sum() / len(right) for name in np.unique(groups))),
        lambda right, groups: 1 - lowest_group(right, groups),
        lambda right, groups: float(right.min()),
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


ARE_EXERCISES["15.2"] = Exercise(
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
