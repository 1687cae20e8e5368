"""Pieces of MicroPython that work on a bare board's flash; see `VirtualBoard.serve`."""

from __future__ import annotations

CHUNK = 4096

MOUNT_ONLY = "vfs.mount(vfs.VfsLfs2(flash), '/')"
MOUNT = f"""
try:
    {MOUNT_ONLY}
except OSError:
    vfs.VfsLfs2.mkfs(flash)
    {MOUNT_ONLY}
"""
LIST = """
import os
answer[0] = found = []
def walk(folder):
    for entry in os.ilistdir(folder or '/'):
        path = folder + '/' + entry[0]
        if entry[1] == 0x4000:
            walk(path)
        else:
            found.append([path[1:], os.stat(path)[6]])
walk('')
"""


def write(path: str, content: bytes) -> list[str]:
    """Give the pieces that write a file, folders and all."""
    folders = path.strip("/").split("/")[:-1]
    code = ["import os"]
    for depth in range(len(folders)):
        folder = "/" + "/".join(folders[: depth + 1])
        code.append(f"try:\n    os.mkdir({folder!r})\nexcept OSError:\n    pass")
    first = "\n".join([*code, f"f = open('/' + {path.strip('/')!r}, 'wb')"])
    chunks = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    writes = [f"f.write(bytes.fromhex({chunk.hex()!r}))" for chunk in chunks] or ["pass"]
    writes[0] = first + "\n" + writes[0]
    writes[-1] += "\nf.close()"
    return writes


def read(path: str) -> str:
    """Give the piece that reads a whole file, in hexadecimal."""
    return f"with open('/' + {path.strip('/')!r}, 'rb') as f:\n    answer[0] = f.read().hex()"
