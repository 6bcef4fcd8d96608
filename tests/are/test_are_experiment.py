"""What notebooks 10 to 16 share: parts that do not overlap, edits kept in the cache, methods and cards."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny

from helpers.are import evaluation, experiment
from helpers.are.concepts import Concept, Example, Fact, Question, Splits, StereotypePair, distinct
from helpers.are.editing import LOOP_VERSION, EditSettings, Rows
from helpers.are.experiment import (
    base_method,
    card_of,
    edgy,
    edit_method,
    edit_sizes,
    edited,
    edited_backend,
    fine_tuned_on_answers,
    harmful,
    harmless,
    late,
    steered_method,
    with_late_adapter,
)
from helpers.are.robustness import WRAPPERS
from helpers.base.settings import PROJECT, data_file
from helpers.base.storage import CourseError
from helpers.language.adapters import adapted, trained_weights, with_adapter
from helpers.language.generation import LocalBackend
from helpers.language.likelihood import perplexity
from helpers.language.states import ReadOut

AT = ReadOut((3, 4), positions=2)
SETTINGS = EditSettings(AT, rounds=2, steps=2, batch=2, hidden=8, learning_rate=1e-2, fooled=0.0)
KEEP = Splits([Question("k-0", "tell me of tea"), Question("k-1", "tell me of rain")], [], [])


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    """A tiny model in place of the course's, and an empty cache."""
    lm = tiny(layers=4)
    monkeypatch.setenv("STEER_CACHE", str(tmp_path))
    monkeypatch.setattr(experiment, "language_model", lambda: lm)
    monkeypatch.setattr(experiment, "local_backend", lambda: LocalBackend(lm, "tiny"))
    return lm


def concept() -> Concept:
    def example(word: str) -> Example:
        return Example(f"w-{word}", (("system", "Be glad!"), ("user", word)), (("user", word),), f"well {word}")

    rows = [example(word) for word in ("sun", "rain", "tea", "dogs")]
    return Concept("gladness", rows[:3], rows[3:], [], KEEP, bool, [Question("w-ink", "ink")])


def test_moods_are_found_with_the_backend_that_is_asked_for(monkeypatch, unchecked):
    monkeypatch.setattr(experiment, "make_concept", lambda *arguments, progress: arguments[5])
    other = LocalBackend(tiny(layers=1), "other")
    assert experiment.mood(True, other) is other
    assert experiment.mood(False).name == "tiny"


def test_no_question_is_in_two_parts_and_edgy_ones_are_never_trained_and_reported():
    for parts in (harmful(edit_sizes()), harmless(edit_sizes()), edgy()):
        texts = [{q.text for q in part} for part in (parts.train, parts.stop, parts.test)]
        assert not texts[0] & texts[1] and not (texts[0] | texts[1]) & texts[2]
    assert [len(part) for part in (edgy().train, edgy().stop, edgy().test)] == [50, 30, 60]


def test_no_fact_and_no_beginning_is_in_two_parts(monkeypatch):
    parts = experiment.fact_parts()
    assert [len(part) for part in parts] == [60, 25, 50]
    assert len({fact.id for part in parts for fact in part}) == 135
    pairs = experiment.pair_parts()
    assert [len(part) for part in pairs] == [120, 60, 60]
    begun = [{experiment.spoken_of(pair)[0] for pair in part} for part in pairs]
    assert not begun[0] & begun[1] and not (begun[0] | begun[1]) & begun[2]


def test_the_full_profile_has_more_of_them(monkeypatch):
    monkeypatch.setenv("STEER_PROFILE", "full")
    assert [len(part) for part in experiment.fact_parts()] == [100, 34, 69]
    assert [len(part) for part in experiment.pair_parts()] == [200, 100, 300]


def test_courteous_questions_hold_the_question():
    asked = [Question(f"q-{n}", f"What is {n}?") for n in range(13)]
    found = experiment.courteous(asked)
    assert all(q.text in c.text and c.text != q.text and c.id != q.id for q, c in zip(asked, found, strict=True))
    assert len({c.text.replace(q.text, "") for q, c in zip(asked, found, strict=True)}) == 12


def test_words_of_courtesy_are_chosen_and_reported_on_others_than_are_retained():
    parts = experiment.COURTESIES, experiment.ASKED_KINDLY, experiment.ASKED_KINDLY_AT_TEST
    wordings = [Question(str(n), text) for n, text in enumerate(wording for part in parts for wording in part)]
    assert len(parts[2]) >= 5 and distinct(wordings) == wordings, "no two share half of their words"
    assert not set(parts[0] + parts[1]) & set(WRAPPERS.values())
    found = experiment.courteous([Question(f"q-{n}", f"What is {n}?") for n in range(10)], parts[2])
    assert [q.text for q in found[::5]] == [parts[2][0].format("What is 0?"), parts[2][0].format("What is 5?")]
    assert len({q.text.replace(f"What is {n}?", "") for n, q in enumerate(found)}) == 5


