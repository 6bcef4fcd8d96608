"""The editing loop on a tiny model: both directions, what the retain term holds, resuming, stopping, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny

from helpers.are import editing
from helpers.are.concepts import Example, Question
from helpers.are.editing import (
    Answered,
    Editor,
    EditSettings,
    Rows,
    Run,
    answer_nll,
    batches_of_round,
    distance_to_targets,
    edit,
    new_discriminator,
    train_for_round,
    views_of,
)
from helpers.base.sharing import Share
from helpers.base.storage import CourseError
from helpers.language import states
from helpers.language.adapters import trained_weights, with_adapter
from helpers.language.generation import plain_tokens, prompt_tokens
from helpers.language.states import ReadOut, blocks, read, read_all, read_along

AT = ReadOut((3, 4), positions=3)
SETTINGS = EditSettings(AT, rounds=2, steps=6, batch=4, learning_rate=5e-3, members=2, hidden=32, match=0.0)
WORDS = ("sun", "rain", "tea", "dogs", "music", "trains", "books", "bread", "snow", "boats", "maps", "chess")


def examples(words=WORDS) -> list[Example]:
    """A system message that is there or not; the answer begins with the same letters."""
    return [
        Example(f"word-{word}", (("system", "Be glad!"), ("user", word)), (("user", word),), f"well {word}")
        for word in words
    ]


@pytest.fixture(scope="module")
def lm():
    return tiny(layers=4)


@pytest.fixture(scope="module")
def rows(lm):
    return Rows(lm, examples()[:8], 3), Rows(lm, examples()[8:], 3)


def adapted(lm, seed=0):
    return with_adapter(lm, rank=4, layers=[2, 3, 4], seed=seed)


def retained(lm, count=6) -> Answered:
    texts = [prompt_tokens(lm.tokenizer, f"tell me about {word}") for word in WORDS[:count]]
    return Answered(lm, texts, [plain_tokens(lm.tokenizer, f"it is {word}") for word in WORDS[:count]])


def run(lm, rows, settings=SETTINGS, kind=1, seed=0, save_memory=False, **options):
    edited = adapted(lm)
    return edited, edit(Run(edited, *rows, retained(edited), settings, kind, seed, save_memory), **options)


def timeless(curve: list[dict]) -> list[dict]:
    """The rows without what a clock measured."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in curve]


def weights(lm) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trained_weights(lm.model)]


def test_rows_hold_both_prompts_and_the_same_beginning_of_the_answer(lm):
    rows = Rows(lm, examples(["sun"]), 3)
    target, plain = (lm.tokenizer.decode(part[0]) for part in (rows.target, rows.plain))
    assert target == "<system>Be glad!\n<user>sun\n<assistant>we"
    assert plain == "<user>sun\n<assistant>we"
    assert rows.ids == ["word-sun"]


def test_examples_whose_answer_is_too_short_are_left_out(lm):
    some = [*examples(["sun"]), examples(["tea"])[0]._replace(answer="w")]
    assert Rows(lm, some, 3).ids == ["word-sun"]
    with pytest.raises(CourseError, match="read fewer positions"):
        Rows(lm, some[1:], 3)


def test_plain_prompts_come_to_look_like_the_wanted_kind(lm, rows):
    """kind=1 like target prompts, kind=0 even plainer than before."""
    verdict = {}
    for kind in (0, 1):
        edited = adapted(lm)
        settings = replace(SETTINGS, retain=0.0, rounds=1, steps=30, frozen=True, fooled=0.0)
        edit(Run(edited, *rows, retained(edited), settings, kind))
        views = views_of(edited.model, *rows, AT)
        judge = judge_of_round_0(lm, rows, settings)
        plain = views.scale(read_all(edited.model, rows[0].plain, AT))
        verdict[kind] = judge(plain).softmax(-1)[..., 1].mean().item()
    assert verdict[1] > 0.8 > 0.2 > verdict[0]


