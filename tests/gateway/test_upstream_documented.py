"""The Mosquitto that docs/upstreams.md configures, and the gateway that it configures for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import certs
from tools.gateway_thread import GatewayThread
from tools.judge import Subscriber
from tools.mosquitto import find_program
from tools.ports import HOST, free_port
from tools.raw_client import RawClient, publish
from tools.served import Served

TEXT = (Path(__file__).parents[2] / "docs" / "upstreams.md").read_text()
SECTION = TEXT.partition("## Mosquitto\n")[2].partition("\n## ")[0]
USER, PASSWORD = "gateway", "right one"


class Documented(Served):
    """Mosquitto with the block of the docs, whose ports and paths are made ours."""

    def _command(self) -> list[str]:
        self.ports = {"1883": self.port, "8883": free_port(), "8083": free_port()}
        text = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)[0]
        text = re.sub(r"^listener (\d+)$", lambda m: f"listener {self.ports[m[1]]} {HOST}", text,
                      flags=re.MULTILINE)
        text = text.replace("/etc/mosquitto", str(self.folder))
        (self.folder / "certs").mkdir()
        certs.make_ca(self.folder / "certs", "CA")
        certs.issue(self.folder / "certs", "server", "broker", [HOST], 30)
        subprocess.run([*find_program("mosquitto_passwd"), "-b", "-c",
                        str(self.folder / "passwords"), USER, PASSWORD], check=True,
                       capture_output=True)
        # as Debian's own mosquitto.conf, which reads conf.d
        (self.folder / "mosquitto.conf").write_text(
            f"user root\npersistence false\nlog_dest stderr\n{text}")
        return [*find_program(), "-c", str(self.folder / "mosquitto.conf")]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    with Documented(tmp_path_factory.mktemp("documented")) as made:
        assert isinstance(made, Documented)
        yield made


@pytest.mark.parametrize(("url", "port"), [
    ("mqtts://broker.example:8883", "8883"), ("mqtt://broker.example:1883", "1883"),
    ("ws://broker.example:8083/mqtt", "8083")])
def test_documented_gateway_delivers_to_documented_mosquitto(
        broker: Documented, tmp_path: Path, url: str, port: str) -> None:
    made = GatewayThread(tmp_path, 0)
    settings = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)[0]
    settings = re.sub(r'^url = ".*"', f'url = "{url}"', settings, flags=re.MULTILINE)
    settings = settings.replace(f"broker.example:{port}", f"{HOST}:{broker.ports[port]}") \
        .replace("credential:upstream", "password")
    (tmp_path / "password").write_text(PASSWORD)
    shutil.copy(broker.folder / "certs" / "ca.crt", tmp_path / "broker-ca.crt")
    (tmp_path / "tidegate.toml").write_text(
        f'id = "documented"\n[listener]\nlisten = "{HOST}:0"\n{settings}')
    topic = f"documented/{port}"
    judge = Subscriber(broker.ports["1883"], client_id=f"judge-{port}")
    judge._client.username_pw_set(USER, PASSWORD)
    with made as gateway, judge:
        gateway.wait_connected()
        with RawClient(gateway.port) as client:
            client.open("c")
            client.send(b"".join(publish(topic, b"%d" % n, 1, n + 1) for n in range(300)))
            for _ in range(300):
                assert client.read() is not None
        judge.wait_for_message(topic, b"299")
        assert [int(a.payload) for a in judge.arrivals if a.topic == topic] == list(range(300))
