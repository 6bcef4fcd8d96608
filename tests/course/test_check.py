"""Exercise checks: right, unfinished, wrong and raising answers, and every exercise of the course."""

import contextlib
import copy
import functools
import re
from dataclasses import dataclass
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import entropy
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, ndcg_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from helpers.base.settings import PROJECT
from helpers.base.storage import CourseError
from helpers.course import check
from helpers.course.exercises import EXERCISES
from helpers.course.exercises.are import NearerMean, TowardsTrue
from helpers.course.judge import SEEDS, Exercise, difference, has_changed, verdict_on
from helpers.embedding.evaluation import Fold
from helpers.embedding.factorization import Factorization
from helpers.language.states import fit_probe


def cases(seed):
    return (np.random.default_rng(seed).normal(size=(4, 3)),)


def centred(x):
    return x - x.mean(axis=0)


INJECTED = {
    "01.1": Exercise("centre the columns", centred, cases),
    "01.2": Exercise("how many items", 12),
    "01.3": Exercise("no return value", lambda x: None, cases),
}


def ask(name, answer):
    return check.exercise(name, answer, INJECTED)


def test_a_right_answer_comes_back(capsys):
    def answer(x):
        return x - np.mean(x, axis=0, keepdims=True)

    assert ask("01.1", answer) is answer
    assert capsys.readouterr().out == "[OK] 01.1 centre the columns\n"
    assert ask("01.2", np.int64(12)) == 12
    assert "[OK] 01.2" in capsys.readouterr().out
    assert ask("01.3", print) is print


def stub(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [stub, lambda x: None, lambda x: ..., lambda x: x - ..., None, ...])
def test_an_unfinished_answer_sends_to_the_hints_and_goes_on(answer, capsys):
    assert ask("01.1", answer) is centred
    out = capsys.readouterr().out
    assert out.startswith("[TODO] 01.1 not finished yet: the hints above open one by one\n")
    assert check.GOES_ON in out


def test_an_unfinished_value_goes_on_with_the_reference(capsys):
    assert ask("01.2", ...) == 12
    assert "[TODO] 01.2 not finished yet: the hints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda x: x.mean(axis=0), "case 0: shape (3,), expected (4, 3)"),
        (lambda x: x - x.mean(), "case 0: values differ at index (0, 0): "),
        (lambda x: torch.tensor(x), "case 0: type tensor, expected array"),
        (lambda x: centred(x).astype(int), "case 0: dtype int64, expected float64"),
        (3.0, "type number, expected function"),
    ],
)
def test_a_wrong_answer_is_described(answer, text, capsys):
    assert ask("01.1", answer) is centred
    out = capsys.readouterr().out
    assert out.startswith(f"[WRONG] 01.1 {text}") and check.GOES_ON in out


def test_wrong_values_and_exceptions_are_described(capsys):
    assert ask("01.2", 13) == 12
    assert "[WRONG] 01.2 value 13, expected 12" in capsys.readouterr().out
    assert ask("01.2", len) == 12
    assert "type function, expected number" in capsys.readouterr().out
    assert ask("01.1", lambda x: x @ x) is centred
    assert "[ERROR] 01.1 case 0: your code raised ValueError: matmul" in capsys.readouterr().out
    assert ask("01.1", lambda: 0) is centred
    assert "your code raised TypeError" in capsys.readouterr().out


def test_wrong_on_a_later_case_only(capsys):
    asked = []

    def answer(x):
        asked.append(x)
        return centred(x) * (1 if len(asked) < 5 else 2)

    assert ask("01.1", answer) is centred
    assert "[WRONG] 01.1 case 4: values differ" in capsys.readouterr().out


def test_a_branch_without_a_value_is_wrong_and_not_unfinished(capsys):
    asked = []

    def answer(x):
        asked.append(x)
        return centred(x) if len(asked) < 3 else None

    assert ask("01.1", answer) is centred
    assert "[WRONG] 01.1 case 2: returned None, expected array: a branch ends" in capsys.readouterr().out


def test_arguments_changed_in_place_do_not_disturb_the_comparison(capsys):
    kept = [np.arange(6.0).reshape(2, 3)]
    exercises = {"1": Exercise("centre", centred, lambda seed: (kept[0],))}

    def wrong(x):
        x *= 0
        return x

    assert check.exercise("1", wrong, exercises) is not wrong
    assert "[WRONG] 1 case 0: values differ" in capsys.readouterr().out
    assert kept[0].sum() == 15


def test_arguments_must_stay_as_they_were(capsys):
    exercises = {"1": Exercise("plus one", lambda x: x + 1, cases)}

    def right(x):
        return 1 + x

    def in_place(x):
        x += 1
        return x

    assert check.exercise("1", right, exercises) is right
    assert check.exercise("1", in_place, exercises) is not in_place
    assert "[WRONG] 1 right, but it changes `x` in place, which later cells use" in capsys.readouterr().out


def test_what_the_reference_changes_may_be_changed():
    def extended(values, kept):
        values.append(len(kept))
        return values

    def all_changed(values, kept):
        kept.append(0)
        values.append(len(kept) - 1)
        return values

    exercises = {"1": Exercise("one more", extended, lambda seed: ([seed], [1, 2]))}
    assert check.exercise("1", lambda values, kept: extended(values, kept), exercises) is not exercises["1"].reference
    assert verdict_on(exercises["1"], all_changed) == (
        "WRONG",
        "right, but it changes `kept` in place, which later cells use: work on a copy",
    )


@dataclass
class Held:
    numbers: np.ndarray
    model: object


