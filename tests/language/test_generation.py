"""Decoding: greedy equals `transformers`, draws follow the exact distribution, seeds decide, scores are exact."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny as tiny_chat
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, TemperatureLogitsWarper, TopKLogitsWarper
from transformers.generation.logits_process import TopPLogitsWarper

from helpers.base.settings import DEFAULT_MODEL
from helpers.course.speed import measure_speedups
from helpers.language import generation, models
from helpers.language.engine import attention, batch, decoding, fitting, grouping
from helpers.language.engine.plain import prefix_generate
from helpers.language.engine.sampling import CHECK, candidates, next_tokens
from helpers.language.generation import Backend, LocalBackend, Memo, Sampling, Stop, generate
from helpers.language.likelihood import continuation_log_likelihoods, perplexity
from helpers.language.prompts import QUESTION_AND_ANSWER, messages_of, opening_tokens

LONG = "Write one sentence about a detective who is afraid of the dark and has to search a house without light."
FEW_SHOT = (("system", "You edit movie ideas and answer with the new idea only."), ("user", LONG), ("assistant", "No."))
PROMPTS = (
    "Name a colour.",
    LONG,
    "What is a film? Answer briefly, please.",
    (*FEW_SHOT, ("user", "What is a western?")),
    (*FEW_SHOT, ("user", "What is a western? Answer in French, with many details and examples.")),
    (*FEW_SHOT, ("user", "Sing.")),
    (*FEW_SHOT, ("user", "Tell me more."), ("assistant", "Genres:")),
    "Why? " * 20,
)


@pytest.fixture(scope="module")
def lm() -> models.LoadedModel:
    return models.load_language_model(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def backend(lm) -> LocalBackend:
    return LocalBackend(lm, "smollm2")


def tiny_model(seed: int = 0, **changes) -> LlamaForCausalLM:
    """A Llama of random weights with fewer key-value heads than heads, large enough logits, and no stop token."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    tokens = {"vocab_size": 20, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=2048, **tokens, **changes)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(8)
    return model


@pytest.fixture
def tiny() -> LlamaForCausalLM:
    return tiny_model()


def random_prompts(count: int, seed: int, trunk: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    random = np.random.default_rng(seed)
    begin = random.integers(0, 20, trunk)
    return [(*begin, *random.integers(0, 20, random.integers(1, longest))) for _ in range(count)]


def decoded(model, prompts, sampling, seeds=None, stop=frozenset(), enough=None) -> list[list[int]]:
    answers: dict[int, list[int]] = {}

    def done(rows: list[int], new: list[list[int]]) -> None:
        answers.update(zip(rows, new, strict=True))

    decoding.decode_prompts(
        model, prompts, sampling, range(len(prompts)) if seeds is None else seeds, stop, done, enough
    )
    return [answers[row] for row in range(len(prompts))]


def plain_greedy(model, prompt: tuple[int, ...], count: int, stop=frozenset()) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        token = model(torch.tensor([tokens])).logits[0, -1].argmax().item()
        if token in stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


# Several batches at a time -----------------------------------------------------------------------------------------


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_batches_on_two_threads_answer_as_on_one(tiny, two_threads, monkeypatch):
    prompts = random_prompts(110, 5, trunk=20)
    together, seen = decoded(tiny, prompts, Sampling(8, temperature=1.0)), []
    monkeypatch.setattr(decoding, "LARGE_BATCH", 1000)
    assert decoded(tiny, prompts, Sampling(8, temperature=1.0)) == together
    monkeypatch.setattr(decoding, "LARGE_BATCH", 48)
    decoding.decode_prompts(tiny, prompts, Sampling(2), range(110), frozenset(), lambda rows, _: seen.append(len(rows)))
    assert sum(seen) == 110 and max(seen) <= 55


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_ends_the_other_batches(tiny, two_threads, error):
    calls = []

    def fail(rows, _):
        calls.append(rows)
        raise error("stop")

    with pytest.raises(error):
        decoding.decode_prompts(tiny, random_prompts(600, 6), Sampling(4), range(600), frozenset(), fail)
    assert len(calls) == 1


# Greedy ------------------------------------------------------------------------------------------------------------


def one_by_one(lm: models.LoadedModel, prompt, count: int) -> str:
    chat = [{"role": role, "content": text} for role, text in messages_of(prompt)]
    begun = chat[-1]["role"] == "assistant"
    options = {"return_tensors": "pt", "return_dict": True, "continue_final_message": begun}
    tokens = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=not begun, **options)
    output = lm.model.generate(**tokens, max_new_tokens=count, do_sample=False)
    return lm.tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_greedy_batch_equals_transformers_one_by_one(lm, backend):
    answers = generate(backend, PROMPTS, Sampling(6, temperature=0))
    assert answers == [one_by_one(lm, prompt, 6) for prompt in PROMPTS]
    assert len(set(answers)) == len(PROMPTS) and all(answers)


