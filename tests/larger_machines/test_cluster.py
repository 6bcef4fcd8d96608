"""A cluster of two real processes: the answers, the memo and the episodes are those of one process, whatever dies."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_steering import AimedBackend, fake_task, task_starts
from faulty_backend import FaultyBackend, named_by_process, no_model

from helpers.base.storage import CourseError
from helpers.eagle.rewriting import Rewriter
from helpers.eagle.trajectories import play
from helpers.language.generation import Memo, Sampling, generate
from helpers.language.memo import memo_key
from helpers.larger_machines.cluster import QUIET, RayBackend, cluster
from helpers.larger_machines.drills import ray_drill

OURS = (*QUIET, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
SAMPLING = Sampling(8)
CALM = [f"p{i}" for i in range(20)]


# To check that a backend is one means to ask for its name, which starts the workers.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]


@pytest.fixture(scope="module", autouse=True)
def address(tmp_path_factory) -> Iterator[str]:
    """One cluster for all tests, where the workers can import from this folder; its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        before = {name: os.environ.get(name) for name in OURS}
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(cluster())
            except CourseError as error:  # ray gives its own helpers 15 seconds, on a busy machine too few
                if "ray did not start" not in str(error):
                    raise
                pytest.skip(str(error))
            import ray

            yield ray.get_runtime_context().gcs_address
        assert {name: os.environ.get(name) for name in OURS} == before, "what a cluster sets goes with it"


def over(make, **options) -> RayBackend:
    """A backend whose workers find room beside those of other tests."""
    return RayBackend(make, **{"num_cpus": 0.01, "batch": 4} | options)


@pytest.fixture
def alone(tmp_path) -> FaultyBackend:
    return FaultyBackend(tmp_path)


@pytest.fixture
def memo(tmp_path) -> Memo:
    return Memo(tmp_path / "memo.sqlite")


def expected(prompts: list[str]) -> list[str]:
    return [f"{prompt}/{seed}/8" for seed, prompt in enumerate(prompts)]


# The same as without a cluster ---------------------------------------------------------------------------------


def test_answers_scores_name_and_memo_are_those_of_one_process(alone, memo):
    assert generate(alone, CALM[:7], SAMPLING, memo=memo) == expected(CALM[:7])
    backend = over(functools.partial(FaultyBackend, alone.folder))
    assert generate(backend, CALM, SAMPLING, memo=memo) == expected(CALM)
    assert sorted(alone.asked()) == sorted(CALM), "a run begun alone is gone on with, and nothing asked twice"
    assert generate(backend, CALM, SAMPLING, memo=memo) == generate(alone, CALM, SAMPLING, memo=memo) == expected(CALM)
    assert len(alone.asked()) == len(CALM)
    assert backend.name == alone.name
    assert backend.score("p", ["a", "bb"]).tolist() == alone.score("p", ["a", "bb"]).tolist()


def test_the_agent_s_environment_is_the_same(memo):
    task, starts = fake_task(bad=0.2), task_starts(5)
    backend = task.rewrite.backend
    make = functools.partial(AimedBackend, backend.ways, backend.noise, backend.bad)
    far = dataclasses.replace(task, rewrite=Rewriter(over(make, batch=8), memo=memo))
    texts = [start.text for start in starts for _ in range(8)]
    here, there = (one.follow(texts, np.arange(40) % 20, range(40)) for one in (task, far))
    assert here.texts == there.texts and here.problems == there.problems
    assert not here.valid.all() and here.valid.any()
    here, there = (play(one, starts, "uniform", None, range(5)) for one in (task, far))
    assert here.texts == there.texts and np.array_equal(here.gained, there.gained)


# Faults --------------------------------------------------------------------------------------------------------


def test_a_killed_worker_loses_nothing(alone):
    prompts = [*CALM[:9], "kill once", *CALM[9:], "kill and again"]
    rows, texts = [], []
    backend = over(functools.partial(FaultyBackend, alone.folder))
    backend.generate(prompts, SAMPLING, range(len(prompts)), lambda some, new: (rows.extend(some), texts.extend(new)))
    assert alone.asked().count("kill once") == alone.asked().count("kill and again") == 2, "no worker was killed"
    assert sorted(rows) == list(range(len(prompts))), "every prompt is answered once"
    assert [text for _, text in sorted(zip(rows, texts, strict=True))] == expected(prompts)


def test_the_drill_kills_a_worker_at_work_and_counts(alone):
    prompts = [f"p{i}" for i in range(36)]
    prompts[9] = "wait once"  # in the second of six batches: its worker is at work until it is killed
    drill = ray_drill(over(functools.partial(FaultyBackend, alone.folder), batch=6), prompts, SAMPLING)
    assert (drill.lost, drill.same, drill.killed_after) == (0, 1.0, 12) and drill.memory > 10**7
    over_twice = [prompt for prompt in prompts if alone.asked().count(prompt) > 2]
    assert over_twice == prompts[6:10], "what the killed worker had begun is done again, and nothing else"


