"""Fetching: every way in which a download can go wrong ends in one clear line and a clean cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tiny_sources import MEMBERS, forget, start, wait_for, write_movielens, write_wheel

from helpers.base import archives, downloads, settings, sources
from helpers.base.storage import CourseError

# What should work


def test_files_are_taken_out_of_the_wheel(tiny):
    folder = tiny.fetch()
    assert folder == settings.cache_dir() / "sources" / "tiny"
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {"whole.txt": b"first half, second half", "sub/two.txt": b"second half"}


def test_fetching_again_needs_no_wheel(tiny, capsys):
    tiny.fetch()
    tiny.wheel.unlink()
    forget()
    tiny.fetch()
    assert capsys.readouterr().out == ""


def test_pip_downloads_into_the_cache_alone(pip_only, cache, monkeypatch):
    run, seen = downloads._run_with_bar, []

    def spy(command, env, folder, total):
        seen.extend([folder, *(Path(env[name]) for name in ("TMPDIR", "TEMP", "TMP"))])
        return run(command, env, folder, total)

    monkeypatch.setattr(downloads, "_run_with_bar", spy)
    folder = pip_only.fetch()
    assert (folder / "whole.txt").exists()
    assert len(seen) == 4 and all(cache in path.parents for path in seen)
    assert [p.name for p in folder.parent.iterdir() if p.name != ".tiny.lock"] == ["tiny"]


def test_a_damaged_copy_is_made_again_after_a_line(tiny, capsys):
    path = tiny.fetch() / "whole.txt"
    path.write_bytes(b"First half, second half")
    forget()
    tiny.fetch()
    assert path.read_bytes() == b"first half, second half"
    out = capsys.readouterr().out
    assert "damaged" in out and out.count("\n") == 1


def test_a_deleted_folder_is_noticed_in_the_same_process(tiny):
    shutil.rmtree(tiny.fetch())
    assert (tiny.fetch() / "whole.txt").exists()


def test_two_set_ups_at_once_share_one_download(pip_only, tmp_path):
    code = """
from helpers.base import sources
obtain = sources._obtain
def slow(*arguments):
    with open(sys.argv[2], "a") as log: log.write("download\\n")
    time.sleep(0.5)
    return obtain(*arguments)
sources._obtain = slow
sources.fetch("tiny", manifest=Path(sys.argv[1]))
"""
    log = tmp_path / "log"
    both = [start(code, pip_only.manifest, log) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    assert log.read_text() == "download\n"


# What goes wrong


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CourseError, match=r"no source called 'minilm-l12'.*movielens-100k, .*minilm"):
        sources.fetch("minilm-l12")


def test_a_truncated_wheel(tiny):
    tiny.wheel.write_bytes(tiny.wheel.read_bytes()[:-40])
    tiny.assert_fails("truncated", "download it again", tiny.wheel.name)


def test_a_truncated_wheel_through_pip(pip_only):
    pip_only.wheel.write_bytes(pip_only.wheel.read_bytes()[:-40])
    pip_only.assert_fails("invalid", "try again", pip_only.wheel.name)


def test_a_wheel_that_is_no_zip(tiny):
    tiny.wheel.write_bytes(b"<html>Please log in</html>")
    tiny.describe_wheel()
    tiny.assert_fails("not a whole zip archive", "download it again")


def test_a_wheel_with_the_wrong_checksum(tiny):
    write_wheel(tiny.wheel, {**MEMBERS, "tiny/evil.pkl": b"\x81"})
    tiny.assert_fails("wrong checksum", "download it again", tiny.wheel.name)


def test_a_wheel_with_the_wrong_checksum_through_pip(pip_only):
    write_wheel(pip_only.wheel, {**MEMBERS, "tiny/evil.pkl": b"\x81"})
    pip_only.assert_fails("wrong checksum", pip_only.wheel.name)


def test_a_member_with_the_wrong_checksum(tiny):
    write_wheel(tiny.wheel, {**MEMBERS, "tiny/data/two.txt": b"second HALF"})
    tiny.describe_wheel()
    tiny.assert_fails("whole.txt", "wrong checksum", "get the latest course")


def test_a_missing_member(tiny):
    write_wheel(tiny.wheel, {"tiny/data/one.txt": b"first half, "})
    tiny.describe_wheel()
    tiny.assert_fails("tiny/data/two.txt is not in", "get the latest course")


def test_a_wheel_that_is_not_in_the_folder(tiny):
    tiny.wheel.unlink()
    tiny.assert_fails(f"{tiny.wheel.name} is not in", "make wheels", "unset STEER_WHEELS")


def test_no_network(pip_only, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: closed
    monkeypatch.setenv("PIP_RETRIES", "0")
    pip_only.assert_fails("could not download", pip_only.wheel.name, "connect to the network", "STEER_WHEELS")


@pytest.mark.parametrize("path", ["../outside.txt", "/tmp/outside.txt", "sub/../../outside.txt"])
def test_a_manifest_path_outside_the_folder(tiny, path):
    tiny.entry["files"][0]["path"] = path
    tiny.write()
    tiny.assert_fails("outside the folder", "fix the manifest")


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/outside.txt", "..\\outside.txt", "C:/outside.txt"])
def test_a_zip_entry_outside_the_folder(tiny, member):
    write_wheel(tiny.wheel, {**MEMBERS, member: b"gotcha"})
    tiny.describe_wheel()
    tiny.assert_fails("an entry outside its folder")


def test_a_cache_below_a_file(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "file" / "cache"))
    tiny.assert_fails("cannot be written", "set STEER_CACHE")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission(tiny, cache):
    cache.mkdir(mode=0o500)
    tiny.assert_fails("cannot be written", "set STEER_CACHE")


def test_too_little_disk_is_seen_before_the_download(tiny, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    monkeypatch.setattr(sources, "_obtain", lambda *arguments: pytest.fail("downloaded all the same"))
    tiny.assert_fails("1.0 MB are free", "free some space or set STEER_CACHE")


@pytest.fixture
def small_disk(cache: Path):
    """A real file system of 2 MB as the cache, and a way to mount it again with other options."""
    cache.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size=2m,{options}", "tmpfs", str(cache)]
        return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0

    if not mount("rw"):
        pytest.skip("mounting a small disk needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(cache)], check=True)


@pytest.mark.parametrize("through_pip", [False, True])
def test_a_disk_that_fills_up(small_disk, pip_only, monkeypatch, through_pip):
    data = os.urandom(5_000_000)
    write_wheel(pip_only.wheel, {**MEMBERS, "tiny/data/one.txt": data})
    pip_only.describe_wheel()
    if not through_pip:
        monkeypatch.setenv("STEER_WHEELS", str(pip_only.wheel.parent))
    monkeypatch.setattr(sources, "check_space", lambda *arguments: None)
    pip_only.assert_fails("the disk is full", "free some space or set STEER_CACHE")


def test_a_read_only_cache(small_disk, tiny, monkeypatch, capsys):
    small_disk("remount,ro")
    tiny.assert_fails("cannot be written", "set STEER_CACHE")
    small_disk("remount,rw")
    monkeypatch.setattr(downloads, "MARGIN", 0)
    tiny.fetch()
    small_disk("remount,ro")
    forget()
    assert (tiny.fetch() / "whole.txt").exists()  # filled once, a class can share it


def test_killed_during_extraction(tiny, tmp_path):
    code = """