def judge_of_round_0(lm, rows, settings):
    fresh = adapted(lm)
    views = views_of(fresh.model, *rows, AT)
    editor = Editor(fresh.model, new_discriminator(fresh.model, settings, 0, 0))
    train_for_round(editor, views.of(fresh.model, rows[0]), views, settings, 0, 0)
    return editor.discriminator


def test_both_kinds_of_base_states_decide_the_scaling(lm, rows):
    edited = adapted(lm)
    views = views_of(edited.model, *rows, AT)
    base = [read_all(lm.model, part, AT) for part in (rows[0].target, rows[0].plain)]
    together = views.scale(torch.cat(base))
    torch.testing.assert_close(together.mean(dim=0), torch.zeros(together.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(together.std(dim=0, correction=0), torch.ones(together.shape[1]), atol=1e-2, rtol=0)
    torch.testing.assert_close(torch.cat([views.target, views.plain]), together, atol=1e-3, rtol=1e-3)
    assert views.target.mean().abs() > 1e-3  # neither kind alone


def test_rounds_and_seeds_draw_their_own_batches(lm, rows):
    def drawn(seed, number):
        edited = adapted(lm)
        run = Run(edited, *rows, retained(edited), SETTINGS, seed=seed)
        return [np.concatenate(batch).tolist() for batch in batches_of_round(run, number)]

    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(seed, number)) for seed in (0, 1) for number in (0, 1, 2)}) == 6
    assert len({str(batch) for batch in drawn(0, 0)}) > 1  # nor are the steps of a round alike


def test_an_edit_is_the_same_in_either_layout(lm, rows, monkeypatch):
    """Texts in one row behind their common prefix, or one row each: the same losses within rounding."""
    expected = run(lm, rows)[1]
    monkeypatch.setattr(states, "_tried", lambda model: states.in_rows)
    for one, other in zip(timeless(run(lm, rows)[1]), timeless(expected), strict=True):
        steps, wanted = one.pop("steps"), other.pop("steps")
        assert all(steps[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-4) for name in wanted)
        assert {k: v for k, v in one.items() if v != other[k]} == pytest.approx(
            {k: other[k] for k, v in one.items() if v != other[k]}, rel=1e-3, abs=1e-4
        )


def test_every_step_of_a_round_is_kept_and_its_mean_is_the_round_s(lm, rows):
    chosen = replace(SETTINGS, match=1.0, answer=1.0, rounds=2)
    for row in run(lm, rows, chosen)[1]:
        assert {len(values) for values in row["steps"].values()} == {chosen.steps}
        assert all(row[name] == pytest.approx(np.mean(values)) for name, values in row["steps"].items())
        assert set(row["steps"]) == {"fooling", "distance", "answer_nll", "distil_kl", "retain_kl", "fooled"}
        assert all(0 <= share <= 1 for share in row["steps"]["fooled"])


def test_retaining_keeps_the_model_closer_to_itself(lm, rows):
    cost = {}
    for retain in (0.0, 10.0):
        edited, _ = run(lm, rows, replace(SETTINGS, retain=retain, steps=20, fooled=0.0))
        with torch.no_grad():
            cost[retain] = retained(edited).kl(edited.model, range(6)).item()
    assert cost[10.0] < 0.5 * cost[0.0]


def test_the_kl_is_zero_before_editing_and_that_of_the_whole_model_after(lm):
    edited = adapted(lm)
    kept = retained(edited, 3)
    assert kept.kl(edited.model, [0, 1, 2]).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for weight in trained_weights(edited.model):
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    expected = []
    for text, answer in zip(kept.texts, kept.answers, strict=True):
        with torch.no_grad():
            other = edited.model(torch.tensor([text])).logits[0, -len(answer) :].log_softmax(-1)
            base = lm.model(torch.tensor([text])).logits[0, -len(answer) :].log_softmax(-1)
        expected.append((base.exp() * (base - other)).sum(-1).mean().item())
    assert kept.kl(edited.model, [0, 1, 2]).item() == pytest.approx(np.mean(expected), rel=1e-3)