@pytest.mark.parametrize("trunk", [0, 40])
@pytest.mark.parametrize("piece", [512, 16])
def test_greedy_is_exact_whatever_prompts_share(tiny, monkeypatch, trunk, piece):
    monkeypatch.setattr(attention, "PIECE", piece)
    monkeypatch.setattr(grouping, "BATCH_ROWS", 12)
    prompts = random_prompts(10, 1, trunk)
    state = random_prompts(1, 2, trunk=30)[0]
    prompts += [(*prompts[0][:trunk], *state, *tail) for tail in random_prompts(10, 3, longest=8)]
    prompts += [prompts[0], prompts[-1]]
    stop = {7}
    expected = [plain_greedy(tiny, prompt, 9, stop) for prompt in prompts]
    assert decoded(tiny, prompts, Sampling(9, temperature=0), stop=stop) == expected
    assert {len(answer) for answer in expected} > {9}, "no row ends early: the test does not reach retirement"


@pytest.mark.parametrize("trunk", [0, 12, 40])
def test_the_readable_form_says_what_the_engine_says(tiny, trunk):
    prompts = random_prompts(7, 17, trunk)
    prompts += [prompts[0], (*prompts[1], 5)]
    new = prefix_generate(tiny, prompts, 9, do_sample=False, pad_token_id=0).tolist()
    assert new == decoded(tiny, prompts, Sampling(9, temperature=0)) == [plain_greedy(tiny, p, 9) for p in prompts]
    alone = prefix_generate(tiny, prompts[:1], 9, do_sample=False, pad_token_id=0).tolist()
    assert alone == new[:1], "a single prompt is its own prefix, but for its last token"


def test_finished_rows_leave_the_batch(tiny, monkeypatch):
    fitting.decoding_way(tiny, 99)  # finds out with forward passes of its own
    prompts = random_prompts(24, 4)
    stop = {3, 7, 11}
    rows = []
    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(
        LlamaForCausalLM, "forward", lambda self, **k: rows.append(len(k["input_ids"])) or forward(self, **k)
    )
    answers = decoded(tiny, prompts, Sampling(30, temperature=3.0), stop=stop)
    alive = [sum(len(answer) >= step for answer in answers) for step in range(len(rows))]
    assert rows[0] == 24 and rows[-1] < 6
    assert all(now <= left * 8 / 7 + 1 for now, left in zip(rows, alive, strict=True))


def test_shared_beginnings_are_computed_once(tiny, monkeypatch):
    fitting.decoding_way(tiny, 99)  # finds out with forward passes of its own
    seen = []
    extend = attention.extend

    def counted(model, shared, tokens):
        seen.append(tokens.numel())
        return extend(model, shared, tokens)

    monkeypatch.setattr(attention, "extend", counted)
    monkeypatch.setattr(batch, "extend", counted)
    few_shot = random_prompts(1, 5, trunk=99, longest=2)[0]
    states = [few_shot + tail for tail in random_prompts(3, 6, trunk=0, longest=60)]
    states = [(*state, *range(19)) for state in states]
    prompts = [(*state, 5, number) for state in states for number in range(8)]
    decoded(tiny, prompts, Sampling(1))
    states_alone = sum(len(state) - 100 for state in states)
    assert 100 + states_alone <= sum(seen) <= 100 + states_alone + 2 * len(prompts)
    seen.clear()
    decoded(tiny, [(*few_shot, 1, 2, 3, 4)], Sampling(1))
    assert sum(seen) <= 4, "the few-shot beginning was not remembered from the call before"


