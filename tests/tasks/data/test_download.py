"""Downloads from a real HTTP server on the loopback interface."""

import gzip
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from fedmeta.errors import ConfigError, DataError
from fedmeta.tasks.data.download import fetch, fetch_file
from fedmeta.tasks.data.sources import GzipFile, PackedFile, SourceFile, sources

CONTENT = bytes(range(256)) * 1000
DIRECT = build_opener(ProxyHandler({})).open


@dataclass
class Site:
    """What the server has, how it misbehaves, and what it was asked for."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            match = re.fullmatch(r"bytes=(\d+)-", wanted or "") if state.ranges else None
            body = state.content[int(match[1]) if match else 0 :]
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # A client that has had enough hangs up; the server need not make a noise about it.
            with suppress(ConnectionError):
                self.wfile.write(body[: state.cut_after])

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def file(site: Site) -> SourceFile:
    return SourceFile("set/file.bin", site.url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_a_file_arrives_whole_and_alone(site: Site, file: SourceFile, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch_file(file, tmp_path, DIRECT, lambda *news: seen.append(news))
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert seen[-1] == ("set/file.bin", len(CONTENT), len(CONTENT))
    assert [have for _, have, _ in seen] == sorted(have for _, have, _ in seen)


def test_an_existing_file_is_not_fetched_again(site: Site, file: SourceFile, tmp_path: Path) -> None:
    fetch_file(file, tmp_path, DIRECT)
    fetch_file(file, tmp_path, DIRECT)
    assert len(site.asked) == 1


def test_a_damaged_file_is_fetched_again(site: Site, file: SourceFile, tmp_path: Path) -> None:
    path = fetch_file(file, tmp_path, DIRECT)
    path.write_bytes(CONTENT[:-1])
    assert fetch_file(file, tmp_path, DIRECT).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_partial_file_is_completed_with_and_without_range_support(
    site: Site, file: SourceFile, tmp_path: Path, ranges: bool
) -> None:
    site.ranges = ranges
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin.part").write_bytes(CONTENT[:1000])
    assert fetch_file(file, tmp_path, DIRECT).read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-"]


def test_a_cut_connection_is_resumed_where_it_ended(
    site: Site, file: SourceFile, tmp_path: Path
) -> None:
    site.cut_after = 100_000
    assert fetch_file(file, tmp_path, DIRECT).read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_partial_download_is_kept_for_the_next_attempt(
    site: Site, file: SourceFile, tmp_path: Path
) -> None:
    site.cut_after = 10
    with pytest.raises(DataError, match=r"30 of 256000 bytes\); run the command again") as refusal:
        fetch_file(file, tmp_path, DIRECT)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "set/file.bin").exists()
    site.cut_after = None
    assert fetch_file(file, tmp_path, DIRECT).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=30-"


def test_other_content_of_the_right_size_is_refused_and_not_kept(
    site: Site, file: SourceFile, tmp_path: Path
) -> None:
    site.content = CONTENT[::-1]
    with pytest.raises(DataError, match="does not have the expected content"):
        fetch_file(file, tmp_path, DIRECT)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_file_larger_than_expected_is_refused_before_it_fills_the_disk(
    site: Site, file: SourceFile, tmp_path: Path
) -> None:
    site.content = CONTENT * 40
    with pytest.raises(DataError, match="larger than the 256000 bytes expected"):
        fetch_file(file, tmp_path, DIRECT)
    assert sum(path.stat().st_size for path in (tmp_path / "set").iterdir()) == 0


def test_a_server_without_the_file_is_named_with_its_answer(
    site: Site, file: SourceFile, tmp_path: Path
) -> None:
    site.status = 404
    with pytest.raises(DataError, match=rf"{site.url} could not be fetched: the server answered 404"):
        fetch_file(file, tmp_path, DIRECT)


def test_no_server_at_all_is_one_line(file: SourceFile, tmp_path: Path) -> None:
    nobody = replace(file, url="http://127.0.0.1:1/file")
    with pytest.raises(DataError, match=r"could not be fetched: .*refused") as refusal:
        fetch_file(nobody, tmp_path, DIRECT)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_cannot_be_made_is_one_line(site: Site, file: SourceFile, tmp_path: Path) -> None:
    (tmp_path / "set").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        fetch_file(file, tmp_path, DIRECT)


def test_a_data_set_is_fetched_into_the_cache_in_the_layout_of_a_data_folder(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official addresses are asked for, and answered by the local server with other content."""
    monkeypatch.setenv("FEDMETA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDMETA_DATA", raising=False)
    wanted: list[str] = []

    def rerouted(request: Request, timeout: float) -> object:
        wanted.append(request.full_url)
        return DIRECT(Request(site.url, headers=dict(request.header_items())), timeout=timeout)

    site.content = bytes(sources()["shakespeare"].files[0].size)
    with pytest.raises(DataError, match="does not have the expected content"):
        fetch("shakespeare", opener=rerouted)
    assert wanted == [sources()["shakespeare"].files[0].url]
    assert (tmp_path / "cache" / "tinyshakespeare").is_dir()