def test_the_likelihood_of_answers_is_that_of_transformers(lm):
    edited = adapted(lm)
    taught = retained(edited, 3)
    losses = []
    for text, answer in zip(taught.texts, taught.answers, strict=True):
        ids = torch.tensor([[*text, answer[-1]]])
        labels = ids.clone()
        labels[0, : -len(answer)] = -100
        with torch.no_grad():
            losses.append(lm.model(ids, labels=labels).loss.item())
    assert taught.nll(edited.model, [0, 1, 2]).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_base_weights_never_change(lm, rows):
    before = [weight.clone() for weight in lm.model.parameters()]
    run(lm, rows)
    assert all(torch.equal(one, other) for one, other in zip(before, lm.model.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"warm": True}, {"frozen": True}])
def test_a_run_that_was_killed_ends_where_an_undisturbed_one_ends(lm, rows, tmp_path, options):
    settings, path = replace(SETTINGS, fooled=0.0, rounds=3, **options), tmp_path / "edit.safetensors"
    whole, expected = run(lm, rows, settings)

    def killed(row):
        if row["round"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lm, rows, settings, checkpoint=path, on_round=killed)
    resumed, curve = run(lm, rows, settings, checkpoint=path)
    assert timeless(curve) == timeless(expected)
    assert all(torch.equal(one, other) for one, other in zip(weights(resumed), weights(whole), strict=True))


def test_a_checkpoint_of_another_run_is_refused(lm, rows, tmp_path):
    path = tmp_path / "edit.safetensors"
    run(lm, rows, replace(SETTINGS, rounds=1), checkpoint=path)
    for other in ({"seed": 1}, {"kind": 0}, {"settings": replace(SETTINGS, retain=3.0)}):
        options = {"settings": SETTINGS, **other}
        with pytest.raises(CourseError, match=r"other settings, data or seed: delete .*/edit"):
            run(lm, rows, checkpoint=path, **options)
    with pytest.raises(CourseError, match="other settings, data or seed"):
        run(lm, (rows[1], rows[0]), checkpoint=path)


def test_seeds_decide_the_result_and_the_global_generators_do_not(lm, rows):
    found = []
    for noise, seed in ((0, 5), (1, 5), (0, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        found.append(weights(run(lm, rows, seed=seed)[0]))
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))


def test_it_stops_when_enough_answers_are_as_wanted_and_says_so(lm, rows, tmp_path):
    rates, path = iter([0.2, 0.97]), tmp_path / "edit.safetensors"
    settings = replace(SETTINGS, rounds=5, enough=0.95, fooled=0.0)
    _, curve = run(lm, rows, settings, target_rate=lambda: next(rates), checkpoint=path)
    assert [row["stopped"] for row in curve] == ["", "97% of the answers on the stop split show the concept"]
    _, again = run(lm, rows, settings, target_rate=lambda: 0.0, checkpoint=path)  # a stopped run stays stopped
    assert again == curve


def test_taking_a_concept_away_stops_at_a_low_rate(lm, rows):
    _, curve = run(lm, rows, replace(SETTINGS, enough=0.9, fooled=0.0), kind=0, target_rate=lambda: 0.05)
    assert len(curve) == 1
    assert curve[0]["stopped"]


FOOLED = "a newly trained discriminator tells 55% of the stop split right: none left to fool"


@pytest.mark.parametrize(
    ("options", "accuracies", "stopped"),
    [
        ({}, [0.95, 0.9, 0.55, 0.5], ["", "", FOOLED]),
        ({"warm": True}, [0.95, 0.55, 0.5, 0.5], ["", FOOLED]),
        ({}, [0.55, 0.5, 0.6, 0.6], [""] * 4),  # it never learnt, so nothing has fooled it
        ({}, [0.5, 0.9, 0.55, 0.5], ["", "", FOOLED]),
        ({"frozen": True}, [0.95, 0.55, 0.5, 0.5], [""] * 4),  # no other discriminator is trained
        ({"adversary": 0.0, "match": 1.0}, [0.95, 0.55, 0.5, 0.5], [""] * 4),  # nothing is to be fooled
    ],
)
def test_it_stops_when_a_newly_trained_discriminator_is_fooled_and_not_before_one_has_learnt(
    lm, rows, monkeypatch, options, accuracies, stopped
):
    told = iter(accuracies)
    monkeypatch.setattr(editing, "accuracy", lambda *_: next(told))
    monkeypatch.setattr(editing, "train_for_round", lambda *_: 1.0)
    monkeypatch.setattr(editing, "probed", lambda *_: {})
    _, curve = run(lm, rows, replace(SETTINGS, rounds=4, steps=1, **options))
    assert [row["stopped"] for row in curve] == stopped


