"""The memo of answers: keys hold what matters, processes share it, a killed one loses at most its last batch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from helpers.base.storage import CourseError
from helpers.language import memo
from helpers.language.memo import Memo, default_memo, memo_key
from helpers.language.prompts import Sampling, Stop

WRITER = """
import sys
from pathlib import Path
from helpers.language.memo import Memo
path, name, batches = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for batch in range(batches):
    Memo(path).put({f"{name}-{batch}-{row}": "x" * 100 for row in range(8)})
    print(batch, flush=True)
"""


@pytest.fixture
def table(tmp_path) -> Memo:
    return Memo(tmp_path / "new" / "memo.sqlite")


def write(table: Memo, name: str, batches: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(table.path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def count(table: Memo) -> int:
    with sqlite3.connect(table.path) as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_answers_are_kept_and_replaced(table):
    assert table.get(["a"]) == {}
    table.put({"a": "één", "b": ""})
    table.put({"b": "2"})
    assert Memo(table.path).get(["b", "c", "a", "a"]) == {"a": "één", "b": "2"}
    many = {f"k{number}": str(number) for number in range(1300)}
    table.put(many)
    assert table.get(list(many)) == many


def test_a_batch_is_one_transaction(table):
    with pytest.raises(CourseError):
        table.put({"a": "1", "b": None})
    assert table.get(["a", "b"]) == {}


def test_processes_and_threads_share_one_file(table):
    writers = [write(table, name, 20) for name in ("one", "two", "three")]
    threads = [threading.Thread(target=table.put, args=({f"thread{i}": "x"},)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert count(table) == 3 * 20 * 8 + 8
    with sqlite3.connect(table.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_killed_process_loses_no_finished_batch(table):
    writer = write(table, "victim", 10_000)
    lines = [writer.stdout.readline() for _ in range(5)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(60)
    finished = len(lines) + len(writer.stdout.readlines())
    assert count(table) % 8 == 0 and finished * 8 <= count(table) <= (finished + 1) * 8
    table.put({"next": "works"})


def test_a_full_disk_is_one_line(table, monkeypatch):
    table.put({"a": "1"})
    connect = sqlite3.connect

    def small(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count=4")
        return connection

    monkeypatch.setattr(memo.sqlite3, "connect", small)
    with pytest.raises(CourseError, match=r"memo.sqlite \(database or disk is full\): free some disk space") as caught:
        table.put({"b": "x" * 100_000})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert table.get(["a", "b"]) == {"a": "1"}


def test_a_locked_file_is_one_line(table, monkeypatch):
    monkeypatch.setattr(memo, "LOCK_SECONDS", 0.05)
    table.put({"a": "1"})
    holder = sqlite3.connect(table.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CourseError, match=r"database is locked\): another program holds it"):
        table.put({"b": "2"})
    assert table.get(["a"]) == {"a": "1"}, "a reader has to wait for a writer"
    holder.close()


def test_a_damaged_file_is_one_line(table):
    table.path.parent.mkdir()
    table.path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(CourseError, match=r"is damaged \(file is not a database\): delete the file"):
        table.get(["a"])


def test_an_empty_file_is_an_empty_memo(table):
    table.path.parent.mkdir()
    table.path.touch()
    assert table.get(["a"]) == {}
    table.put({"a": "1"})
    assert table.get(["a"]) == {"a": "1"}


def test_a_file_with_other_tables_is_one_line(table):
    table.path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(table.path)) as connection:
        connection.execute("CREATE TABLE others (key TEXT)")
    with pytest.raises(CourseError, match=r"no such table: answers\): it is not one of this course: delete the file"):
        table.get(["a"])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match=r"make the memo of answers .*: set STEER_CACHE to"):
        Memo(tmp_path / "file" / "memo.sqlite").put({"a": "1"})


def test_the_default_memo_is_in_the_cache(cache):
    default_memo().put({"a": "1"})
    assert (cache / "memo.sqlite").is_file() and default_memo() == default_memo()


# Keys --------------------------------------------------------------------------------------------------------------

REQUEST = {"name": "m", "prompt": "Hello.", "sampling": Sampling(), "seed": 1}


def test_what_changes_an_answer_changes_its_key():
    changes = [
        {},
        {"name": "n"},
        {"prompt": "Hello!"},
        {"prompt": (("system", "Hello."),)},
        {"prompt": (("user", "Hello."), ("assistant", ""))},
        {"seed": 2},
        *({"sampling": Sampling(**{field: value})} for field, value in OTHER.items()),
    ]
    keys = [memo_key(**REQUEST | change) for change in changes]
    assert len(set(keys)) == len(keys) and all(len(key) == 64 for key in keys)


OTHER = {"max_new_tokens": 65, "temperature": 0.6, "top_k": 51, "top_p": 0.9, "stop": Stop("full stop", bool)}


def test_every_setting_is_part_of_the_key():
    assert set(OTHER) == {field.name for field in dataclasses.fields(Sampling)}, "add the new setting to memo_key"


def test_keys_stay_as_they_are():
    """A memo of answers that took hours is worth nothing once its keys change."""
    drawn = memo_key("m", "Hello.", Sampling(), 1)
    assert drawn == "e1a00086366dce4237c55563bbb8649a4e81f9ba8dc0e8130b622d27709a9fb8"
    greedy = memo_key("m", "Hello.", Sampling(40, temperature=0), 1)
    assert greedy == "86a4b10ffe864d07c9bfa1ac6cad6145351a1533c721a19e779f469e7d873368"


def test_a_stopping_rule_is_known_by_its_name():
    rules = [Stop("one", bool), Stop("one", str.isupper), Stop("two", bool)]
    for temperature in (0, 1):
        one, same, two = (memo_key("m", "Hello.", Sampling(40, temperature, stop=rule), 1) for rule in rules)
        assert one == same != two


def test_equal_requests_have_equal_keys(unchecked):
    key = memo_key(**REQUEST)
    assert key == memo_key(**REQUEST | {"prompt": (("user", "Hello."),)})
    assert key == memo_key(**REQUEST | {"prompt": [["user", "Hello."]], "seed": np.int64(1)})
    assert memo_key(**REQUEST | {"sampling": Sampling(temperature=1)}) == memo_key(
        **REQUEST | {"sampling": Sampling(temperature=1.0)}
    )


def test_a_greedy_answer_has_one_key_for_all_seeds():
    greedy = [Sampling(temperature=0), Sampling(temperature=0.0, top_k=3, top_p=0.5)]
    assert len({memo_key(**REQUEST | {"sampling": s, "seed": seed}) for s in greedy for seed in (1, 2)}) == 1
    assert memo_key(**REQUEST | {"sampling": Sampling(65, 0)}) != memo_key(**REQUEST | {"sampling": greedy[0]})