def test_an_edited_model_forgets_what_it_remembered(tiny):
    prompt = random_prompts(1, 7, trunk=80)[0]
    sampling = Sampling(6, temperature=0)
    decoded(tiny, [prompt], sampling)
    for edit in (
        lambda weight: weight.mul_(-1),
        lambda weight: weight.data.mul_(-1.5),  # as peft merges: this leaves no trace in the version
    ):
        edit(tiny.model.layers[0].self_attn.v_proj.weight)
        assert decoded(tiny, [prompt], sampling) == [plain_greedy(tiny, prompt, 6)]
    handle = tiny.model.layers[0].register_forward_hook(lambda *arguments: arguments[-1] * -2)
    assert decoded(tiny, [prompt], sampling) == [plain_greedy(tiny, prompt, 6)]
    handle.remove()
    assert decoded(tiny, [prompt], sampling) == [plain_greedy(tiny, prompt, 6)]


def test_the_attention_of_the_model_is_put_back(tiny):
    before = tiny.config._attn_implementation
    decoded(tiny, random_prompts(2, 8), Sampling(2))
    assert tiny.config._attn_implementation == before != "shared"


@pytest.mark.parametrize("way", fitting.WAYS)
def test_a_plain_transformer_is_right_in_every_way(tiny, way):
    assert fitting.is_right(tiny, way)


def test_hooks_and_dropout_do_not_decide_how_an_architecture_is_decoded(tiny, monkeypatch):
    monkeypatch.setattr(fitting, "_verdicts", {})
    tiny.model.layers[1].self_attn.attention_dropout = 0.5
    tiny.train()

    def last_only(_module, _inputs, states):
        states[:, -1] += 1  # as patching does: which token is the last differs between a whole text and its pieces

    handle = tiny.model.layers[0].register_forward_hook(last_only)
    assert fitting.decoding_way(tiny, 30) == "engine" and tiny.model.layers[1].training
    assert list(tiny.model.layers[0]._forward_hooks.values()) == [last_only]
    handle.remove()


