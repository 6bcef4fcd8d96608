"""The language model as rater, without one."""

from __future__ import annotations

import numpy as np
import pytest
from fake_world import PROFILES

from helpers.eagle.raters import judge_pair, judge_pairs, judge_prompt
from helpers.language.prompts import Backend


class FakeJudge(Backend):
    """Likes long texts, and the letter A by `bias` nats; keeps its prompts."""

    name = "judge"

    def __init__(self, bias: float = 0.0, taste: float = 1.0) -> None:
        self.bias, self.taste, self.prompts = bias, taste, []

    def score(self, prompt, continuations) -> np.ndarray:
        assert continuations == [" A", " B"]
        self.prompts.append(prompt)
        first, second = prompt[1][1].partition("Movie A\n")[2].partition("\n\nMovie B\n")[::2]
        second = second.partition("\n\nWhich")[0]
        return np.array([-3.0 + self.bias + self.taste * (len(first) - len(second)), -3.0])


@pytest.mark.parametrize(
    ("bias", "preference", "flipped"),
    [(0.0, 2.0, False), (1.5, 2.0, False), (2.0, 2.0, False), (5.0, 2.0, True), (-5.0, 2.0, True)],
)
def test_both_orders_cancel_the_bias_for_a_letter(bias, preference, flipped):
    found = judge_pair(FakeJudge(bias), PROFILES[0], "long text", "a text!")
    assert found == (pytest.approx(preference), pytest.approx(bias), flipped)
    swapped = judge_pair(FakeJudge(bias), PROFILES[0], "a text!", "long text")
    assert swapped == (pytest.approx(-preference), pytest.approx(bias), flipped)


def test_the_judge_is_asked_in_both_orders_and_knows_the_viewer():
    backend = FakeJudge()
    judge_pair(backend, PROFILES[1], "one", "two")
    assert backend.prompts == [judge_prompt(PROFILES[1], "one", "two"), judge_prompt(PROFILES[1], "two", "one")]
    assert str(PROFILES[1]) in backend.prompts[0][1][1] and backend.prompts[0][-1][0] == "assistant"


def test_win_and_flip_rates_over_pairs():
    texts = [("long text", "short"), ("x", "longer"), ("same", "size"), ("longer by far, this", "x")]
    left, right = zip(*texts, strict=True)
    found = judge_pairs(FakeJudge(bias=4.5), [PROFILES[0]] * 4, left, right)
    np.testing.assert_allclose(found.preference, [4, -5, 0, 18])
    np.testing.assert_allclose(found.position_bias, 4.5)
    assert found.flipped.tolist() == [True, False, True, False]
    assert found.win_rate == 2.5 / 4
    assert judge_pair(FakeJudge(), PROFILES[0], "long text", "short").win_rate == 1


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 2, 2), (2, 1, 2), (2, 2, 1)])
def test_pairs_that_do_not_match_are_refused(sizes):
    profiles, left, right = ([PROFILES[0]] * sizes[0], ["x"] * sizes[1], ["y"] * sizes[2])
    with pytest.raises(ValueError, match="one of each per pair"):
        judge_pairs(FakeJudge(), profiles, left, right)
