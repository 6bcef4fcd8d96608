"""The server backend against real HTTP servers on this machine: answers, faults, the key, and `transformers serve`."""

from __future__ import annotations

import contextlib
import email.utils
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fake_server import backend, broken_off, completion, echo

from helpers.base.storage import CourseError
from helpers.language import gguf
from helpers.language.generation import Memo, Sampling, generate
from helpers.larger_machines import client
from helpers.larger_machines.client import KEY, ServerBackend

SECRET = "sk-do-not-show"


def test_answers_come_back_in_order(serve):
    fake = serve(echo)
    prompts = [f"p{number}" for number in range(20)]
    assert generate(backend(fake), prompts, seeds=3) == [f"p{number} {number + 3}" for number in range(20)]


def test_a_request_holds_messages_and_settings_and_no_key(serve):
    fake = serve(echo)
    chat = (("system", "Be short."), ("user", "Hi."))
    generate(backend(fake), [chat], Sampling(7, 0.3, 50, 0.9), seeds=5)
    (request,) = fake.seen
    assert request["path"] == "/v1/chat/completions" and "Authorization" not in request["headers"]
    assert request["body"] == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi."}],
        "max_tokens": 7,
        "temperature": 0.3,
        "top_p": 0.9,
        "seed": 5,
        "stream": False,
    }


def test_concurrency_is_bounded(serve):
    def slow(request, number):
        time.sleep(0.03)
        return echo(request, number)

    fake = serve(slow)
    generate(backend(fake, concurrency=3), [str(number) for number in range(12)])
    assert 2 <= fake.most <= 3


def test_a_prefilled_answer_needs_a_server_that_can_continue_it(serve):
    fake = serve(echo)
    prompt = (("user", "Hi."), ("assistant", "Genres:"))
    with pytest.raises(ValueError, match="end with the user's, or set `prefill`"):
        generate(backend(fake), [prompt])
    generate(backend(fake, prefill=True), [prompt])
    assert fake.seen[-1]["body"]["continue_final_message"] and not fake.seen[-1]["body"]["add_generation_prompt"]


# Faults ------------------------------------------------------------------------------------------------------------


def failing(status: int, times: int, **headers: str) -> Callable:
    def reply(request, number):
        if number > times:
            return echo(request, number)
        return status, {name.replace("_", "-"): value for name, value in headers.items()}, {"error": {"message": "no"}}

    return reply


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again_with_growing_pauses(serve, pauses, status):
    fake = serve(failing(status, 3))
    assert generate(backend(fake, pause=1.0), ["a"]) == ["a 0"]
    assert len(fake.seen) == 4
    assert all(0.5 * 2**n <= pause <= 1.5 * 2**n for n, pause in enumerate(pauses)) and pauses != [1.0, 2.0, 4.0]


def test_retry_after_is_honoured(serve, pauses):
    assert generate(backend(serve(failing(429, 1, Retry_After="7"))), ["a"]) == ["a 0"]
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert generate(backend(serve(failing(429, 1, Retry_After=date))), ["a"]) == ["a 0"]
    assert generate(backend(serve(failing(429, 1, Retry_After="9999"))), ["a"]) == ["a 0"]
    assert generate(backend(serve(failing(429, 1, Retry_After="soon"))), ["a"]) == ["a 0"]
    assert generate(backend(serve(failing(429, 1, Retry_After="nan"))), ["a"]) == ["a 0"]
    assert pauses[0] == 7 and 17 < pauses[1] <= 20 and pauses[2] == client.LONGEST_WAIT and pauses[3] < 1


@pytest.mark.parametrize(
    ("reply", "tries", "message"),
    [
        ((429, {}, {"error": "slow down"}), 3, r"answered 429 \(slow down\): lower `concurrency`"),
        ((500, {}, "oops\nline two"), 3, r"answered 500 \(oops line two\): try later"),
        ((400, {}, {"error": {"message": "no such\nmodel"}}), 1, r"answered 400 \(no such model\): check the model"),
        ((401, {}, {"error": f"bad key {SECRET}"}), 1, r"answered 401 \(bad key \[key\]\): set STEER_API_KEY"),
        ((403, {}, {}), 1, "set STEER_API_KEY to a key that may use some-model"),
        ((404, {}, {"detail": "Not Found"}), 1, r"answered 404 \(Not Found\): check the url"),
        ((418, {}, ""), 1, "answered 418"),
        ((400, {}, "\x1b[2Jno\x00\u2028way"), 1, r"answered 400 \(\[2Jno way\): check"),
        ((200, {}, {"answer": "x"}), 3, "sent no chat completion: check that it is an OpenAI-compatible server"),
        ((200, {}, "<html>hello</html>"), 3, "sent no chat completion"),
        ((200, {}, {"choices": []}), 3, "sent no chat completion"),
        ((200, {}, completion(["a", "b"])), 3, "sent no chat completion"),
        ((200, {}, "[" * 100_000), 3, "sent no chat completion"),
    ],
)
def test_lasting_faults_are_one_line(serve, pauses, monkeypatch, reply, tries, message):
    monkeypatch.setenv(KEY, SECRET)
    fake = serve(lambda *_: reply)
    with pytest.raises(CourseError, match=message) as caught:
        generate(backend(fake, attempts=3), ["a"])
    assert len(fake.seen) == tries and len(pauses) == tries - 1
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)
    error = caught.value
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_answer_is_asked_for_again_and_handed_back(serve, text):
    fake = serve(lambda *_: (200, {}, completion(text)))
    assert generate(backend(fake), ["a"]) == [""] and len(fake.seen) == 2
    fake = serve(lambda request, number: (200, {}, completion(text)) if number == 1 else echo(request, number))
    assert generate(backend(fake), ["a"]) == ["a 0"]


