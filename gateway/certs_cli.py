"""`tidegate certs`: a small authority for those who have none."""

from __future__ import annotations

import socket
from pathlib import Path
from types import ModuleType

import click

from gateway.credentials import NAME
from gateway.errors import CertificateError

_FOLDER = click.option("-d", "--folder", type=click.Path(path_type=Path),
                       default=Path("/etc/tidegate/certs"), show_default=True,
                       help="Where the keys and certificates are.")
_DAYS = click.IntRange(1, 36_500)


def _authority() -> ModuleType:
    try:
        from gateway import certs
    except ModuleNotFoundError as error:
        raise CertificateError(f"certs needs {error.name}: pip install 'tidegate[certs]'") \
            from error
    return certs


@click.group()
def certs() -> None:
    """Make a small CA, and certificates for the gateway and its devices."""


@certs.command()
@_FOLDER
@click.option("--name", default="Tidegate CA", show_default=True)
def ca(folder: Path, name: str) -> None:
    """Make the authority: ca.crt for the devices, ca.key to be kept safe."""
    click.echo(_authority().make_ca(folder, name))


@certs.command()
@_FOLDER
@click.option("--days", default=825, show_default=True, type=_DAYS)
@click.option("--replace", is_flag=True, help="Put it in place of one that is there.")
@click.argument("hosts", nargs=-1)
def server(folder: Path, hosts: tuple[str, ...], days: int, replace: bool) -> None:
    """Make the gateway's certificate, for the names and addresses that devices connect to."""
    named = list(hosts) or [socket.gethostname(), f"{socket.gethostname()}.local"]
    click.echo(_authority().issue(folder, "server", named[0], named, days, replace=replace))


@certs.command()
@_FOLDER
@click.option("--days", default=3650, show_default=True, type=_DAYS)
@click.option("--replace", is_flag=True, help="Put it in place of one that is there.")
@click.argument("name")
def device(folder: Path, name: str, days: int, replace: bool) -> None:
    """Make a device's certificate. `tidegate device add --certificate NAME` lets it in."""
    if not NAME.fullmatch(name) or name in ("ca", "server"):
        raise CertificateError(f"{name!r}: use 1 to 32 of A-Z a-z 0-9 _ -, and not ca or server")
    click.echo(_authority().issue(folder, name, name, [], days, replace=replace))