@pytest.mark.parametrize(
    "make, change",
    [
        (lambda: np.zeros(3), lambda x: x.__setitem__(0, 1)),
        (lambda: np.array(["a", "b"]), lambda x: x.__setitem__(0, "c")),
        (lambda: torch.zeros(3, dtype=torch.bfloat16), lambda x: x.add_(1)),
        (lambda: sp.csr_array(np.eye(3)), lambda x: x.data.__setitem__(0, 2)),
        (lambda: pd.DataFrame({"a": [1, 2]}), lambda x: x.__setitem__("b", 0)),
        (lambda: pd.Series([1, 2]), lambda x: x.__setitem__(0, 3)),
        (lambda: {"a": [1, {2}]}, lambda x: x["a"].append(0)),
        (lambda: [(1, np.zeros(2))], lambda x: x[0][1].fill(1)),
        (lambda: ["a", None], lambda x: x.reverse()),
        (lambda: Held(np.zeros(2), object()), lambda x: x.numbers.fill(1)),
    ],
    ids=["array", "words", "tensor", "sparse", "table", "column", "dictionary", "nested", "list", "dataclass"],
)
def test_data_that_changes_is_seen(make, change):
    before, after = make(), make()
    assert not has_changed(before, after)
    change(after)
    assert has_changed(before, after)


def test_other_objects_may_change():
    rng, layer = np.random.default_rng(0), torch.nn.Linear(2, 2)
    before = copy.deepcopy((rng, layer))
    rng.random()
    torch.nn.init.zeros_(layer.weight)
    assert not has_changed(before, (rng, layer))


WITH_ARRAYS = {
    name: chosen
    for name, chosen in EXERCISES.items()
    if callable(chosen.reference) and any(type(given) is np.ndarray and given.size for given in chosen.cases(0))
}


@pytest.mark.parametrize("name", WITH_ARRAYS)
def test_no_exercise_lets_an_array_be_overwritten(name):
    chosen = WITH_ARRAYS[name]

    def overwriting(*arguments):
        answer = copy.deepcopy(chosen.reference(*arguments))
        for given in arguments:
            if type(given) is np.ndarray and given.size:
                first = given.flat[0]
                given.flat[0] = "another" if isinstance(first, str) else not first if first.dtype == bool else first + 1
        return answer

    assert "in place" in verdict_on(chosen, overwriting)[1]


def test_the_reference_value_is_a_copy(capsys):
    exercises = {"1": Exercise("values", np.zeros(2))}
    check.exercise("1", None, exercises)[0] = 5
    assert exercises["1"].reference.sum() == 0


def test_a_custom_comparison_decides(capsys):
    any_sign = Exercise("axis", 2.0, compare=lambda a, b: None if abs(a) == abs(b) else "not up to the sign")
    assert check.exercise("1", -2.0, {"1": any_sign}) == -2.0
    assert check.exercise("1", 3.0, {"1": any_sign}) == 2.0
    assert "[WRONG] 1 not up to the sign" in capsys.readouterr().out


def test_a_broken_reference_is_not_blamed_on_the_learner():
    with pytest.raises(ZeroDivisionError):
        check.exercise("1", centred, {"1": Exercise("broken", lambda x: 1 / 0, cases)})


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(CourseError, match=r"'09\.9'.*01\.1, 01\.2"):
        ask("09.9", centred)


@dataclass
class Point:
    x: float
    y: float


TABLE = pd.DataFrame({"item": ["a", "b"], "stars": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("answer", "expected", "text"),
    [
        (2, 2.0, None),
        (np.float32(0.1), 0.1, None),
        (float("nan"), float("nan"), None),
        (0.5, 0.7, "value 0.5, expected about 0.7"),
        (0.41584, 0.41578, "value 0.41584, expected about 0.41578"),
        (True, 1, "type bool, expected number"),
        (100001, 100000, "value 100001, expected 100000"),
        (np.array([1, 2]), np.array([True, False]), "dtype int64, expected bool"),
        (np.array(["a", "b"]), np.array(["a", "c"]), "values differ at index (1,): b, expected c; 50%"),
        (np.eye(4), np.eye(4) * 1.000001, None),
        (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bfloat16), None),
        (
            torch.ones(2, requires_grad=True),
            torch.zeros(2),
            "values differ at index (0,): 1, expected about 0; 100%",
        ),
        (torch.ones(2), torch.ones(2, dtype=torch.int64), "dtype float64, expected int64"),
        (torch.tensor(1.0), 1.0, "type tensor, expected number"),
        ([1, 2], (1, 2), "type list, expected tuple"),
        ((1, 2, 3), (1, 2), "length: value 3, expected 2"),
        ((1, [2, 4.0]), (1, [2, 3.0]), "item 1: item 1: value 4, expected about 3"),
        ({"a": 1}, {"a": 1, "b": 2}, "key 'b': missing"),
        ({"a": 1, "c": 0}, {"a": 1}, "key 'c': not expected"),
        ({"b": 2, "a": 1}, {"a": 1, "b": 2}, None),
        ("yes", "no", "'yes', expected 'no'"),
        ({1, 2}, {2, 1}, None),
        (Point(1, 2), Point(1, 2.0), None),
        (Point(1, 2), Point(1, 3), "field y: value 2, expected 3"),
        (TABLE.copy(), TABLE, None),
        (TABLE[["item"]], TABLE, "columns: length: value 1, expected 2"),
        (TABLE.assign(stars=[1.0, 3.0]), TABLE, "column 'stars': values differ at index (1,)"),
        (TABLE.set_index("item")["stars"], TABLE["stars"], "index: dtype object"),
        (TABLE["stars"], TABLE, "type Series, expected DataFrame"),
        (None, None, None),
    ],
)
def test_difference_says_what_differs(answer, expected, text):
    found = difference(answer, expected)
    assert found is None if text is None else text in found


# Every exercise of the course -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", EXERCISES)
def test_each_exercise_accepts_its_reference_and_rejects_wrong_answers(number):
    chosen = EXERCISES[number]
    assert verdict_on(chosen, chosen.reference) is None
    assert len(chosen.wrong) >= 5
    accepted = [i for i, answer in enumerate(chosen.wrong) if verdict_on(chosen, answer) is None]
    assert not accepted, f"wrong answers {accepted} pass"


def same_exercise(one: Exercise, other: Exercise) -> bool:
    """Whether each reference passes the check of the other one: then one of the two is superfluous."""
    return verdict_on(one, other.reference) is None or verdict_on(other, one.reference) is None


@functools.cache
def first_case(number: str) -> tuple[tuple, object]:
    """Arguments and the right value of an exercise's first case: thousands of pairs are compared on it."""
    exercise = EXERCISES[number]
    arguments = exercise.cases(SEEDS[0])
    return arguments, exercise.reference(*copy.deepcopy(arguments))


