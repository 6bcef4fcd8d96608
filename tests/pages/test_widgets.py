"""Widgets: what is computed, what is saved, and what a click does."""

from __future__ import annotations

import json
import signal
import threading

import matplotlib as mpl
import pytest

mpl.use("Agg")
from matplotlib import pyplot as plt

from helpers.base.storage import CourseError
from helpers.pages import widgets as w

PROFILES = [f"Likes genre {i}." for i in range(20)]
OLD = [f"Genres: Drama.\nAn old story {i}." for i in range(20)]
NEW = [f"Genres: Drama.\nA new <story> {i}." for i in range(20)]


def test_pairs_hide_which_text_is_new():
    pairs = w.blind_pairs(PROFILES, OLD, NEW, seed=1)
    assert sorted(pair.key for pair in pairs) == sorted(f"pair {i}" for i in range(20))
    assert [pair.key for pair in pairs] != [f"pair {i}" for i in range(20)]
    assert 0 < sum(pair.first_is_new for pair in pairs) < 20
    for pair in pairs:
        row = int(pair.key.split()[1])
        assert pair.profile == PROFILES[row]
        assert pair.texts == ((NEW[row], OLD[row]) if pair.first_is_new else (OLD[row], NEW[row]))
    assert pairs == w.blind_pairs(PROFILES, OLD, NEW, seed=1) != w.blind_pairs(PROFILES, OLD, NEW, seed=2)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="give one of each"):
        w.blind_pairs(PROFILES, OLD, NEW[:3])


def test_clicks_are_saved_under_what_they_mean(tmp_path):
    path = tmp_path / "ratings.json"
    pairs = w.blind_pairs(PROFILES[:3], OLD[:3], NEW[:3], seed=0)
    box = w.blind_rating(pairs, path, rater="me")
    progress, body, buttons = box.children
    first, second, neither = buttons.children
    assert progress.value == "Pair 1 of 3" and "&lt;story&gt;" in body.value and "new" not in progress.value
    (first if pairs[0].first_is_new else second).click()
    (second if pairs[1].first_is_new else first).click()
    assert progress.value == "Pair 3 of 3"
    neither.click()
    assert json.loads(path.read_text()) == dict(
        zip([f"me, {pair.key}" for pair in pairs], ["new", "old", "neither"], strict=True)
    )
    assert progress.value.startswith("Thank you") and all(button.disabled for button in buttons.children)
    assert w.share_preferring_new(path) == (0.5, 3)


def test_another_rater_adds_and_a_second_answer_replaces(tmp_path):
    path = tmp_path / "ratings.json"
    (pair,) = w.blind_pairs(PROFILES[:1], OLD[:1], NEW[:1])
    new = "A" if pair.first_is_new else "B"
    for rater, choice in (("one", new), ("two", "no preference"), ("two", new)):
        w.save_rating(path, pair, choice, rater)
    assert w.share_preferring_new(path) == (1.0, 2)


def test_bad_answers_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "ratings.json"
    (pair,) = w.blind_pairs(PROFILES[:1], OLD[:1], NEW[:1])
    with pytest.raises(ValueError, match="one of A, B"):
        w.save_rating(path, pair, "C", "me")
    path.write_text("{")
    with pytest.raises(CourseError, match="not valid JSON"):
        w.save_rating(path, pair, "A", "me")
    assert w.share_preferring_new(tmp_path / "none.json") == (0.0, 0)


def test_a_slider_draws_each_position_once_and_leaves_no_figure_open():
    drawn = []

    def draw(ax, position):
        ax.plot([0, position])
        drawn.append(position)

    before = plt.get_fignums()
    slider, image, _ = w.figure_slider(draw, 5, label="step", value=1).children
    first = image.value
    assert 'alt="figure of the chosen step, step 1"' in first and "data:image/png;base64," in first and drawn == [1]
    slider.value = 4
    assert drawn == [1, 4] and image.value != first
    slider.value = 1
    assert image.value == first
    assert (slider.min, slider.max, slider.description, slider.continuous_update) == (0, 4, "step", False)
    assert plt.get_fignums() == before


def test_a_slider_closes_a_figure_that_could_not_be_drawn():
    def draw(ax, position):
        raise RuntimeError("no figure")

    before = plt.get_fignums()
    with pytest.raises(RuntimeError):
        w.figure_slider(draw, 5)
    assert plt.get_fignums() == before


@pytest.mark.parametrize(("n", "value"), [(1, 0), (5, 5), (5, -1)])
def test_a_slider_needs_its_position(n, value):
    with pytest.raises(ValueError, match="two or more"):
        w.figure_slider(lambda ax, position: None, n, value=value)


def test_what_a_control_does_is_done_in_the_main_thread_and_can_be_interrupted(monkeypatch):
    waiting, seen = [], []

    class Loop:
        @staticmethod
        def add_callback(act, *arguments):
            waiting.append((act, arguments))

    class Shell:
        kernel = type("Kernel", (), {"io_loop": Loop})

    monkeypatch.setattr(w, "get_ipython", Shell)

    def act(number):
        seen.append((number, threading.current_thread() is threading.main_thread(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=w.in_main_thread(act), args=(1,))
    thread.start()
    thread.join()
    assert seen == [] and len(waiting) == 1
    waiting[0][0](*waiting[0][1])
    assert seen == [(1, True, signal.default_int_handler)] and signal.getsignal(signal.SIGINT) is before
    w.in_main_thread(act)(2)
    assert [number for number, *_ in seen] == [1, 2]


def test_an_interrupt_ends_the_work_and_not_the_kernel():
    def act():
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    w._interruptible(act)
    assert signal.getsignal(signal.SIGINT) is before
