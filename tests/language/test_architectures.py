"""Every architecture of transformers that can be built tiny: decoded and scored as transformers does, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from helpers.base.storage import CourseError
from helpers.course import results
from helpers.language import likelihood
from helpers.language.engine import fitting
from helpers.language.engine.decoding import decode_prompts
from helpers.language.prompts import Sampling

VOCABULARY, NEW = 64, 6
MOST_PARAMETERS = 2_000_000
# Under the names that configurations have for them.
SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width", "embedding_size"), 32),
    "attention_hidden_size": 32,
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "mamba_d_head"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "sliding_window"), 256),
    "attention_window_size": 64,
    "rotary_dim": 4,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_n_heads", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_num_heads", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "hidden_size_per_layer_input": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "time_step_rank": 4,
    "mamba_expand": 2,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
PROMPTS = [(5, 9, 33, 60, 2), (41, 3, 3, 17, 22, 8, 50, 51, 20, 11, 9, 62, 7, 5), tuple(range(3, 30))]
PROMPTS += [PROMPTS[2][:20] + PROMPTS[0]]
TEXTS = [(5, 6, 7), (9,)]


def config_of(kind: str) -> PreTrainedConfig:
    """The configuration of an architecture with small sizes for whatever it has a name for."""
    make = CONFIG_MAPPING[kind]
    others = getattr(make, "attribute_map", {})  # `hidden_size` may be another name for `n_embd`
    known = {*make().to_dict(), *others} - {name for name in others if others[name] in SIZES and name in SIZES}
    return make(**{name: size for name, size in SIZES.items() if name in known})


def built(kind: str) -> PreTrainedModel | None:
    """A tiny model of weights so large that what it reads matters; None where this takes more than sizes."""
    try:
        config = config_of(kind)
        if config.is_encoder_decoder:
            return None
        with torch.device("meta"):
            size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
        if size > MOST_PARAMETERS:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
        logits = model(input_ids=torch.tensor(PROMPTS[:1])).logits
    except Exception:  # sizes that do not go together, or a library that is not there
        return None
    return model if logits.isfinite().all() else None


def tiny_models() -> Iterator[tuple[str, PreTrainedModel]]:
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES and (model := built(kind)) is not None:
            yield kind, model


def generated(model: PreTrainedModel, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def decoded(model: PreTrainedModel) -> list[list[int]]:
    answers: dict[int, list[int]] = {}

    def done(rows: list[int], new: list[list[int]]) -> None:
        answers.update(zip(rows, new, strict=True))

    decode_prompts(model, PROMPTS, Sampling(NEW, temperature=0), [0] * len(PROMPTS), set(), done)
    return [answers[row] for row in range(len(PROMPTS))]


def plain_score(model: PreTrainedModel, prompt: tuple[int, ...], text: tuple[int, ...]) -> float:
    logits = model(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(dim=1)[range(len(text)), text].sum().item()


@torch.no_grad()
def verdict(model: PreTrainedModel) -> str:
    """`right` with the way it was decoded, `refused`, or what is wrong."""
    try:
        answers = decoded(model)
    except CourseError as error:
        return "refused" if "\n" not in str(error) and "ServerBackend" in str(error) else f"wrong: {error}"
    if answers != [generated(model, prompt) for prompt in PROMPTS]:
        return f"wrong: {fitting.decoding_way(model, 99)} says other tokens"
    expected = [plain_score(model, PROMPTS[1], text) for text in TEXTS]
    for found in (
        likelihood.continuation_log_likelihoods(model, PROMPTS[1], TEXTS),
        likelihood.text_log_likelihoods(model, [(PROMPTS[1], text) for text in TEXTS]),
    ):
        if found.tolist() != pytest.approx(expected, abs=1e-2):
            return f"wrong: scores {found.tolist()} rather than {expected}"
    return f"right, {fitting.decoding_way(model, 99)}"


@pytest.mark.slow
def test_architectures_are_decoded_and_scored_as_transformers_does(record_property):
    transformers.logging.set_verbosity_error()
    verdicts = {kind: verdict(model) for kind, model in tiny_models()}
    wrong = {kind: what for kind, what in verdicts.items() if what.startswith("wrong")}
    assert not wrong
    count = Counter(verdicts.values())
    right = sum(number for what, number in count.items() if what.startswith("right"))
    assert len(verdicts) >= 100 and right >= 0.8 * len(verdicts), count
    assert count["right, engine"] >= 50, count
    row = {
        "n": len(verdicts),
        "seeds": [0],
        "unit": f"of {len(verdicts)} architectures",
        "notebook": "tests",
    }
    results.record("decoding.architectures_right", right, **row)
