"""Texts and tables as other programs write them, and one line with path and line where they cannot be read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from helpers.are.concepts import truthfulqa
from helpers.base.reading import read_table, read_text
from helpers.base.storage import CourseError
from helpers.domains.json_objects import read_objects
from helpers.domains.movies import read_columns

COLUMNS = {"Question", "Best Answer", "Correct Answers", "Incorrect Answers"}
TABLE = (
    "Type,Question,Best Answer,Correct Answers,Incorrect Answers\r\n"
    'A,"Where’s the “café”, and why?","At the corner","At the corner; Nearby","Nowhere – really"\r\n'
    'B,"Two\r\nlines?",Yes,Yes,No\r\n'
)
PACK = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


def write(path: Path, text: str, encoding: str = "utf-8", packed: str = "plain") -> Path:
    path.write_bytes(PACK[packed](text.encode(encoding)))
    return path


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_is_read_in_every_encoding_and_packing(tmp_path, encoding, packed):
    assert read_text(write(tmp_path / "TruthfulQA.csv", TABLE, encoding, packed)) == TABLE


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_truthfulqa_as_excel_saves_it(tmp_path, monkeypatch, encoding, separator):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator).writerows(csv.reader(io.StringIO(TABLE, newline="")))
    monkeypatch.setenv("STEER_TRUTHFULQA", str(write(tmp_path / "t.csv", text.getvalue(), encoding)))
    first, second = truthfulqa()
    assert first.text == "Where’s the “café”, and why?" and first.correct == ("At the corner", "Nearby")
    assert first.incorrect == ("Nowhere – really",) and second.text == "Two\r\nlines?"


def refused(words: str, read, *arguments) -> None:
    with pytest.raises(CourseError, match=words) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_short_or_broken_names_its_line(tmp_path):
    refused(r"t\.csv, line 5: the row is short", read_table, write(tmp_path / "t.csv", TABLE + "C,Why?\r\n"), COLUMNS)
    refused(r"t\.csv, line 6: .*end of data", read_table, write(tmp_path / "t.csv", TABLE + '\r\nC,"Why?'), COLUMNS)
    broken = TABLE + "C,Why, so?,b,c,d,e\r\n"  # a comma in a text without quotes: what follows would shift
    refused(r"t\.csv, line 5: the row is long", read_table, write(tmp_path / "t.csv", broken), COLUMNS)
    long = f"C,{'x' * 200_000},b,c,d"
    refused(r"t\.csv, line 5: field larger", read_table, write(tmp_path / "t.csv", TABLE + long), COLUMNS)


@pytest.mark.parametrize("text", ["", "\n", "Question;Answer\nWhy?;So\n", "{}", "<html>\n<body>no</body>"])
def test_a_table_without_the_columns(tmp_path, text):
    refused(r"t\.csv lacks columns: give .* Best Answer, ", read_table, write(tmp_path / "t.csv", text), COLUMNS)


def test_damaged_texts(tmp_path):
    damaged = TABLE.encode().replace("é".encode(), b"\xe9")  # one byte of many that are UTF-8
    path = tmp_path / "t.csv"
    path.write_bytes(damaged)
    refused(r"t\.csv, line 2: no text in UTF-8", read_text, path)
    path.write_bytes(b"a\n\x81\x8d")  # nothing in any of them
    refused(r"t\.csv, line 2: no text", read_text, path)
    path.write_bytes(TABLE.encode("utf-16")[:-1])
    refused(r"t\.csv, line \d+: no text", read_text, path)


@pytest.mark.parametrize("read", [read_text, lambda path: list(read_objects(path))])
def test_damaged_files(tmp_path, read):
    path = tmp_path / "t.csv"
    for name in ("gzip", "bzip2", "xz"):
        whole = PACK[name]((json.dumps({"a": "é" * 3000}) + TABLE * 50).encode())
        path.write_bytes(whole[: len(whole) // 2])
        refused(r"t\.csv is cut short, .*: download", read, path)
        path.write_bytes(whole[:20] + bytes(20) + whole[40:])
        refused(r"t\.csv.*(download|fix)", read, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", TABLE)
    refused(r"t\.csv is a zip archive or a spreadsheet: unpack", read, path)
    for nowhere in (tmp_path / "none.csv", tmp_path, path / "below"):
        refused("there is no file", read, nowhere)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e != "cp1252"])
def test_amazon_files_in_every_encoding_and_packing(tmp_path, encoding, packed):
    objects = [{"asin": "é", "n": number} for number in range(3)]
    for text in ("\n".join(json.dumps(o, ensure_ascii=False) for o in objects), "\n".join(map(repr, objects))):
        found = list(read_objects(write(tmp_path / "r.json", text, encoding, packed)))
        assert found == list(enumerate(objects, start=1))


@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e != "utf-32"])
def test_movielens_tables_in_every_encoding(tmp_path, encoding):
    columns = {"movieId": "int32", "title": str}
    path = write(tmp_path / "movies.csv", "title,movieId\nAmélie (2001),5\n", encoding)
    table = read_columns(path, columns)
    assert table.values.tolist() == [[5, "Amélie (2001)"]]
    refused(r"movies\.csv .*columns movieId, title", read_columns, write(path, ""), columns)
    path.write_bytes("movieId,title\n1,é é é\n2,".encode() + b"\xe9\n")
    refused(r"movies\.csv, line 3: no text", read_columns, path, columns)
