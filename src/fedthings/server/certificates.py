"""Certificates for one machine, made: an authority of one's own, the broker's, and others for mutual TLS (RFC 5280)."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedthings.errors import SpecError, StoreError
from fedthings.identity.files import private
from fedthings.server.roll import check
from fedthings.server.tls import BROKER, CLIENTS, FOLDER, mosquitto_lines
from fedthings.transport.topics import COORDINATOR

AUTHORITY_LASTS, LASTS = 3650, 825
"""Days; clients refuse certificates of servers that last longer than 825."""


def make(directory: Path, names: Sequence[str] = (), clients: Sequence[str] = ()) -> list[Path]:
    """Make what a broker on this machine needs for TLS, under `names` beside those that it has; return the files.

    With `clients`, a certificate for each: the broker then asks everyone for one. What is there of the authority is
    kept, so that those who know it need nothing new. Raises SpecError, StoreError.
    """
    folder = directory / FOLDER
    for client in clients:
        check(client)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        if clients:
            (folder / CLIENTS).mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}") from None
    key, authority = _authority(folder)
    made = [folder / "ca.pem"]
    made += _issue(folder / BROKER, key, authority, COORDINATOR, _names(names))
    for client in {COORDINATOR: 0, **dict.fromkeys(clients)} if clients else {}:
        made += _issue(folder / CLIENTS / client, key, authority, client)
    return made


def configuration(directory: Path) -> Path:
    """Write mosquitto.conf(5) for a broker of one's own, with the files of `fedthings devices acl`; return where."""
    where = directory.resolve()
    path = where / FOLDER / "mosquitto.conf"
    lines = ["listener 8883", *mosquitto_lines(where), "allow_anonymous false"]
    lines += [f"password_file {where / 'broker.passwords'}", f"acl_file {where / 'broker.access'}"]
    lines += ["set_tcp_nodelay true", "max_queued_messages 1000000"]
    private(path, "\n".join(lines) + "\n")
    return path


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the authority in `folder`, which is made where there is none."""
    try:
        if (folder / "ca.key").is_file():
            key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            return key, x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    except (OSError, ValueError, AssertionError) as error:
        raise StoreError(
            f"the authority in {folder} cannot be read ({error}): bring it back, or move it away"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedthings {os.urandom(4).hex()}")])
    builder = _builder(name, name, key.public_key(), AUTHORITY_LASTS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    _write(folder / "ca", key, [certificate])
    return key, certificate


def _issue(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    common: str,
    names: Sequence[x509.GeneralName] = (),
) -> list[Path]:
    """Write a certificate and its key beside `path`: a server's with `names`, or a client's."""
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    builder = _builder(subject, authority.subject, own.public_key(), LASTS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(), critical=True)
    use = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _write(path, own, [builder.sign(key, hashes.SHA256())])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # of clocks that differ a little
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(more: Sequence[str]) -> list[x509.GeneralName]:
    """Return under which names this machine is called: its own, those of the loopback, and `more`. Raises SpecError."""
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname(), *more]):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not name.isascii() or not name or " " in name:
                raise SpecError(f"{name!r} is no host's name: use letters, digits, dots and -") from None
            found.append(x509.DNSName(name))
    return found


def _write(path: Path, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> list[Path]:
    names = [path.with_name(f"{path.name}.pem"), path.with_name(f"{path.name}.key")]
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private(names[1], secret)
    private(names[0], b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
    return names