# Sampling ----------------------------------------------------------------------------------------------------------


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities after the warpers of `transformers`, in its order."""
    logits = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(None, logits)
    return (TopPLogitsWarper(sampling.top_p)(None, logits) if sampling.top_p < 1 else logits).softmax(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.1, 3),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1),
    scale=st.floats(0.5, 10),
)
def test_candidates_are_those_of_transformers(seed, temperature, top_k, top_p, scale):
    logits = scale * torch.randn(5, 30, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(1, temperature, top_k, top_p)
    tokens, probabilities = candidates(logits, sampling)
    ours = torch.zeros(5, 30).scatter(1, tokens, probabilities)
    expected = warped(logits, sampling)
    # A cumulative sum that meets top_p within rounding may fall on either side.
    cumulative = (logits / temperature).sort(dim=1, descending=True)[0]
    cumulative = cumulative[:, : top_k or 30].softmax(dim=1).cumsum(dim=1)
    if (cumulative - top_p).abs().min() > 1e-5:
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)


def test_draws_follow_the_exact_distribution(tiny):
    prompt = random_prompts(1, 9)[0]
    sampling = Sampling(2, temperature=1.5, top_k=6, top_p=0.9)
    first = warped(tiny(torch.tensor([prompt])).logits[:, -1], sampling)[0]
    expected = torch.zeros(20, 20)
    for token in first.nonzero()[:, 0].tolist():
        second = warped(tiny(torch.tensor([[*prompt, token]])).logits[:, -1], sampling)[0]
        expected[token] = first[token] * second
    draws = 4000
    pairs = torch.tensor(decoded(tiny, [prompt] * draws, sampling, range(draws)))
    counts = torch.zeros(20, 20).index_put((pairs[:, 0], pairs[:, 1]), torch.ones(draws), accumulate=True)
    assert counts[expected == 0].sum() == 0
    likely = expected * draws >= 5
    assert likely.sum() > 5
    chi2 = ((counts - expected * draws) ** 2 / (expected * draws))[likely].sum().item()
    degrees = int(likely.sum()) - 1
    assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_a_uniform_number_picks_its_place_in_the_distribution():
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(5, 3)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.81, 1.0])
    picked = next_tokens(logits, Sampling(1, temperature=1.0, top_k=0, top_p=1.0), uniform)
    assert picked.tolist() == [1, 1, 2, 0, 0]


def test_a_seed_decides_an_answer_whatever_the_batch(backend):
    sampling, prompts, seeds = Sampling(6, temperature=1.0), PROMPTS[:4], [5, 5, 7, 2**32 - 1]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = generate(backend, prompts, sampling, seeds)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were used"
    alone = [generate(backend, [prompts[row]], sampling, [seeds[row]])[0] for row in (3, 0)]
    assert alone == [together[3], together[0]]
    assert generate(backend, prompts, sampling, 77) != together


def test_a_seed_decides_a_row_whatever_its_place(tiny):
    prompts, seeds = random_prompts(20, 15, trunk=20), list(range(100, 120))
    sampling = Sampling(12, temperature=2.0, top_k=0)
    together = decoded(tiny, prompts, sampling, seeds, stop={3})
    assert decoded(tiny, prompts[::-1], sampling, seeds[::-1], stop={3})[::-1] == together
    assert [decoded(tiny, [p], sampling, [s], stop={3})[0] for p, s in zip(prompts, seeds, strict=True)] == together


def test_more_tokens_continue_the_same_text(tiny):
    prompts = random_prompts(5, 10)
    short, long = (decoded(tiny, prompts, Sampling(count, temperature=2.0, top_k=0)) for count in (5, 40))
    assert [answer[:5] for answer in long] == short


def test_an_int_seed_counts_up(backend):
    sampling = Sampling(6, temperature=1.5)
    counted = generate(backend, [PROMPTS[0]] * 3, sampling, 4)
    assert counted == generate(backend, [PROMPTS[0]] * 3, sampling, [4, 5, 6]) and len(set(counted)) > 1


# Stopping rules ----------------------------------------------------------------------------------------------------


class Speaker(Backend):
    """A backend that always says the same."""

    name = "speaker"

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, 0

    def generate(self, prompts, sampling, seeds, done) -> None:
        self.asked += len(prompts)
        done(list(range(len(prompts))), [self.text] * len(prompts))


def words(count: int) -> Stop:
    return Stop(f"{count} words", lambda text: len(text.split()) >= count)


@pytest.mark.parametrize(
    ("rule", "cut"),
    [
        (words(1), "It\u2019s"),
        (words(3), "It\u2019s no good,"),
        (Stop("none", lambda text: text.endswith("no")), "It\u2019s no"),
        (Stop("never", lambda text: False), "It\u2019s no good, nothing is.  "),
        (Stop("last", lambda text: text.endswith("is.")), "It\u2019s no good, nothing is."),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_answer_is_the_shortest_prefix_in_words_that_is_enough(rule, cut, tmp_path):
    memo, speaker = Memo(tmp_path / "memo.sqlite"), Speaker("It\u2019s no good, nothing is.  ")
    ask = {"sampling": Sampling(9, stop=rule), "memo": memo}
    assert generate(speaker, ["a"], **ask) == generate(speaker, ["a"], **ask) == [cut]
    assert speaker.asked == 1 and generate(speaker, ["a"], Sampling(9)) == [speaker.text]


def test_an_answer_known_in_whole_serves_a_stopping_rule(tmp_path):
    memo, speaker = Memo(tmp_path / "memo.sqlite"), Speaker("One two three four.")
    generate(speaker, ["a", "b"], Sampling(9), memo=memo)
    assert generate(speaker, ["a", "c", "b"], Sampling(9, stop=words(2)), seeds=[0, 2, 1], memo=memo) == ["One two"] * 3
    assert speaker.asked == 3
    assert generate(speaker, ["c"], Sampling(9), 2, memo=memo) == [speaker.text] and speaker.asked == 4


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_decoding_ends_where_the_rule_fires(lm, backend, monkeypatch, temperature):
    asked = PROMPTS[:5], Sampling(12, temperature), 3
    whole = generate(backend, *asked)
    rows, forward = [], type(lm.model).forward

    def counted(self, **options):
        rows.append(len(options["input_ids"]))
        return forward(self, **options)

    monkeypatch.setattr(type(lm.model), "forward", counted)
    rule = words(2)
    assert generate(backend, PROMPTS[:5], Sampling(12, temperature, stop=rule), 3) == [rule.cut(text) for text in whole]
    assert rows[0] == 5 > rows[-1] and sum(rows) < 12 * 5 * 3 / 4


def test_a_row_ends_at_a_multiple_of_tokens_of_its_own(tiny):
    prompts, sampling = random_prompts(9, 16), Sampling(20, temperature=2.0, top_k=0)
    whole = decoded(tiny, prompts, sampling)

    def enough(answer: list[int]) -> bool:
        return answer.count(answer[0]) > 1

    def ends(answer: list[int]) -> int:
        return next((end for end in range(CHECK, 20, CHECK) if enough(answer[:end])), 20)

    assert decoded(tiny, prompts, sampling, enough=enough) == [answer[: ends(answer)] for answer in whole]
    assert len({ends(answer) for answer in whole}) > 2


# Which rows go together --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=50).map(tuple), min_size=1, max_size=30), st.data())
def test_batches_hold_every_row_once_and_groups_agree(prompts, data):
    trunk = data.draw(st.sampled_from([0, 30]))
    prompts = [(1,) * trunk + prompt for prompt in prompts]
    batches = grouping.batches_of(prompts, 300, grouping.BATCH_ROWS)
    rows = [row for batch in batches for group in batch for row in group.rows]
    assert sorted(rows) == list(range(len(prompts)))
    for some in batches:
        sizes = [(len(group.rows), max(len(prompts[row]) for row in group.rows)) for group in some]
        assert len(some) == 1 or sum(n for n, _ in sizes) * max(width for _, width in sizes) <= 300
        for group in some:
            assert len({prompts[row][: group.shared] for row in group.rows}) == 1
            assert all(group.shared < len(prompts[row]) for row in group.rows)


def test_groups_follow_the_states():
    few_shot, states = (0,) * 50, [(state,) * 40 for state in (1, 2, 3)]
    prompts = [few_shot + state + (9, number) for number in range(4) for state in states] + [(*few_shot, 4, 4)]
    groups = {frozenset(group.rows): group.shared for group in grouping.groups_of(prompts)}
    assert groups == {
        frozenset({0, 3, 6, 9}): 91,
        frozenset({1, 4, 7, 10}): 91,
        frozenset({2, 5, 8, 11}): 91,
        frozenset({12}): 50,
    }


# Scores ------------------------------------------------------------------------------------------------------------

CONTINUATIONS = ("A film is a sequence of images.", "Red", "It is 3.5 metres long, says the man.", " no", "Red")


def full_scores(lm, prompt, continuations) -> torch.Tensor:
    start = generation.prompt_tokens(lm.tokenizer, prompt)
    sums = []
    for text in continuations:
        tokens = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = lm.model(torch.tensor([[*start, *tokens]])).logits[0, len(start) - 1 : -1]
        sums.append(logits.log_softmax(dim=1)[range(len(tokens)), tokens].sum())
    return torch.stack(sums)


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[6]], ids=["user", "begun"])
def test_scores_equal_those_of_full_prompts(lm, backend, prompt):
    scores = backend.score(prompt, CONTINUATIONS)
    assert scores.dtype == np.float64 and scores[1] == pytest.approx(scores[4], abs=1e-3)
    np.testing.assert_allclose(scores, full_scores(lm, prompt, CONTINUATIONS), atol=1e-3)


def test_scores_do_not_depend_on_how_they_are_packed(tiny, monkeypatch):
    prompt, continuations = random_prompts(1, 11)[0], random_prompts(30, 12, longest=12)
    together = continuation_log_likelihoods(tiny, prompt, continuations)
    monkeypatch.setattr(attention, "PIECE", 8)
    apart = continuation_log_likelihoods(tiny, prompt, continuations)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 40])
def test_gradients_equal_the_naive_ones(tiny, length):
    tiny.requires_grad_(True)
    prompt, continuations = random_prompts(1, 13, trunk=length, longest=2)[0][:length], random_prompts(6, 14, longest=9)
    weights = torch.arange(6.0) - 2

    def gradients(scores: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad((weights * scores).sum(), list(tiny.parameters()))

    naive = []
    for tokens in continuations:
        logits = tiny(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        naive.append(logits.log_softmax(dim=1)[range(len(tokens)), tokens].sum())
    scores = continuation_log_likelihoods(tiny, prompt, continuations)
    torch.testing.assert_close(scores, torch.stack(naive), atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(gradients(scores), gradients(torch.stack(naive)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


def opened(lm: models.LoadedModel) -> models.LoadedModel:
    """The model with a tokenizer that puts a token before every text, as Gemma's and Llama's do."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    token = tokenizer.convert_ids_to_tokens(7)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{token} $A", special_tokens=[(token, 7)])
    return models.LoadedModel(lm.model, tokenizer)


