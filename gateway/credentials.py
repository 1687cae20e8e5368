"""Who may log in: a file of names and slow hashes, and a fast check of passwords seen before.

One line a device, `name:hash:added`, `#` begins a comment. The hash is
`scrypt$log2(N)$r$p$salt$key` (RFC 7914), `certificate` for a device that only ever shows a client
certificate, or `revoked`.

Rules of the check:
- scrypt takes tens of milliseconds and megabytes, on purpose. After a restart two hundred devices
  come back at once, and again whenever Wi-Fi blinks. So a password that was right is remembered as
  an HMAC under a key that lives in this process alone, beside the hash it was right for.
- Where a device's right password is remembered, any other is wrong without scrypt: a storm of
  wrong ones costs microseconds. Wrong ones are remembered too, up to WRONG_MOST.
- A changed hash (rotate, revoke) forgets, since what is remembered is bound to it.

Reading and writing the file is in gateway/device_cli.py and gateway/door.py; nothing here waits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections import OrderedDict

from msgspec import Struct

from gateway.errors import CredentialsError

NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")  # as docs/contract.md has it
CERTIFICATE, REVOKED = "certificate", "revoked"
# A generated password has 130 random bits: no hash needs to be slow for it. This one is chosen for
# a Pi Zero 2, where it takes about as long as a TLS handshake. One typed by a person gets more.
GENERATED_LOG_N, TYPED_LOG_N = 12, 15
PASSWORD_MOST = 256
WRONG_MOST = 1000
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no 0 o 1 l i: people read it off a screen


class Credential(Struct, frozen=True):
    """One line of the file. added: the day, for people."""

    name: str
    hash: str
    added: str = ""

    @property
    def revoked(self) -> bool:
        return self.hash == REVOKED


def new_password() -> str:
    """A password no one can guess: 26 letters and digits, 128 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(26))


def hash_password(password: bytes, log_n: int = GENERATED_LOG_N) -> str:
    """The line's second field for a password. Slow."""
    salt = os.urandom(16)
    return f"scrypt${log_n}$8$1${_text(salt)}${_text(_scrypt(password, salt, log_n, 8, 1))}"


def right(stored: str, password: bytes) -> bool:
    """Whether a password is the one that was hashed. Slow; for a thread."""
    kind, *fields = stored.split("$")
    if kind != "scrypt":
        return False
    log_n, r, p, salt, key = fields
    return hmac.compare_digest(
        _scrypt(password, base64.b64decode(salt), int(log_n), int(r), int(p)),
        base64.b64decode(key))


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << log_n, r=r, p=p, dklen=32,
                          maxmem=256 * r << log_n)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


_HASH = re.compile(r"scrypt\$(1[0-9]|20)\$([1-9]|1[0-6])\$[1-4]\$[A-Za-z0-9+/]{22}==\$"
                   r"[A-Za-z0-9+/]{43}=|certificate|revoked")


def parse(text: str, file: str) -> dict[str, Credential]:
    """The credentials in a file's text. Raises CredentialsError, whose text names the line."""
    found: dict[str, Credential] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        stored, _, added = rest.partition(":")
        if not NAME.fullmatch(name) or not _HASH.fullmatch(stored):
            raise CredentialsError(f"{file}: line {number}: not name:hash:day; "
                                   "`tidegate device add` writes it right")
        if name in found:
            raise CredentialsError(f"{file}: line {number}: {name} stands there twice")
        found[name] = Credential(name, stored, added)
    return found


def render(credentials: dict[str, Credential]) -> str:
    """The file's text."""
    lines = ["# name:hash:added, written by `tidegate device`. Who reads this cannot log in with "
             "it,", "# who writes it can let anybody in."]
    lines += [f"{c.name}:{c.hash}:{c.added}" for _, c in sorted(credentials.items())]
    return "\n".join(lines) + "\n"


class Memory:
    """What was checked before, in this process."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._right: dict[str, tuple[str, bytes]] = {}  # name → (stored hash, HMAC)
        self._wrong: OrderedDict[bytes, None] = OrderedDict()

    def known(self, credential: Credential, password: bytes) -> bool | None:
        """Whether the password is right, where that is known without scrypt; None: ask `right`."""
        mark = self._mark(credential, password)
        remembered = self._right.get(credential.name)
        if remembered is not None and remembered[0] == credential.hash:
            return hmac.compare_digest(remembered[1], mark)
        if not credential.hash.startswith("scrypt$"):
            return False
        return False if mark in self._wrong else None

    def learn(self, credential: Credential, password: bytes, was_right: bool) -> None:
        """Remember what `right` said."""
        mark = self._mark(credential, password)
        if was_right:
            self._right[credential.name] = (credential.hash, mark)
            return
        self._wrong[mark] = None
        if len(self._wrong) > WRONG_MOST:
            self._wrong.popitem(last=False)

    def keep(self, credentials: dict[str, Credential]) -> None:
        """Forget those who are not there any more."""
        self._right = {name: mark for name, mark in self._right.items() if name in credentials}

    def _mark(self, credential: Credential, password: bytes) -> bytes:
        head = f"{credential.name}:{credential.hash}:".encode()
        return hmac.digest(self._key, head + password, "sha256")
