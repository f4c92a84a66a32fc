"""Nodes by URL: over HTTP and WebSocket, and everything else that may answer there."""

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedmeta.chain import ChainOptions
from fedmeta.chain.errors import ChainDownError, NoNodeError, RpcError
from fedmeta.chain.providers import over_http, over_websocket
from fedmeta.chain.providers.base import Chain, decode
from fedmeta.chain.providers.node import Node, start_node
from fedmeta.chain.providers.opening import open_chain
from fedmeta.chain.providers.over_http import HttpTransport
from fedmeta.errors import UsageError
from tests.chain.providers.helpers import NOBODY, balance, deploy_token, send, sign

Answer = tuple[int, bytes]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with start_node("anvil", tmp_path_factory.mktemp("anvil")) as started:
        yield started


@contextmanager
def server(answer: Callable[[bytes, dict[str, str]], Answer]) -> Iterator[str]:
    """Serve what is not quite a node on a free port; yields its URL."""

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

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()
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
        first.stop()
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
def test_what_does_not_speak_json_rpc_is_no_node(answer: Answer, tmp_path: Path) -> None:
    with (
        server(lambda body, headers: answer) as url,
        pytest.raises(NoNodeError, match=f"answers with HTTP status {answer[0]} and no JSON-RPC"),
    ):
        open_chain(ChainOptions(provider=url), tmp_path)


def test_json_rpc_that_is_no_chain_is_refused(tmp_path: Path) -> None:
    replies = [{"id": i, "result": {"hello": "world"}} for i in range(2)]
    with (
        server(lambda body, headers: (200, json.dumps(replies).encode())) as url,
        pytest.raises(RpcError, match="is no Ethereum node"),
    ):
        open_chain(ChainOptions(provider=url), tmp_path)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_node_that_says_nothing_is_down(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (over_http, over_websocket):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
        monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ChainDownError, match=r"no answer within 0\.2 s|timed out|timeout"):
            open_chain(ChainOptions(provider=url), tmp_path)


class TestSecrets:
    SECRET = "s3cr3t-key"

    def test_messages_show_no_path_query_or_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        monkeypatch.setenv("NODE_PASSWORD", self.SECRET)
        url = f"http://user:${{NODE_PASSWORD}}@127.0.0.1:{port}/v3/{self.SECRET}?key={self.SECRET}"
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
            transport = HttpTransport(url.replace("//", f"//user:{self.SECRET}@") + "/path")
            assert transport.send([("eth_chainId", ())]) == [{"id": 0, "result": "0x1"}]
            transport.close()
        expected = base64.b64encode(f"user:{self.SECRET}".encode()).decode()
        assert {k.lower(): v for k, v in seen[0].items()}["authorization"] == f"Basic {expected}"

    def test_a_key_in_the_url_comes_from_the_environment(self, node: Node, tmp_path: Path) -> None:
        options = ChainOptions(provider=node.url + "/?key=${API_KEY}")
        with open_chain(options, tmp_path, {"API_KEY": self.SECRET}) as chain:
            assert self.SECRET not in chain.name
        with pytest.raises(UsageError, match="the environment variable API_KEY is not set"):
            open_chain(options, tmp_path, {})


class TestBatches:
    def test_answers_are_put_in_order(self) -> None:
        body = b'[{"id": 1, "result": "b"}, {"id": 0, "result": "a"}]'
        assert [reply["result"] for reply in decode(body, 2) or []] == ["a", "b"]

    def test_a_batch_that_is_refused_as_a_whole_is_refused_for_each(self) -> None:
        refusal = b'{"id": null, "error": {"code": -32600, "message": "no batches here"}}'
        with server(lambda body, headers: (200, refusal)) as url:
            transport = HttpTransport(url)
            replies = transport.send([("a", ()), ("b", ())])
            transport.close()
        assert [reply["error"]["message"] for reply in replies] == ["no batches here"] * 2

    def test_nothing_is_sent_twice(self) -> None:
        bodies: list[bytes] = []

        def answer(body: bytes, headers: dict[str, str]) -> Answer:
            bodies.append(body)
            return 503, b""

        with server(answer) as url:
            transport = HttpTransport(url)
            with pytest.raises(ChainDownError):
                transport.send([("eth_sendRawTransaction", ("0x12",))])
            transport.close()
        assert len(bodies) == 1


def test_bad_urls_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"chain\.provider: .*[Pp]ort"):
        open_chain(ChainOptions(provider="http://127.0.0.1:port"), tmp_path)
    with pytest.raises(UsageError, match="the URL has no host"):
        open_chain(ChainOptions(provider="http://:80"), tmp_path)


def test_no_chain_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no chain"):
        open_chain(ChainOptions(), tmp_path)


def test_a_chain_is_known_by_its_transport(node: Node) -> None:
    chain = Chain(HttpTransport(node.url))
    assert (chain.name, chain.chain_id) == (node.url, 31337)
    chain.close()
