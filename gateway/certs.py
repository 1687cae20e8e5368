"""A small certificate authority in a folder: the only file that imports cryptography.

    ca.crt ca.key               the authority; ca.key belongs on no device
    server.crt server.key       the gateway, for its names and addresses
    <device>.crt <device>.key   a device; its common name is the name it logs in with

Keys are P-256: the ESP32's mbedTLS takes it, and a handshake costs a Pi a few milliseconds.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.errors import CertificateError

CA_DAYS, SERVER_DAYS, DEVICE_DAYS = 7300, 825, 3650
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def make_ca(folder: Path, name: str, days: int = CA_DAYS) -> Path:
    """Make the authority. Raises CertificateError where there is one already."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{folder}: cannot be made: {error.strerror}") from error
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                       critical=False)
        .sign(key, hashes.SHA256()))
    return _write(folder, "ca", key, certificate, replace=False)


def issue(folder: Path, file: str, name: str, hosts: list[str], days: int, *,
          replace: bool = False) -> Path:
    """Make a key and a certificate for it; returns the certificate's path.

    file: the files' name without suffix. hosts: names and addresses of a server; none for a
    client. days: how long it is valid; below 0 it has expired already.
    """
    try:
        ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise CertificateError(f"{folder}: no authority there ({error}); make one with "
                               "`tidegate certs ca`") from error
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(name), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([SERVER if hosts else CLIENT]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                       critical=False))
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    return _write(folder, file, key, builder.sign(ca_key, hashes.SHA256()), replace=replace)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey,
             days: int) -> x509.CertificateBuilder:
    # A day earlier: a Pi without a clock of its own may think that it is yesterday.
    now = datetime.now(UTC).replace(microsecond=0)
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=min(days, 0) - 1))
            .not_valid_after(now + timedelta(days=days)))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(folder: Path, file: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate,
           *, replace: bool) -> Path:
    """The key for its owner alone, a server's also for the group of the folder: in /etc/tidegate
    that is the gateway's. What is replaced keeps owner and mode."""
    key_path, path = folder / f"{file}.key", folder / f"{file}.crt"
    try:
        _place(key_path, key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()), 0o640 if file == "server" else 0o600, replace)
        _place(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644, True)
    except FileExistsError as error:
        raise CertificateError(f"{key_path}: is there already, and is left alone") from error
    except OSError as error:
        raise CertificateError(f"{key_path}: {error.strerror}") from error
    return path


def _place(path: Path, data: bytes, mode: int, replace: bool) -> None:
    """Write a file whole or not at all. Raises FileExistsError, OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
        new = Path(folder, path.name)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if replace and path.exists():
            before = path.stat()
            mode = before.st_mode & 0o777
            if os.geteuid() == 0:
                os.chown(new, before.st_uid, before.st_gid)
        new.chmod(mode)
        if replace:
            new.replace(path)
        else:
            path.hardlink_to(new)
