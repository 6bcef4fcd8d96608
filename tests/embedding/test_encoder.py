"""Heads against closed forms; text features against a full forward pass; the cache against accidents."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tiny_models import tiny

from helpers.base import compute as threads
from helpers.embedding import encoder as enc
from helpers.embedding import features as ft
from helpers.embedding.factorization import Factorization
from helpers.embedding.space import build_space
from helpers.language import models
from helpers.language.generation import LocalBackend

TEXTS = [
    "A pig learns to herd sheep.",
    "Two strangers meet on a train to Vienna and talk through the night until one of them has to leave.",
    "In a city of rain, a detective hunts four machines that look like men, and finds that he cares for one.",
]


def regression(seed: int = 0, n: int = 60, n_features: int = 5, dim: int = 3, noise: float = 0.1):
    """Features, targets that depend on them linearly, and weights."""
    random = np.random.default_rng(seed)
    x, slope = random.normal(size=(n, n_features)), random.normal(size=(n_features, dim))
    return x, x @ slope + noise * random.normal(size=(n, dim)) + 1.0, random.uniform(0.5, 2.0, size=n)


# Heads


def weighted_ridge(x, y, weights, penalty, new):
    """Closed form: centre by weighted means, then (X'WX + penalty I)^-1 X'Wy."""
    x_mean, y_mean = (np.average(values, axis=0, weights=weights) for values in (x, y))
    gram = (x - x_mean).T @ (weights[:, None] * (x - x_mean)) + penalty * np.eye(x.shape[1])
    return (new - x_mean) @ np.linalg.solve(gram, (x - x_mean).T @ (weights * (y - y_mean))) + y_mean


def test_ridge_is_the_closed_form_with_a_penalty_of_its_own_for_each_dimension():
    x, y, weights = regression(noise=3.0)
    y[:, 0] = np.random.default_rng(9).normal(size=len(y))  # noise: wants the largest penalty
    new = np.random.default_rng(1).normal(size=(4, 5))
    predicted = enc.fit_ridge(x, y, weights)(new)
    chosen = []
    for column in range(3):
        answers = [weighted_ridge(x, y[:, column], weights, penalty, new) for penalty in enc.RIDGE_PENALTIES]
        same = [np.allclose(answer, predicted[:, column]) for answer in answers]
        assert sum(same) == 1
        chosen.append(enc.RIDGE_PENALTIES[same.index(True)])
    assert len(set(chosen)) > 1


def test_ridge_picks_the_penalty_with_the_least_leave_one_out_error():
    x, y, _ = regression(n=25, noise=4.0)
    weights, new = np.ones(25), np.ones((1, 5))
    keep = ~np.eye(25, dtype=bool)
    for column in range(3):
        errors = [
            sum(
                (weighted_ridge(x[k], y[k, column], weights[k], penalty, x[~k])[0] - y[~k, column][0]) ** 2
                for k in keep
            )
            for penalty in enc.RIDGE_PENALTIES
        ]
        best = enc.RIDGE_PENALTIES[int(np.argmin(errors))]
        expected = Ridge(alpha=best).fit(x, y[:, column]).predict(new)
        np.testing.assert_allclose(enc.fit_ridge(x, y[:, [column]], weights)(new)[:, 0], expected)


@pytest.mark.parametrize("head", ["mean", "ridge", "mlp"])
def test_weights_matter(head):
    """Two halves that contradict each other: the heavier half is believed."""
    x = np.random.default_rng(0).normal(size=(80, 3))
    y = np.where(np.arange(80)[:, None] < 40, 1.0, -1.0) * np.ones((80, 2))
    heavy_first = np.where(np.arange(80) < 40, 1.95, 0.05)
    assert enc.HEADS[head](x, y, heavy_first)(x).mean() > 0.5
    assert enc.HEADS[head](x, y, heavy_first[::-1].copy())(x).mean() < -0.5


def test_the_weight_of_a_movie():
    weights = enc.rating_weights(np.array([0.0, 3.0, 8.0]))
    np.testing.assert_allclose(weights / weights[0], [1, 2, 3])
    assert weights.mean() == pytest.approx(1)


def test_the_mean_head_says_the_weighted_mean_of_everything():
    x, y, weights = regression()
    predicted = enc.fit_mean(x, y, weights)(x[:2])
    np.testing.assert_allclose(predicted, [weights @ y / weights.sum()] * 2)


def test_neighbours_by_cosine():
    x = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.0, 5.0]])
    y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    predict = enc.fit_knn(x, y, np.ones(4), n_neighbors=2)
    np.testing.assert_allclose(predict(np.array([[100.0, 0.0], [0.0, 0.01]])), [[1.0], [-1.0]])


@pytest.mark.parametrize("n", [1, 2, 14])
def test_fewer_texts_than_neighbours(n):
    x, y, weights = regression(n=n)
    predicted = enc.fit_knn(x, y, weights)(x)
    assert predicted.shape == y.shape and np.isfinite(predicted).all()


@pytest.mark.parametrize("head", enc.HEADS)
def test_targets_of_one_dimension_keep_their_shape(head):
    x, y, weights = regression()
    assert enc.HEADS[head](x, y[:, :1], weights)(x[:4]).shape == (4, 1)


def test_the_network_learns_a_linear_map():
    x, y, weights = regression(n=300)
    train, test = slice(200), slice(200, None)
    errors = {}
    for head in ("mean", "mlp"):
        predicted = enc.HEADS[head](x[train], y[train], weights[train])(x[test])
        errors[head] = ((predicted - y[test]) ** 2).mean()
    assert errors["mlp"] < 0.25 * errors["mean"]


def test_the_network_depends_on_its_seed_alone():
    x, y, weights = regression()
    torch.manual_seed(3)
    first = enc._train_network(x, y, weights, 1)(x)
    torch.manual_seed(4)
    np.testing.assert_array_equal(enc._train_network(x, y, weights, 1)(x), first)
    assert not np.allclose(enc._train_network(x, y, weights, 2)(x), first)


def test_the_network_leaves_torch_as_it_was():
    x, y, weights = regression(n=20)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        enc.fit_mlp(x, y, weights)
        assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), threads.one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_network_keeps_its_best_weights(monkeypatch):
    """With a patience of 400 it overfits to the end; the kept weights must not be the last ones."""
    x, y, weights = regression(n=40, n_features=20, noise=5.0)
    monkeypatch.setattr(enc, "PATIENCE", 400)
    monkeypatch.setattr(enc, "DROPOUT", 0.0)
    patient = enc._train_network(x, y, weights, 0)(x)
    assert ((patient - y) ** 2).mean() > 0.2 * y.var()  # the last ones fit the training texts to nearly 0


# Encoder


def lengths(texts):
    return np.array([[len(text), text.count(" ")] for text in texts], dtype=float)


def test_an_encoder_is_features_and_then_a_head():
    targets = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    encoder = enc.fit_encoder(TEXTS, targets, np.array([1.0, 9.0, 99.0]), featurise=lengths)
    weights = enc.rating_weights(np.array([1.0, 9.0, 99.0]))
    np.testing.assert_allclose(encoder(TEXTS[:2]), enc.fit_ridge(lengths(TEXTS), targets, weights)(lengths(TEXTS[:2])))


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        enc.fit_encoder(TEXTS, np.full((3, 2), np.nan), np.ones(3), featurise=lengths)


class FakeEncoder:
    """Stands in for MiniLM: counts how often it is loaded; features are lengths."""

    loaded = 0

    def encode(self, texts, **_options):
        return lengths(texts)


@pytest.fixture
def fake_minilm(cache, monkeypatch):
    def load(*_arguments, **_options):
        FakeEncoder.loaded += 1
        return FakeEncoder()

    FakeEncoder.loaded = 0
    monkeypatch.setattr(ft, "sentence_encoder", load)
    monkeypatch.setattr(ft, "CACHED_FROM", 1)


def test_an_encoder_refuses_empty_texts_and_other_numbers_of_lines(fake_minilm):
    texts = [f"Genres: Drama.\n{text}" for text in TEXTS]
    encoder = enc.fit_encoder(texts, np.eye(3), np.ones(3), featurise=ft.sentence_features)
    assert encoder(texts[:1]).shape == (1, 3)
    for bad in (["a\nb", ""], ["  \n "], [], ["one line", "two\nlines"]):
        with pytest.raises(ValueError, match="non-empty texts with the same number of lines"):
            encoder(bad)
    with pytest.raises(ValueError, match="features"):
        encoder(["one line"])  # fitted on two


def test_each_line_has_features_of_its_own(fake_minilm):
    found = ft.sentence_features(["ab\na longer line", "abc\na longer line"])
    np.testing.assert_array_equal(found, [[2, 0, 13, 2], [3, 0, 13, 2]])


def test_texts_keep_their_order_through_sorting_and_duplicates(fake_minilm):
    texts = ["zebra runs", "Äpfel", "apple", "zebra runs", "an apple a day"]
    np.testing.assert_array_equal(ft.sentence_features(texts), lengths(texts))


# The cache of features


def test_a_second_call_loads_no_model(fake_minilm):
    first = ft.sentence_features(TEXTS)
    assert FakeEncoder.loaded == 1
    np.testing.assert_array_equal(ft.sentence_features(TEXTS), first)
    assert FakeEncoder.loaded == 1
    ft.sentence_features(TEXTS[::-1])
    assert FakeEncoder.loaded == 2  # the order belongs to the key


def test_a_few_texts_leave_no_file(fake_minilm, cache, monkeypatch):
    monkeypatch.setattr(ft, "CACHED_FROM", len(TEXTS) + 1)
    ft.sentence_features(TEXTS)
    assert not (cache / "features").exists()
    ft.sentence_features([*TEXTS, "one more"])
    assert len(list((cache / "features").glob("*.safetensors"))) == 1


def test_a_model_is_loaded_once_per_process(monkeypatch):
    loads = []
    monkeypatch.setattr(models, "load_sentence_encoder", lambda **options: loads.append(options))
    ft.sentence_encoder.cache_clear()
    try:
        assert ft.sentence_encoder() is ft.sentence_encoder()
        assert loads == [{"dtype": torch.float32}]
    finally:
        ft.sentence_encoder.cache_clear()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\0" * 100, "half", "another key"])
def test_a_damaged_cache_file_is_computed_again(fake_minilm, cache, damage):
    first = ft.sentence_features(TEXTS)
    (path,) = (cache / "features").glob("*.safetensors")
    if damage == "half":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "another key":
        ft.save_file({"other": np.ones(3)}, path)
    else:
        path.write_bytes(damage)
    np.testing.assert_array_equal(ft.sentence_features(TEXTS), first)
    assert FakeEncoder.loaded == 2
    ft.sentence_features(TEXTS)
    assert FakeEncoder.loaded == 2  # mended on disk as well


def test_a_failure_leaves_nothing_in_the_cache(cache, monkeypatch):
    monkeypatch.setattr(ft, "CACHED_FROM", 1)

    def fail(texts):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        ft.cached_features("kind", TEXTS, fail)
    assert not list((cache / "features").glob("*safetensors"))


def rows_of(asked: list):
    """Features that know their text, and a note of what was computed."""

    def compute(texts):
        asked.append(list(texts))
        return np.array([[len(text), 0.1] for text in texts], np.float32)

    return compute


def test_a_few_texts_are_kept_one_by_one_where_a_text_is_the_same_beside_any_other(cache):
    asked: list = []
    first = ft.cached_features("kind", ["a", "bb", "a"], rows_of(asked), one_by_one=True)
    np.testing.assert_array_equal(first, np.array([[1, 0.1], [2, 0.1], [1, 0.1]], np.float32))
    again = ft.cached_features("kind", ["ccc", "bb", "a"], rows_of(asked), one_by_one=True)
    np.testing.assert_array_equal(again, np.array([[3, 0.1], [2, 0.1], [1, 0.1]], np.float32))
    assert asked == [["a", "bb"], ["ccc"]] and again.dtype == np.float32
    ft.cached_features("another kind", ["a"], rows_of(asked), one_by_one=True)
    ft.cached_features("kind", ["a"], rows_of(asked))  # where rows hang on each other nothing small is kept
    assert asked[2:] == [["a"], ["a"]]


def test_few_sentences_load_no_model_the_second_time(fake_minilm, cache, monkeypatch):
    monkeypatch.setattr(ft, "CACHED_FROM", len(TEXTS) + 1)
    first = ft.sentence_features(TEXTS)
    np.testing.assert_array_equal(ft.sentence_features(TEXTS[::-1]), first[::-1])
    assert FakeEncoder.loaded == 1


@pytest.mark.parametrize(("dtype", "loads"), [(torch.float32, 1), (torch.bfloat16, 2)])
def test_few_states_are_kept_in_float32_alone(cache, dtype, loads):
    loaded = []

    def load():
        loaded.append(dtype)
        return tiny()

    for _ in range(2):
        ft._mean_states(["a story", "of two"], "tiny", load, 1, dtype)
    assert len(loaded) == loads


@pytest.mark.slow
def test_two_processes_compute_features_once(cache, tmp_path):
    code = """
    import sys, time
    import numpy as np
    from helpers.embedding import features

    features.CACHED_FROM = 1

    def slow(texts):
        with open(sys.argv[1], "a") as log:
            log.write("computed\\n")
        time.sleep(1)
        return np.ones((len(texts), 2))

    print(features.cached_features("kind", ["a", "b"], slow).sum())
    """
    log = tmp_path / "log"
    command = [sys.executable, "-c", textwrap.dedent(code), str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["4.0", "4.0"]
    assert log.read_text() == "computed\n"


# Hidden states of the real SmolLM2


@pytest.fixture(scope="module")
def lm():
    return models.load_language_model(device="cpu", dtype=torch.float32)


@pytest.fixture
def uncached(monkeypatch):
    monkeypatch.setattr(ft, "cached_features", lambda kind, texts, compute, **options: compute(texts))


def relative(found, expected):
    return np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)


@torch.inference_mode()
def full_forward(lm, text, layer):
    states = lm.model(**lm.tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    return states[layer][0, 1:].mean(dim=0).numpy()


def test_hidden_states_are_those_of_the_full_forward_pass(lm, uncached, monkeypatch):
    expected = np.stack([full_forward(lm, text, layer=8) for text in TEXTS])
    assert relative(ft.hidden_state_features(TEXTS), expected).max() < 0.05  # in the faster dtype
    monkeypatch.setattr(ft, "language_model", lambda: lm)
    found = ft.hidden_state_features(TEXTS)
    assert found.shape == (3, 576) and found.dtype == np.float32
    assert relative(found, expected).max() < 1e-4


def test_hidden_states_of_another_model_are_read_as_deep_as_those_of_smollm2(uncached, monkeypatch):
    lm = tiny("gemma3", layers=18)
    monkeypatch.setenv("STEER_MODEL", "owner/other")
    monkeypatch.setattr(ft, "language_model", lambda: lm)
    monkeypatch.setattr(ft, "local_backend", lambda: LocalBackend(lm, "other"))
    found = ft.hidden_state_features(["so it goes"])
    assert relative(found, full_forward(lm, "so it goes", layer=5)[None]).max() < 1e-4


def test_hidden_states_do_not_depend_on_the_batch(lm, uncached, monkeypatch):
    monkeypatch.setattr(ft, "language_model", lambda: lm)
    together = ft.hidden_state_features([*TEXTS, *(TEXTS[1] * 2 + f" {i}" for i in range(15))])[:3]
    alone = np.vstack([ft.hidden_state_features([text]) for text in TEXTS])
    assert relative(together, alone).max() < 1e-4
    assert relative(together[:1], together[1:2]).max() > 0.1  # different texts differ by far more


def test_the_hook_is_taken_off_again(lm, uncached, monkeypatch):
    monkeypatch.setattr(ft, "language_model", lambda: lm)
    ft.hidden_state_features(TEXTS[:1])
    assert full_forward(lm, TEXTS[0], 30).shape == (576,)


@pytest.mark.parametrize("texts", [[], [""], ["a", "  "]])
def test_hidden_states_of_nothing_are_refused(cache, texts):
    with pytest.raises(ValueError, match="one or more non-empty texts"):
        ft.hidden_state_features(texts)


# The whole space


def test_a_space_on_the_real_data(movies):
    space = build_space(movies)
    assert space.items.shape == (649, 17) and np.isfinite(space.items).all()
    np.testing.assert_array_equal(space.encoder(movies.texts()), space.items)
    truth = space.model.item_embeddings[movies.text_items]
    assert np.corrcoef(space.items[:, -1], truth[:, -1])[0, 1] > 0.4  # the bias, on texts it was fitted on


def test_a_space_can_share_a_factorisation(movies):
    random = np.random.default_rng(0)
    factors = random.normal(size=(movies.n_users, 2)), random.normal(size=(movies.n_items, 2))
    model = Factorization(3.5, np.zeros(movies.n_users), np.zeros(movies.n_items), *factors)
    space = build_space(movies, model=model, featurise=lengths, head=enc.fit_mean)
    assert space.model is model and space.items.shape == (649, 3)
