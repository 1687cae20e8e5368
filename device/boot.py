"""Counts the boot. Can never raise: a boot.py that does keeps main.py from running."""

try:
    import swap  # noqa: F401 - there only if a deploy was cut off in its last step: this ends it
except ImportError:
    pass
except Exception as error:
    print("boot:", type(error).__name__, error)

try:
    from node import board

    board.identity()
except Exception as error:
    print("boot:", type(error).__name__, error)
