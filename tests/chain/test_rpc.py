"""Nodes by URL, over HTTP and WebSocket, and servers that are not nodes."""

import base64
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import requests
from web3.types import RPCEndpoint
from websockets.sync.server import serve

from fedmeta.chain import ChainOptions, rpc
from fedmeta.chain.chain import Chain, open_chain
from fedmeta.chain.errors import ChainDownError, NoNodeError, RpcError
from fedmeta.chain.node import Node, start_node
from fedmeta.chain.providers.anvil import Anvil
from fedmeta.errors import UsageError
from tests.chain.providers.helpers import NOBODY, balance, deploy_token, send, sign, start_shared_anvil

Answer = tuple[int, bytes]
Refusal = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with start_shared_anvil(tmp_path_factory.mktemp("anvil")) as started:
        yield started


@contextmanager
def server(answer: Callable[[bytes, dict[str, str]], Answer]) -> Iterator[str]:
    """Serve a faulty node on a free port; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = answer(body, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_node_is_used_by_its_url(node: Node, scheme: str, tmp_path: Path) -> None:
    url = node.url.replace("http", scheme)
    with open_chain(ChainOptions(provider=url), tmp_path / "unused") as chain:
        nonce = int(chain.request("eth_getTransactionCount", ("0x" + "33" * 20, "latest")), 16)
        assert (chain.chain_id, nonce, chain.name) == (31337, 0, url)
        deploy_token(chain)
        assert chain.batch([("eth_chainId", ()), ("net_version", ())]) == ["0x7a69", "31337"]
    # It is somebody else's: nothing is kept here, and it goes on.
    assert not (tmp_path / "unused").exists()
    with open_chain(ChainOptions(provider=url), tmp_path) as chain:
        assert chain.chain_id == 31337


def test_each_post_has_the_headers_of_the_first_and_the_cookies_of_the_answers() -> None:
    """A load balancer keeps a client at one of its nodes by a cookie."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(dict(self.headers) | {"connection": str(self.client_address)})
            content = json.dumps({"jsonrpc": "2.0", "id": 0, "result": len(body)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Set-Cookie", f"node={len(seen)}; Path=/")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        provider = rpc.Http(url.replace("//", "//user:pass@"))
        lengths = [provider.make_request(RPCEndpoint("m" * n), [])["result"] for n in (1, 20, 3)]
        provider.close()
    assert lengths[1] - lengths[0] == 19, "each has a body of its own"
    assert [one.get("Cookie") for one in seen] == [None, "node=1", "node=2"]
    credentials = "Basic " + base64.b64encode(b"user:pass").decode()
    assert [one["Authorization"] for one in seen] == [credentials] * 3
    assert {one["Content-Type"] for one in seen} == {"application/json"}
    assert len({one["connection"] for one in seen}) == 1, "one connection is kept"


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_it_may_be_used_by_several_threads(node: Node, scheme: str, tmp_path: Path) -> None:
    failures: list[object] = []
    with open_chain(ChainOptions(provider=node.url.replace("http", scheme)), tmp_path) as chain:

        def ask(account: str) -> None:
            for _ in range(50):
                answers = chain.batch([("eth_getBalance", (account, "latest")), ("eth_chainId", ())])
                if answers != [hex(10_000 * 10**18), "0x7a69"]:
                    failures.append(answers)

        threads = [threading.Thread(target=ask, args=(node.accounts[i + 3][0],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_node_that_goes_and_comes_back_is_found_again(scheme: str, tmp_path: Path) -> None:
    first = start_node("anvil", tmp_path)
    port = int(first.url.rpartition(":")[2])
    with open_chain(ChainOptions(provider=first.url.replace("http", scheme)), tmp_path) as chain:
        send(chain, sign(0, to=NOBODY, value=3))
        first.close()
        for _ in range(2):
            with pytest.raises(
                ChainDownError, match=f"no node answers at {scheme}://127.0.0.1:{port}: "
            ):
                chain.request("eth_chainId")
        with start_node("anvil", tmp_path, port):
            assert balance(chain, NOBODY) == 3


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_no_node_at_the_url_is_one_line(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}"
    with pytest.raises(NoNodeError, match=f"no node answers at {url}: .*refused") as caught:
        open_chain(ChainOptions(provider=url), tmp_path)
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (2, False)
    # Whoever can wait for it may.
    assert isinstance(caught.value, ChainDownError)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_no_such_host_is_one_line(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(NoNodeError, match="no node answers at"):
        open_chain(ChainOptions(provider=f"{scheme}://nowhere.invalid"), tmp_path)


def test_a_node_is_used_by_its_socket_as_well(tmp_path: Path) -> None:
    socket_file = tmp_path / "node.ipc"
    options = ChainOptions(provider=f"ipc://{socket_file}")
    with pytest.raises(NoNodeError, match=f"no node answers at ipc://{socket_file}: there is no such"):
        open_chain(options, tmp_path)
    command = [*Anvil.find(), "--quiet", "--port", str(free_port()), "--ipc", str(socket_file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not socket_file.exists() and time.monotonic() < end:
            time.sleep(0.01)
        with open_chain(options, tmp_path) as chain:
            assert chain.batch([("eth_chainId", ()), ("net_version", ())]) == ["0x7a69", "31337"]
            deploy_token(chain)
            assert chain.eth.block_number == 1
    finally:
        process.kill()
        process.wait()


def test_a_host_that_a_config_names_gets_no_password_of_netrc_and_no_redirect_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[dict[str, str]] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Redirecting) as url, pytest.raises(NoNodeError, match="no JSON-RPC"):
        open_chain(ChainOptions(provider=url), tmp_path)
    assert all("Authorization" not in headers for headers in seen)
    # A batch and then one by one.
    assert len(seen) == 2


def test_another_chain_id_is_refused(node: Node, tmp_path: Path) -> None:
    options = ChainOptions(provider=node.url, chain_id=1)
    with pytest.raises(UsageError, match=rf"{node.url} has chain id 31337, and chain\.chain_id = 1"):
        open_chain(options, tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (503, b""),
        (404, b"not found"),
        (200, b"[]"),
        (200, b'{"jsonrpc": "2.0", "id": 0}'),
        (200, b'[{"id": 0, "result": "0x1"}, {"id": 7, "result": "0x1"}]'),
        (200, b'[{"id": 0, "result": "0x1"}]'),
    ],
)
def test_a_server_without_json_rpc_is_not_a_node(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "BUSY_PAUSES", ())
    said = "" if answer[0] == 200 else f"HTTP status {answer[0]} and "
    with (
        server(lambda body, headers: answer) as url,
        pytest.raises(NoNodeError, match=f"{url} answers with {said}no JSON-RPC") as caught,
    ):
        open_chain(ChainOptions(provider=url), tmp_path)
    assert "\n" not in str(caught.value)


def test_json_rpc_that_is_not_a_chain_is_refused(tmp_path: Path) -> None:
    replies = [{"id": i, "result": {"hello": "world"}} for i in range(3)]
    with (
        server(lambda body, headers: (200, json.dumps(replies).encode())) as url,
        pytest.raises(RpcError, match="is not an Ethereum node"),
    ):
        open_chain(ChainOptions(provider=url), tmp_path)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_node_that_does_not_answer_is_down(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(rpc, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            ChainDownError, match=r"no answer within 0\.2 s|timed out|no connection within"
        ):
            open_chain(ChainOptions(provider=url), tmp_path)


def test_a_websocket_that_is_opened_and_never_answers_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "ANSWER_SECONDS", 0.2)
    with serve(lambda opened: [None for _ in opened], "127.0.0.1", 0) as silent:
        thread = threading.Thread(target=silent.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{silent.socket.getsockname()[1]}"
        with pytest.raises(ChainDownError, match=f"no node answers at {url}: no answer within 0.2 s"):
            open_chain(ChainOptions(provider=url), tmp_path)
        silent.shutdown()
        thread.join()


class TestSecrets:
    SECRET = "s3cr3t-key"

    def test_messages_show_no_path_query_or_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        monkeypatch.setenv("FEDMETA_RPC_PASSWORD", self.SECRET)
        url = (
            f"http://user:${{FEDMETA_RPC_PASSWORD}}@127.0.0.1:{port}/v3/{self.SECRET}?key={self.SECRET}"
        )
        with pytest.raises(NoNodeError, match=f"http://127.0.0.1:{port}: ") as caught:
            open_chain(ChainOptions(provider=url), tmp_path)
        assert self.SECRET not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_user_and_password_are_sent_as_basic_authentication(self) -> None:
        seen: list[dict[str, str]] = []

        def answer(body: bytes, headers: dict[str, str]) -> Answer:
            seen.append(headers)
            return 200, b'{"id": 0, "result": "0x1"}'

        with server(answer) as url:
            provider = rpc.Http(url.replace("//", f"//user:{self.SECRET}@") + "/path")
            assert provider.make_request("eth_chainId", []) == {"id": 0, "result": "0x1"}
            provider.close()
        expected = base64.b64encode(f"user:{self.SECRET}".encode()).decode()
        assert {k.lower(): v for k, v in seen[0].items()}["authorization"] == f"Basic {expected}"

    def test_a_key_in_the_url_comes_from_the_environment(self, node: Node, tmp_path: Path) -> None:
        options = ChainOptions(provider=node.url + "/?key=${FEDMETA_RPC_KEY}")
        with open_chain(options, tmp_path, {"FEDMETA_RPC_KEY": self.SECRET}) as chain:
            assert self.SECRET not in chain.name
        with pytest.raises(UsageError, match="the environment variable FEDMETA_RPC_KEY is not set"):
            open_chain(options, tmp_path, {})

    @pytest.mark.parametrize(
        "place",
        [
            "${FEDMETA_SPONSOR_KEY}",
            "${FEDMETA_COMMITTEE_KEYS}",
            "${FEDMETA_CLIENT_SECRET}",
            "${FEDMETA_KEYSTORE_PASSWORD}",
            "${AWS_SECRET_ACCESS_KEY}",
            "${HOME}",
            "${fedmeta_rpc_key}",
            "${FEDMETA_RPC_}",
            "${FEDMETA_RPC_KEY:-${HOME}}",
            "${FEDMETA_RPC_KEY",
            "${FEDMETA_RPC_ \u212aEY}",
            "${}",
        ],
    )
    @pytest.mark.parametrize("url", ["{0}/v3/{1}", "{0}?key={1}", "{0}/${{FEDMETA_RPC_KEY}}/{1}"])
    def test_variables_without_the_prefix_never_leave_the_machine(
        self, place: str, url: str, tmp_path: Path
    ) -> None:
        asked: list[bytes] = []

        def answer(body: bytes, _: dict[str, str]) -> Answer:
            asked.append(body)
            return 200, b'{"id": 0, "result": "0x1"}'

        names = re.findall(r"\w+", place)
        environment = dict.fromkeys([*names, "FEDMETA_RPC_KEY"], self.SECRET)
        with server(answer) as host:
            options = ChainOptions(provider=url.format(host, place))
            with pytest.raises(UsageError, match="only variables that begin with FEDMETA_RPC_"):
                open_chain(options, tmp_path, environment)
        assert not asked


def answer_of(request: dict[str, Any]) -> dict[str, Any]:
    """A node whose answer to a method is its name."""
    known: dict[str, Any] = {
        "eth_chainId": "0x1",
        "eth_getBlockByNumber": {"hash": "0x" + "11" * 32, "extraData": "0x"},
    }
    return {"id": request["id"], "result": known.get(request["method"], request["method"])}


class TestBatches:
    def test_answers_are_put_in_order(self) -> None:
        def answer(body: bytes, headers: dict[str, str]) -> Answer:
            replies = [answer_of(request) for request in json.loads(body)]
            return 200, json.dumps(replies[::-1]).encode()

        with server(answer) as url, Chain(rpc.Http(url)) as chain:
            assert chain.batch([("a", ()), ("b", ()), ("c", ())]) == ["a", "b", "c"]

    @pytest.mark.parametrize("ids", [[0, 0, 1], [0, 1, 9], [0, 1], ["x", 1, 2], [None, 1, 2]])
    def test_answers_to_something_else_are_not_taken_for_ours(self, ids: list[object]) -> None:
        def answer(body: bytes, headers: dict[str, str]) -> Answer:
            asked = json.loads(body)
            if isinstance(asked, dict):
                return 200, json.dumps(answer_of(asked)).encode()
            if asked[0]["method"] == "eth_chainId":
                return 200, json.dumps([answer_of(one) for one in asked]).encode()
            first = asked[0]["id"]
            wrong = [one if not isinstance(one, int) else first + one for one in ids]
            return 200, json.dumps([{"id": one, "result": "theirs"} for one in wrong]).encode()

        with server(answer) as url, Chain(rpc.Http(url)) as chain:
            assert chain.batch([("a", ()), ("b", ()), ("c", ())]) == ["a", "b", "c"]

    def test_nothing_is_sent_twice(self) -> None:
        bodies: list[bytes] = []

        def answer(body: bytes, headers: dict[str, str]) -> Answer:
            bodies.append(body)
            return 503, b""

        with server(answer) as url:
            provider = rpc.Http(url)
            with pytest.raises(requests.HTTPError):
                provider.make_request("eth_sendRawTransaction", ["0x12"])
            provider.close()
        assert len(bodies) == 1


def test_bad_urls_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"chain\.provider: .*[Pp]ort"):
        open_chain(ChainOptions(provider="http://127.0.0.1:port"), tmp_path)
    with pytest.raises(UsageError, match="the URL has no host"):
        open_chain(ChainOptions(provider="http://:80"), tmp_path)


def test_no_chain_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no chain"):
        open_chain(ChainOptions(), tmp_path)


def test_a_chain_is_known_by_its_provider(node: Node) -> None:
    chain = Chain(rpc.Http(node.url))
    assert (chain.name, chain.chain_id) == (node.url, 31337)
    chain.close()


@contextmanager
def proxy(node: Node, refuse: Callable[[Any, int], Refusal | None]) -> Iterator[tuple[str, list[Any]]]:
    """Serve a node through a gate that may refuse; yields its URL and the requests that it saw."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(json.loads(body))
            status, headers, content = refuse(seen[-1], len(seen)) or (200, {}, self.forward(body))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def forward(self, body: bytes) -> bytes:
            request = Request(node.url, body, {"Content-Type": "application/json"})
            with urlopen(request) as answer:
                return bytes(answer.read())

        def log_message(self, *arguments: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, seen


def error(code: int, message: str) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
    ).encode()


@pytest.mark.parametrize(
    "refusal",
    [
        (200, {}, error(-32600, "batch requests are not supported")),
        (200, {}, b"[" + error(-32000, "no batches") + b"]"),
        (400, {}, b"bad request"),
        (413, {}, error(-32000, "batch too large")),
        (500, {}, b""),
    ],
)
def test_a_node_that_refuses_batches_is_asked_one_by_one(
    node: Node, refusal: Refusal, tmp_path: Path
) -> None:
    def refuse(request: Any, _: int) -> Refusal | None:
        return refusal if isinstance(request, list) else None

    with (
        proxy(node, refuse) as (url, seen),
        open_chain(ChainOptions(provider=url), tmp_path) as chain,
    ):
        assert chain.chain_id == 31337
        calls = [("eth_chainId", ()), ("net_version", ()), ("eth_nonsense", ())]
        one, two, three = chain.batch(calls)
        assert (one, two) == ("0x7a69", "31337")
        assert isinstance(three, RpcError)
        deploy_token(chain)
    assert sum(isinstance(request, list) for request in seen) == 1, "and is not offered a second one"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("fedmeta.chain.rpc.time.sleep", waited.append)
    return waited


LIMITS = [
    (429, {}, b"slow down"),
    (429, {}, error(-32005, "daily request count exceeded, request rate limited")),
    (503, {}, b"<html>unavailable</html>"),
    (200, {}, error(429, "Your app has exceeded its capacity")),
    (200, {}, error(-32005, "Too Many Requests")),
]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("first", [1, 2])
def test_a_node_that_is_busy_is_asked_again_later(
    node: Node, limit: Refusal, first: int, waits: list[float], tmp_path: Path
) -> None:
    def refuse(_: Any, count: int) -> Refusal | None:
        return limit if first <= count < first + 3 else None

    with (
        proxy(node, refuse) as (url, _),
        open_chain(ChainOptions(provider=url), tmp_path) as chain,
    ):
        assert chain.request("net_version") == "31337"
        assert chain.batch([("eth_chainId", ()), ("net_version", ())]) == ["0x7a69", "31337"]
    assert waits == [0.5, 1.0, 2.0]


def test_only_what_a_busy_node_left_out_of_a_batch_is_asked_again(
    node: Node, waits: list[float], tmp_path: Path
) -> None:
    def refuse(request: Any, count: int) -> Refusal | None:
        if count != 2:
            return None
        busy = json.loads(error(429, "too many"))
        first, second = (one["id"] for one in request)
        return 200, {}, json.dumps([{"id": first, "result": "first"}, busy | {"id": second}]).encode()

    with (
        proxy(node, refuse) as (url, seen),
        open_chain(ChainOptions(provider=url), tmp_path) as chain,
    ):
        assert chain.batch([("eth_chainId", ()), ("net_version", ())]) == ["first", "31337"]
    assert [call["method"] for call in [seen[2]]] == ["net_version"]
    assert waits == [0.5]


@pytest.mark.parametrize(("said", "waited"), [("3", 3.0), ("0", 0.5), ("9999", 20.0), ("soon", 0.5)])
def test_the_wait_follows_the_nodes_retry_after(
    node: Node, said: str, waited: float, waits: list[float], tmp_path: Path
) -> None:
    def refuse(_: Any, count: int) -> Refusal | None:
        return (429, {"Retry-After": said}, b"") if count == 1 else None

    with proxy(node, refuse) as (url, _), open_chain(ChainOptions(provider=url), tmp_path):
        assert waits == [waited]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_node_that_stays_busy_is_one_line_in_the_end(
    node: Node, limit: Refusal, waits: list[float], tmp_path: Path
) -> None:
    with (
        proxy(node, lambda *_: limit) as (url, seen),
        pytest.raises(NoNodeError, match=rf"{url}.*: it is rate-limiting requests or") as caught,
    ):
        open_chain(ChainOptions(provider=url), tmp_path)
    assert "\n" not in str(caught.value)
    assert (len(seen), waits) == (5, [0.5, 1.0, 2.0, 4.0])