def test_an_unknown_data_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'shakespeare'"):
        fetch("shakespear")


@pytest.fixture
def packed(site: Site, file: SourceFile) -> GzipFile:
    site.content = gzip.compress(CONTENT)
    return GzipFile(file.path, file.url, file.size, file.sha256)


def test_a_compressed_file_arrives_unpacked(site: Site, packed: GzipFile, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = fetch_file(packed, tmp_path, DIRECT, lambda *news: seen.append(news))
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert seen == [("set/file.bin", len(CONTENT), len(CONTENT))]
    assert fetch_file(packed, tmp_path, DIRECT) == path
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "send",
    [
        lambda: CONTENT,
        lambda: gzip.compress(CONTENT)[:-9],
        lambda: gzip.compress(CONTENT + b"x"),
        lambda: gzip.compress(bytes(1 << 28), compresslevel=1),
        lambda: gzip.compress(CONTENT[::-1]),
    ],
    ids=["not compressed", "truncated", "longer", "a bomb", "other content"],
)
def test_other_compressed_content_is_refused_and_not_kept(
    site: Site, packed: GzipFile, tmp_path: Path, send: Callable[[], bytes]
) -> None:
    site.content = send()
    with pytest.raises(DataError, match=r"does not have the expected content: SHA-256 [0-9a-f]{64}"):
        fetch_file(packed, tmp_path, DIRECT)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_server_without_the_compressed_file_is_named(
    site: Site, packed: GzipFile, tmp_path: Path
) -> None:
    site.status = 404
    with pytest.raises(DataError, match=f"^{site.url} could not be fetched: the server answered 404"):
        fetch_file(packed, tmp_path, DIRECT)


def words(path: Path) -> str:
    """The sum of a file's words, whatever is between them."""
    if b"#" not in path.read_bytes():
        raise DataError(f"{path} has no first line")
    return hashlib.sha256(b" ".join(path.read_bytes().split())).hexdigest()


WORDS = b"# one two three"


@pytest.fixture
def repacked(site: Site) -> PackedFile:
    return PackedFile("set/file.txt", site.url, 20, hashlib.sha256(WORDS).hexdigest(), words)


def test_a_repacked_file_is_known_by_its_content(
    site: Site, repacked: PackedFile, tmp_path: Path
) -> None:
    site.content = b"#  one\r\ntwo  three"
    path = fetch_file(repacked, tmp_path, DIRECT)
    assert path.read_bytes() == site.content
    path.write_bytes(WORDS)
    assert fetch_file(repacked, tmp_path, DIRECT) == path
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"# one two four", "does not have the expected content"),
        (b"one two three", "is not what was expected: .* has no first line"),
        (bytes(41), "is larger than the 40 bytes expected"),
    ],
)
def test_a_repacked_file_of_other_content_is_not_kept(
    site: Site, repacked: PackedFile, tmp_path: Path, content: bytes, why: str
) -> None:
    site.content = content
    with pytest.raises(DataError, match=why) as refusal:
        fetch_file(repacked, tmp_path, DIRECT)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "set/file.txt").exists()


def test_a_repacked_file_is_not_resumed_as_another_one_would_come(
    site: Site, repacked: PackedFile, tmp_path: Path
) -> None:
    site.content = b"# one   two three"
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.txt.part").write_bytes(b"# on")
    assert fetch_file(repacked, tmp_path, DIRECT).read_bytes() == site.content
    assert site.asked == [None]


def test_a_repacked_file_that_cannot_be_reached_is_refused(
    site: Site, repacked: PackedFile, tmp_path: Path
) -> None:
    site.status = 503
    with pytest.raises(DataError, match="could not be fetched: the server answered 503"):
        fetch_file(repacked, tmp_path, DIRECT)
