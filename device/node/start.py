"""From power-on to the loop, and out of it again without harm."""

import gc
import sys
import time

from micropython import const

from node import board, once

_AGAIN_S = const(10)


def main():
    """Run the node until Ctrl-C; after an error say it and reset, so that it never just stops."""
    gc.threshold(2048)  # collect often: what stays then lies close together, and large pieces
    try:  # (the ring, a TLS record) still fit when the heap is small
        app = _node()
        gc.collect()
        if app:
            app.run()  # else to the prompt: there is nothing to do without settings
    except KeyboardInterrupt:
        _let_go()
        print("stopped; the prompt is yours")
    except Exception as error:
        sys.print_exception(error)
        print("restart in %d s; Ctrl-C to stop that" % _AGAIN_S)
        try:
            time.sleep(_AGAIN_S)
        except KeyboardInterrupt:
            _let_go()
            return
        board.reset()


def _let_go():
    """Relax the watchdog, also when Ctrl-C comes twice, as terminals send it."""
    while True:
        try:
            return board.relax_watchdog()
        except KeyboardInterrupt:
            pass


def _node():
    """Return the App, or None. A frame of its own: what main()'s held would stay."""
    try:
        settings = once("settings").load()
    except ValueError as error:
        print(error)
        return None
    return once("wiring").build(settings)
