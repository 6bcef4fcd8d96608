"""How much faster is our editing loop than the authors'? Run: python tests/benchmarks/bench_authors_loop.py

Theirs as their code does it: one prompt at a time, whole passes that hand out all hidden states and logits, and both
kinds of states read anew in every round. Ours batches, shares prefixes, starts above the blocks that never change,
and reads the target states once. Same model, adapter, examples, discriminators, rounds and loss (the paper's: that of
the discriminator alone); every example of ours is a step of theirs. What only ours does (a fresh probe after every
round) counts for its time. Both are timed in one run, in seconds of one core.

The sizes are those of the profile (`STEER_PROFILE=full` for the reported one), and the ratio is recorded as
`are.speedup_over_authors_loop` when STEER_RESULTS is set. `--rounds`, `--steps` and `--examples` make it smaller, and
`--tiny` takes a tiny random model, to see that it runs; neither is recorded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from bench_editing import examples
from jaxtyping import Float
from torch import Tensor

from helpers.are import editing, experiment
from helpers.are.concepts import Example, Question
from helpers.are.discriminator import accuracy, fooling_loss, scaling_of, train_discriminator
from helpers.are.editing import Answered, EditSettings, Rows, Run
from helpers.base import settings
from helpers.course import results
from helpers.language.adapters import trained_weights
from helpers.language.generation import prompt_tokens
from helpers.language.models import LanguageModel, LoadedModel, load_language_model
from helpers.language.states import ReadOut, TokenSequence


def whole_pass(model: LanguageModel, text: TokenSequence, at: ReadOut) -> Float[Tensor, "1 layer position dim"]:
    """Hidden states of one text by a pass through the whole model, which hands out all of them.

    Of the last block `transformers` gives what is behind the final norm; for the time it makes no difference.
    """
    ids = torch.tensor([list(text)], device=model.device)
    hidden = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack([hidden[layer][:, -at.positions :] for layer in at.of(model)], dim=1).float()


def authors_loop(run: Run) -> list[dict[str, float]]:
    """The rounds of algorithm 1 as the authors compute them; facts of every round."""
    model, chosen = run.lm.model, run.settings
    optimiser = torch.optim.Adam(trained_weights(model), lr=chosen.learning_rate)

    @torch.no_grad()
    def states(texts: Sequence[TokenSequence]) -> Float[Tensor, "text layer position dim"]:
        return torch.cat([whole_pass(model, text, chosen.at) for text in texts])

    curve = []
    for number in range(chosen.rounds):
        target, plain = states(run.train.target), states(run.train.plain)
        scale = scaling_of(torch.cat([target, plain]))
        judge = editing.new_discriminator(model, chosen, run.seed, number)
        train_discriminator(judge, scale(target), scale(plain), chosen.training, seed=number)
        seen = accuracy(judge, scale(states(run.stop.target)), scale(states(run.stop.plain)))
        losses = []
        for rows, _ in editing.batches_of_round(run, number):
            for row in rows:
                loss = fooling_loss(judge, scale(whole_pass(model, run.train.plain[row], chosen.at)), run.kind)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        curve.append({"accuracy": seen, "fooling": sum(losses) / len(losses), "passes": len(losses)})
    return curve


def new_run(lm: LoadedModel, train: Sequence[Example], stop: Sequence[Example], chosen: EditSettings) -> Run:
    """An edit that has not begun, with an adapter of its own. Nothing is retained, so one text stands for all."""
    adapted = experiment.with_late_adapter(lm, chosen.at)
    kept = Answered(adapted, [prompt_tokens(lm.tokenizer, "Hello")], [prompt_tokens(lm.tokenizer, "Hello")])
    parts = (Rows(adapted, some, chosen.at.positions) for some in (train, stop))
    return Run(adapted, *parts, kept, chosen)


def papers_loss(chosen: EditSettings) -> EditSettings:
    """The settings with the discriminator's loss alone, and no end before the last round."""
    return replace(chosen, adversary=1.0, match=0.0, answer=0.0, retain=0.0, fooled=0.0)


def seconds_of_both(
    lm: LoadedModel, train: Sequence[Example], stop: Sequence[Example], chosen: EditSettings
) -> tuple[float, float]:
    """Seconds of one core for our loop and for the authors'."""
    found = []
    for loop in (editing.edit, authors_loop):
        run = new_run(lm, train, stop, chosen)
        began = time.process_time()
        loop(run)
        found.append(time.process_time() - began)
    return found[0], found[1]


def _tiny() -> LoadedModel:
    sys.path.append(str(Path(__file__).parents[1]))
    from tiny_models import tiny

    return tiny(layers=6)


def _questions() -> tuple[list[Question], list[Question]]:
    parts = experiment.harmful(experiment.edit_sizes())
    return parts.train, parts.stop


def main() -> None:
    """Print seconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, help="to train on; default: those of the profile")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="of a round")
    parser.add_argument("--tiny", action="store_true", help="a tiny random model with made-up questions")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lm = _tiny() if asked.tiny else load_language_model()
    train, stop = ([Question(f"q-{n}", f"What is {n}?") for n in range(30)],) * 2 if asked.tiny else _questions()
    train = train[: asked.examples]
    stop = stop[: len(train)]
    chosen = papers_loss(experiment.refusal_settings(lm))
    chosen = replace(chosen, rounds=asked.rounds or chosen.rounds, steps=asked.steps or chosen.steps)
    seconds_of_both(lm, examples(train[:2]), examples(stop[:2]), replace(chosen, rounds=1, steps=1, batch=2))
    ours, theirs = seconds_of_both(lm, examples(train), examples(stop), chosen)
    passes = chosen.rounds * chosen.steps * chosen.batch
    print(f"{len(train)} examples, {chosen.rounds} rounds, {passes} prompts seen, {settings.profile()} profile")
    print(f"ours {ours:.1f} s, the authors' loop {theirs:.1f} s: {theirs / ours:.1f} times as fast")
    if not (asked.tiny or asked.examples or asked.rounds or asked.steps):
        row = {"n": passes, "seeds": [0], "unit": "times as fast; seconds of one core", "notebook": "tests"}
        results.record("are.speedup_over_authors_loop", theirs / ours, **row)


if __name__ == "__main__":
    main()
