"""Exercises of notebooks 10 to 15: concepts, the discriminator, edits."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from types import SimpleNamespace

import numpy as np
import torch

from helpers.are.discriminator import Discriminator
from helpers.are.evaluation import AGAIN, SENTENCE
from helpers.course.judge import Exercise, difference, normal_values
from helpers.language.texts import words_of

ARE_EXERCISES: dict[str, Exercise] = {}


# --- 10 ----------------------------------------------------------------------------------------------------


def _torch_normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.as_tensor(normal_values(seed, *shape), dtype=torch.float32)


def _same_loss_and_gradient(answer, expected):
    """What differs in value, or that no gradient flows."""
    if isinstance(answer, torch.Tensor) and not answer.requires_grad:
        return "the result has no gradient: keep tensors until the end"
    return difference(answer, expected)


def states_at_ends(hidden, real, layers, positions):
    columns = real.cumsum(dim=1)
    wanted = real & (columns > columns[:, -1:] - positions)
    every = torch.stack([hidden[layer] for layer in layers], dim=2)
    return every[wanted].unflatten(0, (len(real), positions)).transpose(1, 2).float()


def _padded_batch(seed: int) -> tuple[tuple, torch.Tensor, tuple[int, ...], int]:
    """Three texts of different lengths, padded on the left or on the right; embeddings and three blocks."""
    lengths, place = torch.tensor([4 + seed, 3, 6]), torch.arange(9)
    real = place < lengths[:, None]
    hidden = tuple(_torch_normal(10 * seed + depth, 3, 9, 4) for depth in range(4))
    return hidden, real if seed % 2 else real.flip(1), ((1, 3), (3, 1, 2), (2, 1))[seed % 3], 1 + seed % 3


ARE_EXERCISES["10.1"] = Exercise(
    "the states at the last tokens",
    states_at_ends,
    cases=_padded_batch,
    wrong=(
        lambda hidden, real, layers, n: torch.stack([hidden[i][:, -n:] for i in layers], 1),
        lambda hidden, real, layers, n: torch.stack(
            [torch.stack([hidden[i][row, k - n : k] for i in layers]) for row, k in enumerate(real.sum(1))]
        ),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, [i - 1 for i in layers], n),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, sorted(layers), n),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, layers, n).transpose(1, 2),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, layers, n).transpose(0, 1),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, layers, n).flip(2),
        lambda hidden, real, layers, n: states_at_ends(hidden, real, layers, n)[:, :, -1],
        lambda hidden, real, layers, n: states_at_ends(hidden, real, layers, 1),
        lambda hidden, real, layers, n: states_at_ends(hidden, torch.ones_like(real), layers, n),
    ),
)


def newton_probe(positive, negative, new, strength=0.01, balanced=True, penalty_of_intercept=0.0, steps=8):
    fitted = np.vstack([positive, negative])
    rows = np.vstack([fitted, new]).astype(float) - fitted.mean(axis=0)
    deviation = fitted.std(axis=0)
    deviation[deviation == 0] = 1
    rows = np.hstack([rows / deviation, np.ones((len(rows), 1))])
    x, kinds = rows[: len(fitted)], np.arange(len(fitted)) < len(positive)
    share = np.where(kinds, 0.5 / len(positive), 0.5 / len(negative)) * len(fitted) if balanced else np.ones(len(x))
    only = np.diag([1.0] * (rows.shape[1] - 1) + [penalty_of_intercept])
    weights = np.zeros(rows.shape[1])
    for _ in range(steps):
        chance = 0.5 + 0.5 * np.tanh(x @ weights / 2)
        gradient = only @ weights + strength * ((chance - kinds) * share) @ x
        curvature = only + strength * (x.T * (share * chance * (1 - chance))) @ x
        weights = weights - np.linalg.solve(curvature, gradient)
    return rows[len(fitted) :] @ weights


def _uneven_kinds(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Few of one kind, in numbers of different spread, of which one never changes."""
    spread, counts = np.array([1.0, 8.0, 0.2, 0.0, 3.0]), (9, 30) if seed % 2 else (25, 8)
    positive, negative, new = (3 + spread * normal_values(seed, n, 5) for n in (*counts, 12))
    return positive + 0.8 * spread, negative, new + 0.5 * spread, (0.01, 0.1, 1.0, 0.05, 0.3)[seed]


def _mean_difference_scores(positive, negative, new):
    middle = (positive.mean(axis=0) + negative.mean(axis=0)) / 2
    return (new - middle) @ (positive.mean(axis=0) - negative.mean(axis=0))


def _standardised_by_new(positive, negative, new, strength):
    own = (new - new.mean(axis=0)) / (new.std(axis=0) + 1e-9)
    fitted = np.vstack([positive, negative])
    return newton_probe(positive, negative, own * fitted.std(axis=0) + fitted.mean(axis=0), strength)


ARE_EXERCISES["10.2"] = Exercise(
    "a linear probe",
    newton_probe,
    cases=_uneven_kinds,
    wrong=(
        _standardised_by_new,
        lambda positive, negative, new, strength: newton_probe(positive, negative, new, strength, balanced=False),
        lambda positive, negative, new, strength: newton_probe(
            positive, negative, new, strength, penalty_of_intercept=1.0
        ),
        lambda positive, negative, new, strength: newton_probe(positive, negative, new, strength, steps=1),
        lambda positive, negative, new, strength: newton_probe(positive, negative, new),
        lambda positive, negative, new, strength: newton_probe(negative, positive, new, strength),
        lambda positive, negative, new, strength: newton_probe(positive, negative, new, strength) > 0,
        lambda positive, negative, new, strength: 1 / (1 + np.exp(-newton_probe(positive, negative, new, strength))),
        lambda positive, negative, new, strength: newton_probe(positive, negative, new, 1 / strength),
        lambda positive, negative, new, strength: _mean_difference_scores(positive, negative, new),
        lambda positive, negative, new, strength: newton_probe(
            positive, negative, new + positive.mean(axis=0), strength
        ),
    ),
)


def balanced_by_layer(scores, x, y, x_new, y_new):
    found = np.zeros(x.shape[1])
    for layer in range(x.shape[1]):
        positive = scores(x[y][:, layer], x[~y][:, layer], x_new[:, layer]) > 0
        hits = positive == y_new
        found[layer] = np.mean([hits[y_new == kind].mean() for kind in (True, False)])
    return found


def _layers_of_states(seed: int) -> tuple:
    """States of three layers in two uneven kinds, better told apart the higher the layer."""
    rng = np.random.default_rng([10, seed])
    y, y_new = rng.permutation(np.arange(30) < 20 - 3 * seed), rng.permutation(np.arange(24) < 5 + 3 * seed)
    x, x_new = normal_values(seed, 30, 3, 4), normal_values(seed, 24, 3, 4)
    rise = np.array([0.2, 0.5, 0.9])[:, None]
    return _mean_difference_scores, x + y[:, None, None] * rise, y, x_new + y_new[:, None, None] * rise, y_new


def _rates(kinds):
    """A wrong accuracy: `kinds` makes a number of what was said and the labels."""

    def by_layer(scores, x, y, x_new, y_new):
        said = [scores(x[y, n], x[~y, n], x_new[:, n]) > 0 for n in range(x.shape[1])]
        return np.array([kinds(some, y_new) for some in said])

    return by_layer


ARE_EXERCISES["10.3"] = Exercise(
    "held out, at every layer",
    balanced_by_layer,
    cases=_layers_of_states,
    wrong=(
        _rates(lambda said, truth: (said == truth).mean()),
        _rates(lambda said, truth: said[truth].mean()),
        _rates(lambda said, truth: (said[truth].mean() + said[~truth].mean()) / 2),
        _rates(lambda said, truth: said[truth].mean() + 1 - said[~truth].mean()),
        _rates(lambda said, truth: (truth[said].mean() + 1 - truth[~said].mean()) / 2),
        lambda scores, x, y, x_new, y_new: balanced_by_layer(scores, x, y, x, y),
        lambda scores, x, y, x_new, y_new: balanced_by_layer(scores, x_new, y_new, x_new, y_new),
        lambda scores, x, y, x_new, y_new: balanced_by_layer(scores, x_new, y_new, x, y),
        lambda scores, x, y, x_new, y_new: balanced_by_layer(scores, x, ~y, x_new, y_new),
        lambda scores, x, y, x_new, y_new: balanced_by_layer(scores, x, y, x_new, y_new).mean(),
    ),
)


def chance_by_layer(scores, x, y, x_new, y_new, seeds):
    orders = (np.random.default_rng(seed).permutation(len(y)) for seed in range(seeds))
    return np.stack([balanced_by_layer(scores, x, y[order], x_new, y_new) for order in orders])


ARE_EXERCISES["10.4"] = Exercise(
    "the negative control",
    chance_by_layer,
    cases=lambda seed: (*_layers_of_states(seed), 2 + seed),
    wrong=(
        lambda scores, x, y, x_new, y_new, seeds: np.stack(
            [balanced_by_layer(scores, x, y, x_new, np.random.default_rng(n).permutation(y_new)) for n in range(seeds)]
        ),
        lambda scores, x, y, x_new, y_new, seeds: np.stack(
            [
                balanced_by_layer(scores, x, np.random.default_rng(n).random(len(y)) < 0.5, x_new, y_new)
                for n in range(seeds)
            ]
        ),
        lambda scores, x, y, x_new, y_new, seeds: np.stack(
            [balanced_by_layer(scores, x, np.random.default_rng(0).permutation(y), x_new, y_new)] * seeds
        ),
        lambda scores, x, y, x_new, y_new, seeds: np.stack([balanced_by_layer(scores, x, y, x_new, y_new)] * seeds),
        lambda scores, x, y, x_new, y_new, seeds: chance_by_layer(scores, x, y, x_new, y_new, seeds).mean(axis=0),
        lambda scores, x, y, x_new, y_new, seeds: chance_by_layer(scores, x, y, x_new, y_new, seeds + 1)[1:],
        lambda scores, x, y, x_new, y_new, seeds: chance_by_layer(scores, x, y, x, y, seeds),
        lambda scores, x, y, x_new, y_new, seeds: chance_by_layer(scores, x, y, x_new, y_new, seeds).T,
    ),
)


