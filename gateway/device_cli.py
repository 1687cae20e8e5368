"""`tidegate device`: the credentials file, changed by people."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from fcntl import LOCK_EX, flock
from pathlib import Path

import click

from gateway import config as config_file
from gateway.credentials import (
    CERTIFICATE,
    GENERATED_LOG_N,
    NAME,
    PASSWORD_MOST,
    REVOKED,
    TYPED_LOG_N,
    Credential,
    hash_password,
    new_password,
    parse,
    render,
)
from gateway.errors import ConfigError, CredentialsError

_CONFIG = click.option("-c", "--config", "path", type=click.Path(path_type=Path),
                       default=Path("/etc/tidegate/tidegate.toml"), show_default=True,
                       help="The config file (TOML).")
_STDIN = click.option("--password-stdin", is_flag=True,
                      help="Take the password from standard input instead of making one.")


@click.group()
def device() -> None:
    """Who may log in: add, list, revoke, rotate. A running gateway follows within two seconds."""


@device.command()
@_CONFIG
@_STDIN
@click.option("--certificate", is_flag=True, help="No password: it shows a client certificate.")
@click.argument("name")
def add(path: Path, name: str, password_stdin: bool, certificate: bool) -> None:
    """Add a device and print its password, once."""
    with _changing(path) as credentials:
        if not NAME.fullmatch(name):
            raise CredentialsError(f"{name!r}: use 1 to 32 of A-Z a-z 0-9 _ -")
        if name in credentials and not credentials[name].revoked:
            raise CredentialsError(f"{name}: is there already; rotate gives it a new password")
        _give(credentials, name, password_stdin, certificate)


@device.command()
@_CONFIG
@_STDIN
@click.argument("name")
def rotate(path: Path, name: str, password_stdin: bool) -> None:
    """Give a device a new password and print it; the old one ends at once."""
    with _changing(path) as credentials:
        _known(credentials, name)
        if credentials[name].hash == CERTIFICATE:
            raise CredentialsError(f"{name}: logs in by certificate; make it a new one with "
                                   "`tidegate certs device`")
        _give(credentials, name, password_stdin, certificate=False)


@device.command()
@_CONFIG
@click.argument("name")
def revoke(path: Path, name: str) -> None:
    """Take a device's credential away, password and certificate; it is disconnected."""
    with _changing(path) as credentials:
        _known(credentials, name)
        credentials[name] = Credential(name, REVOKED, _today())
    click.echo(f"{name}: revoked")


@device.command("list")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(path: Path, as_json: bool) -> None:
    """List who may log in."""
    file = _file(path)
    rows = [(c.name, c.hash if c.hash in (CERTIFICATE, REVOKED) else "password", c.added)
            for _, c in sorted(_read(file).items())]
    if as_json:
        click.echo(json.dumps([dict(zip(("name", "login", "since"), row, strict=True))
                               for row in rows]))
        return
    for name, how, added in rows:
        click.echo(f"{name:<32}  {how:<11}  {added}")


def _give(credentials: dict[str, Credential], name: str, password_stdin: bool,
          certificate: bool) -> None:
    if certificate:
        credentials[name] = Credential(name, CERTIFICATE, _today())
        click.echo(f"{name}: logs in by certificate", err=True)
        return
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
        if not 8 <= len(password.encode()) <= PASSWORD_MOST:
            raise CredentialsError(f"a password has 8 to {PASSWORD_MOST} bytes")
        stored = hash_password(password.encode(), TYPED_LOG_N)
        click.echo(f"{name}: has the password from standard input", err=True)
    else:
        password = new_password()
        stored = hash_password(password.encode(), GENERATED_LOG_N)
        click.echo(f"{name}: its password, which is shown this once:", err=True)
        click.echo(password)
    credentials[name] = Credential(name, stored, _today())


def _known(credentials: dict[str, Credential], name: str) -> None:
    if name not in credentials or credentials[name].revoked:
        raise CredentialsError(f"{name}: not there; `tidegate device list` says who is")


def _today() -> str:
    return date.today().isoformat()


def _file(path: Path) -> Path:
    named = config_file.load(path, running=False, look=False).listener.credentials
    if named is None:
        raise ConfigError(str(path), "listener.credentials", "not set: write "
                          'credentials = "credentials"')
    return Path(named)


def _read(file: Path) -> dict[str, Credential]:
    try:
        return parse(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{file}: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One change at a time. The folder is locked, since the file itself is replaced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, Credential]]:
    """The credentials, written back as a whole, with the owner and mode that the file had; a file
    that is not there yet is for whoever may read the config, and for nobody else."""
    file = _file(path)
    try:
        with _locked(file.parent):
            there = file.exists()
            credentials = parse(file.read_text() if there else "", str(file))
            yield credentials
            stat = (file if there else path).stat()
            with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.",
                                             delete=False) as new:
                try:
                    os.fchmod(new.fileno(), stat.st_mode & (0o777 if there else 0o640))
                    if os.geteuid() == 0:
                        os.fchown(new.fileno(), stat.st_uid, stat.st_gid)
                    new.write(render(credentials))
                    new.flush()
                    os.fsync(new.fileno())
                    Path(new.name).replace(file)
                except BaseException:
                    Path(new.name).unlink(missing_ok=True)
                    raise
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{file}: {error}") from error