def right_at_first(one: str, other: str) -> bool:
    """Whether the reference of `other` is right on the first case of `one`: without that the two differ."""
    arguments, expected = first_case(one)
    with contextlib.suppress(Exception):
        return EXERCISES[one].problem(EXERCISES[other].reference(*copy.deepcopy(arguments)), expected) is None
    return False


# Written over aims in the first half and over prompts in the second, which may be taken without the first.
MEANT_TWICE = {("05.5", "15.4")}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # arrays of the wrong shapes and sizes
def test_no_two_exercises_are_the_same():
    numbers = list(EXERCISES)
    pairs = [(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :]]
    alike = [(a, b) for a, b in pairs if right_at_first(a, b) or right_at_first(b, a)]
    assert {pair for pair in alike if same_exercise(*map(EXERCISES.get, pair))} == MEANT_TWICE
    centre = Exercise("columns", lambda x: x - np.mean(x, axis=0), cases)
    assert same_exercise(INJECTED["01.1"], centre) and not same_exercise(INJECTED["01.1"], INJECTED["01.3"])
    for part in ("reference", "name"):
        assert len({id(getattr(chosen, part)) for chosen in EXERCISES.values()}) == len(EXERCISES), part


@pytest.mark.parametrize("number", EXERCISES)
def test_an_exercise_is_the_one_under_its_heading(number):
    (path,) = (PROJECT / "notebooks").glob(f"{number[:2]}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert re.search(
        rf"^### (Exercise|Build step) {number}: {re.escape(EXERCISES[number].name)} \(", "\n".join(cells), re.MULTILINE
    )


@pytest.mark.parametrize("number", EXERCISES)
def test_cases_are_seeded_and_differ(number):
    first, again = ([tuple(map(plain, EXERCISES[number].cases(seed))) for seed in SEEDS] for _ in range(2))
    assert difference(first, again) is None
    assert all(difference(first[0], case) is not None for case in first[1:])


def plain(argument):
    """An argument in a form that can be compared: by its state, or a function by its name."""
    if isinstance(argument, np.random.Generator):
        return argument.bit_generator.state
    if isinstance(argument, torch.optim.Optimizer):
        return argument.state_dict()
    if isinstance(argument, torch.nn.Module):
        return dict(argument.state_dict())
    if isinstance(argument, list):
        return list(map(plain, argument))
    if sp.issparse(argument):
        return argument.toarray()
    owner = getattr(argument, "__self__", None)  # of a method: what it works on
    if callable(argument):
        return argument.__qualname__, {name: plain(part) for name, part in vars(owner).items()} if owner else {}
    return argument


def swaps_by_solving(z, chosen, score, current=True):
    """Exchange in another style; without `current` each place sees the round before, and the swaps go in circles."""
    found = [int(action) for action in chosen]
    while True:
        before = list(found)
        for place in range(len(found)):
            beside = found if current else before
            rest = beside[:place] + beside[place + 1 :]
            known = sum(np.outer(z[action], z[action]) for action in rest) + 1e-6 * np.eye(z.shape[1])
            scores = score(z @ np.linalg.solve(known, z.T))
            best = max((action for action in range(len(z)) if action not in rest), key=scores.__getitem__)
            if scores[best] - scores[found[place]] > 1e-6:
                found[place] = best
        if found == before:
            return np.array(sorted(found))


def test_an_exchange_that_goes_in_circles_ends_with_a_message(capsys):
    assert check.exercise("05.3", swaps_by_solving) is swaps_by_solving
    check.exercise("05.3", functools.partial(swaps_by_solving, current=False))
    assert "still swapping: does the next place see the last swap?" in capsys.readouterr().out


@pytest.mark.parametrize("order", [np.copy, np.flip, np.sort, lambda largest: np.flip(np.sort(largest))])
def test_a_support_may_begin_with_its_largest_weights_in_any_order(order):
    def support(ways, k):
        n = min(k, ways.shape[1])
        sizes, axes = np.linalg.eigh(ways.T @ ways / len(ways))
        z = ways @ axes[:, -n:] / np.sqrt(sizes[-n:])
        weights, _ = by_reference("05.2", z, 1e-3, 10_000)
        by_volume = swaps_by_solving(z, order(np.argsort(weights)[-k:]), lambda gram: np.log1p(gram.diagonal()))
        return swaps_by_solving(z, by_volume, least_worst)

    assert verdict_on(EXERCISES["05.4"], support) is None


def least_worst(gram):
    own = gram.diagonal()
    return -np.log((own[:, None] - gram**2 / (1 + own)).max(axis=0))


def test_kappa_has_cases_of_its_own_and_is_the_known_one():
    chosen = EXERCISES["13.7"]
    for seed in SEEDS:
        a, b = chosen.cases(seed)
        assert a.any() and b.any() and 0.5 < (a == b).mean() < 1, "two judges who mostly agree"
        assert chosen.reference(a, b) == pytest.approx(cohen_kappa_score(a, b))


def advantages_by_weights(rewards, values, discount):
    """One product with a matrix of powers, in torch's own precision."""
    surprise = rewards - values
    surprise[:-1] += values[1:]
    ahead = torch.arange(len(rewards)) - torch.arange(len(rewards))[:, None]
    return torch.triu(discount ** ahead.clamp(min=0)) @ surprise