from helpers.base import sources
def stuck(archive, member):
    yield b"half"
    Path(sys.argv[2]).touch()
    time.sleep(60)
sources.read_member = stuck
sources.fetch("tiny", manifest=Path(sys.argv[1]))
"""
    ready = tmp_path / "ready"
    process = start(code, tiny.manifest, ready)
    wait_for(ready, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = sources.folder_of("tiny")
    assert not folder.exists()
    assert list(folder.parent.glob(".tiny.*.partial"))
    tiny.fetch()
    assert [p.name for p in folder.parent.iterdir() if p.name != ".tiny.lock"] == ["tiny"]


# The official MovieLens archives


@pytest.mark.parametrize("as_url", [False, True])
def test_movielens_from_a_path_or_a_file_url(cache, tmp_path, capsys, as_url):
    archive = write_movielens(tmp_path / "ml-tiny.zip")
    where = archive.as_uri() if as_url else str(archive)
    folder = sources.fetch_movielens(where)
    assert folder == cache / "sources" / "movielens-ml-tiny"
    assert sorted(p.name for p in folder.iterdir()) == ["checksums.json", "movies.csv", "ratings.csv"]
    assert (folder / "ratings.csv").read_text().startswith("userId")
    (folder / "ratings.csv").write_text("userId")
    forget()
    assert (sources.fetch_movielens(where) / "ratings.csv").stat().st_size > 20
    assert "damaged" in capsys.readouterr().out


def test_movielens_that_is_not_there(cache, tmp_path):
    for where in (tmp_path / "none.zip", (tmp_path / "none.zip").as_uri(), "http://127.0.0.1:9/none.zip"):
        with pytest.raises(CourseError, match="give the path"):
            sources.fetch_movielens(str(where))
    with pytest.raises(CourseError, match="not an http, https or file address"):
        sources.fetch_movielens("ftp://127.0.0.1/none.zip")
    assert not list((cache / "sources").glob("movielens-none"))


def test_movielens_that_is_cut_short_or_damaged(cache, tmp_path):
    archive = write_movielens(tmp_path / "ml-tiny.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-30])
    with pytest.raises(CourseError, match="not a whole zip archive: download it again"):
        sources.fetch_movielens(str(archive))
    archive.write_bytes(whole.replace(b"964982703", b"064982703"))
    with pytest.raises(CourseError, match=r"damaged at ml-tiny/ratings\.csv: download it again"):
        sources.fetch_movielens(str(archive))


def test_a_zip_that_escapes_or_is_another_one(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    escaping = write_movielens(tmp_path / "escaping.zip", **{"../outside.csv": b"gotcha"})
    with pytest.raises(CourseError, match="an entry outside its folder"):
        archives.extract_zip(escaping, target, ["ratings.csv"])
    with pytest.raises(CourseError, match=r"there is no tags\.csv"):
        archives.extract_zip(write_movielens(tmp_path / "other.zip"), target, ["tags.csv"])
    assert not list(target.iterdir())


# A folder of wheels, and the manifest


def test_wheels_are_collected_for_a_lab(pip_only, tmp_path, monkeypatch, capsys):
    lab = tmp_path / "lab"
    for state in ("done", "there"):
        sources.collect_wheels(["tiny"], lab, manifest=pip_only.manifest)
        assert capsys.readouterr().out.split() == ["tiny", state]
    assert [p.name for p in lab.iterdir()] == [pip_only.wheel.name]
    monkeypatch.setenv("STEER_WHEELS", str(lab))
    sources.collect_wheels(["tiny"], tmp_path / "second", manifest=pip_only.manifest)
    assert pip_only.fetch().exists()


def test_the_manifest_is_complete():
    known = sources.read_manifest()
    assert {name for name, source in known.items() if source.terms} == {"gemma-3-270m"}
    for source in known.values():
        assert source.title and source.licence and source.citation and source.origin.startswith("https://")
        for item in (*source.wheels, *source.files):
            assert len(item.sha256) == 64 and item.size > 0
        card = (settings.PROJECT / "data" / "README.md").read_text("utf-8")
        assert f"`{source.name}`" in card
