"""Who runs in the bench: each carries messages from a local port to the upstream's.

A contestant is a context manager with the port that devices use and the pids whose CPU, memory and
writes are its own. To add one: a class here and its name in CONTESTANTS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

from tools import debian
from tools.cachedir import Say
from tools.lifetime import Startable
from tools.mosquitto import find_program
from tools.ports import HOST, free_port, wait_for_port
from tools.procs import Child

WINDOW = 1000  # messages in flight towards the upstream, for everybody


class Contestant(Startable):
    """Starts processes in `folder`; `qos` is the QoS everything has to reach the upstream at."""

    name = ""
    children: list[Child]

    def __init__(self, folder: Path, upstream_port: int, qos: int) -> None:
        self.folder, self.upstream_port, self.qos = folder, upstream_port, qos
        self.port = free_port()
        self.children = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start what it needs; `port` answers when this returns."""
        raise NotImplementedError(type(self).__name__)

    def stop(self) -> None:
        """Stop it, the last started first."""
        for child in reversed(self.children):
            child.stop()

    def _run(self, argv: list[str], name: str, env: dict[str, str] | None = None) -> None:
        child = Child(argv, log=self.folder / f"{name}.log", env=env)
        child.start()
        self.children.append(child)

    def _up(self) -> None:
        wait_for_port(self.port, 15, alive=lambda: all(c.running for c in self.children))

    def pids(self) -> list[int]:
        """The processes to be measured."""
        return [child.pid for child in self.children]


class Tidegate(Contestant):
    """Ours, with its defaults but for the window. path: what its package is imported from, where
    that is not this checkout."""

    name = "tidegate"
    path: ClassVar[Path | None] = None

    def start(self) -> None:
        conf = self.folder / "tidegate.toml"
        conf.write_text(
            f'id = "bench"\nlog_level = "warning"\n[listener]\nlisten = "{HOST}:{self.port}"\n'
            f'[upstream]\nurl = "mqtt://{HOST}:{self.upstream_port}"\ninflight = {WINDOW}\n'
            f'[[route]]\nfilter = "#"\nupgrade = {self.qos}\n')
        package = "tidegate" if self.path and (self.path / "tidegate").is_dir() else "gateway"
        # -P: a `gateway` of the folder that we stand in is not to be found first
        self._run([sys.executable, "-P", "-m", package, "run", "-c", str(conf)], "gateway",
                  None if self.path is None else {"PYTHONPATH": str(self.path)})
        self._up()


class MosquittoBridge(Contestant):
    """Mosquitto as the local broker, with its persistence, and as the bridge."""

    name = "mosquitto"
    persistence: ClassVar[list[str]] = ["persistence true", "persistence_location {folder}/"]

    def program(self) -> list[str]:
        """How it is started."""
        return find_program()

    def extra(self) -> list[str]:
        """Lines of its configuration for the persistence that it is measured with."""
        return self.persistence

    def start(self) -> None:
        lines = [
            f"listener {self.port} {HOST}", "allow_anonymous true", "log_type error",
            "set_tcp_nodelay true", "max_queued_messages 0", f"max_inflight_messages {WINDOW}",
            *(line.format(folder=self.folder) for line in self.extra()),
            "connection up", f"address {HOST}:{self.upstream_port}", "cleansession false",
            "bridge_protocol_version mqttv311", "notifications false", "try_private false",
            f"topic # out {self.qos}", "upgrade_outgoing_qos true"]
        if os.geteuid() == 0:
            lines.insert(0, "user root")
        conf = self.folder / "bridge.conf"
        conf.write_text("\n".join(lines) + "\n")
        self._run([*self.program(), "-c", str(conf)], "mosquitto")
        self._up()


class MosquittoMemory(MosquittoBridge):
    """The same without any persistence: what a bridge costs that promises nothing."""

    name = "mosquitto-memory"
    persistence: ClassVar[list[str]] = []


