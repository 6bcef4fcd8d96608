"""A pool of real HTTP servers: load, faults of some and of all, and one memo for any number of servers."""

from __future__ import annotations

import threading
import time

import pytest
from fake_server import Fake, backend, broken_off, echo

from helpers.base.storage import CourseError
from helpers.language.generation import Memo, generate
from helpers.larger_machines import client
from helpers.larger_machines.client import ServerBackend
from helpers.larger_machines.failover import ServerPool

PROMPTS = [f"p{number}" for number in range(40)]
ANSWERS = [f"p{number} {number}" for number in range(40)]  # of `echo`: the prompt and its own seed


def pool(*fakes: Fake, **options) -> ServerPool:
    return ServerPool(tuple(backend(fake, **options) for fake in fakes), "the echo of the tests")


def slow_echo(request: dict, number: int) -> tuple:
    time.sleep(0.02)
    return echo(request, number)


def down(*_) -> tuple:
    return 503, {}, "down"


# Load --------------------------------------------------------------------------------------------------------------


def test_every_answer_is_that_of_its_prompt_and_seed_and_asked_for_once(serve):
    fakes = [serve(slow_echo) for _ in range(3)]
    assert generate(pool(*fakes), PROMPTS) == ANSWERS
    assert sorted(text for fake in fakes for text in fake.asked) == sorted(PROMPTS)


def test_requests_are_shared_by_concurrency(serve):
    small, large = serve(slow_echo), serve(slow_echo)
    servers = (backend(small, concurrency=2), backend(large, concurrency=6))
    assert generate(ServerPool(servers, "echo"), PROMPTS) == ANSWERS
    assert small.most <= 2 and 3 <= large.most <= 6
    assert len(large.seen) > len(small.seen) > 0


def test_few_requests_are_spread_and_not_heaped_on_the_first_server(serve):
    gate = threading.Barrier(2, timeout=5)  # passes only when both servers have a request
    fakes = [serve(lambda *asked: (gate.wait(), echo(*asked))[1]) for _ in range(2)]
    assert generate(pool(*fakes), PROMPTS[:2]) == ANSWERS[:2]
    assert [len(fake.seen) for fake in fakes] == [1, 1]


def test_a_busy_server_gets_less(serve):
    stop = threading.Event()
    stuck, quick = serve(lambda *asked: (stop.wait(5), echo(*asked))[1]), serve(echo)

    def last(request, number):
        if number == len(PROMPTS) - 2:
            stop.set()
        return echo(request, number)

    quick.reply = last
    assert generate(pool(stuck, quick, concurrency=2), PROMPTS) == ANSWERS
    assert len(stuck.seen) == 2


# Faults of some ----------------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_mid_run_loses_nothing(serve):
    """It breaks off in the middle of a reply, and refuses connections from then on."""
    dying, healthy = serve(echo), serve(slow_echo)

    def reply(request, number):
        if number < 8:
            return slow_echo(request, number)
        dying.die()
        return broken_off(request, number)

    dying.reply = reply
    assert generate(pool(dying, healthy, concurrency=4), PROMPTS) == ANSWERS
    assert len(dying.seen) >= 8 and len(set(dying.asked) | set(healthy.asked)) == 40
    assert len(healthy.asked) == len(set(healthy.asked)), "the healthy server was asked twice for the same"


@pytest.mark.parametrize("fault", [down, lambda *_: (200, {}, "<html>"), lambda *_: (429, {"Retry-After": "50"}, "")])
def test_the_others_do_the_work_of_a_server_with_a_fault(serve, fault):
    bad, good = serve(fault), serve(slow_echo)
    assert generate(pool(bad, good), PROMPTS) == ANSWERS
    assert sorted(good.asked) == sorted(PROMPTS)


def test_a_rest_that_is_over_does_not_wait_for_the_others(serve):
    stop = threading.Event()
    stuck = serve(lambda *asked: echo(*asked) if stop.wait(5) else (400, {}, "the other server was forgotten"))

    def reply(request, number):
        if number == len(PROMPTS):  # one failed, one is stuck
            stop.set()
        return down() if number == 1 else echo(request, number)

    assert generate(pool(stuck, serve(reply), concurrency=1, timeout=30), PROMPTS) == ANSWERS


