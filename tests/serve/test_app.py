"""The live page's addresses, over real HTTP."""

import asyncio
import json
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from fedmeta.serve.guard import POLICY, Guard
from tests.report.made import EVIL
from tests.report.render.test_html import Page
from tests.serve.conftest import OUTSIDE
from tests.serve.serving import Served, serving

HOSTILE = EVIL.replace("/", "|")


def test_the_list_answers_in_json(served: Served) -> None:
    answer = served.get("/api/runs")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert set(answer.json) == {"root", "rows"}


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"/runs/{id_}/"
            for id_ in ("digits-001", "chained", "no-json", "bad-line", "nothing-but-a-log")
        ),
        "/runs/compare-quickstart/",
        "/runs/compare-quickstart/federated-seed0/",
        "/selected?run=digits-001&run=half-written",
    ],
)
def test_every_run_has_a_page_and_a_current_copy_is_not_sent_again(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status == 200
    assert answer.text.count("<article ") == 1
    again = served.get(path, **{"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    other = served.get(path, **{"If-None-Match": '"another"'})
    assert (other.status, other.body) == (200, answer.body)


def test_an_address_without_its_last_slash_leads_to_the_one_with_it(served: Served) -> None:
    answer = served.get("/runs/compare-quickstart")
    assert answer.status == 307
    assert answer.headers["location"] == f"{served.address}/runs/compare-quickstart/"


def test_the_links_of_a_comparison_lead_to_its_runs(served: Served) -> None:
    page = "/runs/compare-quickstart/"
    links = re.findall(r'href="([a-z]+-seed\d/)"', served.get(page).text)
    assert "federated-seed0/" in links
    for link in links:
        assert served.get(page + link).status == 200, link


@pytest.mark.parametrize(
    "id_",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%252e%252e%252fetc%252fpasswd",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..%5c..%5cetc%5cpasswd",
        "../outside",
        "..%2foutside",
        "linked",
        "linked/config.toml",
        "linked-file",
        "digits-001/config.toml",
        "digits-001/../../outside",
        "digits-001%00",
        "%ff%fe",
        "no-such-run",
    ],
)
@pytest.mark.parametrize(
    "page", ["/runs/{}/", "/runs/{}", "/selected?run={}", "/report/{}", "/report-alone/{}"]
)
def test_no_path_leads_out_of_the_folder(served: Served, page: str, id_: str) -> None:
    answer = served.get(page.format(id_))
    if (page, id_) == ("/runs/{}/", "linked-file"):
        assert "leads out of the folder of runs" in answer.text
    # Without the last slash the address is corrected first.
    assert answer.status == 404 or answer.headers["location"].endswith("/")
    assert OUTSIDE not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "name", ["../app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "none.js", "/etc/passwd"]
)
def test_static_files_are_a_fixed_list(served: Served, name: str) -> None:
    assert served.get(f"/static/{name}").status == 404


def test_a_page_that_is_not_there_is_one_clear_panel(served: Served) -> None:
    for path in ("/runs/none/", "/nowhere"):
        answer = served.get(path)
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.count('role="alert"') == 1
    assert served.get("/api/none").json == {"error": "there is no such page"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    answer = served.get("/api/runs", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]:1"]
)
def test_a_host_header_that_is_not_loopback_is_refused(served: Served, host: str) -> None:
    answer = served.get("/api/runs", Host=host)
    assert (answer.status, "rows" in answer.text) == (421, False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8642", "LOCALHOST", "[::1]:8642", "127.0.0.1:1"]
)
def test_its_own_names_are_answered(served: Served, host: str) -> None:
    assert served.get("/api/runs", Host=host).status == 200


def test_a_server_on_all_addresses_answers_to_addresses_and_not_to_names() -> None:
    reached: list[str] = []
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["headers"][0][1].decode())

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    async def ask(host: str) -> None:
        scope = {"type": "http", "method": "GET", "headers": [(b"host", host.encode())]}
        await Guard(app, "0.0.0.0")(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(ask("192.0.2.7:8642"))
    asyncio.run(ask("evil.example"))
    assert reached == ["192.0.2.7:8642"]
    assert statuses[0] == 421


@pytest.mark.parametrize("path", ["/", "/runs/digits-001/", "/nowhere", "/api/runs", "/static/list.js"])
def test_every_answer_says_what_the_page_may_do(served: Served, path: str) -> None:
    headers = served.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert "script-src 'self';" in POLICY


def test_pages_hold_no_script_of_their_own(served: Served) -> None:
    for path in ("/", "/runs/digits-001/", "/runs/compare-quickstart/", "/selected?run=digits-001"):
        text = served.get(path).text
        # The charts' values are data, which no browser runs.
        assert not re.findall(r"""<script(?![^>]*\bsrc=| type="application/json" id="figures">)""", text)
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)


def test_names_from_the_disk_are_escaped(served: Served) -> None:
    page = served.get(served.page(HOSTILE).removeprefix(served.address))
    assert page.status == 200
    assert not any("onerror" in attributes for _, attributes in Page(page.text).elements)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text


def test_nothing_selected_and_an_unknown_run_among_the_selected(served: Served) -> None:
    assert served.get("/selected?run=digits-001&run=../outside").status == 404
    for query, said in (("", "run: is missing"), ("run=x&" * 17, "run: must have at most 16 entries")):
        answer = served.get(f"/selected?{query.rstrip('&')}")
        assert answer.status == 400
        assert said in answer.text


def test_a_report_is_shown_from_within_its_folder_and_reaches_nothing(served: Served) -> None:
    assert served.get("/report/digits-001").status == 404
    (served.root / "chained" / "report.html").write_text("<title>the report</title>")
    try:
        answer, page = served.get("/report-alone/chained"), served.get("/report/chained")
    finally:
        (served.root / "chained" / "report.html").unlink()
    # A script may lead its own frame elsewhere, and the page around it forbids that.
    around = page.headers["content-security-policy"]
    assert "default-src 'none'" in around
    assert "frame-src 'self'" in around
    assert 'sandbox="allow-scripts allow-downloads" src="/report-alone/chained"' in page.text
    assert answer.body == b"<title>the report</title>"
    assert answer.headers["x-dns-prefetch-control"] == "off"
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in policy
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy


def test_answers_have_no_number_that_json_lacks(served: Served) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    body = served.get("/api/runs").body
    assert json.loads(body, parse_constant=refuse)["rows"]


def test_answers_that_wait_for_their_readers_have_one_bound_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three clients that read nothing ask for 40 bytes each, and 100 may wait."""
    monkeypatch.setattr("fedmeta.serve.guard.MOST_HELD", 100)
    monkeypatch.setattr("fedmeta.serve.guard._PIECE", 7)
    told: list[list[Message]] = [[], [], [], []]
    taken = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"0123456789" * 4})

    async def ask(place: int, guard: Guard) -> None:
        async def send(message: Message) -> None:
            told[place].append(message)
            if place < 3 and message["type"] == "http.response.body":
                await taken.wait()

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "headers": [(b"host", b"localhost")]}
        await guard(scope, receive, send)

    async def all_of_them() -> None:
        guard = Guard(app, "127.0.0.1")
        asked = [asyncio.create_task(ask(place, guard)) for place in range(3)]
        await asyncio.sleep(0)
        assert [messages[0]["status"] for messages in told[:3]] == [200, 200, 503]
        assert [len(messages) for messages in told[:2]] == [2, 2], "one piece each"
        taken.set()
        await asyncio.gather(*asked)
        await ask(3, guard)

    asyncio.run(all_of_them())
    for place in (0, 1, 3):
        assert b"".join(one.get("body", b"") for one in told[place]) == b"0123456789" * 4
        assert [one.get("more_body") for one in told[place][1:]] == [True] * 5 + [False]


def test_one_connection_too_many_is_closed_and_the_others_go_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmeta.serve.server.MOST_CONNECTIONS", 3)
    idle = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(3)]
    try:
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as fourth:
            with suppress(OSError):
                fourth.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with suppress(ConnectionResetError):
                assert fourth.recv(10) == b""
        idle[0].sendall(b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[0].recv(15) == b"HTTP/1.1 200 OK"
    finally:
        for one in idle:
            one.close()


def test_idle_and_slow_connections_are_closed(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmeta.serve.server.ASK_SECONDS", 0.3)
    monkeypatch.setattr("fedmeta.serve.server.SLOWEST_SECONDS", 0.3)
    with serving(gallery) as site:
        with socket.create_connection(("127.0.0.1", site.port), timeout=30) as silent:
            silent.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            assert silent.recv(10) == b""
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", site.port))
            slow.settimeout(30)
            slow.sendall(b"GET /static/plotly.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            deadline = time.monotonic() + 60
            while site.server.server_state.connections and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not site.server.server_state.connections
        assert site.get("/api/runs").status == 200


def test_more_streams_than_pages_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.site.events, "open", 32)
    assert served.get("/events").status == 503
