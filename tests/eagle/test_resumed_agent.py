"""A run of `reinforce` that is killed and goes on from its checkpoint ends where an undisturbed one ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_steering import fake_task, task_starts

from helpers.base.storage import CourseError
from helpers.eagle.agent import AgentSettings, OptionPolicy, OptionValue, fit_offline, label_rows, reinforce
from helpers.eagle.steering import FEATURES

SETTINGS = AgentSettings(iterations=4, episodes=4, group=2)


class PowerCut(Exception):
    """What kills a run."""


def killed_in(iteration: int):
    """Kills a run after this iteration, whose checkpoint is written by then."""

    def on_iteration(facts):
        if facts[0]["iteration"] == iteration:
            raise PowerCut

    return on_iteration


def new_policies(tilt: float = 0.0) -> list[OptionPolicy]:
    """Two policies that differ, always the same two."""
    policies = [OptionPolicy(1.0), OptionPolicy(1.0)]
    for number, policy in enumerate(policies):
        torch.nn.init.constant_(policy.linear.weight, 0.1 * number + tilt)
    return policies


def trained(settings=SETTINGS, seeds=(0, 1), policies=None, task=None, n_starts: int = 4, **options):
    """Two policies and their values after a run, and its curves."""
    policies = policies or new_policies()
    values = [OptionValue(policy, seed=seed) for policy, seed in zip(policies, seeds, strict=True)]
    parts = task or fake_task(), policies, values, "uniform", task_starts(n_starts), settings
    return torch.nn.ModuleList([*policies, *values]), reinforce(*parts, seeds=seeds, **options)


@pytest.mark.parametrize("iteration", range(4))
def test_a_killed_run_ends_where_an_undisturbed_one_ends(tmp_path, iteration):
    undisturbed, curves = trained()
    path, rest = tmp_path / "run.safetensors", []
    with contextlib.suppress(PowerCut):
        trained(checkpoint=path, on_iteration=killed_in(iteration))
    resumed, resumed_curves = trained(checkpoint=path, on_iteration=lambda facts: rest.append(facts[0]["iteration"]))
    assert rest == list(range(iteration + 1, 4)) and resumed_curves == curves
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


KILLED = """
import os, signal, sys
sys.path[:0] = {folders!r}
from pathlib import Path
from test_resumed_agent import trained
trained(
    checkpoint=Path({path!r}),
    on_iteration=lambda facts: facts[0]["iteration"] == 1 and os.kill(os.getpid(), signal.SIGKILL),
)
"""


@pytest.mark.slow
def test_a_run_that_the_system_kills_goes_on_from_its_last_iteration(tmp_path):
    path, rest = tmp_path / "run.safetensors", []
    folders = [str(folder) for folder in Path(__file__).parents[:2]]
    script = KILLED.format(folders=folders, path=str(path))
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=200)
    assert killed.returncode == -signal.SIGKILL
    resumed, curves = trained(checkpoint=path, on_iteration=lambda facts: rest.append(facts[0]["iteration"]))
    undisturbed, expected = trained()
    assert rest == [2, 3] and curves == expected
    for one, other in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_may_be_made_longer(tmp_path):
    path = tmp_path / "run.safetensors"
    trained(replace(SETTINGS, iterations=2), checkpoint=path)
    longer, curves = trained(checkpoint=path)
    assert [row["iteration"] for row in curves[1]] == [0, 1, 2, 3]
    for one, other in zip(longer.parameters(), trained()[0].parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(CourseError, match="4 iterations already"):
        trained(replace(SETTINGS, iterations=3), checkpoint=path)


@pytest.mark.parametrize(
    "other",
    [
        {"settings": replace(SETTINGS, kl=0.2)},
        {"seeds": (0, 2)},
        {"n_starts": 3},
        {"task": fake_task(horizon=2)},
        {"task": replace(fake_task(), k=9)},
        {"task": replace(fake_task(), novelty_weight=0.25)},
        {"policies": new_policies(tilt=0.3)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path, other):
    path = tmp_path / "run.safetensors"
    trained(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(CourseError, match="other settings, data or seed"):
        trained(checkpoint=path, **other)
    assert path.read_bytes() == before


def test_without_iterations_there_is_an_empty_curve_for_each_policy():
    assert trained(replace(SETTINGS, iterations=0))[1] == [[], []]


def test_of_several_penalties_the_one_that_predicts_best_is_taken():
    rows = label_rows(fake_task(), task_starts(6), promising=4, random=6, deeper=1)
    fitted = [fit_offline(rows, rows.gain[:, 0], penalties=[penalty]) for penalty in (0.1, 1e6)]
    weights = [policy.linear.weight.detach().numpy() for policy in fitted]
    assert weights[0].shape == (1, len(FEATURES)) and np.abs(weights[0]).max() > 100 * np.abs(weights[1]).max()
    chosen = fit_offline(rows, rows.gain[:, 0], penalties=[0.1, 1e6]).linear.weight.detach().numpy()
    np.testing.assert_array_equal(chosen, weights[0])