def others_by_mask(surprise, group):
    """One product with a matrix of ones that leaves the diagonal out."""
    mask = torch.ones(group, group) - torch.eye(group)
    return torch.block_diag(*[mask] * (len(surprise) // group)) @ surprise / (group - 1)


def loss_by_torch(log_probs, chosen, advantages, reference, kl_weight, entropy_weight):
    """Torch's own cross entropy, KL and entropy, of which two normalise; standardises what is standardised."""
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    gain = -torch.nn.functional.cross_entropy(log_probs, chosen, reduction="none") * advantages
    kl = torch.nn.functional.kl_div(reference, log_probs, log_target=True, reduction="batchmean")
    undecided = torch.distributions.Categorical(logits=log_probs).entropy().mean()
    return kl_weight * kl - gain.mean() - entropy_weight * undecided


def batch_loss_by_torch(log_probs, reference, chosen, utility, values, running, group, discount, *weights):
    """The step before, put together with torch's own losses."""
    with torch.no_grad():
        rewards = utility[1:] - utility[:-1]
        advantages = advantages_by_weights(rewards, values, discount)
        advantages = (advantages - others_by_mask(utility[-1] - values[0], group))[running]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
    later = (utility[-1] - utility[:-1])[running]
    value_loss = torch.nn.functional.mse_loss(values[running], later)
    return loss_by_torch(log_probs, chosen, advantages, reference, *weights) + value_loss


RIGHT_IN_OTHER_WAYS = {
    "07.2": advantages_by_weights,
    "07.3": others_by_mask,
    "07.4": loss_by_torch,
    "07.5": batch_loss_by_torch,
}


@pytest.mark.parametrize(("number", "answer"), RIGHT_IN_OTHER_WAYS.items())
def test_right_answers_of_notebook_07_in_other_ways(number, answer):
    assert verdict_on(EXERCISES[number], answer) is None


def new_leaf(*case):
    """The right number in a tensor that knows nothing of the policy."""
    return torch.tensor(EXERCISES["07.4"].reference(*case).item(), requires_grad=True)


@pytest.mark.parametrize(
    ("number", "answer", "text"),
    [
        ("07.4", lambda *case: EXERCISES["07.4"].reference(*case).detach(), "no gradient reaches the policy"),
        ("07.4", new_leaf, "no gradient reaches the policy"),
        ("07.5", lambda *case: EXERCISES["07.5"].reference(*case, plain=False), "its gradient is not: key 'values'"),
    ],
)
def test_a_right_loss_with_a_wrong_gradient_is_described(number, answer, text):
    tag, said = verdict_on(EXERCISES[number], answer)
    assert tag == "WRONG" and said.startswith("case 0: the loss is right, ") and text in said


def kl_along(teacher, student, target, plain, answer):
    """Exercise 13.2 with a gradient into both models."""
    wanted, found = teacher(target + answer)[len(target) - 1 : -1], student(plain + answer)[len(plain) - 1 : -1]
    return torch.nn.functional.kl_div(found, wanted, log_target=True, reduction="batchmean")


def test_distilling_must_leave_the_teacher_alone():
    def fixed(teacher, *rest):
        return kl_along(lambda tokens: teacher(tokens).detach(), *rest)

    def student_fixed(teacher, student, *rest):
        return kl_along(teacher, lambda tokens: student(tokens).detach(), *rest)

    def of_nothing(*arguments):
        return fixed(*arguments).detach().requires_grad_()

    said = [verdict_on(EXERCISES["13.2"], answer) for answer in (fixed, kl_along, student_fixed, of_nothing)]
    assert said == [
        None,
        ("WRONG", "case 0: the gradient reaches the teacher, too: it is fixed"),
        ("WRONG", "case 0: no gradient reaches the student"),
        ("WRONG", "case 0: no gradient reaches the student"),
    ]


def test_who_finds_no_allowed_setting_is_told_that_a_branch_lacks_its_value():
    def without_fallback(rates, limits):
        allowed = [name for name, row in rates.items() if all(row[kind] <= limits[kind] for kind in limits)]
        return max(allowed, key=lambda name: rates[name]["harmful"], default=None)

    tag, text = verdict_on(EXERCISES["13.3"], without_fallback)
    assert tag == "WRONG" and text.endswith("returned None, expected tuple: a branch ends without a value")


@pytest.mark.parametrize(("points", "right"), [(10001, True), (20, False)])
def test_a_mean_over_a_fine_grid_of_damages_is_right(points, right):
    def by_grid(damage, effect, limit):
        return np.mean([effect[damage <= x].max() for x in np.linspace(0, limit, points)])

    assert (verdict_on(EXERCISES["13.4"], by_grid) is None) == right


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("13.1", [1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 0]),
        ("13.6", [1, 1, 1, 1, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_verdicts_on_texts_are_those_of_a_reader(number, expected):
    chosen = EXERCISES[number]
    assert chosen.reference(*chosen.cases(0)) == [bool(verdict) for verdict in expected]


@pytest.mark.parametrize(
    ("effects", "wanted", "strength"),
    [
        ((0, 1, 2), 0.5, 0.25),
        ((0, 1, 2), 1.5, 0.75),
        ((0, 1, 2), 1, 0.5),
        ((0, 2, 1), 1.5, 0.375),
        ((3, 1, 2), 2, 0),
        ((0, 1, 2), 3, np.nan),
    ],
)
def test_the_weakest_strength_that_is_enough(effects, wanted, strength):
    found = EXERCISES["12.8"].reference(np.array([0.0, 0.5, 1.0]), np.array(effects, float), wanted)
    assert found == pytest.approx(strength, nan_ok=True)


def distance_in_a_loop(states, target, rows):
    total, pairs = torch.tensor(0.0), 0
    for state, row in zip(states, rows.tolist(), strict=True):
        if row < len(target):
            total, pairs = total + torch.nn.functional.mse_loss(state, target[row]), pairs + 1
    return total / pairs if pairs else total


def asked_by_layer(layers, factor, ask):
    before = {layer: layer.scaling["default"] for layer in layers}
    try:
        for layer, scale in before.items():
            layer.scaling = {"default": factor * scale}
        return ask()
    finally:
        for layer, scale in before.items():
            layer.scaling["default"] = scale


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("12.1", distance_in_a_loop),
        ("12.4", lambda *round_: [list(pair) for pair in by_reference("12.4", *round_)]),
        ("12.4", lambda *round_: [np.array(pair) for pair in by_reference("12.4", *round_)]),
        ("12.6", asked_by_layer),
    ],
)
def test_a_right_answer_of_another_style_passes(number, answer):
    assert verdict_on(EXERCISES[number], answer) is None


def asked_without_finally(layers, factor, ask):
    before = [layer.scaling["default"] for layer in layers]
    for layer in layers:
        layer.scaling["default"] *= factor
    found = ask()
    for layer, scale in zip(layers, before, strict=True):
        layer.scaling["default"] = scale
    return found


def asked_without_an_error(layers, factor, ask):
    with contextlib.suppress(Exception):
        return by_reference("12.6", layers, factor, ask)


@pytest.mark.parametrize(
    ("number", "answer", "text"),
    [
        ("12.1", lambda *batch: by_reference("12.1", *batch).detach(), "case 0: the result has no gradient"),
        ("12.1", lambda *batch: by_reference("12.1", *batch) or 0.0, "tensor (no prompt of this batch is paired)"),
        ("12.2", lambda *tables: by_reference("12.2", *tables).detach(), "case 0: the result has no gradient"),
        (
            "12.3",
            lambda n, now, new, teach, *rest: by_reference("12.3", n, now, new, print, *rest),
            "item 0: key 'S': ",
        ),
        ("12.6", asked_without_finally, "case 0: the scales are [0.75, 1.25] when ask() has failed"),
        ("12.6", asked_without_an_error, "case 0: ask() has failed, and its error is lost"),
        ("12.8", lambda *curve: by_reference("12.8", *curve[:2], curve[2] + 1e-9), "case 4: value nan"),
        ("12.8", lambda *curve: by_reference("12.8", *curve) * (curve[2] > 0.1), "case 2: value 0, expected about 0.5"),
    ],
)
def test_what_a_verdict_says(number, answer, text):
    tag, said = verdict_on(EXERCISES[number], answer)
    assert tag == "WRONG" and text in said


def flat_member():
    """A network of two numbers that gives both kinds the same logits."""
    member = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    torch.nn.init.zeros_(member[2].weight), torch.nn.init.zeros_(member[2].bias)
    return member


def always_target(rows):
    """Logits of a discriminator of one member that says target to everything."""
    return torch.tensor([0.0, 1.0]).expand(1, len(rows), 2)


def by_reference(number, *arguments):
    return EXERCISES[number].reference(*arguments)


RNG = np.random.default_rng(0)
PAIR = torch.ones(3, 1, 1, 2), torch.zeros(5, 1, 1, 2)
X, Y, WEIGHTS = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 2)), RNG.uniform(0.5, 2, size=12)
SAID, TRUTH = RNG.random(40) < 0.4, np.arange(40) < 9
P, Q = RNG.dirichlet(np.ones(5), 3), RNG.dirichlet(np.ones(5), 3)
COUNTS = RNG.integers(1, 30, size=15)
REAL, ROWS = torch.tensor([[True, True, False]]), np.zeros((40, 1, 1))
MEDIAN_RANK = [np.median((P[:, 2:3] < P).sum(axis=1))]
ONE_FACTOR = Factorization(3.0, np.zeros(1), np.zeros(2), np.ones((1, 1)), np.full((2, 1), 9.0))