def test_what_begins_every_text_is_found(lm):
    assert opening_tokens(lm.tokenizer) == ()
    assert opening_tokens(opened(lm).tokenizer) == (7,)


def test_perplexity_begins_as_the_tokenizer_does(lm):
    texts, given = ["A dog barks.", "Yes."], ["A cat meows. ", ""]
    found = perplexity(opened(lm), texts, given)
    for text, before, value in zip(texts, given, found, strict=True):
        context, tokens = [7, *lm.tokenizer(before)["input_ids"]], lm.tokenizer(text)["input_ids"]
        labels = torch.tensor([[-100] * len(context) + tokens])
        loss = lm.model(torch.tensor([[*context, *tokens]]), labels=labels).loss
        assert value == pytest.approx(loss.exp().item(), rel=1e-3)


def test_perplexity_is_that_of_each_text_alone(lm):
    texts, given = ["A dog barks at the moon.", "Dog the the.", "Yes."], ["A cat meows. ", "", PROMPTS[3]]
    batched = perplexity(lm, texts, given)
    for text, before, value in zip(texts, given, batched, strict=True):
        if isinstance(before, str):
            context = lm.tokenizer(before)["input_ids"] or [lm.tokenizer.bos_token_id]
        else:
            context = generation.prompt_tokens(lm.tokenizer, before)
        tokens = lm.tokenizer(text)["input_ids"]
        labels = torch.tensor([[-100] * len(context) + tokens])
        loss = lm.model(torch.tensor([[*context, *tokens]]), labels=labels).loss
        assert value == pytest.approx(loss.exp().item(), rel=1e-3)
    assert perplexity(lm, texts[:2])[1] == pytest.approx(batched[1], rel=1e-3)