class MosquittoSqlite(MosquittoBridge):
    """Mosquitto 2.1 from Debian unstable, unpacked beside the host, with its SQLite plugin."""

    name = "mosquitto-2.1-sqlite"
    say: Say = staticmethod(lambda line: print(line, file=sys.stderr))

    @classmethod
    def tree(cls) -> debian.Tree:
        """The unpacked packages; fetched where they are not there yet."""
        tree = debian.fetch("mosquitto-next",
                            ["mosquitto", "mosquitto-clients", "libpicohttpparser1"],
                            suite="sid", say=cls.say)
        # One library's package leaves its soname link to the ldconfig of an installation.
        for folder in tree.library_path.split(":"):
            subprocess.run(["/sbin/ldconfig", "-n", folder], capture_output=True, check=False)
        return tree

    def program(self) -> list[str]:
        return self.tree().program("mosquitto")

    def extra(self) -> list[str]:
        plugin = next(self.tree().root.rglob("mosquitto_persist_sqlite.so"))
        # full and its flush every 5 s are the plugin's defaults
        return ["persistence_location {folder}/", f"plugin {plugin}", "plugin_opt_sync full"]


class MosquittoSynced(MosquittoSqlite):
    """The same, told to write at once: what it has that comes nearest to keeping a message before
    it is acknowledged."""

    name = "mosquitto-2.1-sqlite-synced"

    def extra(self) -> list[str]:
        return [*super().extra(), "plugin_opt_flush_period 0"]


class MosquittoNext(MosquittoSqlite):
    """Mosquitto 2.1 without any persistence."""

    name = "mosquitto-2.1"

    def extra(self) -> list[str]:
        return []


class PahoBridge(Contestant):
    """The obvious bridge: a Mosquitto, and a script with a paho client on either side."""

    name = "paho"

    def start(self) -> None:
        conf = self.folder / "local.conf"
        lines = [f"listener {self.port} {HOST}", "allow_anonymous true", "log_type error",
                 "set_tcp_nodelay true", "max_queued_messages 0",
                 f"max_inflight_messages {WINDOW}", "persistence true",
                 f"persistence_location {self.folder}/"]
        if os.geteuid() == 0:
            lines.insert(0, "user root")
        conf.write_text("\n".join(lines) + "\n")
        self._run([*find_program(), "-c", str(conf)], "mosquitto")
        self._up()
        self._run([sys.executable, "-m", "tools.contestants", str(self.port),
                   str(self.upstream_port), str(self.qos)], "paho")
        ready = self.folder / "paho.log"
        tick = threading.Event()
        for _ in range(1500):
            if ready.exists() and "ready" in ready.read_text():
                return
            tick.wait(0.01)
        raise TimeoutError("the paho bridge did not start")


CONTESTANTS: dict[str, type[Contestant]] = {
    kind.name: kind for kind in (Tidegate, MosquittoBridge, MosquittoMemory, MosquittoSqlite,
                                 MosquittoSynced, MosquittoNext, PahoBridge)}


def paho_bridge(port: int, upstream_port: int, qos: int) -> None:
    """Run the obvious bridge until killed."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    def client(name: str) -> mqtt.Client:
        made = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=False)
        made.max_inflight_messages_set(WINDOW)
        made.max_queued_messages_set(0)
        return made

    upstream, local = client("paho-out"), client("paho-in")

    def forward(_client: mqtt.Client, _userdata: object, m: mqtt.MQTTMessage) -> None:
        upstream.publish(m.topic, m.payload, max(m.qos, qos), m.retain)

    local.on_message = forward
    local.on_connect = lambda c, *_: c.subscribe("#", 2)
    local.on_subscribe = lambda *_: print("ready", flush=True)
    upstream.connect(HOST, upstream_port)
    upstream.loop_start()
    local.connect(HOST, port)
    local.loop_forever()


if __name__ == "__main__":
    paho_bridge(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