def test_a_limited_server_is_left_alone_as_long_as_it_asks(serve):
    limited, good = serve(lambda *_: (429, {"Retry-After": "50"}, "")), serve(slow_echo)
    generate(pool(limited, good, concurrency=2), PROMPTS)
    assert len(limited.seen) == 2


def test_a_silent_server_is_given_up(serve):
    """Two seconds: on a busy machine a good server was silent for 0.2 of them."""
    stop = threading.Event()
    silent, good = serve(lambda *asked: (stop.wait(20), echo(*asked))[1]), serve(slow_echo)
    assert generate(pool(silent, good, timeout=2, attempts=1), PROMPTS) == ANSWERS
    stop.set()
    assert sorted(good.asked) == sorted(PROMPTS), "what the silent one was asked must not wait for it"


def test_a_server_that_is_given_up_is_asked_again_later(serve, monkeypatch):
    """One request finds out that it was started again; then it works as before."""
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.1)
    back, slow = serve(lambda *asked: (down if asked[1] <= 2 else slow_echo)(*asked)), serve(slow_echo)
    assert generate(pool(back, slow, attempts=1, concurrency=1), PROMPTS) == ANSWERS
    assert len(back.seen) > 5


# Faults of all -----------------------------------------------------------------------------------------------------


def test_when_all_are_gone_there_is_one_line_and_a_rerun_asks_for_the_rest_only(serve, tmp_path):
    fakes = [serve(lambda *asked: (echo if asked[1] <= 10 else down)(*asked)) for _ in range(2)]
    memo, asked = Memo(tmp_path / "memo.sqlite"), pool(*fakes, attempts=2, concurrency=2)
    with pytest.raises(CourseError, match=r"no answer from the pool of 2 servers; the last fault: http.* answered 503"):
        generate(asked, PROMPTS, memo=memo)
    replacement = serve(echo)
    assert generate(pool(replacement), PROMPTS, memo=memo) == ANSWERS
    assert len(replacement.seen) == 40 - 20


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_rejected_request_stops_the_run_at_once(serve, status):
    def reply(request, number):
        return (status, {}, "no") if request["messages"][-1]["content"] == "p3" else slow_echo(request, number)

    fakes = [serve(reply), serve(reply)]
    with pytest.raises(CourseError, match=f"answered {status}"):
        generate(pool(*fakes, concurrency=1), PROMPTS)
    assert sum(fake.asked.count("p3") for fake in fakes) == 1
    assert sum(len(fake.seen) for fake in fakes) <= 20
    assert generate(pool(*fakes), PROMPTS[:3]) == ANSWERS[:3], "the pool must be of use afterwards"


def test_a_request_that_no_server_can_answer_ends_the_run(serve):
    def reply(request, number):
        return down() if request["messages"][-1]["content"] == "p3" else echo(request, number)

    fakes = [serve(reply), serve(reply)]
    with pytest.raises(CourseError, match="no answer from the pool"):
        generate(pool(*fakes, attempts=2), PROMPTS)
    assert sum(fake.asked.count("p3") for fake in fakes) <= 4


# Name and arguments ------------------------------------------------------------------------------------------------


def test_the_name_knows_the_model_and_not_the_servers():
    servers = [ServerBackend(f"http://localhost:{port}/v1", "m") for port in range(1, 9)]
    names = {ServerPool(tuple(some), "bfloat16").name for some in (servers, servers[:1], servers[3:5])}
    assert names == {"m, bfloat16"}
    assert ServerPool(tuple(servers), "float32").name not in names


@pytest.mark.parametrize(
    ("servers", "identity", "message"),
    [
        ((), "x", "one or more servers"),
        ((ServerBackend("http://a/v1", "m"), ServerBackend("http://a/v1/", "m")), "x", "a url of its own"),
        ((ServerBackend("http://a/v1", "m"), ServerBackend("http://b/v1", "n")), "x", "a pool has one model"),
        ((ServerBackend("http://a/v1", "m"), ServerBackend("http://b/v1", "m", prefill=True)), "x", "`prefill`"),
        ((ServerBackend("http://a/v1", "m"),), " ", "say in `identity`"),
    ],
)
def test_what_is_no_pool_is_refused(servers, identity, message):
    with pytest.raises(ValueError, match=message):
        ServerPool(servers, identity)


def test_scoring_is_refused():
    with pytest.raises(CourseError, match=r"score with generation\.local_backend"):
        ServerPool((ServerBackend("http://a/v1", "m"),), "x").score("a", ["b"])
