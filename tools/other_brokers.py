"""Brokers that are not Mosquitto, as upstreams in tests: RabbitMQ's MQTT plugin, and aedes.

RabbitMQ is Debian's package, unpacked in the project's cache and run from there in a process name
space of its own, so that Erlang's port mapper ends with it. aedes is an npm package, installed in
the cache; it needs Node 20. Both listen on loopback alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tools import cachedir, debian
from tools.ports import HOST, free_port
from tools.procs import ChildError
from tools.served import Served

AEDES = "aedes@1.2.0"
_SERVER = """
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
const broker = await Aedes.createBroker()
createServer(broker.handle).listen(Number(process.argv[2]), '127.0.0.1')
"""


class BrokerMissingError(ChildError):
    """A broker is not on this machine and could not be fetched."""


class RabbitMq(Served):
    """RabbitMQ with its MQTT plugin: 3.1.1, QoS 1 at most."""

    def _command(self) -> list[str]:
        if shutil.which("unshare") is None:
            raise BrokerMissingError("unshare (util-linux) is missing")
        try:
            tree = debian.fetch("rabbitmq", ["rabbitmq-server"],
                                suite=debian.os_release().get("VERSION_CODENAME", "stable")).root
        except debian.FetchError as error:
            raise BrokerMissingError(str(error)) from error
        erlang, here = tree / "usr/lib/erlang", self.folder.absolute()
        tools = next(erlang.glob("erts-*/bin"))
        home = next((tree / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        (here / "bin").mkdir(exist_ok=True)
        # Debian's own `erl` looks for everything in /usr/lib
        (here / "bin/erl").write_text(f'#!/bin/sh\nexec {tools}/erlexec "$@"\n')
        (here / "bin/erl").chmod(0o755)
        (here / "enabled").write_text("[rabbitmq_mqtt].\n")
        (here / "rabbitmq.conf").write_text(
            f"listeners.tcp = none\nmqtt.listeners.tcp.1 = {HOST}:{self.port}\n"
            "mqtt.allow_anonymous = true\nlog.console = true\n")
        settings = {
            "HOME": here, "ROOTDIR": erlang, "BINDIR": tools, "EMU": "beam", "PROGNAME": "erl",
            "RABBITMQ_HOME": home, "RABBITMQ_CONFIG_FILE": here / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": here / "enabled",
            "RABBITMQ_MNESIA_BASE": here / "mnesia", "RABBITMQ_LOG_BASE": here / "log",
            "RABBITMQ_LOGS": "-", "RABBITMQ_PID_FILE": here / "pid",
            "RABBITMQ_NODENAME": f"tidegate{self.port}@localhost",
            "RABBITMQ_GENERATED_CONFIG_DIR": here / "generated",
            "ERL_EPMD_PORT": free_port(), "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_DIST_PORT": free_port(), "RUNNING_UNDER_SYSTEMD": 1}
        return ["env", *(f"{key}={value}" for key, value in settings.items()),
                "unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "sh", "-c",
                f"PATH={here}/bin:$PATH; {tools}/epmd & exec sh {home}/sbin/rabbitmq-server"]


class Aedes(Served):
    """The broker that Node programs embed."""

    def _command(self) -> list[str]:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise BrokerMissingError("node and npm are missing")
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        found = re.match(r"v(\d+)", said.stdout)
        if found is None or int(found[1]) < 20:
            raise BrokerMissingError(f"aedes needs Node 20, this is {said.stdout.strip()}")

        def install(folder: Path) -> None:
            (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
            (folder / "server.js").write_text(_SERVER)
            done = subprocess.run([npm, "install", "--no-fund", "--no-audit", AEDES], cwd=folder,
                                  capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerMissingError(f"npm install {AEDES}: {done.stderr[-300:]}")

        folder = cachedir.once(AEDES.replace("@", "-"), install)
        return [node, str(folder / "server.js"), str(self.port)]
