"""Certificates and keys for trying out a federation on one machine."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmeta.files import open_new

DAYS = 30
"""Days that certificates are valid; bring your own for a permanent federation."""
EARLIER = timedelta(minutes=5)
"""Certificates are valid from this long ago, as machines' clocks differ."""


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files.

    Attributes:
        authority: Certificate of the authority, which clients trust.
        certificate: The SuperLink's certificate.
        key: The SuperLink's private key.
    """

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class NodeKey:
    """Paths of a SuperNode's keys, in OpenSSH format."""

    private: Path
    public: Path


def make_certificates(folder: Path, hosts: Sequence[str], days: float = DAYS) -> Certificates:
    """Make an authority, and a certificate for a SuperLink signed by it.

    Args:
        folder: Where they go.
        hosts: Names and addresses of the SuperLink.
        days: How long they are valid.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = datetime.now(UTC) + timedelta(days=days)
    own, link = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    name = _name("fedmeta authority")
    names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    authority = (
        _builder(name, name, own, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .sign(own, hashes.SHA384())
    )
    certificate = (
        _builder(_name("fedmeta SuperLink"), name, link, until)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), critical=False
        )
        .sign(own, hashes.SHA384())
    )
    made = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    made.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    _write_private(
        made.key, link.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return made


def make_node_key(folder: Path, name: str) -> NodeKey:
    """Make the P-384 keys that authenticate a SuperNode to a SuperLink."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    made = NodeKey(folder / name, folder / f"{name}.pub")
    _write_private(made.private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    made.public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return made


_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in allowed for use in _USES})


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), until) - EARLIER)
        .not_valid_after(until)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with open_new(path, 0o600) as file:
        file.write(content)
