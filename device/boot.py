"""Counts the boot. Can never raise: a boot.py that does keeps main.py from running."""

try:
    from node import board

    board.identity()
except Exception as error:
    print("boot:", type(error).__name__, error)