THREE_STARTS = np.array([[[0.0, 1], [2, 7], [3, 9]]])
A_STAR_MORE = Factorization(3.0, np.zeros(10), np.zeros(2), np.full((10, 1), 1.0), np.full((2, 1), 1.0))


def without_intercept(penalty, *data):
    return Ridge(penalty, fit_intercept=False).fit(*data).coef_


@pytest.mark.parametrize(
    ("found", "known"),
    [
        (by_reference("00.1", X[0], X[1]), cosine_similarity(X[:1], X[1:2])[0, 0]),
        (by_reference("00.2", X[0], X[1:]), cosine_similarity(X[:1], X[1:]).argmax()),
        (
            by_reference("01.1", np.array([0, 1]), np.array([0, 0]), np.array([5.0, 3.0]), 2, 2, 1.0, 1),
            (4.0, [0.5, -0.5], [0, 0]),
        ),
        (by_reference("01.2", X, np.arange(12), Y[:, 0], 0.1, 0.05), without_intercept(1.2, X, Y[:, 0])),
        (by_reference("01.3", X, np.zeros(12, int), np.arange(12), Y[:, 0], 2, 0.1, 0.05)[1], np.zeros(4)),
        (by_reference("01.4", sp.csr_array(Y.T), X, 0.1, 0.05), without_intercept(1.2, X, Y)),
        (
            by_reference("01.5", np.array([0, 1]), np.array([0, 0]), np.array([3.0, 3.0]), 2, np.ones((1, 1)), 1, 0, 1),
            (3.0, [0, 0], [0], [[0], [0]], [[0]]),
        ),
        (
            by_reference("01.6", *np.divmod(np.arange(4), 2), np.array([5.0, 3, 3, 5]), 2, 2, np.array([1, 0, 2, 3])),
            [3, 5, 3, 5],
        ),
        (
            by_reference("02.1", X, Y, WEIGHTS, np.full(2, 2.0)),
            (WEIGHTS @ X / sum(WEIGHTS), WEIGHTS @ Y / sum(WEIGHTS), Ridge(2.0).fit(X, Y, WEIGHTS).coef_.T),
        ),
        (
            by_reference("02.2", np.array(list("bacab")), 2, 0),
            np.random.default_rng(0).permutation(3)[[1, 0, 2, 0, 1]] % 2,
        ),
        (
            by_reference(
                "02.3",
                *np.array([[0, 1], [0, 1], [0, 0], [0, 1]]),
                np.array([4.0, 5.0]),
                lambda u, i, r: ONE_FACTOR,
                lambda model, u, i, r: np.full((2, 2), r.sum()),
            )[1].targets,
            [[9.0, 0.0], [5.0, 5.0]],
        ),
        (
            by_reference(
                "02.4",
                [
                    Fold(ONE_FACTOR, np.array([[1.0, 0], [3, 0], [0, 0]]), np.array([0, 1]), np.array([2])),
                    Fold(ONE_FACTOR, np.array([[0.0, 0], [0, 0], [4, 0]]), np.array([2]), np.array([0, 1])),
                ],
                np.array([[1.0], [2.0], [3.0]]),
                lambda *_: lambda new: new * [10, 0],
                np.ones(3),
            ),
            [[6.0, 16.0, 28.0]],
        ),
        (by_reference("02.5", [(0, [2, 0, 1], np.array([3.0, 1, 4]))], np.array([[1.0, 2, 3]])), [0.5]),
        (by_reference("02.6", COUNTS % 5 + 1, 6), ndcg_score([2.0 ** (COUNTS % 5 + 1) - 1], [-np.arange(15.0)], k=6)),
        (by_reference("03.1", X[:3], X[3:], 2), NearestNeighbors(n_neighbors=2).fit(X[3:]).kneighbors(X[:3])[0].sum(1)),
        (by_reference("03.2", np.zeros((1, 1)), np.array([[1.0], [3.0]]), np.ones(1), 2.0, 0.5, 1), [2.25]),
        (by_reference("03.2", np.zeros((1, 1)), np.array([[1.0], [3.0]]), np.ones(1), 2.0, 0.5, 1, 0), [2.75]),
        (
            by_reference(
                "03.3", np.array([[1.0]]), np.array([[2.0]]), np.ones((1, 1)), np.array([[1.0], [3.0]]), 0.5, 1, [0]
            ),
            [[0.75], [1.0], [-0.5]],
        ),
        (by_reference("03.4", np.array([3.0, 2.0, 1.0, 0.0]), np.array([[0.0], [0.5], [2.0], [9.0]]), 1.0, 2), [0, 2]),
        (by_reference("03.5", np.log([[0.5, 0.5], [0.1, 0.9], [1.0, 1.0]]), np.array([1, 0, 0]), 1), (1 / 0.05) ** 0.5),
        (by_reference("03.6", np.array([[1.0, 2, 3], [5, 9, 7]]), np.array([[1.0, 2, 3], [0, 2, 1]])), 1.0),
        (
            by_reference(
                "03.7", np.array([[[0.0], [4]]]), [1], np.array([[1.0], [3]]), np.ones((1, 1)), np.zeros(1), 2.0, 1
            ),
            [[1.0, -3.0, 1.0]],
        ),
        (len(by_reference("04.1", "x", "y", "z", [("a", "b", "c")], "f")), 5),
        (by_reference("04.3", list("abcab"), list("xabc"), 2), 0.75),
        (by_reference("04.6", np.zeros((2, 1)), np.array([[1.0], [1.0]]), np.array([[2.0], [1.0]])), 0.6),
        (by_reference("04.7", np.array([[[2.0, 0], [0, -2]], [[4, 2], [-2, -4]]])[..., None]), (9 / 11, 6 / 11)),
        (by_reference("05.1", np.eye(3), np.array([0.5, 0.25, 0.25])), [2.0, 4.0, 4.0]),
        (by_reference("05.2", np.eye(2), 0.1, 5), ([0.5, 0.5], 0.0)),
        (by_reference("05.3", np.array([[1.0, 0], [2, 0], [0, 1]]), np.array([0, 2]), lambda g: g.max(0)), [1, 2]),
        (by_reference("05.4", np.array([[0.0, 1], [3, 0], [0, 5], [1, 1]]), 2), [1, 2]),
        (by_reference("05.5", np.array([[3.0, 0], [2.9, 0.1], [0, 1]]), 2, 1e-3), [0, 2]),
        (by_reference("05.6", np.array([[1.0], [2.0]]), np.array([2.0, 1.0]), np.array([0]), 1.0), 1.0),
        (by_reference("05.7", np.eye(2), np.array([[0, 1]])), (1.0, [2.0])),
        (
            by_reference(
                "06.1", np.ones(2), np.array([[1.0, 3], [5, 1]]), np.array([0.5, 0.25]), [1.0, 2], lambda z: z[:, 0]
            ),
            [[2, 0, 2], [1, 1, 4]],
        ),
        (by_reference("06.2", np.zeros(3), 1, 0.5), [0.25] * 4),
        (by_reference("06.2", np.array([0.0, np.log(3.0)]), 0, 1.0), [0.25, 0.75, 0.0]),
        (by_reference("06.3", X, Y[:, 0], 2.0)[2], Ridge(2.0).fit(StandardScaler().fit_transform(X), Y[:, 0]).coef_),
        (by_reference("06.4", X[:4], np.array([1.0, 3.0, 8.0, 8.0]), np.array([0, 0, 1, 1]), 1e9), [8, 8, 2, 2]),
        (by_reference("06.5", P, Q), entropy(P, Q, axis=1)),
        (
            by_reference("06.7", np.zeros(6), np.zeros(6), np.array([1, 1, 1, 1, 1, 0]), np.ones(6, int), 0.1),
            (0.0, 0.0),
        ),
        (
            by_reference("06.7", np.zeros(5), np.arange(5) * 10.0, np.zeros(5, int), np.ones(5, int), 1.0),
            (np.log(6), 100 / 6),
        ),
        (by_reference("07.1", torch.tensor([[1.0], [2.0], [4.0]])), [[7.0], [6.0], [4.0]]),
        (by_reference("07.2", torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [1.0]]), 0.5), [[2.0], [1.0]]),
        (by_reference("07.3", torch.tensor([0.0, 2.0, 4.0, 5.0, 5.0, 5.0]), 3), [3.0, 2.0, 1.0, 5.0, 5.0, 5.0]),
        (
            by_reference("08.1", np.array([0.0, 1]), np.array([[3.0, 1], [2.5, 0]]), np.zeros((2, 2), bool), 2),
            [(1, 0), (0, 0)],
        ),
        (
            by_reference(
                "08.2",
                "1",
                lambda t: (np.arange(len(t)), np.tile([1.0, 0], (len(t), 1))),
                lambda pairs: [f"{t}{a}" for t, a in pairs],
                3,
                3,
            ),
            [10, 100, 1000],
        ),
        (by_reference("08.3", np.zeros((2, 16)), (1,), 0.5, (0.0, 1.0, np.arange(16), 2.0)), [9, 22]),
        (
            by_reference(
                "08.4", *np.array([[[5.0, 3, 7]], [[0, 1, 0]], [[1, 2, 9]]]), np.array([[True, False, True]]), 2
            ),
            ([5.0], [1.0]),
        ),
        (
            by_reference("08.5", np.array([[4.0, 3, 7]]), np.array([[1.0, 0, 4]]), np.array([0, 1, 1]), 9, RNG),
            (3.0, 3.0, 3.0),
        ),
        (
            by_reference("08.5", np.array([[2.0, 1, 1]]), np.zeros((3, 3)), np.array([0, 1, 1]), 4000, RNG),
            (4 / 3, 1.0, 2.0),
        ),
        (by_reference("08.6", np.array([[1.0, 4]]), np.array([[3.0, 2]]), 2), [[1.0, 3], [4, 2]]),
        (by_reference("08.7", 2400, 10, 0.5, np.array([0.0] * 33 + [1.0])), (34, 100.0)),
        (by_reference("09.1", [["B", "A"], [], ["A", "B", "C"]], ["x", "x", "x"])[("A", "B"), "x"], [0, 2]),
        (by_reference("09.2", [20, 21, 22, 23], [5, 5, 9, 1], 9), [(20, 21), (22, 23)]),
        (
            by_reference(
                "09.3", np.array([21, 18, 20]), np.array([4, 3, 4]), np.array([5.0, 2, 4]), [(18, 20), (21, 30)]
            ),
            ([0, 0, 1], [3, 4, 4], [2.0, 4.0, 5.0]),
        ),
        (by_reference("09.4", *np.divmod(np.arange(20), 2), np.full(20, 9.0), 0, lambda *_: A_STAR_MORE), 1.0),
        (
            by_reference(
                "09.5", X[0, :2], np.zeros(2), [1, 0], [0, 1], [0, 0], np.array([[0.0], [1.0]]), np.ones((1, 1)), 0.5
            ),
            X[0, [1, 0]] + [0.0, 1.0],
        ),
        (
            by_reference(
                "09.6",
                {name: np.array([[[1.0, 5], [2, 0], [8, 4]]]) for name in ("paid", "second")} | {"judge": THREE_STARTS},
                {name: np.zeros((1, 3, 2)) for name in ("paid", "second", "judge")},
                "judge",
                np.array([0, 0, 1]),
                np.array([[0, 0], [0, 0]]),
            ),
            (2.0, 1.5, 1.5),
        ),
        (by_reference("09.7", np.eye(2), np.array([0, 1]), np.array([[1.0, 0], [0, 1], [1, 0]])), [0.5, 1.0]),
        (by_reference("10.1", (torch.zeros(1, 3, 1), torch.arange(3.0).view(1, 3, 1)), REAL, [1], 1), [[[[1.0]]]]),
        (by_reference("10.2", X[:7], X[7:], X, 0.3), fit_probe(X[:7], X[7:], 0.3).decision_function(X)),
        (
            by_reference(
                "10.3", lambda *parts: parts[2][:, 0], ROWS, SAID, np.where(SAID, 1, -1)[:, None, None], TRUTH
            ),
            [balanced_accuracy_score(TRUTH, SAID)],
        ),
        (by_reference("10.4", lambda *parts: parts[2][:, 0], ROWS, SAID, ROWS - 1, TRUTH, 2), [[0.5], [0.5]]),
        (
            by_reference("10.5", torch.tensor(np.log(P[None])), torch.tensor([[0, 1, 2]]), 2),
            np.log([P[[0, 1], [1, 2]]]),
        ),
        (by_reference("10.7", *torch.tensor([[[0.0, 9], [1, 9]], [[1, 9], [3, 9]], [[4, 9], [3, 9]]]), 1), 0.5),
        (
            by_reference(
                "10.8",
                torch.tensor([[3.0, 4.0]]),
                torch.tensor([2.0, 1.0]),
                10 * torch.tensor([[0.0, 0], [1, -1]]),
                12.5,
            ),
            [[-np.log(1 + np.exp(4)), 4 - np.log(1 + np.exp(4))]],
        ),
        (by_reference("10.9", torch.tensor(np.log(P[:, None])), lambda x: x, 2), (P[:, 2:3].mean(0), MEDIAN_RANK)),
        (by_reference("11.1", torch.full((1, 1, 1, 1), 5.0), *torch.tensor([0.0, 2.0]).view(2, 1, 1, 1, 1)), [[4.0]]),
        (by_reference("11.2", [flat_member()], torch.ones(4, 2), torch.ones(1, 2), 1, 9, 0.1), [np.log(2)]),
        (by_reference("11.3", torch.tensor([[1.0]]), torch.tensor([[2.0]]), 1, 0, False), ([[1.0]], [[2.0]])),
        (by_reference("11.4", lambda x: torch.stack([x, 3 * x]), torch.tensor([[5.0, 7.0]])), [[-2.0, 2.0]]),
        (by_reference("11.5", lambda *_: always_target, PAIR, [PAIR, PAIR[::-1]], [0, 1]), np.full((2, 2), 0.5)),
        (by_reference("11.6", flat_member(), torch.ones(3, 2), 0), (np.log(2), np.zeros((3, 2)))),
        (by_reference("11.7", torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 2.0])), [[3.0, 0.0]]),
        (by_reference("11.8", lambda x: 9 * x, torch.tensor([[3.0, 4.0]]), 2.5, 5), [[1.5, 2.0]]),
        (
            by_reference(
                "11.9", torch.zeros(1, 3, 1), torch.tensor([[1.0]]), *torch.tensor([5.0, 2.0]).view(2, 1, 1), 2
            ),
            [[[0], [7], [0]]],
        ),
        (
            by_reference("12.1", torch.tensor([[1.0, 1], [3, 3], [9, 9]]), torch.zeros(2, 2), torch.tensor([0, 1, 2])),
            5,
        ),
        (
            by_reference("12.2", torch.tensor(np.log(P)), torch.tensor(np.log(Q)), [1, 2]),
            (entropy(P[0], Q[0]) + (entropy(P[1], Q[1]) + entropy(P[2], Q[2])) / 2) / 2,
        ),
        (by_reference("12.4", 1, (1, 1), 2, 1), [[[0, 0], [0, 0]]]),
        (by_reference("12.5", "So it is, so it is, so it is.", 3), 4 / 7),
        (by_reference("12.6", [SimpleNamespace(scaling={"default": 2.0})], 0.5, lambda: 7), 7),
        (
            by_reference("12.7", np.ones((2, 2)), np.array([[1.0, 2.0]]), np.array([[1.0], [0.0]]), 2.0, 0.5),
            [[2, 3], [1, 1]],
        ),
        (
            by_reference("13.3", {1: dict(harmful=1, x=2), 2: dict(harmful=0, x=1), 3: dict(harmful=0, x=3)}, {"x": 1}),
            2,
        ),
        (by_reference("13.4", np.array([0.0, 0.05, 0.5]), np.array([0.2, 0.8, 1.0]), 0.1), 0.5),
        (by_reference("13.5", 0.6, np.array([0.5, 1, 1.5]), np.array([0.4, 0.3, 0.8])), 1.25),
        (by_reference("13.5", 0.9, np.array([0.5, 1, 1.5]), np.array([0.4, 0.3, 0.8])), 1.5),
        (by_reference("13.5", 0.8, np.array([0.5, 1, 1.5]), np.array([0.4, 0.8, 0.7])), 1.0),
        (by_reference("13.6", lambda text: text.startswith("no"), ["yes. no", "yes no", "no"]), [1, 0, 1]),
        (by_reference("13.8", np.array([0.9, 0.8, 0.9]), np.array([0.2, 0.1, 0.2])), [False, False, False]),
        (by_reference("13.8", np.array([0.9, 0.8, 0.9]), np.array([0.1, 0.1, 0.2])), [False, True, True]),
        (
            by_reference("14.1", np.array([[3.0, 1, 2], [0, 1, 2], [0, 2, 9], [5, 2, 1]]), 1, 2),
            ([False, False, False, True], [0.5, 0.0]),
        ),
        (by_reference("14.2", "Not 2, but one.", re.compile("not", re.IGNORECASE)), [4, 15, 1, 1, 1]),
        (
            by_reference("14.3", (X[:6], X[6:]), (X[:6], X[6:]), np.arange(6) == 1, TowardsTrue)["all"],
            ((X[:6] - X[6:]) @ (X[:6] - X[6:]).mean(axis=0) > 0).mean(),
        ),
        (by_reference("14.4", lambda text: torch.tensor([0.0, 0.0]), [[1], [1]], [[0], [1]]), np.log(2)),
        (
            by_reference("14.5", torch.tensor([[2.0, 0], [0, 3]]), torch.zeros(2, 2), torch.tensor([True, False])),
            ([2, 0], [0, 3], 0),
        ),
        (by_reference("14.6", torch.tensor(np.log([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])), 1, [0, 1]), np.log(0.4)),
        (by_reference("14.7", np.log([0.3, 0.1, 0.4, 0.2]), np.array([True, True, False, False])), (False, 0.4)),
        (
            by_reference("14.8", np.array([[-4.0, -3], [-2, -3]]), np.array([[4, 2], [1, 2]])),
            ([True, False], [False, True]),
        ),
        (by_reference("14.9", 0.6, 0.45), 0.5),
        ((by_reference("15.1", X, 2) ** 2).mean(axis=0), [1, 1, 1]),
        (by_reference("15.2", np.array([[1.0, -1], [1, 0], [1, 1]]), 400), [0.5, 0, 0.5]),
        (by_reference("15.3", np.array([[1.0, -1], [1, 0], [1, 0.5], [1, 1]]), np.array([2, 1])), [0, 3]),
        (by_reference("15.4", np.array([[3.0, 0], [2.9, 0], [0, 1]]), 2, 1e-3), [0, 2]),
        (
            by_reference(
                "15.5",
                np.array([[0.0], [4], [1], [3], [9]]),
                np.array([False, True, True, True, False]),
                np.array([1, 0]),
                np.array([0, 1]),
                NearerMean,
            ),
            [np.nan, np.nan, 0, 1, 0],
        ),
        (by_reference("15.6", np.array([1, 0, np.nan, 1.0]), np.array(["a", "a", "a", "b"])), 0.5),
        (by_reference("15.7", [4, 0, 2], [1.0, 2.0], [3.0], [4.0, 5.0]), ([1.0], [3.0], [5.0])),
        (by_reference("15.8", np.array([[1.0, 0.0], [1.0, 3.0]]), np.array([0])), (1, 9.5)),
        (by_reference("16.1", np.array([0.2, 0.5, 1.0]), 0.9, 0.8), [0.0, 0.3 / 0.7, 1.0]),
        (by_reference("16.2", COUNTS), np.abs(np.subtract.outer(COUNTS, COUNTS)).mean() / (2 * COUNTS.mean())),
        (by_reference("17.1", [np.array([1.0]), np.array([4.0])], [1, 2]), [3.0]),
        (by_reference("17.2", 1000, 500, 2, 50, 10), 20),
        (by_reference("18.1", np.array([[[0, 0, 0], [255, 0, 255]]], dtype=np.uint8), 2), np.eye(8)[[0, 5]].sum(0) / 2),
        (by_reference("18.2", np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]]), np.ones(2), 2.0), ([[1.0]], [2.0])),
        (by_reference("18.3", 1, [[lambda n: n + 1, lambda n: 3 * n]] * 9, np.array, 5, 1), [1, 2, 3, 4, 9, 10]),
        (by_reference("18.4", np.array([1.0, 3.0, 2.0]), np.array([[1.0, 2], [5, 1], [0, 0]])), (1, [4.0, -1.0])),
        (by_reference("18.5", np.array([[0.0, 0, 0], [1, 1, 1]])), (0.5, 0.0, 1.0)),
        (
            by_reference(
                "18.6", [(2, -3), (5, 4), (7, 1)], abs, lambda case, states: np.outer(states, [1, case]).astype(float)
            ),
            (1 / 3, [[-6.0, -12.0]]),
        ),
    ],
    ids=lambda value: "",
)
def test_a_reference_has_the_known_value(found, known):
    for part, right in zip(*((found, known) if isinstance(known, tuple) else ([found], [known])), strict=True):
        np.testing.assert_allclose(np.asarray(part, float), np.asarray(right, float), atol=1e-3)
