"""The node: all that the firmware is."""

import sys

VERSION = "0.1.0"


def once(name):
    """Import a module of ours for one use: let go of it, and its heap is free again.

    Half of the code runs once at the start or once a day, and bytecode lies in the heap.
    """
    full = "node." + name
    module = __import__(full, None, None, ("",))
    sys.modules.pop(full, None)
    globals().pop(name, None)  # a package keeps its modules as attributes as well
    return module
