"""Lock a virtual board in, then become it: `python jail.py ROOT PARENT FDS COMMAND`.

MicroPython's unix port shows the host's root to the firmware, so the host's files have to be
out of reach before it starts. Rules, first that applies:

    root            chroot into ROOT, then an unprivileged user of its own, for good
    an ordinary one a user namespace with ROOT, read-only, as its root; no rights left in it
    no namespaces   Landlock: nothing but ROOT, and that read-only
    none of these   refuse, with one line on stderr and exit code 3

FDS are six descriptors, which become 0 to 5; no other is passed on. The board dies with the
process that started it.
This file runs by itself (`python -I`), before anything of this project is imported.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import struct
import sys

REFUSED = 3
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 1 << 17, 1 << 26, 1 << 27, 1 << 28
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 32, 4096, 16384
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_READ = 0b1101  # execute, read file, read directory
LANDLOCK_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1}  # file rights by ABI version; 3 and up: 15
FIRST_UID, UIDS = 60100, 4000  # a range that Debian keeps free of accounts

libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """This way of locking in does not work here."""


def call(name: str, *arguments: object) -> int:
    """Call libc; a failure is RefusedError with its reason."""
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        raise RefusedError(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def by_user(root: str) -> str:
    """Root only: chroot, then a user that owns nothing."""
    uid = FIRST_UID + os.getpid() % UIDS
    try:
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise RefusedError(f"chroot and setuid: {error.strerror}") from error
    return ""


def by_namespace(root: str) -> str:
    """An ordinary user: a user namespace in which nothing but `root` is there, read-only."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - kept to os and ctypes
            file.write(line)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    here = root.encode()
    call("mount", here, here, None, MS_BIND | MS_REC, None)
    kept = os.statvfs(root).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    flags = MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | kept
    call("mount", here, here, None, flags, None)
    try:
        os.chroot(root)
        os.chdir("/")
    except OSError as error:
        raise RefusedError(f"chroot: {error.strerror}") from error
    return ""  # exec as a user that is not 0 drops the namespace's rights


def by_landlock(root: str) -> str:
    """Where there are no namespaces: the kernel's rule that only `root` may be read."""
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise RefusedError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    rights = struct.pack("<Q", LANDLOCK_ALL.get(version, (1 << 15) - 1))
    ruleset = call("syscall", LANDLOCK_CREATE, rights, ctypes.c_size_t(len(rights)), 0)
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY)
    rule = struct.pack("<Qi", LANDLOCK_READ, folder)
    call("syscall", LANDLOCK_ADD, ruleset, 1, rule, 0)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("syscall", LANDLOCK_RESTRICT, ruleset, 0)
    os.chdir(root)
    return root


def lock_in(root: str) -> str:
    """Lock this process in; gives what `root` is called from inside. Raises RefusedError."""
    ways = [by_user] if os.getuid() == 0 else [by_namespace, by_landlock]
    reasons = []
    for way in ways:
        try:
            return way(root)
        except RefusedError as reason:
            reasons.append(str(reason))
        except OSError as error:
            reasons.append(f"{way.__name__}: {error.strerror}")
    raise RefusedError("; ".join(reasons))


def place(given: list[int]) -> None:
    """Make `given` the descriptors 0, 1, 2 and so on, whatever they are now; close all others."""
    free = max(*given, len(given)) + 1  # a copy from here on takes no other's place
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, free) for fd in given]
    for at, fd in enumerate(copies):
        os.dup2(fd, at)
    os.closerange(len(given), resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def main() -> int:
    """Lock in and become the command; `{}` in it stands for the root as seen from inside."""
    root, parent = sys.argv[1], int(sys.argv[2])
    given = [int(word) for word in sys.argv[3].split(",")]
    command = sys.argv[4:]
    try:
        inside = lock_in(root)
    except RefusedError as reason:
        print(f"virtual board: cannot be locked away from your files: {reason}", file=sys.stderr)
        return REFUSED
    if os.getuid() == 0:
        print("virtual board: would run as root", file=sys.stderr)
        return REFUSED
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 0
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's child has it ignored
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    place(given)
    command = [word.replace("{}", inside) for word in command]
    os.execve(command[0], command, {"MICROPYPATH": f"{inside}/rom", "HOME": "/"})
    return REFUSED  # not reached: exec does not return


if __name__ == "__main__":
    sys.exit(main())