# Memo, progress, refusals ------------------------------------------------------------------------------------------


class Parrot(Backend):
    """A backend that repeats prompts and seeds, two at a time, and fails at a given batch."""

    name = "parrot"

    def __init__(self, fails_at: int = 10**9) -> None:
        self.asked: list = []
        self.fails_at = fails_at

    def generate(self, prompts, sampling, seeds, done) -> None:
        for start in range(0, len(prompts), 2):
            if start >= self.fails_at:
                raise RuntimeError("power cut")
            rows = list(range(start, min(start + 2, len(prompts))))[::-1]
            self.asked += [prompts[row] for row in rows]
            done(rows, [f"{prompts[row]} {seeds[row]}" for row in rows])


def test_answers_come_from_the_memo(tmp_path):
    memo, parrot = Memo(tmp_path / "memo.sqlite"), Parrot()
    first = generate(parrot, ["a", "b", "c"], seeds=1, memo=memo)
    assert first == ["a 1", "b 2", "c 3"]
    again = generate(parrot, ["c", "d", "a"], seeds=[3, 9, 1], memo=memo)
    assert again == ["c 3", "d 9", "a 1"] and parrot.asked == ["b", "a", "c", "d"]


def test_equal_requests_are_asked_once():
    parrot = Parrot()
    assert generate(parrot, ["a", "b", "a"], seeds=[1, 1, 1]) == ["a 1", "b 1", "a 1"]
    assert sorted(parrot.asked) == ["a", "b"]


