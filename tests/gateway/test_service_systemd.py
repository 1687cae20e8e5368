"""The installed service under a real systemd, in a container: `make service-test`, as root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.database import SCHEMA_VERSION
from tools import nspawn
from tools.gateway_process import PROJECT
from tools.judge import Producer, Subscriber
from tools.mosquitto import Mosquitto
from tools.nspawn import Booted
from tools.ports import HOST, free_port, wait_for_port
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
UNIT = "tidegate.service"


class Site:
    """A container with the service installed; the gateway's port is reached from here."""

    def __init__(self, root: Path, booted: Booted, port: int, upstream_port: int) -> None:
        self.root, self.booted, self.port = root, booted, port
        self.upstream_port = upstream_port

    @property
    def config(self) -> Path:
        return self.root / "etc/tidegate/tidegate.toml"

    def pid(self) -> int:
        return int(self.booted.show(UNIT, "MainPID"))

    def restarts(self) -> int:
        return int(self.booted.show(UNIT, "NRestarts"))

    def wait_active(self) -> None:
        wait_until(lambda: self.booted.show(UNIT, "ActiveState") == "active", 30.0, "active")
        wait_for_port(self.port)

    def journal(self) -> str:
        return self.booted.run("journalctl", "-u", UNIT, "--no-pager", "-o", "cat")


