"""Options of Flower's deployment engine (a SuperLink and SuperNodes), and a check that it answers."""

import contextlib
import ipaddress
import socket
import ssl
from pathlib import Path

from pydantic import field_validator

from fedmeta.errors import UsageError
from fedmeta.options import Options

PORT = 8000
CONNECT_SECONDS = 5.0


class DeploymentOptions(Options):
    """Where Flower's deployment engine runs.

    Attributes:
        address: Host and port of the SuperLink, which must run on this machine, as it shares its grid.
        certificate: PEM file of the authority that signed the SuperLink's certificate; None: no TLS.
        insecure: Allow an address other than loopback without TLS: anyone on the network path can read
            and change all traffic.
        roster: File written by `fedmeta federation admit`, which says which node may hold, and is paid
            for, which partition; None: any node may hold any partition.
    """

    address: str = f"127.0.0.1:{PORT}"
    certificate: str | None = None
    insecure: bool = False
    roster: str | None = None

    @field_validator("address")
    @classmethod
    def _is_host_and_port(cls, address: str) -> str:
        split_address(address)
        return address


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of ``host:port`` or ``[host]:port``.

    Raises:
        ValueError: If it is neither.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    good = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
    with contextlib.suppress(UnicodeError):
        host.encode("idna")  # as Python does when it looks the name up
        if good:
            return host, int(port)
    raise ValueError(f"'{address}' is not host:port, such as 127.0.0.1:{PORT}")


def require_encrypted(address: str, certificate: object, consent: str) -> None:
    """Refuse an address on another machine without TLS.

    Args:
        address: The SuperLink's address.
        certificate: Its authority's certificate; None: no TLS.
        consent: The setting that allows it.

    Raises:
        UsageError: If the address is not loopback and there is no certificate.
    """
    if certificate is None and not is_loopback(split_address(address)[0]):
        raise UsageError(
            f"{address} is not on this machine, and traffic without a certificate is not encrypted: "
            f"name its authority's certificate, or set {consent}"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is loopback, without looking it up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_superlink(options: DeploymentOptions) -> None:
    """Check that a SuperLink answers at the address, with a trusted certificate.

    Raises:
        UsageError: If not, with the reason; or if the address is on a network and there is no TLS.
    """
    if not options.insecure:
        require_encrypted(options.address, options.certificate, "deployment.insecure=true")
    context = _trust(options)
    host, port = split_address(options.address)
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as plain:
            if context:
                context.wrap_socket(plain, server_hostname=host).close()
            elif not _speaks_http(plain):
                raise UsageError(
                    f"{options.address} does not speak plain HTTP: if it is a SuperLink with TLS, set "
                    "deployment.certificate"
                )
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"the certificate of the SuperLink at {options.address} is invalid: {error.verify_message}"
        ) from None
    except ssl.SSLError as error:
        raise UsageError(
            f"the SuperLink at {options.address} does not speak TLS ({error.reason or error}); "
            "unset deployment.certificate if it was started with --insecure"
        ) from None
    except OSError as error:
        raise UsageError(
            f"no SuperLink at {options.address}: {error.strerror or error}; start one with "
            "`fedmeta federation up`, or set deployment.address"
        ) from None


def _speaks_http(plain: socket.socket) -> bool:
    plain.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    try:
        return plain.recv(4) == b"HTTP"
    except ConnectionError:
        return False


def _trust(options: DeploymentOptions) -> ssl.SSLContext | None:
    if options.certificate is None:
        return None
    try:
        return ssl.create_default_context(cadata=Path(options.certificate).read_text())
    except (ssl.SSLError, ValueError):
        raise UsageError(
            f"deployment.certificate: {options.certificate} does not hold a PEM certificate"
        ) from None
    except OSError as error:
        raise UsageError(
            f"deployment.certificate: {options.certificate}: {error.strerror or error}"
        ) from None