def test_finished_batches_outlive_a_failure(tmp_path):
    memo = Memo(tmp_path / "memo.sqlite")
    with pytest.raises(RuntimeError, match="power cut"):
        generate(Parrot(fails_at=2), ["a", "b", "c"], memo=memo)
    parrot = Parrot()
    assert generate(parrot, ["a", "b", "c"], memo=memo) == ["a 0", "b 1", "c 2"] and parrot.asked == ["c"]


def test_the_bar_counts_answers(capsys):
    generate(Parrot(), ["a", "b", "a"], seeds=[1, 1, 1], progress=True)
    assert "3/3" in capsys.readouterr().err
    generate(Parrot(), ["a"])
    assert capsys.readouterr().err == ""


def test_a_model_without_a_chat_template_is_refused(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template: load an instruction-tuned one"):
        generate(LocalBackend(models.LoadedModel(lm.model, tokenizer), "x"), ["a"])


def test_a_prompt_that_leaves_no_room_is_refused(lm, backend, monkeypatch):
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", 60)
    with pytest.raises(ValueError, match="and 40 new ones exceeds the 60 of the model: shorten it"):
        generate(backend, ["Hello."], Sampling(40))
    assert generate(backend, ["Hello."], Sampling(2))
    with pytest.raises(ValueError, match="the 60 of the model"):
        backend.score("Hello.", ["One. " * 30])


def test_a_text_longer_than_the_window_is_decoded_plainly():
    """Behind a sliding window the engine, in which every token sees all earlier ones, would be wrong."""
    config = copy.deepcopy(tiny_chat("gemma3").model.config)
    config.sliding_window, config.eos_token_id = 40, None
    torch.manual_seed(0)
    model = type(tiny_chat("gemma3").model)(config).eval().requires_grad_(False)
    prompts = random_prompts(3, 18, trunk=30, longest=30)
    assert fitting.decoding_way(model, 40) == "engine" != fitting.decoding_way(model, 41)
    greedy = [model.generate(torch.tensor([p]), max_new_tokens=9, do_sample=False)[0, len(p) :] for p in prompts]
    assert decoded(model, prompts, Sampling(9, temperature=0)) == [answer.tolist() for answer in greedy]
    scores = continuation_log_likelihoods(model, prompts[0], [(5, 6, 7), (9,)])
    whole = [model(torch.tensor([[*prompts[0], *tokens]])).logits[0].log_softmax(1) for tokens in [(5, 6, 7), (9,)]]
    n = len(prompts[0]) - 1
    expected = [whole[0][range(n, n + 3), (5, 6, 7)].sum().item(), whole[1][n, 9].item()]
    assert scores.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: generate(b, []), "at least one prompt"),
        (lambda b: generate(b, "text"), "list of at least one prompt"),
        (lambda b: generate(b, [()]), "a prompt is a text or pairs"),
        (lambda b: generate(b, [(("robot", "x"),)]), "a role of system, user, assistant"),
        (lambda b: generate(b, ["a", "b"], seeds=[1]), "1 seeds for 2 prompts: give one per prompt"),
        (lambda b: generate(b, ["a"], seeds=-1), "from 0 to"),
        (lambda b: b.score("a", []), "one or more non-empty continuations"),
        (lambda b: b.score("a", ["b", ""]), "one or more non-empty continuations"),
        (lambda b: perplexity(b.lm, ["a"], []), "1 texts and 0 givens"),
        (lambda b: perplexity(b.lm, ["a", ""]), "empty: leave it out"),
        (lambda b: Sampling(0), "at least one"),
        (lambda b: Sampling(temperature=-1), "greedy"),
        (lambda b: Sampling(temperature=float("nan")), "greedy"),
        (lambda b: Sampling(top_p=0), "0 < top_p"),
        (lambda b: Sampling(top_k=-1), "top_k >= 0"),
    ],
)
def test_bad_requests_are_refused(backend, call, message):
    with pytest.raises(ValueError, match=message):
        call(backend)