@pytest.fixture(scope="module", params=nspawn.SUITES)
def site(request: pytest.FixtureRequest,
         tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    why = nspawn.why_not()
    if why:
        pytest.skip(why)
    port, upstream_port = free_port(), free_port()
    log = tmp_path_factory.mktemp("boot") / "console.log"
    with nspawn.fresh_root(request.param) as root:
        config = root / "etc/tidegate/tidegate.toml"
        config.parent.mkdir()
        config.write_text(
            f'[listener]\nlisten = "{HOST}:{port}"\n[outbox]\npath = "/var/lib/tidegate/o.db"\n'
            f'[upstream]\nurl = "mqtt://{HOST}:{upstream_port}"\n'
            '[[route]]\nfilter = "#"\nto = "first/{topic}"\n')
        before = config.read_text()
        drop_in = root / "etc/systemd/system/tidegate.service.d/quick.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
        done = nspawn.run_in(root, PROJECT, "make install PYTHON=python3")
        assert done.returncode == 0, done.stdout
        assert config.read_text() == before
        with Booted(root, PROJECT, log) as booted:
            made = Site(root, booted, port, upstream_port)
            made.wait_active()
            yield made


def queue(site: Site, start: int, count: int) -> None:
    """Messages that the gateway has acknowledged."""
    with RawClient(site.port) as client:
        client.open(f"queue-{start}")
        client.send(b"".join(publish("q", b"%d" % n, 1, n) for n in range(start, start + count)))
        for _ in range(count):
            answer = client.read()
            assert answer is not None
            assert answer[0] == 0x40


def depth(site: Site) -> int:
    text = site.booted.run("tidegate", "status", "--json")
    return int(text.partition('"depth": ')[2].partition(",")[0])


def test_service_is_ready_as_its_own_user_and_tells_its_status(site: Site) -> None:
    assert site.booted.show(UNIT, "SubState") == "running"
    assert site.booted.show(UNIT, "StatusText").startswith("upstream ")
    assert site.booted.run("stat", "-c", "%U", f"/proc/{site.pid()}") == "tidegate"
    assert site.booted.run("stat", "-c", "%U %a", "/var/lib/tidegate/o.db") == "tidegate 640"


def test_status_is_for_root_and_the_group_alone(site: Site) -> None:
    site.booted.run("useradd", "--groups", "tidegate", "member")
    site.booted.run("useradd", "other")
    assert "upstream   " in site.booted.run("su", "member", "-c", "tidegate status")
    assert "Permission denied" in site.booted.run("su", "other", "-c", "tidegate status",
                                                  check=False)


def test_upstream_password_by_a_systemd_credential(site: Site) -> None:
    secret, before = site.root / "etc/tidegate/secret", site.config.read_text()
    secret.write_text("s3cret")
    secret.chmod(0o600)
    drop_in = site.root / "etc/systemd/system/tidegate.service.d/secret.conf"
    drop_in.write_text("[Service]\nLoadCredential=up:/etc/tidegate/secret\n")
    site.config.write_text(before.replace(
        "[upstream]\n", '[upstream]\nusername = "u"\npassword_file = "credential:up"\n'))
    site.booted.run("systemctl", "daemon-reload")
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()
    assert site.booted.run("tidegate", "run", "--check") == "/etc/tidegate/tidegate.toml: ok"
    assert "upstream   " in site.booted.run("tidegate", "status")
    assert "s3cret" not in site.journal() + site.booted.run(
        "cat", f"/proc/{site.pid()}/cmdline", f"/proc/{site.pid()}/environ")
    drop_in.unlink()
    site.config.write_text(before)
    site.booted.run("systemctl", "daemon-reload")
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()


def test_documented_certificates_are_the_service_s_also_after_a_renewal(site: Site) -> None:
    before, tls_port = site.config.read_text(), free_port()
    site.booted.run("tidegate", "certs", "ca")
    site.booted.run("tidegate", "certs", "server", "gateway.local", HOST)
    site.config.write_text(before.replace(
        "[listener]\n", f'[listener]\ntls_listen = "{HOST}:{tls_port}"\n'
        'cert_file = "certs/server.crt"\nkey_file = "certs/server.key"\n'))
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()
    assert f", TLS {tls_port}\n" in site.booted.run("tidegate", "status")
    site.booted.run("tidegate", "certs", "server", "--replace", "gateway.local", HOST)
    reloaded = site.journal().count("reloaded path=")
    site.booted.run("systemctl", "reload", UNIT)
    wait_until(lambda: site.journal().count("reloaded path=") > reloaded, 10.0, "reloaded")
    site.config.write_text(before)
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()


def test_panel_on_a_machine_without_gpio_is_named_in_the_log_and_costs_nothing(
        site: Site) -> None:
    before = site.config.read_text()
    drop_in = site.root / "etc/systemd/system/tidegate.service.d/panel.conf"
    drop_in.write_text((PROJECT / "gateway/system/panel.conf").read_text())
    site.config.write_text(before + "[panel]\nled = 17\nbutton = 27\n")
    site.booted.run("systemctl", "daemon-reload")
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()
    wait_until(lambda: "no panel, going on without" in site.journal(), 10.0, "said so")
    drop_in.unlink()
    site.config.write_text(before)
    site.booted.run("systemctl", "daemon-reload")
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()


def test_kill_is_followed_by_a_restart_with_the_backlog(site: Site) -> None:
    queue(site, 1, 100)
    had, before, restarts = depth(site), site.pid(), site.restarts()
    site.booted.run("sh", "-c", f"kill -9 {before}")
    wait_until(lambda: site.restarts() > restarts, 30.0, "a restart")
    site.wait_active()
    assert site.pid() != before
    assert depth(site) == had


def test_stopped_process_is_caught_by_the_watchdog(site: Site) -> None:
    before, restarts = site.pid(), site.restarts()
    site.booted.run("sh", "-c", f"kill -STOP {before}")
    wait_until(lambda: site.restarts() > restarts, 30.0, "a restart")
    site.wait_active()
    assert site.pid() != before
    assert "Watchdog timeout" in site.journal()


def test_upgrade_keeps_backlog_and_config(site: Site) -> None:
    had, config = depth(site), site.config.read_text()
    assert had >= 100
    before = (site.root / "opt/tidegate/current").readlink()
    site.booted.make("upgrade")
    assert (site.root / "opt/tidegate/current").readlink() != before
    site.wait_active()
    assert depth(site) == had
    assert site.config.read_text() == config


def test_upgrade_that_does_not_start_says_why(site: Site) -> None:
    before = site.config.read_text()
    site.config.write_text(before + "[outbox2]\n")
    with pytest.raises(RuntimeError, match=r"does not start: tidegate: .*outbox2: no such"):
        site.booted.make("upgrade")
    site.config.write_text(before)
    site.booted.run("systemctl", "restart", UNIT)
    site.wait_active()


def test_reload_under_load_applies_a_route_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    with Mosquitto(tmp_path, port=site.upstream_port) as broker, \
            Subscriber(broker.port) as subscriber, Producer(site.port) as producer:
        pid = site.pid()
        for number in range(400):
            producer.publish("load", str(number).encode(), qos=1)
            if number == 200:
                producer.wait_for_acknowledgements()
                site.config.write_text(site.config.read_text().replace("first/", "second/"))
                site.booted.run("systemctl", "reload", UNIT)
                wait_until(lambda: "reloaded path=" in site.journal(), 10.0, "reloaded")
        producer.wait_for_acknowledgements()
        subscriber.wait_for_message("second/load", b"399")
        came = [int(a.payload) for a in subscriber.arrivals if a.topic.endswith("/load")]
        assert came == list(range(400))
        assert {a.topic for a in subscriber.arrivals if a.topic.endswith("/load")} == {
            "first/load", "second/load"}
        assert producer.connections == 1
        assert site.pid() == pid


def test_newer_outbox_is_refused_in_one_line(site: Site) -> None:
    site.booted.run("systemctl", "stop", UNIT)
    database = "/var/lib/tidegate/o.db"
    site.booted.run("python3", "-c", "import sqlite3; d = sqlite3.connect('" + database
                    + "'); d.execute('PRAGMA user_version=99')")
    said = site.booted.run("tidegate", "run", check=False)
    site.booted.run("python3", "-c", "import sqlite3; d = sqlite3.connect('" + database
                    + f"'); d.execute('PRAGMA user_version={SCHEMA_VERSION}')")
    assert "written by a newer Tidegate" in said
    assert len(said.splitlines()) == 1
    site.booted.run("chown", "-R", "tidegate:", "/var/lib/tidegate")
    site.booted.run("systemctl", "start", UNIT)
    site.wait_active()


def test_stop_is_clean(site: Site) -> None:
    site.booted.run("systemctl", "stop", UNIT)
    assert site.booted.show(UNIT, "Result") == "success"
    assert site.booted.show(UNIT, "ExecMainStatus") == "0"
    assert any("stopped depth=" in line for line in site.journal().splitlines()[-4:])


def test_uninstall_keeps_config_and_outbox(site: Site) -> None:
    site.booted.make("uninstall")
    assert site.config.exists()
    assert (site.root / "var/lib/tidegate/o.db").exists()
    assert not (site.root / "opt/tidegate").exists()
    assert not (site.root / "usr/local/lib/systemd/system" / UNIT).exists()
