"""The door between the listener and the house: who is it, and may it do that?

It stands there only where `[listener] credentials` says so; without, the listener hands on to
clients.py directly. Rules:

- CONNECT waits at the door until its password is checked; nothing behind it is read meanwhile.
  What credentials.Memory knows is answered at once, the rest by one thread: a storm of logins
  takes its turn and holds up nobody who is in.
- A failed login is answered late (throttle.py), logged and counted.
- Client identifiers live in the name's own space (`name:identifier`, or just the name where they
  are the same), so nobody takes over somebody else's session.
- Publishing or subscribing where no rule allows it closes the connection, with its will.
- When the file changes, those whose credential is gone or another are sent away; no one else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import wire
from gateway.acl import ANONYMOUS, Allow, Permit
from gateway.credentials import PASSWORD_MOST, Credential, Memory, parse, right
from gateway.errors import CredentialsError, ProtocolError
from gateway.listener import Connection, House
from gateway.throttle import Throttle

log = logging.getLogger("tidegate.door")

WAITING_MOST = 1000  # logins at the door
FAILING_MOST = 8  # of them, from an address that failed before
WAITING_BYTES = 65_536  # of payload behind one CONNECT
BAD, FORBIDDEN, TOPIC, BUSY = ("bad credentials", "not authorized", "topic not its own",
                               "too many logins")


class Door:
    """Implements listener.House in front of another one."""

    def __init__(self, house: House, path: Path, rules: list[Allow], *,
                 allow_anonymous: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._house, self._path, self._rules = house, path, rules
        self._allow_anonymous = allow_anonymous
        self._file_is: tuple[int, int, int] | None = None
        self._credentials: dict[str, Credential] = {}
        self._memory, self._throttle = Memory(), Throttle()
        self._thread = ThreadPoolExecutor(1, "logins")
        self._waiting: dict[Connection, list[wire.Packet]] = {}
        self._addresses: Counter[str] = Counter()  # of those who wait
        self._inside: dict[Connection, Credential | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._read()

    # --- listener.House

    def received(self, conn: Connection, packets: list[wire.Packet], now_s: float) -> None:
        permit = conn.permit
        if permit is None:
            self._arrived(conn, packets, now_s)
            return
        known = permit.known
        for index, packet in enumerate(packets):
            if type(packet) is wire.Publish:
                if packet.topic in known or permit.may_publish(packet.topic):
                    continue
                topic = packet.topic
            elif type(packet) is wire.Subscribe:
                topics = [f for f, qos in packet.filters
                          if qos >= 0 and not permit.may_subscribe(f)]
                if not topics:
                    continue
                topic = topics[0]
            else:
                continue
            self._house.received(conn, packets[:index], now_s)  # what it did before it counts
            raise ProtocolError(TOPIC, f"{permit.name or 'anonymous'}: {topic[:120]}")
        self._house.received(conn, packets, now_s)

    def closed(self, conn: Connection, clean: bool) -> None:
        self._inside.pop(conn, None)
        if self._waiting.pop(conn, None) is None:
            self._house.closed(conn, clean)

    def writable(self, conn: Connection) -> None:
        self._house.writable(conn)

    # --- logging in

    def _arrived(self, conn: Connection, packets: list[wire.Packet], now_s: float) -> None:
        waiting = self._waiting.get(conn)
        if waiting is not None:
            waiting += packets
            if sum(len(p.payload) for p in waiting if type(p) is wire.Publish) > WAITING_BYTES:
                raise ProtocolError(BUSY, "sends before it was let in")
            return
        first = packets[0]
        assert isinstance(first, wire.Connect)
        name, password = first.username or conn.certificate or ANONYMOUS, first.password or b""
        if not name:
            if not self._allow_anonymous:
                raise ProtocolError(FORBIDDEN, "no user name")
            self._enter(conn, packets, None, now_s)
            return
        credential = self._credentials.get(name)
        if credential is None or credential.revoked:
            self._look()  # perhaps it was added just now
            credential = self._credentials.get(name)
        known: bool | None = False
        if credential is None or credential.revoked:
            pass
        elif conn.certificate is not None:
            known = conn.certificate == name
        elif len(password) <= PASSWORD_MOST:
            known = self._memory.known(credential, password)
        if known and credential is not None:
            self._enter(conn, packets, credential, now_s)
            return
        address = conn.peer.rpartition(":")[0]
        delay_s = self._throttle.delay_s(address, now_s)
        if len(self._waiting) >= WAITING_MOST or (
                delay_s and self._addresses[address] >= FAILING_MOST):
            raise ProtocolError(BUSY, f"{self._addresses[address]} from {address}")
        self._waiting[conn] = packets
        self._addresses[address] += 1
        conn.waiting = True
        conn.hold(True)
        task = asyncio.get_running_loop().create_task(
            self._check(conn, credential if known is None else None, password, address, delay_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check(self, conn: Connection, credential: Credential | None, password: bytes,
                     address: str, delay_s: float) -> None:
        """credential: None where the login is known to be wrong."""
        try:
            if credential is not None and delay_s:
                await asyncio.sleep(delay_s)
            if credential is not None and self._memory.known(credential, password) is None:
                self.counts["scrypt"] += 1
                was_right = await asyncio.get_running_loop().run_in_executor(
                    self._thread, right, credential.hash, password)
                self._memory.learn(credential, password, was_right)
            if credential is None or not self._memory.known(credential, password) \
                    or self._credentials.get(credential.name) != credential:
                now_s = time.monotonic()
                self._throttle.failed(address, now_s)
                await asyncio.sleep(self._throttle.delay_s(address, now_s))
                credential = None
        finally:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
        packets = self._waiting.pop(conn, None)
        if packets is None:
            return  # it did not wait
        conn.waiting = False
        first = packets[0]
        assert isinstance(first, wire.Connect)
        try:
            if credential is None:
                self.counts["failed"] += 1
                raise ProtocolError(BAD, repr((first.username or conn.certificate or "")[:64]))
            self._enter(conn, packets, credential, time.monotonic())
            conn.settle()
            conn.go_on(time.monotonic())
        except ProtocolError as error:
            conn.fail(error)

    def _enter(self, conn: Connection, packets: list[wire.Packet], credential: Credential | None,
               now_s: float) -> None:
        name = credential.name if credential is not None else ANONYMOUS
        permit, first = Permit(name, self._rules), packets[0]
        assert isinstance(first, wire.Connect)
        if first.will is not None and not permit.may_publish(first.will.topic):
            raise ProtocolError(FORBIDDEN, f"{name or 'anonymous'}: will {first.will.topic[:120]}")
        if first.client_id and first.client_id != name:
            first.client_id = f"{name}:{first.client_id}"
        conn.permit = permit
        self._inside[conn] = credential
        self.counts["logins"] += 1
        self.received(conn, packets, now_s)

    # --- changes

    def _read(self) -> None:
        try:
            stat = self._path.stat()
            self._credentials = parse(self._path.read_text(), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsError(f"{self._path}: {error}") from error
        self._file_is = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        self._memory.keep(self._credentials)

    def reload(self, rules: list[Allow]) -> None:
        """Read the file again, take other rules; send away whom they exclude."""
        try:
            self._read()
        except CredentialsError as error:
            log.error("credentials not reloaded, the old ones stay reason=%r", str(error))
            return
        changed, self._rules = rules != self._rules, rules
        for conn, credential in list(self._inside.items()):
            if credential is not None and self._credentials.get(credential.name) != credential:
                conn.fail(ProtocolError("revoked", credential.name))
                continue
            if not changed or conn.permit is None:
                continue
            conn.permit = Permit(conn.permit.name, rules)
            wrong = [f for f in (conn.session.filters if conn.session else ())
                     if not conn.permit.may_subscribe(f)]
            if wrong:
                conn.fail(ProtocolError(TOPIC, f"{conn.permit.name}: {wrong[0][:120]}"))
        log.info("credentials loaded names=%d", len(self._credentials))

    async def watch(self) -> None:
        """Take a changed file into use within a second or two, for ever."""
        while True:
            await asyncio.sleep(1.0)
            self._look()

    def _look(self) -> None:
        try:
            stat = self._path.stat()
        except OSError:
            return  # an editor is about to put it back; what was read stays in force
        file_is = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if file_is != self._file_is:
            self._file_is = file_is
            self.reload(self._rules)

    def close(self) -> None:
        """Let nobody in any more."""
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