def test_a_reply_that_breaks_off_is_asked_for_again(serve, pauses):
    fake = serve(lambda request, number: (broken_off if number < 3 else echo)(request, number))
    assert generate(backend(fake), ["a"]) == ["a 0"]
    assert len(fake.seen) == 3 and len(pauses) == 2


def test_after_a_fault_one_request_alone_finds_out_whether_it_is_over(serve):
    """Eight requests that fail together are one failure, not the end of a server with two attempts."""
    busy = {}

    def reply(request, number):
        time.sleep(0.05 if number < 9 else 0.1)  # so that others would be under way
        busy[number] = fake.busy
        return (503, {}, "") if number <= 8 else echo(request, number)

    fake = serve(reply)
    prompts = [f"p{number}" for number in range(20)]
    assert generate(backend(fake, attempts=2), prompts) == [f"p{number} {number}" for number in range(20)]
    assert len(fake.seen) == 8 + 20 and busy[9] == 1 and fake.most == 8


def test_a_request_that_always_fails_stops_the_run_although_others_succeed(serve):
    fake = serve(lambda request, number: (500, {}, "") if "bad" in str(request) else echo(request, number))
    with pytest.raises(CourseError, match="answered 500"):
        generate(backend(fake, concurrency=2, attempts=3), ["bad", *(f"p{number}" for number in range(30))])
    assert fake.asked.count("bad") == 3


def test_a_slow_server_is_given_up(serve):
    stop = threading.Event()
    fake = serve(lambda request, number: (stop.wait(10), echo(request, number))[1])
    with pytest.raises(CourseError, match=r"sent nothing for 0\.1 s: raise `timeout`"):
        generate(backend(fake, timeout=0.1, attempts=2), ["a"])
    assert len(fake.seen) == 2
    stop.set()


def test_a_server_that_is_not_there_is_one_line(pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(CourseError, match=r"cannot be reached \(.*refused.*\): start the server, or check the url"):
        generate(ServerBackend(url, "m"), ["a"])
    assert len(pauses) == 4


def test_answers_before_a_fault_are_kept(serve, tmp_path):
    fake = serve(lambda request, number: echo(request, number) if number < 3 else (400, {}, "no"))
    memo = Memo(tmp_path / "memo.sqlite")
    with pytest.raises(CourseError):
        generate(backend(fake, concurrency=1), list("abcdefgh"), memo=memo)
    assert len(fake.seen) == 3, "requests went on after a lasting fault"
    fake.reply = echo
    assert generate(backend(fake), list("abcdefgh"), memo=memo)[:2] == ["a 0", "b 1"]
    assert len(fake.seen) == 3 + 6


# Arguments --------------------------------------------------------------------------------------------------------


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ServerBackend("http://localhost:1/v1", "m", concurrency=0)


def test_scoring_is_refused():
    with pytest.raises(CourseError, match=r"score with generation\.local_backend"):
        ServerBackend("http://localhost:1/v1", "m").score("a", ["b"])


# transformers serve ------------------------------------------------------------------------------------------------

MISSING = [name for name in ("fastapi", "uvicorn", "pydantic", "openai") if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The url of `transformers serve` and the model's name there."""
    if MISSING:
        pytest.skip(f"transformers serve needs {' and '.join(MISSING)}: pip install 'transformers[serving]'")
    gguf.convert("smollm2-135m-instruct")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            end = time.monotonic() + 90
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", str(gguf.converted_folder("smollm2-135m-instruct"))
        finally:
            process.terminate()
            process.wait(20)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_transformers_serve_answers(served):
    url, model = served
    answers = generate(ServerBackend(url, model), ["Name a colour.", "Say hello."], Sampling(8, temperature=0))
    assert len(set(answers)) == 2 and all(len(answer.split()) > 2 for answer in answers)