def test_a_model_that_does_not_chat_is_asked_in_questions_and_answers(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = QUESTION_AND_ANSWER
    asked = (("system", "Be glad."), ("user", "tea?"), ("assistant", "Yes."), ("user", "rain?"))
    text = tokenizer.decode(generation.prompt_tokens(tokenizer, asked))
    answers = "Be glad.\n\nQuestion: tea?\nAnswer:\nYes.\n\nQuestion: rain?\nAnswer:\n"
    assert text == tokenizer.bos_token + answers, "without its first token Gemma is lost"
    begun = tokenizer.decode(generation.prompt_tokens(tokenizer, (*asked, ("assistant", "It is"))))
    assert begun == text + "It is"
    one, other = (generation.backend_name(models.LoadedModel(lm.model, t), "x") for t in (lm.tokenizer, tokenizer))
    assert one.startswith("x ") and one.endswith(", float32"), "a model that is not pinned is known by its weights"
    assert one != other, "the memo must not mix up two ways to write a prompt"
    both = [models.LoadedModel(lm.model, t) for t in (lm.tokenizer, tokenizer)]
    pinned = [generation.backend_name(one, DEFAULT_MODEL) for one in both]
    assert pinned[0] == f"{DEFAULT_MODEL}, float32" and pinned[0] != pinned[1]


# Texts -------------------------------------------------------------------------------------------------------------


def test_the_rewriting_prompt_holds_plot_and_instruction():
    parrot = Parrot()
    answer = generation.rewrite_plot(parrot, "A pig herds sheep.", "make it sad", Sampling(40))
    assert "A pig herds sheep." in parrot.asked[0] and "make it sad" in parrot.asked[0]
    assert answer == generation.whole_sentences(parrot.asked[0])


def test_the_benchmark_measures_the_engine_against_its_rivals(lm):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = LlamaForCausalLM(LlamaConfig(vocab_size=len(lm.tokenizer), **sizes)).eval()
    backend = LocalBackend(models.LoadedModel(small, lm.tokenizer), "small")
    ratios = measure_speedups(backend, n_prompts=3, n_instructions=3, new_tokens=2, n_loop=1)
    rivals = {"loop", "batched", "prefix_generate", "expand", "prefix_generate_expand"}
    assert set(ratios) == {*rivals, "prefix"} and min(ratios.values()) > 0


@pytest.mark.slow
def test_the_second_model_answers_and_its_answers_are_its_own():
    second = generation.second_model()
    assert second.name.startswith("gemma-3-270m, ") and second.name != generation.local_backend().name
    number_format = str(second.lm.model.dtype).removeprefix("torch.")
    assert second.name.endswith(f", {number_format}")  # answers in another format are others: the memo must know
    (answer,) = generate(second, ["The capital of France is"], Sampling(max_new_tokens=4, temperature=0), 0)
    assert "Paris" in answer
    ends = [one.lm.tokenizer.decode(generation.end_of_answer(one.lm)) for one in (generation.local_backend(), second)]
    assert ends == ["<|im_end|>", ""]  # behind Gemma's answers stands an empty line, at which decoding does not stop


def test_threads_that_leave_in_another_order_keep_and_restore_the_attention():
    """The first to leave must not take away the attention of a pass that is still under way."""
    model = tiny_chat().model
    config = model.get_decoder().config
    before, entered, leave = config._attn_implementation, threading.Event(), threading.Event()

    def longer() -> None:
        with attention.shared_prefixes(model):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=longer)
    with attention.shared_prefixes(model):
        thread.start()
        assert entered.wait(10)
    assert config._attn_implementation == "shared" != before
    leave.set()
    thread.join(10)
    assert config._attn_implementation == before
    with pytest.raises(RuntimeError), attention.shared_prefixes(model):
        raise RuntimeError
    assert config._attn_implementation == before and not attention._inside