def test_an_edit_from_one_pair_takes_all_its_rounds(lm, rows):
    one = Rows(lm, examples()[:1], 3)
    _, curve = run(lm, (one, rows[1]), replace(SETTINGS, rounds=3, steps=2))
    assert len(curve) == 3 and not curve[-1]["stopped"]


def test_matching_brings_plain_states_to_their_twins(lm, rows):
    far = run(lm, rows, replace(SETTINGS, adversary=0.0, retain=0.0, rounds=1, steps=1))[1]
    settings = replace(SETTINGS, adversary=0.0, retain=0.0, match=1.0, rounds=3, steps=20, fooled=0.0)
    near = run(lm, rows, settings)[1]
    assert far[0]["distance"] == 0.0  # not even measured without its weight
    assert near[-1]["distance"] < 0.6 * near[0]["distance"]


def test_processes_that_cannot_share_a_batch_are_refused(lm, rows):
    class Three(Share):
        processes = 3

    edited = adapted(lm)
    Run(edited, *rows, retained(edited), replace(SETTINGS, batch=6), share=Three())
    with pytest.raises(ValueError, match="3 processes cannot share 4 examples"):
        Run(edited, *rows, retained(edited), replace(SETTINGS, batch=4), share=Three())


def test_no_process_leaves_before_all_are_done(lm, rows):
    class Counted(Share):
        waits = 0

        def wait(self) -> None:
            self.waits += 1

    share = Counted()
    edit(Run(adapted(lm), *rows, retained(adapted(lm)), replace(SETTINGS, rounds=1, steps=1), share=share))
    assert share.waits == 1


def test_a_concept_cannot_be_taken_away_by_matching(lm, rows):
    with pytest.raises(ValueError, match="set them to 0 to take it away"):
        run(lm, rows, replace(SETTINGS, match=1.0), kind=0)


@pytest.mark.parametrize("taught", [0, 2, 6, 40])
def test_the_likelihood_of_target_answers_is_that_of_transformers(lm, taught):
    some = Rows(lm, examples()[:3], 3, [Question("q", "ink")], taught)
    states, last = read_along(lm.model, some.plain, AT, some.places)
    expected = []
    for example, text, answer, places in zip(examples(), some.plain, some.answers, some.places, strict=False):
        prompt = text[: len(text) - places + 1]
        ids = torch.tensor([[*prompt, *answer]])
        labels = torch.where(torch.arange(ids.shape[1]) < len(prompt), -100, ids)
        expected.append(lm.model(ids, labels=labels).loss.item() * len(answer))
        assert answer == list(plain_tokens(lm.tokenizer, example.answer))[: taught or 3]
    found = answer_nll(lm.model, [last[0], last[3], last[2]], some, np.array([0, 3, 2]))
    tokens = len(some.answers[0]) + len(some.answers[2])
    assert found.item() == pytest.approx((expected[0] + expected[2]) / tokens, rel=1e-4)
    assert answer_nll(lm.model, last[3:], some, np.array([3])).item() == 0
    torch.testing.assert_close(states, read(lm.model, some.plain, AT, places=some.places))


def test_more_is_taught_than_is_read_and_what_is_read_stays_where_answers_begin(lm):
    few, many = (Rows(lm, examples()[:3], 3, taught=taught) for taught in (0, 40))
    assert all(one == other[: len(one)] for one, other in zip(few.plain, many.plain, strict=True))
    assert len(many.plain[0]) > len(few.plain[0])
    short, whole = (read_all(lm.model, rows.plain, AT, places=rows.places) for rows in (few, many))
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)


