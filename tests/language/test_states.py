"""Hidden states: the same as transformers gives, for several architectures, padded or not, cut short or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from helpers.base.storage import CourseError
from helpers.language import states as states_module
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.engine.attention import PIECE
from helpers.language.states import (
    ReadOut,
    batches,
    blocks,
    changed,
    ending_states,
    fit_probe,
    in_one_row,
    in_rows,
    layout_of,
    logit_lens,
    probe_accuracy,
    read,
    read_all,
    states_below,
)

SIZES = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
SCALED = {
    "granite": (GraniteConfig(**SIZES, logits_scaling=8.0), GraniteForCausalLM),
    "cohere": (CohereConfig(**SIZES, logit_scale=0.0625), CohereForCausalLM),
    "gemma2": (Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0), Gemma2ForCausalLM),
    "llama": (LlamaConfig(**SIZES), LlamaForCausalLM),
}
KINDS = ("llama", "gemma3", "gpt2", "qwen2")
TEXTS = [list(b"a short one"), list(b"one that is a good deal longer"), list(b"word")]


def by_transformers(model, text, layer, positions):
    """Every text by itself, the whole model; the last entry of `hidden_states` is behind the final norm."""
    with torch.no_grad():
        return model(torch.tensor([text]), output_hidden_states=True).hidden_states[layer][0, -positions:].float()


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_transformers(kind):
    model = tiny(kind, layers=4).model
    states = read(model, TEXTS, ReadOut((1, 3), positions=2))
    assert states.shape == (3, 2, 2, 32)
    for row, text in enumerate(TEXTS):
        for column, layer in enumerate((1, 3)):
            expected = by_transformers(model, text, layer, 2)
            torch.testing.assert_close(states[row, column], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("arrange", [in_rows, in_one_row])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_side_by_side_or_behind_one_prefix_are_read_as_if_alone(kind, arrange, monkeypatch):
    model, texts = tiny(kind, layers=4).model, [list(b"once a"), list(b"once up"), list(b"once"), list(b"once a")]
    with torch.no_grad():
        alone = [model.get_decoder()(torch.tensor([text])).last_hidden_state[0] for text in texts]
    monkeypatch.setattr(states_module, "layout_of", arrange)
    below = states_below(model, texts, 2)
    for known in (None, below):
        for count, expected, found in zip(
            (1, 5, 4, 2), alone, ending_states(model, texts, (1, 5, 4, 2), known), strict=True
        ):
            torch.testing.assert_close(found, expected[-count:], atol=2e-4, rtol=1e-3)
        found = read(model, texts, ReadOut((3,), positions=4), known)
        for row, text in enumerate(texts):
            torch.testing.assert_close(found[row, 0], by_transformers(model, text, 3, 4), atol=2e-4, rtol=1e-3)
    assert [len(state) for state in below.states] == list(map(len, texts))


@pytest.mark.parametrize("texts", [[list(b"once")] * 2, [list(b"once"), list(b"up")], [list(b"once")]])
def test_texts_with_nothing_of_their_own_or_nothing_in_common_are_read_as_if_alone(texts):
    model = tiny(layers=4).model
    assert layout_of(texts, model).rows == [0] * len(texts)
    for text, found in zip(texts, ending_states(model, texts, [2] * len(texts)), strict=True):
        expected = model.get_decoder()(torch.tensor([text])).last_hidden_state[0, -2:]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_texts_share_a_row_only_where_the_attention_allows_it():
    """Gemma 2 caps the scores of its attention; in a long text all scores at once would take much memory."""
    config, kind = SCALED["gemma2"]
    assert layout_of(TEXTS, kind(config).eval()).rows == [0, 1, 2]
    long = tiny(layers=2).model
    assert layout_of(TEXTS, long).rows == [0, 0, 0]
    assert layout_of([[1] * (PIECE + 1), [1, 2]], long).rows == [0, 1]


def test_gradients_are_those_of_texts_in_rows_of_their_own(monkeypatch):
    edited = with_adapter(tiny(layers=4), rank=2, modules=("q_proj", "v_proj"), layers=range(2, 5))
    weights, found = trained_weights(edited.model), {}
    for arrange in (in_rows, in_one_row):
        monkeypatch.setattr(states_module, "layout_of", arrange)
        loss = sum(state.square().sum() for state in ending_states(edited.model, TEXTS, (1, 3, 2)))
        found[arrange] = torch.autograd.grad(loss, weights)
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_model_that_reads_texts_otherwise_beside_others_is_refused(monkeypatch):
    model = tiny(layers=2).model
    decoder = model.get_decoder()
    decoder.register_forward_hook(
        lambda _module, _args, out: setattr(out, "last_hidden_state", out.last_hidden_state.cumsum(dim=1))
    )
    with pytest.raises(CourseError, match="differently in a batch"):
        read(model, TEXTS, ReadOut((1,)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_starts_from_known_states_gives_the_same(kind):
    model = tiny(kind, layers=4).model
    at = ReadOut((3, 4))
    below = states_below(model, TEXTS, 2)
    assert below.depth == 2
    torch.testing.assert_close(read(model, TEXTS, at, below), read(model, TEXTS, at), atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(
        read(model, TEXTS[1:], at, below.of([1, 2])), read(model, TEXTS[1:], at), atol=2e-4, rtol=1e-3
    )
    assert "forward" not in vars(blocks(model)[0])  # nothing is left behind


def test_the_pass_ends_after_the_deepest_layer_and_starts_above_the_known_ones():
    model, seen = tiny(layers=5).model, []
    read(model, TEXTS, ReadOut((1,)))  # the first pass of a model also tries how it reads several texts
    hooks = [
        block.self_attn.register_forward_hook(lambda *_, number=number: seen.append(number))
        for number, block in enumerate(blocks(model), 1)
    ]
    read(model, TEXTS, ReadOut((3,)))
    assert seen == [1, 2, 3]
    below = states_below(model, TEXTS, 2)
    seen.clear()
    read(model, TEXTS, ReadOut((4,)), below)
    assert seen == [3, 4]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_gradients_reach_an_adapter_and_agree_with_those_of_the_whole_pass(kind):
    modules = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    model = with_adapter(tiny(kind, layers=4), rank=2, modules=modules, layers=[3]).model
    with torch.no_grad():
        for weight in trained_weights(model):
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    at, gradients = ReadOut((3,)), []
    for below in (None, states_below(model, TEXTS, 2)):
        read(model, TEXTS, at, below).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in trained_weights(model)])
        model.zero_grad()
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def test_an_error_on_the_way_leaves_the_model_as_it_was():
    model = tiny(layers=3).model
    below = states_below(model, TEXTS, 1)
    expected = read(model, TEXTS, ReadOut((3,)))
    handle = blocks(model)[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(model, TEXTS, ReadOut((3,)), below)
    handle.remove()
    torch.testing.assert_close(read(model, TEXTS, ReadOut((3,))), expected)
    assert not any(block._forward_hooks or "forward" in vars(block) for block in blocks(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_puts_other_states_in_place_and_leaves_no_trace(kind):
    model = tiny(kind, layers=3).model
    expected = read(model, TEXTS[:1], ReadOut((2, 3)))
    donor = read(model, TEXTS[1:2], ReadOut((2,)))[:, 0]

    def patch(states):
        states = states.clone()
        states[:, -1:] = donor
        return states

    with changed(model, 2, patch):
        patched = read(model, TEXTS[:1], ReadOut((2, 3)))
    torch.testing.assert_close(patched[:, 0], donor)
    assert not torch.allclose(patched[:, 1], expected[:, 1], atol=1e-3)
    torch.testing.assert_close(read(model, TEXTS[:1], ReadOut((2, 3))), expected)
    with pytest.raises(ValueError, match="no layer 9"), changed(model, 9, patch):
        pass


def test_negative_layers_count_from_the_end():
    model = tiny(layers=3).model
    torch.testing.assert_close(read(model, TEXTS, ReadOut((-1,))), read(model, TEXTS, ReadOut((3,))))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 5))
def test_batches_hold_every_row_once_and_are_sorted_by_length(lengths, size):
    found = batches([[0] * length for length in lengths], size)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= size for rows in found)
    flat = [lengths[row] for rows in found for row in rows]
    assert flat == sorted(flat)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_neither_order_nor_batch_size_changes_a_state(order, batch):
    model = tiny().model
    texts = [list(b"abcdefghijkl"[: 3 + 2 * n]) for n in range(5)] + [list(b"zzz")]
    whole = read_all(model, texts, ReadOut((2,)))
    shuffled = read_all(model, [texts[row] for row in order], ReadOut((2,)), batch=batch)
    torch.testing.assert_close(shuffled, whole[list(order)], atol=1e-4, rtol=1e-4)


def test_bfloat16_states_are_float32_numbers_close_to_the_exact_ones():
    lm = tiny()
    exact = read(lm.model, TEXTS, ReadOut((2,)))
    rounded = read(lm.model.bfloat16(), TEXTS, ReadOut((2,)))
    assert rounded.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact.flatten(1), rounded.flatten(1)).min() > 0.99


def test_bad_requests_say_what_to_do():
    model = tiny(layers=3).model
    with pytest.raises(ValueError, match="no layer 7: the model has 3 blocks"):
        read(model, TEXTS, ReadOut((1, 7)))
    with pytest.raises(ValueError, match="name blocks from 1 on"):
        ReadOut((0,))
    with pytest.raises(ValueError, match="name blocks from 1 on"):
        ReadOut(())
    with pytest.raises(ValueError, match="fewer than 9 tokens"):
        read(model, TEXTS, ReadOut((1,), positions=9))
    with pytest.raises(ValueError, match="text without tokens"):
        states_below(model, [[1], []], 1)
    with pytest.raises(ValueError, match="cannot start a read-out of block 2"):
        read(model, TEXTS, ReadOut((2, 3)), states_below(model, TEXTS, 2))
    with pytest.raises(ValueError, match="no list of 2 blocks"):
        blocks(NoBlocks())


class NoBlocks(torch.nn.Module):
    config = tiny().model.config


@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_behind_the_last_block_is_what_the_model_says(kind):
    model = tiny(kind, layers=3).model
    states = read(model, TEXTS, ReadOut((2, 3)))[:, :, 0]
    with torch.no_grad():
        said = torch.stack([model(torch.tensor([text])).logits[0, -1] for text in TEXTS]).log_softmax(dim=-1)
    torch.testing.assert_close(logit_lens(model, states[:, 1]), said, atol=2e-4, rtol=1e-3)
    earlier = logit_lens(model, states[:, 0])
    assert not torch.allclose(earlier, said, atol=1e-2)
    torch.testing.assert_close(earlier.exp().sum(dim=-1), torch.ones(3))
    torch.testing.assert_close(read(model, TEXTS, ReadOut((2, 3)))[:, :, 0], states)  # nothing is left behind
    with pytest.raises(ValueError, match="no state"):
        logit_lens(model, states[:0, 0])


@pytest.mark.parametrize("name", SCALED)
def test_the_lens_goes_through_the_models_own_head(name):
    """Some architectures divide, multiply or cap their logits."""
    config, make = SCALED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(config).eval().requires_grad_(False)
    texts = [[5, 9, 200, 17], [4, 9, 30]]
    with torch.no_grad():
        said = torch.stack([model(torch.tensor([text])).logits[0, -1] for text in texts]).log_softmax(dim=-1)
    found = logit_lens(model, read(model, texts, ReadOut((2,)))[:, 0, 0])
    torch.testing.assert_close(found, said, atol=1e-3, rtol=1e-3)
    assert said.max() - said.min() > 0.1


def test_the_lens_obeys_the_cap_on_logits():
    model = tiny("gemma3", layers=2).model
    states = 100 * read(model, TEXTS, ReadOut((2,)))[:, 0, 0]
    model.config.final_logit_softcapping = 0.5
    found = logit_lens(model, states)
    assert (found.max(dim=-1).values - found.min(dim=-1).values <= 1.0 + 1e-4).all()


def test_a_probe_finds_a_plane_and_does_no_better_than_chance_without_one():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 200, 10))
    apart = fit_probe(noise[0] + 1, noise[1])
    assert probe_accuracy(apart, noise[2] + 1, noise[3]) > 0.9
    alike = fit_probe(noise[0], noise[1])
    assert 0.35 < probe_accuracy(alike, noise[2], noise[3]) < 0.65


def test_few_positive_states_weigh_as_much_as_many_negative_ones():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 400, 10))
    probe = fit_probe(noise[0][:20] + 0.7, noise[1])
    assert probe.predict(noise[2] + 0.7).mean() > 0.7


def test_probes_refuse_what_they_cannot_learn_from():
    states = np.ones((3, 2))
    with pytest.raises(ValueError, match="0 negative states"):
        fit_probe(states, states[:0])
    with pytest.raises(ValueError, match="not finite"):
        fit_probe(states, states * np.nan)