def test_a_drill_without_a_worker_to_kill_says_so(alone):
    backend = over(functools.partial(FaultyBackend, alone.folder), workers=1)
    with pytest.raises(CourseError, match=r"^no worker was at work when answers arrived: ask more prompts"):
        ray_drill(backend, ["p0"], SAMPLING)


def test_workers_that_always_die_end_in_one_line_after_all_else_is_answered(alone, memo):
    backend = over(functools.partial(FaultyBackend, alone.folder), batch=1, attempts=1)
    with pytest.raises(
        CourseError, match=r"^workers died 3 times without an answer in between: .+ `workers`"
    ) as caught:
        generate(backend, ["kill always", *CALM[:4]], SAMPLING, memo=memo)
    assert "\n" not in str(caught.value)
    before = len(alone.asked())
    assert generate(backend, CALM[:4], SAMPLING, seeds=[1, 2, 3, 4], memo=memo) == [f"p{i}/{i + 1}/8" for i in range(4)]
    assert len(alone.asked()) == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts raise, also where the tests are a background job of a shell, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_keeps_what_has_arrived(alone, memo):
    prompts = [*(f"p{i}" for i in range(20)), *(f"wait {i}" for i in range(20))]
    backend = over(functools.partial(FaultyBackend, alone.folder), batch=2)
    assert backend.name == "faulty"

    def interrupt() -> None:
        while sum(prompt.startswith("wait") for prompt in alone.asked()) < 2:  # both workers wait
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        generate(backend, prompts, SAMPLING, memo=memo)
    kept = memo.get([memo_key("faulty", prompt, SAMPLING, seed) for seed, prompt in enumerate(prompts)]).values()
    assert 4 <= len(kept) < 40
    (alone.folder / "go").touch()
    assert generate(backend, prompts, SAMPLING, memo=memo) == expected(prompts)
    asked_once = {
        answer for prompt, answer in zip(prompts, expected(prompts), strict=True) if alone.asked().count(prompt) == 1
    }
    assert set(kept) <= asked_once, "what had arrived is asked again"


def test_what_a_worker_raises_comes_as_it_is(alone):
    with pytest.raises(ValueError, match=r"^a prompt of 9 tokens exceeds the 8 of the model: shorten it$") as caught:
        generate(over(functools.partial(FaultyBackend, alone.folder), workers=1), ["p", "too long"], SAMPLING)
    assert type(caught.value) is ValueError
    with pytest.raises(CourseError, match=r"^the model is not in the cache: run `make data`$"):
        generate(over(no_model, workers=1), ["p"], SAMPLING)


def test_workers_that_differ_are_refused(alone):
    with pytest.raises(CourseError, match=r"^one worker is 'process \d+', another 'process \d+': .* dtype$"):
        generate(over(functools.partial(named_by_process, alone.folder)), [f"slow {i}" for i in range(400)], SAMPLING)


def test_a_cluster_without_room_says_so(alone):
    backend = over(functools.partial(FaultyBackend, alone.folder), num_gpus=1000, patience=0.5)
    with pytest.raises(
        CourseError, match=r"^no worker in 0.5 s: each wants 0.01 CPUs and 1000 GPUs, the cluster has 2"
    ):
        generate(backend, ["p"], SAMPLING)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"batch": 0}, {"attempts": 0}, {"num_cpus": 0}, {"num_gpus": -1}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        RayBackend(no_model, **wrong)


# The cluster ---------------------------------------------------------------------------------------------------

ANOTHER = """
import functools, sys
from pathlib import Path
from faulty_backend import FaultyBackend
from helpers.larger_machines.cluster import RayBackend, cluster
from helpers.language.prompts import Sampling
from helpers.base.storage import CourseError

backend = RayBackend(functools.partial(FaultyBackend, Path(sys.argv[2])), workers=1, num_cpus=0.01)
ask = lambda: backend.generate(["p"], Sampling(8), [0], print)
try:
    with cluster(sys.argv[1]):
        ask()
    ask()
except CourseError as error:
    print(error)
"""


def test_another_process_joins_a_running_cluster_and_leaves_it(alone, address):
    command = [sys.executable, "-c", ANOTHER, address, alone.folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["[0] ['p/0/8']", "no cluster: use a RayBackend inside `with cluster():`"], done
    assert generate(over(functools.partial(FaultyBackend, alone.folder), workers=1), ["q"], SAMPLING) == ["q/0/8"]


def test_a_local_cluster_is_closed_to_other_machines_and_users():
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        socket.laddr.ip.removeprefix("::ffff:")
        for process in processes
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3 and set(listening) == {"127.0.0.1"}
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not (Path.home() / ".ray").exists()