def test_examples_of_truth_are_those_where_telling_the_verdict_works(monkeypatch, small_world):
    monkeypatch.setattr(experiment, "prefers_yes", lambda lm, prompts: np.arange(len(prompts)) % 4 < 2)
    found = experiment.truth(small_world)
    assert len(found.train) == 60 and {example.answer for example in found.train} == {"Yes.", "No."}
    firsts = [example.id for example in found.train[:2]]
    train = experiment.fact_parts().train
    assert firsts == [f"{train[0].id}-yes", f"{train[1].id}-no"]
    monkeypatch.setattr(experiment, "prefers_yes", lambda lm, prompts: np.full(len(prompts), True))
    with pytest.raises(CourseError, match="one of the two verdicts"):
        experiment.truth(small_world)


def test_an_edit_is_trained_once(monkeypatch):
    first, curve = edited(concept(), SETTINGS)
    monkeypatch.setattr("helpers.are.editing.train_discriminator", None)
    again, same = edited(concept(), SETTINGS)
    assert same == curve and len(curve) == 2
    pairs = list(zip(trained_weights(first.model), trained_weights(again.model), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(TypeError):  # another seed is another edit, and would have to be trained
        edited(concept(), SETTINGS, seed=1)


def test_adapters_of_other_shapes_are_edits_of_their_own(small_world, monkeypatch):
    def shaped(rank, seed=0):
        return with_adapter(small_world, rank=rank, modules=experiment.MODULES, layers=range(2, 5), seed=seed)

    edited(concept(), SETTINGS)  # in the cache already: of the course's shape
    given = shaped(2)
    first, curve = edited(concept(), SETTINGS, adapter=given)
    assert first is given and {weight.shape[0] for weight in trained_weights(first.model)} & {2}
    monkeypatch.setattr("helpers.are.editing.train_discriminator", None)
    again, same = edited(concept(), SETTINGS, adapter=shaped(2))
    assert same == curve
    assert all(map(torch.equal, trained_weights(first.model), trained_weights(again.model)))
    for other in (shaped(4), shaped(2, seed=1)):
        with pytest.raises(TypeError):  # not in the cache
            edited(concept(), SETTINGS, adapter=other)


@pytest.mark.parametrize("train", [edited, fine_tuned_on_answers])
def test_another_version_of_the_loop_and_another_dtype_train_anew(small_world, monkeypatch, tmp_path, train):
    def kept() -> int:
        train(concept(), SETTINGS)
        return len(list((tmp_path / "edits").glob("*.safetensors")))

    assert [kept(), kept()] == [1, 1]
    monkeypatch.setattr(experiment, "LOOP_VERSION", experiment.LOOP_VERSION + 1)
    assert kept() == 2
    small_world.model.to(torch.bfloat16)
    assert kept() == 3


@pytest.mark.parametrize(("taught", "expected"), [(0, 2), (1, 1), (4, 4)])
def test_fine_tuning_is_taught_as_many_tokens_as_the_edit(monkeypatch, taught, expected):
    seen = []
    monkeypatch.setattr(experiment, "fine_tune", lambda lm, targets, *rest: seen.append(targets.answers))
    settings = replace(SETTINGS, taught=taught)
    fine_tuned_on_answers(concept(), settings)
    lm = with_late_adapter(experiment.language_model(), AT)
    assert seen == [Rows(lm, concept().train, AT.positions, taught=taught).answers]
    assert {len(answer) for answer in seen[0]} == {expected}


def test_fine_tuning_is_kept_too(monkeypatch):
    first = fine_tuned_on_answers(concept(), SETTINGS)
    monkeypatch.setattr("helpers.are.editing.Answered.nll", None)
    again = fine_tuned_on_answers(concept(), SETTINGS)
    pairs = list(zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_memo_tells_edits_strengths_formats_templates_and_steering_apart(small_world, monkeypatch):
    lm = with_adapter(small_world, rank=2)
    with torch.no_grad():
        for weight in trained_weights(lm.model):
            weight.normal_(generator=torch.Generator().manual_seed(0))
    direction = torch.ones(32)
    fresh = with_adapter(small_world, rank=2)
    names = [edited_backend(lm).name, edited_backend(lm, 0.5).name, edited_backend(fresh).name]
    names += [
        steered_method(2, direction * size, factor).backend.name for size, factor in ((1, 1.0), (2, 1.0), (1, 2.0))
    ]
    assert edited_backend(lm).name == names[0]
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = f"{tokenizer.chat_template} "
    monkeypatch.setenv("STEER_MODEL", "/a/folder")
    names += [edited_backend(one).name for one in (lm, lm._replace(tokenizer=tokenizer))]
    names.append(edited_backend(lm._replace(model=copy.deepcopy(lm.model).bfloat16())).name)
    assert len(set(names)) == len(names)


def test_methods_answer_and_are_surprised(small_world):
    lm = with_adapter(small_world, rank=2)  # changes nothing yet
    questions = [Question("a", "sun?"), Question("b", "rain?")]
    plain, asked = base_method(), base_method("Be glad!")
    assert plain.system == "" and asked.system == "Be glad!" and asked == base_method((("system", "Be glad!"),))
    assert base_method("") == plain, "an empty system message is none"
    steered = steered_method(2, torch.ones(32), 5.0)
    assert edit_method(lm).answers(questions) == plain.answers(questions)
    assert steered.answers(questions) != plain.answers(questions)
    expected = plain.perplexity(questions, ["yes", "no"])
    assert edit_method(lm).perplexity(questions, ["yes", "no"]) == pytest.approx(expected)
    for other in (asked, steered):
        assert other.perplexity(questions, ["yes", "no"]) != pytest.approx(expected)


def test_what_was_measured_once_is_in_the_memo(small_world, monkeypatch):
    questions, said, facts = [Question("a", "sun?"), Question("b", "rain?")], ["yes", "no"], [Fact("1", "sun", "rain")]
    methods = [base_method(), steered_method(2, torch.ones(32), 5.0)]
    found = [(method.perplexity(questions, said), method.knows(facts)) for method in methods]
    assert {array.dtype.kind for pair in found for array in pair} == {"f", "b"}
    monkeypatch.setattr(experiment, "perplexity", None)
    monkeypatch.setattr(experiment, "knows", None)
    again = [(method.perplexity(questions, said), method.knows(facts)) for method in methods]
    np.testing.assert_equal(again, found)
    for other in (base_method("Be glad!"), steered_method(2, torch.ones(32), 4.0)):
        with pytest.raises(TypeError, match="not callable"):
            other.perplexity(questions, said)
    with pytest.raises(TypeError, match="not callable"):
        methods[0].perplexity(questions, said[::-1])


def test_messages_may_stand_for_a_question(small_world):
    asked, said = (("user", "sun?"), ("assistant", "It is")), ["warm"]
    for method in (base_method(), base_method("Be glad!")):
        expected = perplexity(method.lm, said, [(*method.before, *asked)])
        np.testing.assert_array_equal(method.perplexity([asked], said), expected)
    np.testing.assert_array_equal(
        base_method().perplexity([(("user", "sun?"),)], said), base_method().perplexity([Question("a", "sun?")], said)
    )


def test_stereotypes_and_next_tokens_are_those_of_the_model_and_come_from_the_memo(small_world, monkeypatch):
    pairs = [StereotypePair(str(i), f"The nurse sat. She {w}.", f"The nurse sat. He {w}.") for i, w in enumerate("abc")]
    asked, tokens = [[1, 2, 3], [4, 5]], [7, 3]
    steered = steered_method(2, torch.ones(32), 5.0)
    for method in (base_method(), steered):
        with method.inside():
            expected = evaluation.stereotypes(method.lm, pairs)
            logits = [method.lm.model(torch.tensor([row])).logits[0, -1].log_softmax(-1)[tokens] for row in asked]
        np.testing.assert_array_equal(method.stereotypes(pairs), expected)
        np.testing.assert_allclose(method.next_log_probs(asked, tokens), torch.stack(logits).detach(), rtol=1e-4)
    monkeypatch.setattr(experiment, "stereotypes", None)
    monkeypatch.setattr(experiment, "read_all", None)
    np.testing.assert_array_equal(steered.stereotypes(pairs), expected)
    assert steered.next_log_probs(asked, tokens).shape == (2, 2)
    for others in (lambda: steered.stereotypes(pairs[::-1]), lambda: steered.next_log_probs(asked, [7, 4])):
        with pytest.raises(TypeError, match="not callable"):
            others()


def test_refusals_of_several_kinds_are_told_apart(monkeypatch):
    answers = {"a": "I'm sorry, but I cannot do that.", "b": "Of course: tea."}
    monkeypatch.setattr(experiment, "answers_to", lambda backend, asked, *_, **how: [answers[q.text] for q in asked])
    a, b = Question("1", "a"), Question("2", "b")
    found = base_method().refusals({"harmful": [a, b, a], "benign": [b], "edgy": []})
    assert {kind: list(some) for kind, some in found.items()} == {"harmful": [1, 0, 1], "benign": [0], "edgy": []}


def test_a_card_says_what_was_done():
    card = card_of(concept(), SETTINGS, 3, {"harmful refused": (0.11, 0.9)})
    assert "# Edit: gladness" in card and "3 paired examples, 1 unpaired questions" in card
    assert "| harmful refused | 0.11 | 0.9 |" in card and "seed 3" in card


@pytest.mark.parametrize(
    ("depth", "layers"), [(30, (20, 26, 30)), (18, (12, 16, 18)), (6, (4, 5, 6)), (3, (2, 3)), (1, (1,))]
)
def test_edits_read_and_change_late_layers_of_a_model_of_any_depth(monkeypatch, depth, layers):
    lm = tiny(layers=depth)
    monkeypatch.setattr(experiment, "language_model", lambda: lm)
    makers = (experiment.mood_settings, experiment.refusal_settings, experiment.fairness_settings)
    assert {make(lm).at for make in makers} == {make().at for make in makers} == {late()} == {ReadOut(layers, 5)}
    assert experiment.truth_settings(lm).at == experiment.truth_settings().at == ReadOut(layers, 1)
    assert adapted(with_late_adapter(lm).model) == list(range(max(1, depth // 2), depth + 1))


@pytest.mark.parametrize(("kind", "depth"), [("gemma3", 6), ("gpt2", 6), ("llama", 18)])
def test_another_model_is_edited_with_the_course_s_settings(kind, depth):
    lm = tiny(kind, layers=depth)
    settings = replace(experiment.mood_settings(lm), rounds=1, steps=2, batch=2)
    moved, curve = edited(concept(), settings, backend=LocalBackend(lm, kind))
    assert len(curve) == 1 and edited_backend(moved).name != edited_backend(with_late_adapter(lm)).name


def test_of_few_pairs_the_others_questions_stay_and_half_of_the_rows_are_pairs():
    examples = [Example(str(n), (("system", "!"), ("user", f"q{n}")), (("user", f"q{n}"),), "yes") for n in range(10)]
    whole = replace(concept(), train=examples, others=[Question("other", "why")])
    few = experiment.few_pairs(whole, 2)
    assert few.train == examples[:2] * 4, "8 rows beside 9"
    assert [question.text for question in few.others] == [*(f"q{n}" for n in range(2, 10)), "why"]
    assert experiment.few_pairs(whole, 10).train == examples
    for pairs in (0, 11):
        with pytest.raises(ValueError, match="no more than there are"):
            experiment.few_pairs(whole, pairs)


def test_an_edit_from_labels_learns_from_the_labelled_questions_alone():
    examples = [Example(str(n), (("system", "!"), ("user", f"q{n}")), (("user", f"q{n}"),), "yes") for n in range(3)]
    kept = [Question(f"k{n}", f"harmless {n}") for n in range(4)]
    whole = replace(concept(), train=examples, others=[Question("other", "why")])
    whole = replace(whole, retain=replace(whole.retain, train=kept))
    texts = [question.text for question in experiment.at_hand(whole)]
    assert texts == ["q0", "q1", "q2", "why", "harmless 0", "harmless 1", "harmless 2", "harmless 3"]
    some = experiment.from_labels(whole, [6, 1, 3, 4])
    assert some.train == [examples[1]] and some.others == whole.others and some.retain.train == [kept[0], kept[2]]
    assert (some.stop, some.test, some.retain.test) == (whole.stop, whole.test, whole.retain.test)
    everything = experiment.from_labels(whole, range(8))
    assert (everything.train, everything.others, everything.retain.train) == (examples, whole.others, kept)
    for wrong in ([1, 1, 4], [1, 8], [-1, 4]):
        with pytest.raises(ValueError, match="labelled twice, or does not exist"):
            experiment.from_labels(whole, wrong)
    for too_few in ([], [0, 1], [4], [3, 4]):
        with pytest.raises(ValueError, match="at least one of each"):
            experiment.from_labels(whole, too_few)


def test_labels_belong_to_edits_with_the_full_settings_and_say_nothing_of_the_answers(monkeypatch):
    monkeypatch.setenv("STEER_PROFILE", "full")
    known = json.loads(data_file("refusal_labels.json").read_text("utf-8"))
    advice = "the edit of notebook 13 has other settings than when its answers were labelled: label new ones"
    assert known["edit"] == experiment.edit_digest(experiment.refusal_settings(tiny(layers=30))), advice
    notebook = (PROJECT / "notebooks/13_safety_alignment.ipynb").read_text("utf-8")
    earlier = "an earlier version of the loop" in notebook
    assert earlier == (known["loop"] != LOOP_VERSION), "the notebook must say so, as long as it is true"
    labels = known["labels"]
    assert len(labels) >= 240 and len({(row["id"], row["method"]) for row in labels}) == len(labels)
    for row in labels:
        assert set(row) == {"id", "method", "reply", "hand", "keyword", "meaning"}
        assert re.fullmatch("[0-9a-f]{16}", row["reply"])
        assert all(isinstance(row[judge], bool) for judge in ("hand", "keyword", "meaning"))
