"""What the commands for boards share: their options, their choice of a board, their one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tools.boards import Board

BOARD = click.option("--board", "board_id", help="The board file, by name or its beginning.")
PORT = click.option(
    "--port", "-p", envvar="PORT", help="Its serial port; not needed if only one is there."
)


class Failure(click.ClickException):
    """One line, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line without decoration."""
        click.echo(f"tidegate: {self.message}", err=True)


@contextmanager
def told() -> Iterator[None]:
    """Turn what the tools raise into one line."""
    from tools.board_errors import LinkError
    from tools.boards import BoardError
    from tools.debian import FetchError
    from tools.firmware import CompileError
    from tools.virtual import JailError
    from tools.virtual.control import ControlError

    try:
        yield
    except (LinkError, BoardError, FetchError, CompileError, JailError, ControlError) as error:
        raise Failure(str(error)) from error


def choose(port: str | None, board_id: str | None) -> tuple[str, Board | None]:
    """Give the port, the only one if none was named, and the board file if one can be told."""
    from tools import boards, serial_port
    from tools.virtual import control

    virtual = control.running()
    real = serial_port.ports()
    if port is None:
        found = [board.port for board in virtual] + [there.path for there in real]
        if len(found) != 1:
            what = "no board is plugged in" if not found else f"there are {', '.join(found)}"
            raise Failure(f"{what}: say which with --port")
        port = found[0]
    if board_id is not None:
        return port, boards.load(board_id)
    for played in virtual:
        if played.port == port:
            return port, boards.load(played.board)
    for there in real:
        if there.path == port:
            fitting = boards.fitting(there.vendor, there.product)
            if len(fitting) == 1:
                return port, fitting[0]
    return port, None


def powered(port: str) -> str:
    """Insist that a virtual board has power; gives the port. Of a real one nobody can tell."""
    from tools.virtual import control

    played = control.find(port)
    if played is not None and not played.do("status")["on"]:
        raise Failure(f"{port}: it has no power: tidegate board do power-on")
    return port


def needed(board: Board | None) -> Board:
    """Insist on a board file."""
    from tools import boards

    if board is None:
        raise Failure(f"say which board it is with --board; there are {', '.join(boards.names())}")
    return board