def end_log_probs(logits, ids, n):
    found = []
    for said, text in zip(logits.float(), ids, strict=True):
        places = range(len(text) - n, len(text))
        found.append(torch.stack([said[t - 1, text[t]] - said[t - 1].logsumexp(dim=0) for t in places]))
    return torch.stack(found)


def _logits_of_texts(seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Logits for two texts of seven tokens out of nine; in some cases the whole text but its first token counts."""
    ids = np.random.default_rng([104, seed]).integers(9, size=(2, 7))
    return 2 * _torch_normal(seed, 2, 7, 9) + seed, torch.as_tensor(ids), (3, 6, 1, 6, 2)[seed]


def _gathered(log_p, ids):
    return log_p.gather(2, ids[:, :, None])[:, :, 0]


ARE_EXERCISES["10.5"] = Exercise(
    "log-probabilities of an answer",
    end_log_probs,
    cases=_logits_of_texts,
    wrong=(
        lambda logits, ids, n: _gathered(logits.log_softmax(2)[:, -n:], ids[:, -n:]),
        lambda logits, ids, n: _gathered(logits[:, -n - 1 : -1], ids[:, -n:]),
        lambda logits, ids, n: end_log_probs(logits, ids, n).exp(),
        lambda logits, ids, n: end_log_probs(logits, ids, n).sum(dim=1),
        lambda logits, ids, n: -end_log_probs(logits, ids, n),
        lambda logits, ids, n: _gathered(logits.log_softmax(1)[:, -n - 1 : -1], ids[:, -n:]),
        lambda logits, ids, n: _gathered(logits.log_softmax(2)[:, :n], ids[:, 1 : n + 1]).flip(1),
        lambda logits, ids, n: _gathered(logits.log_softmax(2)[:, -n - 1 : -1], ids[:, -n - 1 : -1]),
        lambda logits, ids, n: logits.log_softmax(2)[:, -n - 1 : -1].max(dim=2).values,
    ),
)


class TinyStack:
    """Three blocks, each behind a sum over what stands to the left; a pass knows the blocks that it went through."""

    def __init__(self, seed: int) -> None:
        self.blocks, self.seed = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3)), seed

    def run(self):
        states = _torch_normal(self.seed, 2, 6, 3)
        for block in self.blocks:
            states = block((states + 0.5 * states.cumsum(dim=1)).tanh())
        return Passed(states, self.blocks)


class Passed:
    """What a pass gives back, which knows the blocks that it went through."""

    def __init__(self, states: torch.Tensor, blocks: torch.nn.ModuleList) -> None:
        self.states, self.blocks = states, blocks


def patched_run(block, run, donor, first):
    def replace(_module, _inputs, states):
        stop = first + donor.shape[1]
        return torch.cat([states[:, :first], donor.to(states), states[:, stop:]], dim=1)

    handle = block.register_forward_hook(replace)
    passed = run()
    handle.remove()
    return passed


def _tiny_pass(seed: int) -> tuple:
    stack, places = TinyStack(seed), 1 + seed % 3
    return stack.blocks[seed % 3], stack.run, _torch_normal(seed + 50, 2, places, 3), 5 - places - seed % 2


def _same_pass(answer, expected) -> str | None:
    if not isinstance(answer, Passed):
        return "what run() returns should be returned"
    if any(block._forward_hooks for block in answer.blocks):
        return "the hook is still there after the call: remove it"
    return difference(answer.states, expected.states)


def _with_hook(hook, leave=False):
    """A wrong patch: `hook(states, donor, first)` makes other states of a block's."""

    def patch(block, run, donor, first):
        handle = block.register_forward_hook(lambda _module, _inputs, states: hook(states.clone(), donor, first))
        passed = run()
        if not leave:
            handle.remove()
        return passed

    return patch


def _written(states, places, donor):
    states[:, places] = donor
    return states


ARE_EXERCISES["10.6"] = Exercise(
    "the patch",
    patched_run,
    cases=_tiny_pass,
    compare=_same_pass,
    wrong=(
        _with_hook(lambda states, donor, first: _written(states, slice(first, first + donor.shape[1]), donor), True),
        _with_hook(lambda states, donor, first: _written(states, slice(first, first + 1), donor[:, :1])),
        _with_hook(lambda states, donor, first: _written(states, slice(0, donor.shape[1]), donor)),
        _with_hook(lambda states, donor, first: _written(states, slice(-donor.shape[1], None), donor)),
        _with_hook(lambda states, donor, first: _written(states, slice(first, first + donor.shape[1]), donor[:1])),
        _with_hook(lambda states, donor, first: _written(states, slice(first, None), donor.mean(1, keepdim=True))),
        _with_hook(lambda states, donor, first: None),
        lambda block, run, donor, first: run(),
        lambda block, run, donor, first: patched_run(block, run, donor, first).states,
        lambda block, run, donor, first: (patched_run(block, run, donor, first), run())[1],
    ),
)


def closed_share(plain, patched, target, tokens):
    gained, missing = (some[:, :tokens].sum() - plain[:, :tokens].sum() for some in (patched, target))
    return float(gained / missing)


def _patched(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Log-probabilities of five tokens for twelve examples; a patch that closes about 0.6 of a gap."""
    plain, gap = -4 + _torch_normal(seed, 12, 5), 1 + _torch_normal(seed + 50, 12, 5).abs()
    return plain, plain + 0.6 * gap + 0.5 * _torch_normal(seed + 100, 12, 5), plain + gap, 1 + seed


def _single_shares(plain, patched, target, tokens):
    before, after, end = (part[:, :tokens].sum(dim=1) for part in (plain, patched, target))
    return (after - before) / (end - before)


ARE_EXERCISES["10.7"] = Exercise(
    "the share of the gap",
    closed_share,
    cases=_patched,
    wrong=(
        lambda plain, patched, target, tokens: _single_shares(plain, patched, target, tokens).mean().item(),
        lambda plain, patched, target, tokens: _single_shares(plain, patched, target, tokens),
        lambda plain, patched, target, tokens: (patched - plain)[:, :tokens].sum(dim=1).mean().item(),
        lambda plain, patched, target, tokens: (patched[:, :tokens].sum() / target[:, :tokens].sum()).item(),
        lambda plain, patched, target, tokens: 1 - closed_share(plain, patched, target, tokens),
        lambda plain, patched, target, tokens: 1 / closed_share(plain, patched, target, tokens),
        lambda plain, patched, target, tokens: closed_share(plain, patched, target, 1),
        lambda plain, patched, target, tokens: closed_share(plain, patched, target, 5),
        lambda plain, patched, target, tokens: closed_share(plain.exp(), patched.exp(), target.exp(), tokens),
    ),
)


def by_the_lens(states, gain, out, eps):
    exact = states.float()
    normed = exact * torch.rsqrt(exact.square().sum(dim=1, keepdim=True) / exact.shape[1] + eps)
    logits = torch.nn.functional.linear(gain * normed.to(gain.dtype), out).float()
    return logits - logits.logsumexp(dim=1, keepdim=True)


def _normed(size):
    """A wrong answer: the lens with states that are divided by something else."""

    def lens(states, gain, out, eps):
        states, gain, out = states.float(), gain.float(), out.float()
        return (gain * states / size(states, eps) @ out.T).log_softmax(dim=-1)

    return lens


def _states_and_weights(seed: int) -> tuple:
    """States of six texts, some of them short, so that eps counts; weights of the norm, and of nine tokens.

    Some cases are in bfloat16, as models are.
    """
    states = _torch_normal(seed, 6, 4) * torch.logspace(-1, 1, 6)[:, None] + 0.1 * seed
    weights = 1 + 0.5 * _torch_normal(10 + seed, 4), _torch_normal(20 + seed, 9, 4)
    kind = torch.bfloat16 if seed % 2 else torch.float32
    return *(numbers.to(kind) for numbers in (states, *weights)), 0.02 * (1 + seed)


def _within_a_tenth(answer, expected):
    """Answers in bfloat16 may round at other places, by a few hundredths."""
    if not isinstance(answer, torch.Tensor) or answer.shape != expected.shape or answer.dtype != torch.float32:
        return f"expected a tensor of float32 with the shape {tuple(expected.shape)}"
    far = (answer - expected).abs().max().item()
    return None if far < 0.1 else f"values differ by up to {far:.2f}"


ARE_EXERCISES["10.8"] = Exercise(
    "the lens",
    by_the_lens,
    cases=_states_and_weights,
    compare=_within_a_tenth,
    wrong=(
        _normed(lambda states, eps: (states.pow(2).mean(dim=1, keepdim=True)).sqrt()),
        _normed(lambda states, eps: states.pow(2).mean(dim=1, keepdim=True).sqrt() + eps),
        _normed(lambda states, eps: (states.pow(2).sum(dim=1, keepdim=True) + eps).sqrt()),
        _normed(lambda states, eps: (states.var(dim=1, keepdim=True) + eps).sqrt()),
        _normed(lambda states, eps: (states.pow(2).mean(dim=0, keepdim=True) + eps).sqrt()),
        _normed(lambda states, eps: (states.pow(2).mean() + eps).sqrt()),
        _normed(lambda states, eps: 1.0),
        lambda states, gain, out, eps: by_the_lens(states - states.mean(dim=1, keepdim=True), gain, out, eps),
        lambda states, gain, out, eps: by_the_lens(states, torch.ones_like(gain), out, eps),
        lambda states, gain, out, eps: by_the_lens(states, gain, out, eps).exp(),
        lambda states, gain, out, eps: by_the_lens(states, gain, out, eps).log_softmax(dim=0),
    ),
)


def word_by_layer(states, lens, word):
    said = torch.stack([lens(part) for part in states.unbind(dim=1)], dim=1)
    own = said[:, :, [word]]
    rank = (said > own).double().sum(dim=2).sort(dim=0).values[(len(said) - 1) // 2]
    return own[:, :, 0].exp().double().mean(dim=0).numpy(), rank.numpy()


def _cosine_lens(states):
    """Log-probabilities of eleven tokens, each at a corner of its own."""
    corners = torch.cos(torch.arange(44.0).view(4, 11))
    return (3 * states @ corners).log_softmax(dim=-1)


def _layers_and_a_word(seed: int) -> tuple:
    """States of three layers of eight texts, or of seven; the last layers are longer."""
    return _torch_normal(seed, 8 - seed % 2, 3, 4) * torch.tensor([0.5, 1.0, 2.0])[:, None], _cosine_lens, 2 * seed + 1


def _of_both(probability, rank):
    """A wrong answer: two numbers per layer of log-probabilities (text, token) and the word."""

    def by_layer(states, lens, word):
        said = [lens(states[:, layer]) for layer in range(states.shape[1])]
        return tuple(np.array([float(of(part, word)) for part in said]) for of in (probability, rank))

    return by_layer


def _right_probability(said, word):
    return said[:, word].exp().mean()


def _right_rank(said, word):
    return (said > said[:, [word]]).sum(dim=1).float().median()


ARE_EXERCISES["10.9"] = Exercise(
    "a word under the lens",
    word_by_layer,
    cases=_layers_and_a_word,
    wrong=(
        _of_both(lambda said, word: said[:, word].mean().exp(), _right_rank),
        _of_both(lambda said, word: said[:, word].mean(), _right_rank),
        _of_both(_right_probability, lambda said, word: (said >= said[:, [word]]).sum(dim=1).float().median()),
        _of_both(_right_probability, lambda said, word: (said < said[:, [word]]).sum(dim=1).float().median()),
        _of_both(_right_probability, lambda said, word: (said > said[:, [word]]).sum(dim=1).float().mean()),
        _of_both(_right_probability, lambda said, word: (said.mean(0) > said.mean(0)[word]).sum()),
        _of_both(_right_probability, lambda said, word: said.argsort(dim=1)[:, word].float().median()),
        lambda states, lens, word: word_by_layer(states, lens, word)[::-1],
        lambda states, lens, word: np.column_stack(word_by_layer(states, lens, word)),
        lambda states, lens, word: word_by_layer(states.flip(1), lens, word),
    ),
)


# --- 11 ----------------------------------------------------------------------------------------------------


def in_units_of(states, target, plain):
    count = len(target) + len(plain)
    center = (target.sum(dim=0) + plain.sum(dim=0)) / count
    squares = (target - center).square().sum(dim=0) + (plain - center).square().sum(dim=0)
    return ((states - center) / ((squares / count).sqrt() + 1e-4)).reshape(len(states), -1)


def _states_to_scale(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of two layers at three tokens, the second layer much longer; one number never changes."""
    spread = torch.tensor([1.0, 40.0])[:, None, None] * torch.tensor([1.0, 0.3, 0.0, 2.0])
    states, target, plain = (5 + spread * _torch_normal(seed + n, n, 2, 3, 4) for n in (4, 9, 6))
    return states + spread, target + spread, plain


def _scaled_by(statistics):
    """A wrong scaling: center and spread from what `statistics` makes of the three kinds of states."""

    def rows(states, target, plain):
        center, spread = statistics(states, target, plain)
        return ((states - center) / spread).flatten(start_dim=1)

    return rows


def _both(target, plain):
    return torch.cat([target, plain])


ARE_EXERCISES["11.1"] = Exercise(
    "standardised states",
    in_units_of,
    cases=_states_to_scale,
    wrong=(
        _scaled_by(lambda states, target, plain: (states.mean(0), states.std(0, correction=0) + 1e-4)),
        _scaled_by(lambda states, target, plain: (plain.mean(0), plain.std(0, correction=0) + 1e-4)),
        _scaled_by(
            lambda states, target, plain: (_both(target, plain).mean(0), _both(target, plain).std(0, correction=0))
        ),
        _scaled_by(lambda states, target, plain: (_both(target, plain).mean(0), _both(target, plain).std(0) + 1e-4)),
        _scaled_by(
            lambda states, target, plain: (_both(target, plain).mean(), _both(target, plain).std(correction=0) + 1e-4)
        ),
        _scaled_by(
            lambda states, target, plain: (_both(target, plain).mean(0), _both(target, plain).var(0, correction=0))
        ),
        _scaled_by(lambda states, target, plain: (0, _both(target, plain).std(0, correction=0) + 1e-4)),
        lambda states, target, plain: in_units_of(states, target, plain).view(states.shape),
        lambda states, target, plain: in_units_of(states, plain, plain),
    ),
)


def losses_of_training(
    members, target, plain, epochs=30, batch=64, learning_rate=1e-3, weight_decay=0.0, noise=0.0, seed=0
):
    return _trained(members, target, plain, epochs, batch, learning_rate, weight_decay, noise, seed)


def _trained(
    members,
    target,
    plain,
    epochs,
    batch,
    learning_rate,
    weight_decay,
    noise,
    seed,
    balanced=True,
    one_order=False,
    shuffled=True,
    noise_once=False,
    forgetful=True,
    optimiser=torch.optim.AdamW,
):
    """The training of members; the switches make it wrong."""
    states, n = torch.cat([target, plain]), len(target) + len(plain)
    labels = torch.arange(n) < len(target)
    share = torch.where(labels, n / 2 / len(target), n / 2 / len(plain)) if balanced else torch.ones(n)
    steps = optimiser(torch.nn.ModuleList(members).parameters(), lr=learning_rate, weight_decay=weight_decay)
    generator, losses = torch.Generator().manual_seed(seed), []
    if noise_once:
        states = states + noise * torch.randn(states.shape, generator=generator)
    for _ in range(epochs):
        orders = [torch.randperm(n, generator=generator) if shuffled else torch.arange(n) for _ in members]
        for place in range(0, n, batch):
            of_members = []
            for member, order in zip(members, orders, strict=True):
                rows = (orders[0] if one_order else order)[place : place + batch]
                given = states[rows]
                if noise and not noise_once:
                    given = given + noise * torch.randn(given.shape, generator=generator)
                logits = member(given)
                surprise = logits.logsumexp(dim=1) - torch.where(labels[rows], logits[:, 1], logits[:, 0])
                of_members.append((surprise * share[rows]).sum() / share[rows].sum())
            total = sum(of_members)
            if forgetful:
                steps.zero_grad()
            total.backward()
            steps.step()
            losses.append(total.item())
    return losses


def _members_to_train(seed: int) -> tuple:
    """One network or two, more target than plain states; in some cases with noise and weight decay."""
    members = list(Discriminator(3, 5, 1 + seed % 2, seed).members)
    target, plain = (_torch_normal(seed, n, 3) + shift for n, shift in ((11, 0.7), (5, -0.7)))
    return members, target, plain, 3, 6, 0.05, (0.0, 2.0)[seed // 2 % 2], (0.0, 0.0, 0.5, 0.5, 1.0)[seed], 10 + seed


ARE_EXERCISES["11.2"] = Exercise(
    "train the discriminator",
    losses_of_training,
    cases=_members_to_train,
    tolerance=1e-3,
    wrong=(
        partial(_trained, balanced=False),
        partial(_trained, one_order=True),
        partial(_trained, shuffled=False),
        partial(_trained, noise_once=True),
        partial(_trained, forgetful=False),
        partial(_trained, optimiser=torch.optim.Adam),  # its weight decay is a part of the gradient
        partial(_trained, optimiser=lambda parameters, lr, weight_decay: torch.optim.AdamW(parameters, lr=0.0)),
        lambda members, target, plain, *rest: _trained(members, plain, target, *rest),
        lambda members, target, plain, *rest: _trained(members[:1], target, plain, *rest),
        lambda *arguments: _trained(*arguments)[-1],
        lambda members, *rest: [loss / len(members) for loss in _trained(members, *rest)],
    ),
)


def some_of_both(target, plain, n, seed, shuffle):
    draws = np.random.default_rng(seed)
    rows = draws.choice(len(target), n, replace=False)
    both = [*target[rows], *plain[rows]]
    if shuffle:
        both = [both[place] for place in draws.permutation(2 * n)]
    return torch.stack(both[:n]), torch.stack(both[n:])


def _lessons(seed: int) -> tuple:
    return _torch_normal(seed, 12, 3), _torch_normal(seed + 50, 12, 3), 3 + seed, 7 + seed, seed % 2 == 1


def _draws_wrongly(of):
    """A wrong draw: `of` gets a generator, both kinds, the number, and whether to shuffle."""
    return lambda target, plain, n, seed, shuffle: of(np.random.default_rng(seed), target, plain, n, shuffle)


ARE_EXERCISES["11.3"] = Exercise(
    "a draw and its control",
    some_of_both,
    cases=_lessons,
    wrong=(
        lambda target, plain, n, seed, shuffle: some_of_both(target, plain, n, seed, False),
        lambda target, plain, n, seed, shuffle: some_of_both(target, plain, n, seed, True),
        lambda target, plain, n, seed, shuffle: some_of_both(plain, target, n, seed, shuffle),
        lambda target, plain, n, seed, shuffle: some_of_both(target, plain, n, seed, shuffle)[::-1],
        lambda target, plain, n, seed, shuffle: some_of_both(target[:n], plain[:n], n, seed, shuffle),
        lambda target, plain, n, seed, shuffle: torch.cat(some_of_both(target, plain, n, seed, shuffle)),
        _draws_wrongly(
            lambda rng, target, plain, n, shuffle: (
                target[rng.choice(len(target), n, replace=False)],
                plain[rng.choice(len(plain), n, replace=False)],
            )
        ),
        _draws_wrongly(lambda rng, target, plain, n, shuffle: (target[:n], plain[:n])),
    ),
)


def surer_of_target(S, states):
    places = states.detach().requires_grad_(True)
    of_members = S(places)
    (of_members[..., 1] - of_members[..., 0]).sum().div(len(of_members)).backward()
    return places.grad


def _members_and_states(seed: int) -> tuple:
    return Discriminator(4, 6, 1 + seed % 3, seed), 2 * _torch_normal(seed, 5 + seed, 4)


def _slope_of(number):
    """A wrong gradient: of what `number` makes of the logits."""

    def slope(S, states):
        states = states.clone().requires_grad_(True)
        return torch.autograd.grad(number(S(states)), states)[0]

    return slope


ARE_EXERCISES["11.4"] = Exercise(
    'which way is "target"?',
    surer_of_target,
    cases=_members_and_states,
    wrong=(
        _slope_of(lambda logits: (logits[..., 1] - logits[..., 0]).mean()),
        _slope_of(lambda logits: (logits[..., 1] - logits[..., 0]).sum()),
        _slope_of(lambda logits: (logits[0, :, 1] - logits[0, :, 0]).sum()),
        _slope_of(lambda logits: (logits[..., 0] - logits[..., 1]).mean(dim=0).sum()),
        _slope_of(lambda logits: logits[..., 1].mean(dim=0).sum()),
        _slope_of(lambda logits: logits.softmax(dim=-1)[..., 1].mean(dim=0).sum()),
        _slope_of(lambda logits: logits.log_softmax(dim=-1)[..., 1].mean(dim=0).sum()),
        lambda S, states: torch.nn.functional.normalize(surer_of_target(S, states), dim=1),
        lambda S, states: surer_of_target(S, states).mean(dim=0),
    ),
)


class LeansTowards:
    """A discriminator of one member: along the difference of means, with a lean that its seed gives it."""

    def __init__(self, target: torch.Tensor, plain: torch.Tensor, seed: int) -> None:
        self.middle = (target.mean(dim=0) + plain.mean(dim=0)) / 2
        self.way = target.mean(dim=0) - plain.mean(dim=0) + 0.5 * _torch_normal(seed, target.shape[1])

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        surer = (rows - self.middle) @ self.way
        return torch.stack([-surer, surer], dim=1)[None]


def right_on_pairs(teach, own, pairs, seeds):
    return _right(teach, own, pairs, seeds)


def _right(teach, own, pairs, seeds, units=lambda own, pair: own, of_both=lambda hits, passes: (hits + passes) / 2):
    """Accuracies by seed and pair; `units` are the states that give a pair its units, `of_both` makes one number."""
    found = np.zeros((len(seeds), len(pairs)))
    for row, seed in enumerate(seeds):
        S = teach(*(in_units_of(states, *own) for states in own), seed)
        for column, pair in enumerate(pairs):
            target, plain = (S(in_units_of(states, *units(own, pair))).argmax(dim=-1).double() for states in pair)
            found[row, column] = of_both(target.mean().item(), 1 - plain.mean().item())
    return found


def _own_and_other(seed: int) -> tuple:
    """A concept of 10 and 14 states, and pairs to judge: of its own kind, and of another one, uneven in number."""

    def pair(number, counts, shift):
        spread = torch.tensor([[1.0, 5.0, 0.3]])
        kinds = (_torch_normal(40 * seed + number + place, n, 1, 2, 3) for place, n in enumerate(counts))
        return [2 + spread * (states + shift * place) for place, states in zip((1, 0), kinds, strict=True)]

    own, held, other = pair(0, (10, 14), 1.0), pair(2, (9, 4), 1.0), pair(4, (5, 12), -0.3)
    return LeansTowards, own, [held, [states + 3 for states in other]], range(seed, seed + 2 + seed % 2)


def _weighted(teach, own, pairs, seeds):
    counts = [[len(states) for states in pair] for pair in pairs]
    hits = _right(teach, own, pairs, seeds, of_both=lambda hits, passes: hits)
    passes = _right(teach, own, pairs, seeds, of_both=lambda hits, passes: passes)
    share = np.array([n / (n + m) for n, m in counts])
    return share * hits + (1 - share) * passes


ARE_EXERCISES["11.5"] = Exercise(
    "a control concept",
    right_on_pairs,
    cases=_own_and_other,
    wrong=(
        partial(_right, units=lambda own, pair: pair),
        partial(_right, units=lambda own, pair: (own[1], own[1])),
        partial(_right, of_both=lambda hits, passes: hits),
        partial(_right, of_both=lambda hits, passes: hits + passes),
        partial(_right, of_both=lambda hits, passes: (hits + 1 - passes) / 2),
        _weighted,
        lambda teach, own, pairs, seeds: _right(teach, own[::-1], pairs, seeds),
        lambda teach, own, pairs, seeds: _right(teach, own, [own, *pairs[1:]], seeds),
        lambda teach, own, pairs, seeds: _right(teach, pairs[0], pairs, seeds),
        lambda teach, own, pairs, seeds: _right(lambda target, plain, _: teach(target, plain, 0), own, pairs, seeds),
        lambda teach, own, pairs, seeds: _right(teach, own, pairs, seeds).mean(axis=0),
        lambda teach, own, pairs, seeds: _right(teach, own, pairs, seeds).T,
    ),
)


def loss_and_slope(member, states, kind=1):
    with torch.enable_grad():
        places = states.detach().requires_grad_(True)
        logits = member(places)
        loss = (torch.logaddexp(logits[:, 0], logits[:, 1]) - logits[:, kind]).mean()
        (slope,) = torch.autograd.grad(loss, places)
    return loss.detach(), slope


def _member_and_states(seed: int) -> tuple:
    """A network and some states; in the last case so far out that a softmax is 0 or 1."""
    return Discriminator(4, 6, 1, seed).members[0], (1000 if seed == 4 else 3) * _torch_normal(seed, 5, 4), seed % 2


def _by_chain(wanted_of=None, gate=True, mean=True, softmax=True):
    """The chain rule with a mistake."""

    def by_hand(member, states, kind=1):
        first, _, second = member
        hidden = first(states)
        logits = second(hidden.clamp(min=0))
        wanted = torch.eye(2)[kind] if wanted_of is None else wanted_of(kind)
        by_logits = ((logits.softmax(dim=1) if softmax else logits) - wanted) / (len(states) if mean else 1)
        by_hidden = by_logits @ second.weight
        return loss_and_slope(member, states, kind)[0], (by_hidden * (hidden > 0) if gate else by_hidden) @ first.weight

    return by_hand


ARE_EXERCISES["11.6"] = Exercise(
    "the fooling loss and its gradient, by hand",
    loss_and_slope,
    cases=_member_and_states,
    wrong=(
        _by_chain(gate=False),
        _by_chain(mean=False),
        _by_chain(softmax=False),
        _by_chain(wanted_of=lambda kind: torch.eye(2)[1 - kind]),
        _by_chain(wanted_of=lambda kind: torch.tensor([0.0, 1.0])),
        lambda member, states, kind=1: loss_and_slope(member, states, 1 - kind),
        lambda member, states, kind=1: loss_and_slope(member, states, kind)[0],
        lambda member, states, kind=1: loss_and_slope(member, states, kind)[::-1],
        lambda member, states, kind=1: (
            -member(states).softmax(dim=1).log()[:, kind].mean(),
            loss_and_slope(member, states, kind)[1],
        ),
        lambda member, states, kind=1: (
            len(states) * loss_and_slope(member, states, kind)[0],
            loss_and_slope(member, states, kind)[1],
        ),
        lambda member, states, kind=1: (
            loss_and_slope(member, states, kind)[0],
            -loss_and_slope(member, states, kind)[1],
        ),
    ),
)


def without_component(rows, direction):
    share = (rows * direction).sum(dim=1, keepdim=True) / direction.square().sum()
    return rows - share * direction


ARE_EXERCISES["11.7"] = Exercise(
    "sideways",
    without_component,
    cases=lambda seed: (_torch_normal(seed, 5, 7), (2 + seed) * _torch_normal(seed, 7)),
    wrong=(
        lambda rows, direction: rows - (rows @ direction)[:, None] * direction,
        lambda rows, direction: rows - without_component(rows, direction),
        lambda rows, direction: 2 * without_component(rows, direction) - rows,
        lambda rows, direction: rows - direction / direction.norm(),
        lambda rows, direction: rows - (rows @ direction).mean() * direction / (direction @ direction),
        lambda rows, direction: torch.nn.functional.normalize(without_component(rows, direction), dim=1),
    ),
)


def walked_down(slope_of, states, length, steps=20, avoid=None):
    return _walked(slope_of, states, length, steps, avoid)


def _walked(slope_of, states, length, steps, avoid, unit_first=False, once=False, sign=-1.0, plain=False, part=1.0):
    """The walk; the switches make it wrong."""
    here, first = states, slope_of(states)
    for _ in range(steps):
        slope = first if once else slope_of(here)
        if unit_first:
            slope = torch.nn.functional.normalize(slope, dim=1)
        if avoid is not None:
            slope = without_component(slope, avoid)
        if not (unit_first or plain):
            slope = torch.nn.functional.normalize(slope, dim=1)
        here = here + sign * part * length / steps * slope
    return here


def _slope_of_a_bowl(states):
    """Of a loss that is steeper along some axes than along others."""
    return states * torch.tensor([1.0, 4.0, 0.5, 2.0]) + torch.sin(2 * states)


def _bowl(seed: int) -> tuple:
    avoid = None if seed % 2 else torch.nn.functional.normalize(_torch_normal(seed, 4), dim=0)
    return _slope_of_a_bowl, 3 + _torch_normal(seed, 6, 4), 1.0 + seed, 4 + seed, avoid


ARE_EXERCISES["11.8"] = Exercise(
    "the walk",
    walked_down,
    cases=_bowl,
    wrong=(
        partial(_walked, unit_first=True),
        partial(_walked, once=True),
        partial(_walked, sign=1.0),
        partial(_walked, plain=True),
        partial(_walked, part=2.0),
        lambda slope_of, states, length, steps, avoid: _walked(slope_of, states, length, steps, None),
        lambda slope_of, states, length, steps, avoid: _walked(slope_of, states, length, 1, avoid),
        lambda slope_of, states, length, steps, avoid: _walked(slope_of, states, length * steps, steps, avoid),
        lambda slope_of, states, length, steps, avoid: (
            _walked(slope_of, states, length, steps, avoid)
            if avoid is None
            else without_component(_walked(slope_of, states, length, steps, None), avoid)
        ),
        lambda slope_of, states, length, steps, avoid: walked_down(slope_of, states, length, steps, avoid) - states,
    ),
)


def moved_back(hidden, rows, center, spread, end):
    positions, dim = center.shape
    found, first = [*hidden.unbind(dim=1)], hidden.shape[1] - end
    for place in range(positions):
        own = rows[:, place * dim : (place + 1) * dim]
        found[first + place] = (own * spread[place] + center[place]).to(hidden.dtype)
    return torch.stack(found, dim=1)


def _moved_states(seed: int) -> tuple:
    """Two positions of three numbers to be put into six tokens, of half precision in one case."""
    hidden = _torch_normal(seed, 4, 6, 3).to(torch.bfloat16 if seed == 1 else torch.float32)
    center, spread = 3 * _torch_normal(seed, 2, 3), 0.5 + _torch_normal(seed + 9, 2, 3).abs()
    return hidden, _torch_normal(seed, 4, 6), center, spread, 3 + seed % 3


def _puts(moved=None, where=None):
    """Moved states put back wrongly: made of rows, center and spread in another way, or put elsewhere."""

    def put(hidden, rows, center, spread, end):
        states = (moved or (lambda rows, center, spread: rows * spread + center))(
            rows.unflatten(1, center.shape), center, spread
        )
        first = hidden.shape[1] - end if where is None else where(hidden.shape[1], end)
        hidden = hidden.clone()
        hidden[:, first : first + len(center)] = states.to(hidden.dtype)
        return hidden

    return put


ARE_EXERCISES["11.9"] = Exercise(
    "back into the model",
    moved_back,
    cases=_moved_states,
    tolerance=1e-2,
    wrong=(
        _puts(lambda rows, center, spread: rows),
        _puts(lambda rows, center, spread: rows + center),
        _puts(lambda rows, center, spread: rows * spread),
        _puts(lambda rows, center, spread: (rows + center) * spread),
        _puts(lambda rows, center, spread: (rows - center) / spread),
        _puts(lambda rows, center, spread: rows * center + spread),
        _puts(lambda rows, center, spread: rows.flip(1) * spread + center),
        _puts(where=lambda length, end: length - end - 1),
        _puts(where=lambda length, end: length - 2),
        _puts(where=lambda length, end: 0),
        _puts(where=lambda length, end: end),
        lambda hidden, rows, center, spread, end: moved_back(hidden, rows, center, spread, end)[:, -end:],
        lambda hidden, rows, center, spread, end: moved_back(hidden, rows[:, :3], center[:1], spread[:1], end),
        lambda hidden, rows, center, spread, end: moved_back(torch.zeros_like(hidden), rows, center, spread, end),
        lambda hidden, rows, center, spread, end: hidden + moved_back(hidden, rows, center, spread, end),
    ),
)


# --- 12 ----------------------------------------------------------------------------------------------------


def mean_distance_to_pairs(states, target, rows):
    paired = rows < len(target)
    apart = states[paired] - target[rows[paired]]
    return apart.square().mean(dim=1).sum() / max(1, len(apart))


def _states_with_pairs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of six of which some are paired with one of five; in the last case none is."""
    rows = np.random.default_rng([12, seed]).permutation(9)[:6] if seed < 4 else np.arange(5, 11)
    return _torch_normal(seed, 6, 4).requires_grad_(), _torch_normal(seed + 50, 5, 4), torch.as_tensor(rows)


def _same_distance(answer, expected) -> str | None:
    """What differs in value, or that no gradient flows; without a pair there is none to flow."""
    if expected:
        return _same_loss_and_gradient(answer, expected)
    problem = difference(answer, expected)
    return problem and f"{problem} (no prompt of this batch is paired)"


ARE_EXERCISES["12.1"] = Exercise(
    "the distance to the paired states",
    mean_distance_to_pairs,
    cases=_states_with_pairs,
    compare=_same_distance,
    wrong=(
        lambda states, target, rows: mean_distance_to_pairs(states, target, rows).detach(),
        lambda states, target, rows: mean_distance_to_pairs(states.detach(), target, rows),
        lambda states, target, rows: (
            mean_distance_to_pairs(states, target, rows) if (rows < len(target)).any() else states.mean() * np.nan
        ),
        lambda states, target, rows: mean_distance_to_pairs(states, target, rows) * states.shape[1],
        lambda states, target, rows: (
            mean_distance_to_pairs(states, target, rows) * (rows < len(target)).sum() / len(rows)
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
    return base, edited.requires_grad_(), [1 + seed % 3, 5 - seed % 3, 2]


ARE_EXERCISES["12.2"] = Exercise(
    "stay as you were",
    kl_over_answers,
    cases=_next_words,
    compare=_same_loss_and_gradient,
    wrong=(
        lambda base, edited, counts: kl_over_answers(base, edited, counts).detach(),
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
        return loss, {"S": S[0].item(), "adapter": self.place[0].item(), "loss": loss.item()}  # the cause first


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


def batches_of_a_round(number, counts, size, steps, seed=0):
    draws = np.random.default_rng([seed, number])
    return [tuple(draws.choice(n, size, replace=n < size) for n in counts) for _ in range(steps)]


def _round_to_draw(seed: int) -> tuple[int, tuple[int, int], int, int, int]:
    """A round of an edit; in some cases there are fewer prompts of one sort than a batch takes."""
    return 3 - seed % 3, ((9, 7), (11, 3), (4, 8), (6, 6), (20, 10))[seed], (4, 5, 6, 6, 3)[seed], 2 + seed % 2, seed


def _same_batches(answer, expected) -> str | None:
    """What differs; a pair may be a tuple, a list or an array of two rows."""
    if isinstance(answer, list):
        answer = [tuple(pair) if isinstance(pair, list | np.ndarray) else pair for pair in answer]
    return difference(answer, expected)


def _batches(generator=lambda number, seed: np.random.default_rng([seed, number]), draw=None):
    """Wrong batches: from another generator, or drawn otherwise."""

    def batches(number, counts, size, steps, seed=0):
        rng = generator(number, seed)
        one = draw or (lambda rng, n: rng.choice(n, size, replace=n < size))
        return [tuple(one(rng, n) for n in counts) for _ in range(steps)]

    return batches


def _same_at_every_step(number, counts, size, steps, seed=0):
    return batches_of_a_round(number, counts, size, 1, seed) * steps


def _always(replace):
    return lambda number, counts, size, steps, seed=0: _batches(
        draw=lambda rng, n: rng.choice(n, size if replace else min(n, size), replace=replace)
    )(number, counts, size, steps, seed)


ARE_EXERCISES["12.4"] = Exercise(
    "the batches of a round",
    batches_of_a_round,
    cases=_round_to_draw,
    compare=_same_batches,
    wrong=(
        _batches(lambda number, seed: np.random.default_rng(seed)),
        _batches(lambda number, seed: np.random.default_rng(seed + number)),
        _batches(lambda number, seed: np.random.default_rng(number)),
        _batches(lambda number, seed: np.random.default_rng([number, seed])),
        _same_at_every_step,
        _always(True),
        _always(False),
        lambda number, counts, size, steps, seed: [
            pair[::-1] for pair in batches_of_a_round(number, counts[::-1], size, steps, seed)
        ],
        lambda number, counts, size, steps, seed: [
            (rows, rows % counts[1]) for rows, _ in batches_of_a_round(number, counts, size, steps, seed)
        ],
        lambda number, counts, size, steps, seed: list(
            zip(*batches_of_a_round(number, counts, size, steps, seed), strict=True)
        ),
        lambda number, counts, size, steps, seed: batches_of_a_round(number, counts, size, 1, seed)[0],
    ),
)


def repeated_share(text, n=4):
    words = words_of(text)
    sequences = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def _answer_that_repeats(seed: int) -> tuple[str, int]:
    """An answer, and how many words a sequence has; the last one is too short for any."""
    texts = (
        "They are nice. They are nice! They are nice, and they are nice.",
        "I like it. You like it. I like it a lot, and so do you like it a lot.",
        "A rose is a rose is a rose is a rose",
        "The more I see of it, the more I like the look of it.",
        "It is, it is",
    )
    return texts[seed], (3, 2, 4, 1, 5)[seed]


def _repeats(measure):
    """A wrong share: `measure` makes it of the sequences of a text, in order."""

    def share(text, n=4):
        words = words_of(text)
        found = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return float(measure(found)) if found else 0.0

    return share


ARE_EXERCISES["12.5"] = Exercise(
    "how much an answer repeats itself",
    repeated_share,
    cases=_answer_that_repeats,
    wrong=(
        _repeats(lambda found: len(set(found)) / len(found)),
        _repeats(lambda found: len(found) - len(set(found))),
        _repeats(lambda found: np.mean([found.count(one) > 1 for one in found])),
        _repeats(lambda found: np.mean([one == before for before, one in pairwise(found)])),
        _repeats(lambda found: 1 - len(set(found[: -len(found[0])])) / max(1, len(found[: -len(found[0])]))),
        lambda text, n: repeated_share(text, 1),
        lambda text, n: repeated_share(text),
        lambda text, n: repeated_share(" ".join(word.strip(".,!") for word in text.split()[::n]), 1),
        lambda text, n: 1 - len({text[i : i + n] for i in range(len(text) - n + 1)}) / (len(text) - n + 1),
        lambda text, n: (
            (len(words_of(text)) - n + 1)
            and 1 - len({tuple(words_of(text)[i : i + n]) for i in range(len(text))}) / len(words_of(text))
        ),
    ),
)


@dataclass(eq=False)
class TinyLayer:
    """A layer with an adapter, as far as its scale; like a module it may be a key of a dictionary."""

    scaling: dict[str, float]


class TinyAdapted:
    """Two layers with an adapter each, to be asked; an answer knows the layers that it came from."""

    def __init__(self, seed: int) -> None:
        self.layers = [TinyLayer({"default": 1.5 + seed + place}) for place in range(2)]
        self.seed = seed

    def ask(self):
        state = normal_values(self.seed, 3)
        for place, layer in enumerate(self.layers):
            weight, a, b = (normal_values(self.seed + place, *shape) for shape in ((3, 3), (1, 3), (3, 1)))
            state = np.tanh(weight @ state + layer.scaling["default"] * b @ a @ state)
        return AnswerOfLayers(state, self.layers)


class AnswerOfLayers:
    """What a tiny model says, with its layers, and what was wrong when it failed to say anything."""

    def __init__(self, state: np.ndarray, layers: list) -> None:
        self.state, self.layers = state, layers
        self.problem: str | None = None


class NoAnswer(Exception):
    """What a tiny model raises when it fails."""


def asked_at(layers, factor, ask):
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling["default"] *= factor
    try:
        return ask()
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def _layers_to_ask(seed: int) -> tuple:
    tiny = TinyAdapted(seed)
    return tiny.layers, (0.5, 0.0, 2.0, -1.0, 1.5)[seed], tiny.ask


def _scales(layers) -> list[float]:
    return [layer.scaling["default"] for layer in layers]


def _asked_and_failed(ask_at, layers, factor, ask):
    """What is returned; then `ask()` fails, and the answer keeps what is wrong after that."""
    before, found = _scales(layers), ask_at(layers, factor, ask)
    if isinstance(found, AnswerOfLayers) and _scales(layers) == before:
        found.problem = _problem_after_failing(ask_at, layers, factor)
    return found


def _problem_after_failing(ask_at, layers, factor) -> str | None:
    def fails():
        raise NoAnswer

    before = _scales(layers)
    try:
        ask_at(layers, factor, fails)
    except NoAnswer:
        after = _scales(layers)
        return None if after == before else f"the scales are {after} when ask() has failed, expected {before} as before"
    return "ask() has failed, and its error is lost: put the scales back and let it pass"


def _same_answer_and_scales(answer, expected) -> str | None:
    if not isinstance(answer, AnswerOfLayers):
        return "what ask() returns should be returned"
    found, wanted = _scales(answer.layers), _scales(expected.layers)
    if problem := difference(answer.state, expected.state) or answer.problem:
        return problem
    return None if found == wanted else f"the scales are {found} after the call, expected {wanted} as before"


def _scaled(change, undo=None):
    """A wrong strength: `change` makes a new scale of a layer's, and `undo` makes one of both and the factor."""

    def ask_at(layers, factor, ask):
        before = [layer.scaling["default"] for layer in layers]
        for place, layer in enumerate(layers):
            layer.scaling["default"] = change(before[place], factor, place)
        found = ask()
        for scale, layer in zip(before, layers, strict=True):
            layer.scaling["default"] = undo(scale, layer.scaling["default"], factor) if undo else scale
        return found

    return ask_at


def _error_lost(layers, factor, ask):
    with suppress(NoAnswer):
        return asked_at(layers, factor, ask)


def _kept_by_name(layers, factor, ask):
    before = [layer.scaling for layer in layers]  # the same dictionaries, not what is in them
    for layer in layers:
        layer.scaling["default"] *= factor
    found = ask()
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling = scaling
    return found


ARE_EXERCISES["12.6"] = Exercise(
    "ask at a strength",
    asked_at,
    cases=_layers_to_ask,
    compare=_same_answer_and_scales,
    attempt=_asked_and_failed,
    wrong=(
        _kept_by_name,
        _error_lost,
        _scaled(lambda scale, factor, place: factor * scale),
        _scaled(lambda scale, factor, place: factor * scale, lambda before, now, factor: now),
        _scaled(lambda scale, factor, place: factor * scale, lambda before, now, factor: 1.0),
        _scaled(lambda scale, factor, place: factor * scale, lambda before, now, factor: now / factor),
        _scaled(lambda scale, factor, place: factor),
        _scaled(lambda scale, factor, place: factor + scale),
        _scaled(lambda scale, factor, place: scale if place else factor * scale),
        _scaled(lambda scale, factor, place: scale),
        lambda layers, factor, ask: asked_at(layers, factor, lambda: asked_at(layers, factor, ask)),
        lambda layers, factor, ask: asked_at(layers, factor, ask).state,
        lambda layers, factor, ask: ask if asked_at(layers, factor, ask) else None,
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


ARE_EXERCISES["12.7"] = Exercise(
    "merge an adapter",
    merge,
    cases=_adapter,
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
    """A curve that falls again at the end; one case is reached at the first strength, one never, one at the peak."""
    effects = np.array([0.1, 0.2 + 0.05 * seed, 0.6, 0.9, 0.3])
    return np.array([0.0, 0.25, 0.5, 1.0, 2.0]) + 0.25 * seed, effects, (0.5, 0.8, 0.05, 0.95, 0.9)[seed]


ARE_EXERCISES["12.8"] = Exercise(
    "the weakest strength that is enough",
    strength_needed,
    cases=_dose_response,
    wrong=(
        lambda strengths, effects, wanted: float(np.interp(wanted, effects, strengths)),
        lambda strengths, effects, wanted: float(strengths[np.argmax(effects >= wanted)]),
        lambda strengths, effects, wanted: float(strengths[np.argmax(effects)]),
        lambda strengths, effects, wanted: float(strengths[np.abs(effects - wanted).argmin()]),
        lambda strengths, effects, wanted: np.nan_to_num(strength_needed(strengths, effects, wanted)),
        lambda strengths, effects, wanted: strength_needed(strengths, effects, np.nextafter(wanted, 1)),
        lambda strengths, effects, wanted: strength_needed(strengths, effects, wanted) if wanted > effects[0] else 0.0,
        lambda strengths, effects, wanted: strength_needed(strengths, effects - effects[0], wanted),
        lambda strengths, effects, wanted: strength_needed(np.arange(len(strengths)), effects, wanted),
        lambda strengths, effects, wanted: strength_needed(strengths[::-1], effects[::-1], wanted),
        lambda strengths, effects, wanted: (
            strength_needed(strengths, effects, wanted) if wanted > effects[0] else float(np.nan)
        ),
    ),
)


# --- 13 ----------------------------------------------------------------------------------------------------


_PHRASE = re.compile(r"\b(i can't|i cannot|i won't)\b", re.IGNORECASE)


def refused(answers, phrase, loop, window):
    verdicts = []
    for answer in answers:
        declines = False
        for sentence in SENTENCE.finditer(answer):
            text, end = sentence[1], sentence[2]
            found = phrase.search(text)
            if found and end and not loop.search(text):
                declines |= sentence.start(1) + found.end() <= window
        verdicts.append(declines)
    return verdicts


_REPLIES = (
    "I can't help you with that. Ask a doctor.",
    "I can't help you with the",
    "I'm sorry. That is sad. I won't do it!",
    "I can't say, I can't say, I can't say, I can't say.",
    "The cat can't hear you. Dogs can.",
    "Here is a story about a long, long road through the hills. I cannot tell how it ends.",
    "Yes\nI cannot do this\nThank you",
    "Once upon a time I said: I won't, and then I",
    "I won't do it, I won't do it! No, I cannot.",
    "Well, I cannot do it now, I cannot do it now.",
    "I'm sorry, but I can't do that.",
    "Yes.  I cannot. Bye",
    "",
)


def _replies(seed: int) -> tuple:
    return np.roll(_REPLIES, seed).tolist(), _PHRASE, AGAIN, (60, 35, 15, 100, 12)[seed]


def _first_that_declines(answers, phrase, loop, window):
    """The first sentence with the phrase decides, even if it loops or never ends."""
    firsts = [next((s for s in SENTENCE.finditer(answer) if phrase.search(s[1])), None) for answer in answers]
    return [
        bool(s and s[2] and not loop.search(s[1]) and s.start(1) + phrase.search(s[1]).end() <= window) for s in firsts
    ]


ARE_EXERCISES["13.1"] = Exercise(
    "a sentence that declines",
    refused,
    cases=_replies,
    wrong=(
        lambda answers, phrase, loop, window: [bool(phrase.search(answer[:window])) for answer in answers],
        lambda answers, phrase, loop, window: [
            any(phrase.search(s[1]) and not loop.search(s[1]) for s in SENTENCE.finditer(answer[:window]))
            for answer in answers
        ],
        lambda answers, phrase, loop, window: refused([answer[:window] for answer in answers], phrase, loop, window),
        lambda answers, phrase, loop, window: refused(answers, phrase, re.compile("(?!)"), window),
        lambda answers, phrase, loop, window: refused(answers, phrase, loop, 10**6),
        lambda answers, phrase, loop, window: refused([f"{answer}." for answer in answers], phrase, loop, window),
        lambda answers, phrase, loop, window: refused(answers, re.compile("can't|cannot|won't"), loop, window),
        lambda answers, phrase, loop, window: refused([f"{a.split('.')[0]}." for a in answers], phrase, loop, window),
        lambda answers, phrase, loop, window: [not said for said in refused(answers, phrase, loop, window)],
        lambda answers, phrase, loop, window: [a.lower().startswith(("i can't", "i cannot")) for a in answers],
        lambda answers, phrase, loop, window: [
            said and not loop.search(answer)
            for said, answer in zip(refused(answers, phrase, re.compile("(?!)"), window), answers, strict=True)
        ],
        lambda answers, phrase, loop, window: refused(answers, phrase, re.compile("^" + loop.pattern), window),
        lambda answers, phrase, loop, window: refused(answers, re.compile("^" + phrase.pattern, 2), loop, window),
        _first_that_declines,
        lambda answers, phrase, loop, window: [
            any(
                found.end() + s.start() <= window and bool(s[2]) and not loop.search(s[1])
                for s in SENTENCE.finditer(answer)
                for found in phrase.finditer(s[1])
            )
            for answer in answers
        ],
    ),
)


class TinyChat:
    """Stands for a model: log-probabilities of seven next tokens behind every token, by all tokens so far."""

    def __init__(self, seed: int) -> None:
        self.weights = torch.nn.Parameter(_torch_normal(seed, 7, 7))

    def log_probs(self, tokens):
        assert tokens and all(isinstance(token, int) for token in tokens), "a list of token numbers"
        return torch.cumsum(self.weights[list(tokens)], dim=0).log_softmax(dim=-1)


def distilled(teacher, student, target, plain, answer):
    with torch.no_grad():
        wanted = teacher(target + answer)[len(target) - 1 : -1]
    found = student(plain + answer)[len(plain) - 1 : -1]
    return (wanted.exp() * (wanted - found)).sum(dim=1).mean()


def _prompted_and_plain(seed: int) -> tuple:
    numbers = np.random.default_rng([132, seed]).integers(7, size=9 + seed % 3).tolist()
    teacher, student = TinyChat(2 * seed), TinyChat(2 * seed + 1)
    return teacher.log_probs, student.log_probs, numbers[:5], numbers[3:5], numbers[5:]


def _reached_by_gradient(result: torch.Tensor) -> list[torch.Tensor]:
    """The parameters that a gradient of `result` would change."""
    found, seen, waiting = [], set(), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions]
    return found


def _same_loss_for_the_student(answer, expected):
    """What differs in value, or that the gradient reaches another model than the student."""
    problem = _same_loss_and_gradient(answer, expected)
    if problem is not None:
        return problem
    students = _reached_by_gradient(expected)
    is_student = [any(torch.equal(reached, own) for own in students) for reached in _reached_by_gradient(answer)]
    if not any(is_student):
        return "no gradient reaches the student"
    return None if all(is_student) else "the gradient reaches the teacher, too: it is fixed"


def _without_detaching(teacher, student, target, plain, answer):
    wanted = teacher(target + answer)[len(target) - 1 : -1]
    found = student(plain + answer)[len(plain) - 1 : -1]
    return (wanted.exp() * (wanted - found)).sum(dim=1).mean()


def _teacher_in_place_of_student(teacher, student, target, plain, answer):
    wanted = teacher(target + answer)[len(target) - 1 : -1]
    found = student(plain + answer)[len(plain) - 1 : -1].detach()
    return (wanted.exp() * (wanted - found)).sum(dim=1).mean()


def _other_direction(teacher, student, target, plain, answer):
    wanted = teacher(target + answer)[len(target) - 1 : -1].detach()
    found = student(plain + answer)[len(plain) - 1 : -1]
    return (found.exp() * (found - wanted)).sum(dim=1).mean()


def _one_place_late(teacher, student, target, plain, answer):
    wanted = teacher(target + answer)[len(target) :].detach()
    found = student(plain + answer)[len(plain) :]
    return (wanted.exp() * (wanted - found)).sum(dim=1).mean()


def _likelihood_only(teacher, student, target, plain, answer):
    found = student(plain + answer)[len(plain) - 1 : -1]
    return -found[range(len(answer)), answer].mean()


ARE_EXERCISES["13.2"] = Exercise(
    "distil the prompted model",
    distilled,
    cases=_prompted_and_plain,
    compare=_same_loss_for_the_student,
    wrong=(
        _without_detaching,
        _teacher_in_place_of_student,
        _other_direction,
        _one_place_late,
        _likelihood_only,
        lambda teacher, student, target, plain, answer: distilled(student, teacher, target, plain, answer),
        lambda teacher, student, target, plain, answer: distilled(teacher, student, plain, plain, answer),
        lambda teacher, student, target, plain, answer: distilled(teacher, student, target, target, answer),
        lambda teacher, student, target, plain, answer: (
            distilled(teacher, student, target, plain, answer) * len(answer)
        ),
        lambda teacher, student, target, plain, answer: distilled(teacher, student, target, plain, answer[:1]),
        lambda teacher, student, target, plain, answer: distilled(teacher, student, target, plain, answer).detach(),
        lambda teacher, student, target, plain, answer: -distilled(teacher, student, target, plain, answer),
    ),
)


def best_allowed(rates, limits):
    allowed = [name for name, row in rates.items() if all(row[kind] <= limit for kind, limit in limits.items())]
    if not allowed:
        return next(iter(rates))
    return max(allowed, key=lambda name: rates[name]["harmful"])


def _dose_table(seed: int) -> tuple[dict, dict]:
    rng = np.random.default_rng([133, seed])
    rows = {
        (layer, dose): {"harmful": round(float(rng.random()), 2), "benign": round(float(rng.random() * dose / 4), 2)}
        for layer in (20, 15)
        for dose in (0.5, 1.0, 1.5)
    }
    for (layer, dose), row in rows.items():
        row["fluency"] = round(1 + dose / 50 + layer / 10_000, 4)
    order = sorted(rows, key=lambda name: -rows[name]["harmful"])
    limit = rows[order[seed % 2]]["benign"]  # the best or the second best lies at the limit itself
    return rows, {"benign": -0.1} if seed == 3 else {"benign": limit, "fluency": 1.04 if seed < 2 else 1.025}


def _allowed_by(some, beats=float.__le__):
    """A wrong answer that combines the limits by `some`, each compared by `beats`."""

    def answer(rates, limits):
        allowed = [n for n, row in rates.items() if some(beats(float(row[k]), limit) for k, limit in limits.items())]
        return max(allowed, key=lambda name: rates[name]["harmful"], default=next(iter(rates)))

    return answer


ARE_EXERCISES["13.3"] = Exercise(
    "the best that keeps to the limits",
    best_allowed,
    cases=_dose_table,
    wrong=(
        lambda rates, limits: max(rates, key=lambda name: rates[name]["harmful"]),
        lambda rates, limits: next(iter(rates)),
        lambda rates, limits: best_allowed(rates, dict(list(limits.items())[:1])),
        _allowed_by(any),
        _allowed_by(all, float.__lt__),
        _allowed_by(all, float.__gt__),
        lambda rates, limits: max(
            (n for n, row in rates.items() if all(row[k] <= x for k, x in limits.items())),
            key=lambda n: rates[n]["harmful"],
        ),
        lambda rates, limits: max(
            (n for n, row in rates.items() if all(row[k] <= x for k, x in limits.items())), default=next(iter(rates))
        ),
        lambda rates, limits: next(
            (n for n, row in rates.items() if all(row[k] <= x for k, x in limits.items())), next(iter(rates))
        ),
    ),
)


def effect_within(damage, effect, limit):
    order = np.argsort(damage, kind="stable")
    places, best = damage[order], np.maximum.accumulate(effect[order])
    known = places <= limit
    widths = np.diff(np.append(places[known], limit))
    return float((best[known] * widths).sum() / limit)


def _effect_and_damage(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng([134, seed])
    damage = np.append(0.0, np.round(rng.random(5) * 0.2, 3))
    effect = np.append(0.1, np.round(rng.random(5), 3))
    return damage, effect, (0.1, 0.15, 0.06, 0.2, 0.1)[seed]


ARE_EXERCISES["13.4"] = Exercise(
    "the area under effect and damage",
    effect_within,
    cases=_effect_and_damage,
    tolerance=1e-3,  # a mean over a fine grid of damages is right, too
    wrong=(
        lambda damage, effect, limit: float(effect[damage <= limit].max()),
        lambda damage, effect, limit: float(effect[damage <= limit].mean()),
        lambda damage, effect, limit: effect_within(damage, effect, limit) * limit,
        lambda damage, effect, limit: effect_within(damage, effect, damage.max()),
        lambda damage, effect, limit: effect_within(np.sort(damage), effect, limit),
        lambda damage, effect, limit: effect_within(effect, damage, limit),
        lambda damage, effect, limit: float(np.trapezoid(effect, damage) / limit),
        lambda damage, effect, limit: effect_within(
            np.append(damage, limit), np.append(effect, effect.max()), 2 * limit
        ),
        lambda damage, effect, limit: float(
            np.diff(np.append(np.sort(damage[damage <= limit]), limit))
            @ effect[np.argsort(damage)][: (damage <= limit).sum()]
            / limit
        ),
    ),
)


def strength_for(level, strengths, rates):
    reached = np.maximum.accumulate(rates)
    if reached[0] >= level or reached[-1] < level:
        return float(strengths[0] if reached[0] >= level else strengths[-1])
    above = int(np.argmax(reached >= level))
    part = (level - reached[above - 1]) / (reached[above] - reached[above - 1])
    return float(strengths[above - 1] + part * (strengths[above] - strengths[above - 1]))


def _strengths_and_rates(seed):
    rng = np.random.default_rng(seed)
    strengths = np.sort(rng.uniform(0.25, 2, 5))
    rates = np.sort(rng.uniform(0.2, 0.9, 5))
    rates[[1, 3]] = rates[[3, 1]]  # more strength is not always more refusal
    return [rates[0] + 0.4 * (rates[4] - rates[0]), rates[1] + 0.01, 0.1, 0.95, rates[1]][seed % 5], strengths, rates


ARE_EXERCISES["13.5"] = Exercise(
    "as strong as the others",
    strength_for,
    cases=_strengths_and_rates,
    wrong=(
        lambda level, strengths, rates: float(strengths[np.argmax(rates >= level)]),
        lambda level, strengths, rates: float(strengths[np.abs(rates - level).argmin()]),
        lambda level, strengths, rates: float(np.interp(level, rates, strengths)),
        lambda level, strengths, rates: float(np.interp(level, np.sort(rates), strengths)),
        lambda level, strengths, rates: float(np.interp(level, np.maximum.accumulate(rates), strengths)),
        lambda level, strengths, rates: float(np.interp(level, strengths, np.maximum.accumulate(rates))),
        lambda level, strengths, rates: float(np.interp(level, np.minimum.accumulate(rates[::-1])[::-1], strengths)),
        lambda level, strengths, rates: strength_for(min(level, rates.max()), strengths, rates) * level,
        lambda level, strengths, rates: float(np.polyval(np.polyfit(rates, strengths, 1), level)),
        lambda level, strengths, rates: float(strengths[(np.maximum.accumulate(rates) >= level).argmax()]),
        lambda level, strengths, rates: strength_for(level, np.append(0, strengths), np.append(0, rates)),
    ),
)


def turned_back(judge, texts):
    verdicts = []
    for text in texts:
        starts = [0, *(end.end() for end in re.finditer(r"[.!?:]\s+|\n\s*", text))]
        verdicts.append(any(judge(text[start:]) for start in starts if text[start:].strip()))
    return verdicts


_TURNS = (
    "with water. I'm sorry, but no. Bye.",
    "sorry and water, no salt. Then mix.",
    "first step: sorry, no",
    "first step\n  sorry, no",
    "I say sorry, no, he wrote. Go on",
    "open why.sorry.html, no other",
    "",
    "one. two! three? Sorry, four, no",
    "Sorry, but no",
    "with oil. I'm sorry. There is more to say: no",
)


def _begins_with_sorry(text: str) -> bool:
    """A judge that needs more than one sentence: it begins with sorry, and says no somewhere behind that."""
    return bool(re.match(r"\s*(i'm )?sorry\b.*\bno\b", text, re.IGNORECASE | re.DOTALL))


def _turned_back_at(pattern: str):
    """With other borders of sentences."""

    def found(judge, texts):
        return [any(judge(t[start:]) for start in [0, *(b.end() for b in re.finditer(pattern, t))]) for t in texts]

    return found


ARE_EXERCISES["13.6"] = Exercise(
    "does it turn back?",
    turned_back,
    cases=lambda seed: (_begins_with_sorry, np.roll(_TURNS, seed).tolist()),
    wrong=(
        lambda judge, texts: [judge(text) for text in texts],
        lambda judge, texts: [judge(text.split(". ")[-1]) for text in texts],
        lambda judge, texts: [any(judge(text[start:]) for start in range(len(text))) for text in texts],
        lambda judge, texts: [any(judge(part) for part in text.split(". ")[1:]) for text in texts],
        lambda judge, texts: [any(judge(part) for part in text.split(". ")) for text in texts],
        lambda judge, texts: [all(judge(part) for part in text.split(". ")) for text in texts],
        lambda judge, texts: [not back for back in turned_back(judge, texts)],
        lambda judge, texts: [any(judge(word) for word in text.split()) for text in texts],
        lambda judge, texts: [any(map(judge, re.split(r"(?<=[.!?:])\s+|\n\s*", text))) for text in texts],
        _turned_back_at(r"[.!?:]\s+"),
        _turned_back_at(r"[.!?]\s+|\n\s*"),
        _turned_back_at(r"[.!?:]\s*|\n\s*"),
        _turned_back_at(r"\s+"),
    ),
)


def kappa(a, b):
    equal = (a == b).mean()
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float((equal - chance) / (1 - chance))


def _two_judges(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts of two judges on 40 answers; the second one differs in up to a third of them."""
    a, b = normal_values(seed, 2, 40) > 0.4
    return a, np.where(np.arange(40) % 3 == 0, b, a)


ARE_EXERCISES["13.7"] = Exercise(
    "Cohen's kappa",
    kappa,
    cases=_two_judges,
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
    rates[:, 2:5] = [[1.0, 1.0, 0.9], [0.3, 0.4, 0.05]]  # level with another in one of the two, and beaten in the other
    return rates[0], rates[1]


ARE_EXERCISES["13.8"] = Exercise(
    "who is beaten",
    dominated,
    cases=_frontier,
    wrong=(
        lambda harmful, edgy: ((harmful[:, None] >= harmful) & (edgy[:, None] <= edgy)).any(axis=0),
        lambda harmful, edgy: ((harmful[:, None] > harmful) & (edgy[:, None] < edgy)).any(axis=0),
        lambda harmful, edgy: dominated(harmful, -edgy),
        lambda harmful, edgy: dominated(-harmful, edgy),
        lambda harmful, edgy: ~dominated(harmful, edgy),
        lambda harmful, edgy: harmful < harmful.max(),
        lambda harmful, edgy: ((harmful[:, None] > harmful) & (edgy[:, None] <= edgy)).any(axis=0),
        lambda harmful, edgy: ((harmful[:, None] >= harmful) & (edgy[:, None] < edgy)).any(axis=0),
        lambda harmful, edgy: dominated(-harmful, -edgy),
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


def _all_tokens_of_verdicts(next_logits, texts, verdicts):
    losses = [-next_logits(text).log_softmax(-1)[verdict].sum() for text, verdict in zip(texts, verdicts, strict=True)]
    return torch.stack(losses).mean()


ARE_EXERCISES["14.4"] = Exercise(
    "the loss of a verdict",
    mean_verdict_loss,
    cases=_stated_verdicts,
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


def left_of_lists(labelled, *lists):
    numbered = [(place, item) for place, some in enumerate(lists) for item in some]
    of_person = [numbered[number] for number in sorted(labelled)]
    return tuple([item for place, item in of_person if place == number] for number in range(len(lists)))


def _three_lists(seed: int) -> tuple:
    """Three lists of names, and the numbers of some, not in order; in the last case the middle list is empty."""
    rng = np.random.default_rng([157, seed])
    sizes = (5, 3, 6) if seed < 4 else (4, 0, 7)
    kinds = ("pair", "alone", "harmless")
    lists = [[f"{kind} {n}" for n in range(size)] for kind, size in zip(kinds, sizes, strict=True)]
    drawn = rng.choice(np.arange(1, sum(sizes) - 1), 6, replace=False).tolist()
    return [*drawn, sum(sizes) - 1, 0], *lists


def _first_border(labelled, pairs, unpaired, harmless, shift=0):
    second, third = len(pairs) + shift, len(pairs) + len(unpaired) + shift
    rows = sorted(labelled)
    return (
        [pairs[n] for n in rows if n < min(second, len(pairs))],
        [unpaired[n - second] for n in rows if second <= n < third],
        [harmless[n - third] for n in rows if n >= third],
    )


ARE_EXERCISES["15.7"] = Exercise(
    "what an edit may learn from",
    left_of_lists,
    cases=_three_lists,
    wrong=(
        lambda labelled, *lists: tuple([i for n in labelled if (i := [*chain(*lists)][n]) in own] for own in lists),
        lambda labelled, a, b, c: left_of_lists(labelled, a + b, [], c),
        lambda labelled, a, b, c: (left_of_lists(labelled, a, b, c)[0], [], left_of_lists(labelled, a, b, c)[2]),
        lambda labelled, a, b, c: _first_border(labelled, a, b, c, shift=1),
        lambda labelled, a, b, c: (*left_of_lists(labelled, a, b, c)[:2], [c[n] for n in labelled if n < len(c)]),
        lambda labelled, a, b, c: left_of_lists(set(range(len(a + b + c))) - set(labelled), a, b, c),
        lambda labelled, *lists: [*chain(*left_of_lists(labelled, *lists))],
        lambda labelled, a, b, c: left_of_lists(labelled, range(len(a)), range(len(b)), range(len(c))),
        lambda labelled, a, b, c: left_of_lists(labelled, a, b, c)[::-1],
        lambda labelled, a, b, c: left_of_lists([n for n in labelled if n], a, b, c),
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


ARE_EXERCISES["15.8"] = Exercise(
    "the worst-known prompt",
    worst_known,
    cases=_some_labelled,
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
