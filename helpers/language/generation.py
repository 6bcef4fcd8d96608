"""The one place that generates text: prompts in, texts out.

A backend answers prompts: `LocalBackend` in this process, `ServerBackend` over the network. `generate` calls one,
with a memo on disk and a progress bar. All return raw answers; `whole_sentences` makes them presentable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from helpers.base import settings, sources
from helpers.language import models
from helpers.language.adapters import fingerprint
from helpers.language.engine.decoding import decode_prompts
from helpers.language.likelihood import log_likelihoods, refuse_too_long
from helpers.language.memo import Memo, memo_key
from helpers.language.memo import default_memo as default_memo  # so, for those who import it from here
from helpers.language.models import AnyModel, LoadedModel
from helpers.language.prompts import (
    QUESTION_AND_ANSWER,
    Backend,
    Done,
    Prompt,
    Sampling,
    TokenIds,
    prompt_tokens,
)
from helpers.language.prompts import Message as Message
from helpers.language.prompts import Stop as Stop
from helpers.language.prompts import plain_tokens as plain_tokens
from helpers.language.texts import whole_sentences

REWRITE_PROMPT = (
    "Here is the plot of a movie:\n\n{plot}\n\n"
    "Rewrite the plot with this change: {instruction}\n"
    "Answer with the new plot only, in three or four sentences."
)


@dataclass(frozen=True)
class LocalBackend:
    """A model in this process.

    An answer depends on the prompt, the settings and the seed, not on other prompts in its batch: exactly in float32,
    except for ties within rounding. In bfloat16 the shape of a batch can round a logit differently and change a text.

    Attributes:
        name: must change with the weights, or a memo returns the answers of the old ones.
    """

    lm: LoadedModel
    name: str

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], done: Done) -> None:
        """As `Backend.generate`; `done` is called once per batch.

        Raises:
            ValueError: a prompt that leaves no room for the answer, or a model without a chat template.
        """
        model, tokenizer = self.lm
        rows = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
        refuse_too_long(model, max(map(len, rows)), sampling.max_new_tokens)

        def decoded(finished: list[int], answers: list[list[int]]) -> None:
            done(finished, tokenizer.batch_decode(answers, skip_special_tokens=True))

        def enough(answer: list[int]) -> bool:
            return rule is not None and rule.fires(tokenizer.batch_decode([answer], skip_special_tokens=True)[0])

        rule = sampling.stop
        decode_prompts(model, rows, sampling, seeds, _stop_tokens(self.lm), decoded, enough if rule else None)

    def score(self, prompt: Prompt, continuations: Sequence[str]) -> Float[np.ndarray, " continuation"]:
        """As `log_likelihoods`, without gradients."""
        with torch.no_grad():
            return log_likelihoods(self.lm, prompt, continuations).double().cpu().numpy()


def local_backend(name: str | None = None, dtype: torch.dtype | None = None) -> LocalBackend:
    """The shared copy of a language model (`models.language_model`) as a backend; without `name` the course's.

    Raises:
        CourseError: as `models.load_language_model`.
    """
    lm = models.language_model(name, dtype)
    return LocalBackend(lm, backend_name(lm, name))


def backend_name(lm: LoadedModel, name: str | None = None) -> str:
    """Name and number format of a model, part of the memo's keys.

    A model of the manifest is pinned by its checksums; a folder or a hub's model may change under its name, so a sample
    of its weights is added. The same holds for a chat template that is not pinned: the memo knows prompts as messages,
    and must not mix up two ways to write them.
    """
    name = name or settings.model_name()
    pinned, template = name in sources.read_manifest(), lm.tokenizer.chat_template
    weights = "" if pinned else f" {fingerprint(lm)['weights']}"
    written = "" if pinned and template != QUESTION_AND_ANSWER else f", {_digest(str(template))}"
    return f"{name}{weights}{written}, {str(lm.model.dtype).removeprefix('torch.')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def exact_backend(name: str | None = None) -> LocalBackend:
    """A language model in float32, where an answer does not depend on the others in its batch.

    In bfloat16 the shape of the batch affects rounding, and now and then another token is drawn. Slower; for checks
    that compare answers.

    Raises:
        CourseError: as `models.load_language_model`.
    """
    return local_backend(name, torch.float32)


def second_model() -> LocalBackend:
    """Gemma 3 270M: another architecture, and not a chat model. Its prompts are written as questions and answers."""
    return local_backend(settings.SECOND_MODEL)


def generate(
    backend: Backend,
    prompts: Sequence[Prompt],
    sampling: Sampling = Sampling(),  # noqa: B008
    seeds: int | Sequence[int] = 0,
    *,
    memo: Memo | None = None,
    progress: bool = False,
) -> list[str]:
    """The raw answers to prompts, in their order.

    Args:
        prompts: a text is one user message; a tuple of messages may end with the prefix of the answer.
        seeds: one per prompt, or an int s for s, s + 1, ...; an answer depends on its own seed alone.
        memo: where answers are looked up first, and kept batch by batch as they are finished.
        progress: show a bar that counts answers, when there is more than one to wait for.

    A memoised answer without `sampling.stop` is cut where the rule fires, and so is what a backend returns beyond that.

    Raises:
        ValueError: no prompt, a malformed one, another number of seeds, a negative seed; or as the backend.
        CourseError: the memo cannot be used; or as the backend.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("give a list of at least one prompt")
    seeds = _one_per_prompt(seeds, len(prompts))
    keys = [memo_key(backend.name, prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    known = _known(memo, keys, backend.name, prompts, sampling, seeds) if memo else {}
    todo = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    with tqdm(total=len(prompts), disable=not progress or len(todo) < 2, desc="answers", unit="") as bar:
        bar.update(sum(key in known for key in keys))

        def done(rows: list[int], texts: list[str]) -> None:
            cut = sampling.stop.cut if sampling.stop else str
            new = {keys[todo[row]]: cut(text) for row, text in zip(rows, texts, strict=True)}
            if memo:
                memo.put(new)
            known.update(new)
            bar.update(sum(key in new for key in keys))

        if todo:
            backend.generate([prompts[row] for row in todo], sampling, [seeds[row] for row in todo], done)
    return [known[key] for key in keys]


def _known(
    memo: Memo, keys: Sequence[str], name: str, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]
) -> dict[str, str]:
    """The answers in the memo by key; a whole answer also serves a request with a stopping rule."""
    known = memo.get(keys)
    if sampling.stop:
        whole = replace(sampling, stop=None)
        wholes = {
            memo_key(name, prompt, whole, seed): key
            for key, prompt, seed in zip(keys, prompts, seeds, strict=True)
            if key not in known
        }
        known.update({wholes[key]: sampling.stop.cut(text) for key, text in memo.get(list(wholes)).items()})
    return known


def _one_per_prompt(seeds: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seeds, int | np.integer):
        seeds = range(int(seeds), int(seeds) + count)
    seeds = [int(seed) for seed in seeds]
    if len(seeds) != count or not all(0 <= seed < 2**32 for seed in seeds):  # PyTorch uses 32 bits
        raise ValueError(f"{len(seeds)} seeds for {count} prompts: give one per prompt, each from 0 to 2^32 - 1")
    return seeds


def rewrite_plot(backend: Backend, plot: str, instruction: str, sampling: Sampling = Sampling()) -> str:  # noqa: B008
    """The plot as the language model rewrites it under an instruction, in whole sentences."""
    prompt = REWRITE_PROMPT.format(plot=plot, instruction=instruction)
    return whole_sentences(generate(backend, [prompt], sampling)[0])


def end_of_answer(lm: AnyModel) -> TokenIds:
    """The token that ends an answer in the model's chat template; none where decoding does not stop at it."""
    asked: Prompt = (("user", "a"), ("assistant", "b"))
    begun, gone_on = (prompt_tokens(lm.tokenizer, prompt) for prompt in (asked, (*asked, ("user", "c"))))
    following = gone_on[len(begun) :][:1] if gone_on[: len(begun)] == begun else ()
    return following if set(following) <= _stop_tokens(lm) else ()


def _stop_tokens(lm: AnyModel) -> set[int]:
    stop = lm.model.generation_config.eos_token_id
    stop = stop if isinstance(stop, list) else [stop]
    return {token for token in (*stop, lm.tokenizer.eos_token_id) if token is not None}
