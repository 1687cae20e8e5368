# The wire to the machine that plays the world around this board: one JSON line a word.
import json

_wire = open(3, "r+b")
_number = 0
handlers = {}  # pin number: what to call when the world moves that pin


def tell(*words):
    """Say something that wants no answer."""
    _wire.write(json.dumps((0,) + words) + "\n")


def ask(*words):
    """Ask, and wait for the answer. An answer to a question that Ctrl-C broke off is skipped."""
    global _number
    _number += 1
    number = _number
    _wire.write(json.dumps((number,) + words) + "\n")
    while True:
        try:
            answer = json.loads(_wire.readline())
        except ValueError:  # what is left of an answer that Ctrl-C cut in two
            continue
        if isinstance(answer, list) and len(answer) == 4 and answer[0] == number:
            break
    for pin in answer[3]:
        if pin in handlers:
            handlers[pin]()
    if answer[2] is not None:
        raise OSError(answer[2])
    return answer[1]


def quiet():
    """From here on Ctrl-C is a character; one that was pressed before is swallowed."""
    while True:
        try:
            ask("kbd", -1)
            for _ in range(20):  # a pending interrupt is raised at a jump
                pass
            return
        except KeyboardInterrupt:
            pass
