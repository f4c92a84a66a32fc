"""A missing SuperLink is reported in one line, within seconds, before anything starts."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmeta.errors import UsageError
from fedmeta.federation.engines.deployment import (
    DeploymentOptions,
    require_superlink,
    split_address,
)
from fedmeta.federation.engines.deployment.tls import Certificates, make_certificates


@contextmanager
def listening(made: Certificates | None = None) -> Iterator[str]:
    """A server on this machine that shakes hands, by TLS if it has certificates."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = None
        if made:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made.certificate, made.key)

        def answer() -> None:
            try:
                connection, _ = server.accept()
                with connection:
                    if context is None:
                        connection.recv(1024)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    else:
                        with context.wrap_socket(connection, server_side=True) as secure:
                            secure.recv(1)
            except OSError:
                pass  # what the other side does not like it hangs up on

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(30)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:1", ("::1", 1)),
        ("link.org:65535", ("link.org", 65535)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


BAD = [
    "",
    "8000",
    "link",
    "link:",
    ":8000",
    "link:0",
    "link:65536",
    "link:http",
    "a..b:1",
    "a" * 64 + ":1",
]


@pytest.mark.parametrize("address", BAD)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"is not host:port, such as 127\.0\.0\.1:8000"):
        split_address(address)


def test_a_superlink_without_tls_is_found() -> None:
    with listening() as address:
        require_superlink(DeploymentOptions(address=address))


def test_one_with_tls_needs_its_certificate(tmp_path: Path) -> None:
    with (
        listening(make_certificates(tmp_path, ["127.0.0.1"])) as address,
        pytest.raises(UsageError, match=r"with TLS, set deployment\.certificate"),
    ):
        require_superlink(DeploymentOptions(address=address))


def test_a_missing_server_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(UsageError, match=f"no SuperLink at {address}: Connection refused; start one"):
        require_superlink(DeploymentOptions(address=address))


def test_a_good_certificate_is_trusted(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["localhost", "127.0.0.1"])
    with listening(made) as address:
        require_superlink(DeploymentOptions(address=address, certificate=str(made.authority)))


@pytest.mark.parametrize(
    ("days", "hosts", "trusted", "reason"),
    [
        (-1.0, ["127.0.0.1"], "own", "certificate has expired"),
        (1.0, ["192.0.2.1"], "own", "IP address mismatch"),
        (1.0, ["127.0.0.1"], "another", "unable to get local issuer certificate"),
    ],
)
def test_a_bad_certificate_is_refused_with_its_reason(
    days: float, hosts: list[str], trusted: str, reason: str, tmp_path: Path
) -> None:
    made = {name: make_certificates(tmp_path / name, hosts, days) for name in ("own", "another")}
    with listening(made["own"]) as address:
        options = DeploymentOptions(address=address, certificate=str(made[trusted].authority))
        with pytest.raises(UsageError, match=f"certificate of the SuperLink at {address} .*{reason}"):
            require_superlink(options)


def test_tls_where_the_superlink_has_none_is_refused(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["127.0.0.1"])
    with listening() as address:
        options = DeploymentOptions(address=address, certificate=str(made.authority))
        with pytest.raises(UsageError, match=r"does not speak TLS .* unset deployment\.certificate"):
            require_superlink(options)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), ("hello", "does not hold a PEM certificate")],
)
def test_a_certificate_that_cannot_be_read_is_named(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=rf"deployment\.certificate: .*ca\.crt.* {message}"):
        require_superlink(DeploymentOptions(certificate=str(path)))


@pytest.mark.parametrize(
    "address", ["192.0.2.7:8000", "link.example.org:8000", "[2001:db8::1]:8000", "0.0.0.0:8000"]
)
def test_another_address_than_loopback_needs_tls_or_explicit_consent(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> socket.socket:
        raise OSError("tried to connect")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UsageError, match=r"is not encrypted: .* or set deployment\.insecure=true"):
        require_superlink(DeploymentOptions(address=address))
    with pytest.raises(UsageError, match=r"no SuperLink at .*: tried to connect"):
        require_superlink(DeploymentOptions(address=address, insecure=True))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "127.8.9.10:1", "[::1]:8000", "localhost:8000", "LOCALHOST:1"]
)
def test_loopback_addresses_need_no_tls(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> socket.socket:
        raise OSError("tried to connect")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UsageError, match="tried to connect"):
        require_superlink(DeploymentOptions(address=address))
