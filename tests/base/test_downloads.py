"""Archives from an address or a file: sites that tell no size, redirect or break off, and other files of one name."""

from __future__ import annotations

import http.server
import shutil
import threading
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_sources import forget, write_movielens

from helpers.base import downloads, sources
from helpers.base.storage import CourseError


@pytest.mark.parametrize("as_url", [False, True])
def test_another_archive_of_the_same_name_is_read_anew(cache, tmp_path, capsys, as_url):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = write_movielens(tmp_path / "one/ml-tiny.zip"), tmp_path / "two/ml-tiny.zip"
    with zipfile.ZipFile(second, "w") as archive:
        archive.writestr("ml-tiny/ratings.csv", "userId,movieId,rating,timestamp\n2,1,5.0,964982704\n")
        archive.writestr("ml-tiny/movies.csv", "movieId,title,genres\n1,Heat (1995),Action\n")

    def rating(archive: Path) -> str:
        forget()
        where = archive.as_uri() if as_url else str(archive)
        return (sources.fetch_movielens(where) / "ratings.csv").read_text().split()[-1]

    assert rating(first) == "1,1,4.0,964982703"
    assert rating(second) == "2,1,5.0,964982704"
    assert capsys.readouterr().out.count("\n") == 1
    second.unlink()
    assert rating(second) == "2,1,5.0,964982704", "an archive is not needed once its folder is there"
    assert rating(first) == "1,1,4.0,964982703"
    assert capsys.readouterr().out.count("\n") == 1


def test_an_archive_from_an_address_is_known_as_a_file(cache, tmp_path, capsys):
    archive = write_movielens(tmp_path / "ml-tiny.zip")
    sources.fetch_movielens(archive.as_uri())
    forget()
    sources.fetch_movielens(str(archive))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("place", "value"), [(0, 1), (2, 98)])  # encrypted; an unknown method of packing
def test_an_archive_that_python_cannot_unpack(cache, tmp_path, place, value):
    archive = write_movielens(tmp_path / "ml-tiny.zip")
    data = bytearray(archive.read_bytes())
    data[data.find(b"PK\3\4") + 6 + place] = data[data.find(b"PK\1\2") + 8 + place] = value
    archive.write_bytes(data)
    with pytest.raises(CourseError, match=r"ratings\.csv in .* cannot be unpacked .*: use the official"):
        sources.fetch_movielens(str(archive))


# From a web site


class Site(http.server.BaseHTTPRequestHandler):
    """Files of a web site that tells no sizes, redirects, and breaks off."""

    archive: Path
    sent = 0

    def do_GET(self) -> None:
        path, data = self.path.partition("?")[0], self.archive.read_bytes()
        moved = {"/moved.zip": "/ml-tiny.zip", "/circle.zip": "/circle.zip"}
        self.send_response(302 if path in moved else 404 if path == "/none.zip" else 200)
        sizes = {"/odd/ml-tiny.zip": "plenty", "/short/ml-tiny.zip": str(len(data) + 9)}
        headers = {"Location": moved.get(path), "Content-Length": sizes.get(path)}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
            while path == "/endless.zip" and Site.sent < 200_000_000:
                Site.sent += self.wfile.write(bytes(1 << 16))
        except OSError:
            pass  # nobody listens any more

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(tmp_path) -> Iterator[str]:
    Site.archive, Site.sent = write_movielens(tmp_path / "ml-tiny.zip"), 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fails(cache: Path, url: str, words: str) -> None:
    """Fetching ends in one line with these words and without the key, and leaves nothing."""
    with pytest.raises(CourseError, match=words) as caught:
        sources.fetch_movielens(url)
    assert "\n" not in str(caught.value)
    assert "sekrit" not in "".join(traceback.format_exception(caught.value)).replace(f'"{url}"', "")
    folder = cache / "sources"
    assert not folder.is_dir() or {p.suffix for p in folder.iterdir()} <= {".lock"}


@pytest.mark.parametrize("path", ["ml-tiny.zip", "moved.zip", "odd/ml-tiny.zip", "ml-tiny.zip?key=1"])
def test_downloads_without_a_size_or_behind_a_redirect(cache, site, path):
    assert (sources.fetch_movielens(f"{site}/{path}") / "ratings.csv").is_file()


def test_a_download_without_a_size_stops_before_the_disk_is_full(cache, site, monkeypatch):
    usage, free = shutil.disk_usage("/"), downloads.MARGIN + 10_000_000

    def shrinking(folder):
        return usage._replace(free=free - sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()))

    monkeypatch.setattr(shutil, "disk_usage", shrinking)
    fails(cache, f"{site}/endless.zip?key=sekrit", r"could not download .*endless.*: free some space")
    assert Site.sent < 50_000_000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("short/ml-tiny.zip", "broke off|cut short"),
        ("circle.zip", "could not download .*redirect"),
        ("none.zip", r"could not download .*none\.zip \(Not Found\): check the address"),
    ],
)
def test_downloads_that_fail_are_one_line_without_keys(cache, site, path, words):
    fails(cache, f"{site}/{path}?key=sekrit", words)


def test_an_address_with_a_password_is_not_used(cache):
    fails(cache, "https://me:sekrit@127.0.0.1/ml-tiny.zip", "user name or password")


def test_what_is_there_is_counted_while_folders_come_and_go(tmp_path):
    """pip makes and removes folders while its bar looks at them."""
    (tmp_path / "kept").write_bytes(b"x" * 10)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            inner = tmp_path / "temporary" / "unpacked"
            inner.mkdir(parents=True)
            (inner / "part").write_bytes(b"yy")
            shutil.rmtree(tmp_path / "temporary")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert {downloads._bytes_in(tmp_path) for _ in range(2000)} <= {10, 12}
    finally:
        done.set()
        other.join()