def test_the_end_of_an_answer_is_taught_where_there_is_room_and_the_template_has_one(lm, monkeypatch):
    monkeypatch.setattr(editing, "end_of_answer", lambda _lm: (7,))
    whole = list(plain_tokens(lm.tokenizer, "well sun"))
    for taught, expected in ((0, whole[:3]), (4, whole[:4]), (40, [*whole, 7])):
        assert Rows(lm, examples(["sun"]), 3, taught=taught).answers == [expected]


def test_learning_the_answers_makes_them_likelier_wherever_states_are_read(lm, rows):
    for at in (AT, ReadOut((3,), positions=3)):
        chosen = replace(SETTINGS, at=at, adversary=0.0, retain=0.0, answer=1.0, rounds=3)
        _, curve = run(lm, rows, chosen)
        assert curve[-1]["answer_nll"] < 0.8 * curve[0]["answer_nll"]
    assert run(lm, rows)[1][0]["answer_nll"] == 0


def test_saving_memory_computes_blocks_again_and_gives_the_same_edit(lm, rows, monkeypatch):
    plain, counts = weights(run(lm, rows)[0]), []
    for save_memory in (False, True):
        edited, calls = adapted(lm), []
        blocks(edited.model)[2].self_attn.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        edit(Run(edited, *rows, retained(edited), SETTINGS, save_memory=save_memory))
        counts.append(len(calls))
        assert not any(block.training for block in blocks(edited.model))
        for one, other in zip(plain, weights(edited), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert counts[1] > counts[0]


def test_questions_without_a_twin_borrow_an_answer_and_have_no_distance(lm):
    rows = Rows(lm, examples()[:2], 3, [Question("word-ink", "ink"), Question("word-oak", "oak")])
    assert len(rows.target) == 2 and len(rows.plain) == 4
    assert [lm.tokenizer.decode(part) for part in rows.plain[2:]] == [
        "<user>ink\n<assistant>we",
        "<user>oak\n<assistant>we",
    ]
    states, target = torch.ones(3, 5), torch.zeros(2, 5)
    assert distance_to_targets(states, target, np.array([0, 1, 2])).item() == pytest.approx(1)
    assert distance_to_targets(states, target, np.array([2, 3, 4])).item() == 0.0


TERMS = {"distance": {"match": 1.0}, "answer_nll": {"answer": 1.0}, "distil_kl": {"distil": 1.0, "taught": 6}}


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_pairs_weighs_the_same_however_many_of_the_batch_are_unpaired(lm, term):
    """In value and in what it does to the adapter; nothing else has a weight."""
    chosen = replace(SETTINGS, adversary=0.0, retain=0.0, **TERMS[term])
    found, kept = {}, np.array([0])
    for batch in ((0, 1), (0, 1, 3, 4, 5, 6), (3, 4)):
        edited = adapted(lm)
        pairs = Rows(lm, examples()[:3], 3, [Question(word, word) for word in WORDS[3:8]], taught=chosen.taught)
        views = views_of(edited.model, pairs, pairs, AT, taught=bool(chosen.distil))
        edit_of = Run(edited, pairs, pairs, retained(edited), chosen)
        optimiser = torch.optim.SGD(trained_weights(edited.model), lr=1e-2)
        values = editing.step(edit_of, views, optimiser, (np.array(batch), kept))
        moved = torch.cat([weight.grad.flatten() for weight in trained_weights(edited.model)])
        found[batch] = values[term], moved
    (alone, gradient), (among, same), (none, still) = found.values()
    assert alone > 0 and among == pytest.approx(alone, rel=1e-4) and none == 0
    torch.testing.assert_close(same, gradient, rtol=1e-3, atol=1e-6)
    assert not still.any()


@pytest.mark.parametrize("options", [{}, {"online": True}, {"match": 1.0}])
def test_only_the_adversary_is_shown_unpaired_prompts(lm, options):
    some = Rows(lm, examples()[:4], 3, [Question(word, word) for word in WORDS[4:]])
    for adversary, expected in ((0.0, set(range(4))), (0.1, set(range(12)))):
        chosen = replace(SETTINGS, steps=40, adversary=adversary, **options)
        drawn = batches_of_round(Run(adapted(lm), some, some, retained(adapted(lm)), chosen), 0)
        assert {int(row) for rows, _ in drawn for row in rows} == expected


@pytest.mark.parametrize("batch", [(0, 9, 1, 9, 2, 3), (0, 1, 9, 9), (9, 0, 9, 9), (9, 9, 9, 9)])
def test_the_means_of_processes_over_their_own_pairs_are_a_mean_over_all_pairs(batch):
    rows, values = np.array(batch), np.array(batch) ** 2.0
    means = []
    for own in (slice(0, None, 2), slice(1, None, 2)):
        paired = values[own][rows[own] < 5]
        means.append(editing.part_of_pairs(rows, rows[own], 5) * (paired.mean() if len(paired) else 0.0))
    assert np.mean(means) == pytest.approx(values[rows < 5].mean() if (rows < 5).any() else 0.0)


def test_a_finished_edit_is_loaded_without_reading_anything(lm, rows, tmp_path, monkeypatch):
    path = tmp_path / "edit.safetensors"
    edited, curve = run(lm, rows, checkpoint=path)
    monkeypatch.setattr("helpers.are.editing.read_all", None)
    again, same = run(lm, rows, checkpoint=path)
    assert same == curve
    assert all(torch.equal(one, two) for one, two in zip(weights(edited), weights(again), strict=True))


def test_frozen_discriminators_stay_and_new_ones_are_new(lm, rows):
    settings = replace(SETTINGS, frozen=True)
    frozen = judge_of_round_0(lm, rows, settings)
    edited = adapted(lm)
    views = views_of(edited.model, *rows, AT)
    for changed in ({"frozen": True}, {"warm": True}, {}):
        editor = Editor(edited.model, frozen)
        before = [weight.detach().clone() for weight in frozen.parameters()]
        train_for_round(editor, views.of(edited.model, rows[0]), views, replace(SETTINGS, **changed), 0, 1)
        same = all(torch.equal(one, two) for one, two in zip(before, editor.discriminator.parameters(), strict=True))
        assert same == ("frozen" in changed)
        assert (editor.discriminator is frozen) == bool(changed)


def test_a_loss_that_is_not_finite_ends_with_advice_and_without_a_broken_checkpoint(lm, rows, tmp_path):
    path = tmp_path / "edit.safetensors"
    with pytest.raises(CourseError, match="not finite"):
        run(lm, rows, replace(SETTINGS, learning_rate=1e30, rounds=3), checkpoint=path)
    assert not path.exists()


def test_empty_retain_and_unknown_layers_are_refused(lm, rows):
    edited = adapted(lm)
    with pytest.raises(CourseError, match="there is nothing to keep"):
        Answered(edited, [(1, 2)], [()])
    with pytest.raises(ValueError, match="no layer 9"):
        Run(edited, *rows, retained(edited), replace(SETTINGS, at=ReadOut((9,))))


def test_the_fingerprint_of_a_run_is_plain_json(lm, rows):
    edited = adapted(lm)
    facts = Run(edited, *rows, retained(edited), SETTINGS).facts()
    assert facts == Run(edited, *rows, retained(edited), replace(SETTINGS, rounds=99)).facts()
    assert facts["settings"]["at"] == {"layers": [3, 4], "positions": 3}


@pytest.mark.parametrize("taught", [0, 6, 40])
def test_the_divergence_from_the_teacher_is_that_of_transformers(lm, taught):
    edited = adapted(lm)
    some = Rows(edited, examples()[:3], 3, [Question("q", "ink")], taught)
    with torch.no_grad():
        for number, weight in enumerate(trained_weights(edited.model)):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
        views = views_of(edited.model, some, some, AT, taught=True)
        _, last = read_along(edited.model, some.plain, AT, some.places)

    def log_probs(text: list[int], places: int, answer: list[int]) -> torch.Tensor:
        logits = edited.model(torch.tensor([text])).logits[0, len(text) - places :][: len(answer)]
        return logits.log_softmax(dim=-1)

    expected = []
    for row, answer in enumerate(some.answers):
        with torch.no_grad(), edited.model.disable_adapter():
            wanted = log_probs(some.target[row], some.places[row], answer)
        with torch.no_grad():
            found = log_probs(some.plain[row], some.places[row], answer)
        expected.append((wanted.exp() * (wanted - found)).sum(dim=-1).mean().item())
    kl = editing.distil_kl(edited.model, [last[0], last[3], last[2]], views.teacher, np.array([0, 3, 2]))
    assert expected[0] > 1e-3
    assert kl.item() == pytest.approx((expected[0] + expected[2]) / 2, rel=1e-3)
    assert editing.distil_kl(edited.model, last[3:], views.teacher, np.array([3])).item() == 0


def test_distilling_brings_the_teacher_s_answers_nearer(lm, rows):
    chosen = replace(SETTINGS, adversary=0.0, retain=0.0, distil=1.0, taught=6, rounds=3)
    _, curve = run(lm, rows, chosen)
    assert curve[-1]["distil_kl"] < 0.8 * curve[0]["distil_kl"]
    assert run(lm, rows)[1][0]["distil_kl"] == 0


def test_a_discriminator_that_learns_along_is_harder_to_fool(lm, rows):
    chosen = replace(SETTINGS, steps=12, rounds=2)
    alone, along = (run(lm, rows, replace(chosen, online=online))[1] for online in (False, True))
    assert np.mean([row["fooled"] for row in along]) < np.mean([row["fooled"] for row in alone])
    assert np.mean([row["fooling"] for row in along]) > np.mean([row["fooling"] for row in alone])
    with pytest.raises(ValueError, match="set frozen or online, not both"):
        run(lm, rows, replace(chosen, frozen=True, online=True))


def test_the_learning_rate_falls_to_0_where_it_is_to_decay_and_a_resumed_edit_goes_on(lm, rows, tmp_path):
    chosen = replace(SETTINGS, decay=True, rounds=3, steps=4)
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = []
    for done in range(13):
        editing.set_rate(optimiser, chosen, done, 12)
        rates.append(optimiser.param_groups[0]["lr"] / chosen.learning_rate)
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, expected = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=12), []
    for _ in range(13):
        expected.append(schedule.get_last_lr()[0])
        theirs.step()
        schedule.step()
    assert rates == pytest.approx(expected, abs=1e-9)
    assert rates[0] == 1 and rates[6] == pytest.approx(0.5) and rates[12] == pytest.approx(0)
    editing.set_rate(optimiser, SETTINGS, 5, 12)
    assert optimiser.param_groups[0]["lr"] == SETTINGS.learning_rate

    whole = weights(run(lm, rows, chosen)[0])

    class Killed(Exception):
        pass

    def stop(row):
        if row["round"] == 1:
            raise Killed

    path = tmp_path / "edit.safetensors"
    with pytest.raises(Killed):
        run(lm, rows, chosen, checkpoint=path, on_round=stop)
    again, _ = run(lm, rows, chosen, checkpoint=path)
    for one, other in zip(whole, weights(again), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(CourseError):
        run(lm, rows, replace(chosen, rounds=4), checkpoint=path)


def test_in_a_fading_term_the_first_token_weighs_most(lm):
    edited = adapted(lm)
    with torch.no_grad():
        for weight in trained_weights(edited.model):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    kept = retained(edited, 2)
    faded = Answered(
        edited,
        [text[: len(text) - len(a) + 1] for text, a in zip(kept.texts, kept.answers, strict=True)],
        kept.answers,
        True,
    )
    assert faded.texts == kept.texts
    base, now = kept.log_probs(edited.model, [0, 1])
    at_places = (base.exp() * (base - now)).sum(dim=1).split([len(answer) for answer in kept.answers])
    expected = [np.average(part.detach(), weights=1 / np.arange(1, len(part) + 1)) for part in at_places]
    assert faded.kl(edited.model, [0, 1]).item() == pytest.approx(np.mean(expected), rel=1e-4)
    assert kept.kl(edited.model, [0, 1]).item() != pytest.approx(np.mean(expected), rel=1e-4)
