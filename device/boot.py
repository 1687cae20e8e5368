"""Choose the slot, count the boot. Can never raise: main.py would not be run then.

NVS names the slot, /a (0) or /b (1). One whose manifest has no end is not whole, and the other
is taken: see docs/firmware.md. This file and main.py serve whatever release lies in either.
"""


def load():  # names are those that the firmware has too: a new one would stay in the heap for good
    import sys

    try:
        import esp32

        boot = esp32.NVS("tidegate").get_i32("slot")
    except Exception:  # never set, or this board has no NVS
        boot = -1
    for path in ("/b", "/a") if boot == 1 else ("/a", "/b"):
        try:
            with open("%s/manifest" % path, "rb") as f:
                f.seek(-5, 2)
                if f.read(5) != b"\nend\n":
                    continue
        except OSError:
            continue
        sys.path[:0] = [path]
        if boot < 0:
            print("boot: no slot is chosen, %s runs" % path)
        elif path != ("/a", "/b")[boot == 1]:
            print("boot: the chosen slot is not whole, %s runs" % path)
        return
    print("boot: neither /a nor /b is whole; `tidegate board deploy` writes the firmware")


try:
    load()
    del load
    from node import board

    board.identity()
except Exception as error:
    print("boot:", type(error).__name__, error)
