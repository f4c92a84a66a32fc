"""Test certificates are valid for the hosts they name, and their keys are private."""

import contextlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtensionOID

from fedmeta.federation.engines.deployment.tls import make_certificates, make_node_key


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> str | None:
    """Let two sides meet in memory; return what they speak."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, server_hostname="localhost")
    theirs = server.wrap_bio(there, back, server_side=True)
    for side in (ours, theirs, ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return ours.version()


def test_the_authority_signed_the_certificate_and_nobody_else_reads_its_key(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["localhost", "127.0.0.1"])
    authority = load_pem_x509_certificate(made.authority.read_bytes())
    certificate = load_pem_x509_certificate(made.certificate.read_bytes())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert [str(name.value) for name in names.value] == ["localhost", "127.0.0.1"]  # type: ignore[attr-defined]
    strict = ssl.create_default_context(cafile=str(made.authority))
    # What Python does by default from 3.13 on.
    strict.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    assert shake_hands(strict, server) == "TLSv1.3"
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "server.crt", "server.key"]


def test_a_node_has_a_key_of_its_own_on_the_curve_that_flower_asks_for(tmp_path: Path) -> None:
    one, other = (make_node_key(tmp_path, name) for name in ("one", "other"))
    private = load_ssh_private_key(one.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    assert private.public_key() == load_ssh_public_key(one.public.read_bytes())
    assert one.public.read_bytes() != other.public.read_bytes()
    assert one.private.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_keys_and_their_folders_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        key = make_node_key(tmp_path / "keys", "one").private
        made = make_certificates(tmp_path / "server", ["localhost"])
    finally:
        os.umask(before)
    for private in (key, made.key):
        assert private.stat().st_mode & 0o777 == 0o600
        assert private.parent.stat().st_mode & 0o777 == 0o700
