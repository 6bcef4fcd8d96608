"""The one place that decodes: instructions in, texts out."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from helpers.models import LoadedModel

REWRITE_PROMPT = (
    "Here is the plot of a movie:\n\n{plot}\n\n"
    "Rewrite the plot with this change: {instruction}\n"
    "Answer with the new plot only, in three or four sentences."
)

# A full stop with its closing quotes; neither the point in `3.5` nor the number `1.` of a list.
SENTENCE_END = re.compile(r"(?<!\b\d)[.!?]+[\"'”’)\]]*(?=\s|$)")


@torch.inference_mode()
def generate(
    lm: LoadedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Answer user messages with a chat model, all in one left-padded batch.

    Args:
        prompts: one user message each, formatted with the model's chat template.
        temperature: 0 decodes greedily; above 0 samples with top-k 50 and top-p 0.95 from `seed`.

    Raises:
        ValueError: no prompt, or a model without a chat template.
    """
    model, tokenizer = lm
    if not prompts:
        raise ValueError("give at least one prompt")
    if not tokenizer.chat_template:
        raise ValueError("this model has no chat template: load an instruction-tuned one")
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 50, "top_p": 0.95}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )
    answers = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [whole_sentences(answer) for answer in answers]


def whole_sentences(text: str) -> str:
    """The text on one line, without what follows its last whole sentence; as it is when it has none."""
    text = " ".join(text.split())
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def rewrite_plot(lm: LoadedModel, plot: str, instruction: str, **options) -> str:
    """The plot as the language model rewrites it under an instruction (options as for `generate`)."""
    return generate(lm, [REWRITE_PROMPT.format(plot=plot, instruction=instruction)], **options)[0]
