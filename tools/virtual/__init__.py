"""A virtual ESP32: the firmware's own files on the real MicroPython, with a world around it."""

from tools.virtual.board import VirtualBoard
from tools.virtual.console import NotSaidError
from tools.virtual.process import JailError
from tools.virtual.supervisor import BoardStoppedError
from tools.virtual.world import World

__all__ = ["BoardStoppedError", "JailError", "NotSaidError", "VirtualBoard", "World"]
