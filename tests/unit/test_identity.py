"""gateway/identity.py: an id is its outbox's, and duel.py: when somebody else has it too."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway import config, identity
from gateway.duel import FALLS, OVER_S, SOON_S, TAKEN_OVER, Duel
from gateway.errors import OutboxError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host and a machine; returns where the machine's name is."""
    monkeypatch.setattr(identity.socket, "gethostname", lambda: "pi.local")
    monkeypatch.setattr(identity, "MACHINE_ID", tmp_path / "machine-id")
    (tmp_path / "machine-id").write_text("0123\n")
    return tmp_path / "machine-id"


def used(outbox: Path) -> str:
    """The id of a gateway that starts with this outbox."""
    name = identity.of(outbox)
    identity.begin(outbox, name)
    outbox.touch()
    identity.keep(outbox, name)
    return name


def test_new_outbox_gets_an_id_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, second = used(tmp_path / "one" / "outbox.db"), used(tmp_path / "two" / "outbox.db")
    assert first.startswith("pi-local-")
    assert first != second
    assert used(tmp_path / "one" / "outbox.db") == first


def test_id_is_noted_before_the_outbox_is_there(tmp_path: Path) -> None:
    name = identity.of(tmp_path / "outbox.db")
    identity.begin(tmp_path / "outbox.db", name)  # then the power goes
    assert used(tmp_path / "outbox.db") == name


def test_outbox_from_before_there_were_ids_keeps_the_hosts_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = tmp_path / "outbox.db"
    outbox.touch()
    assert used(outbox) == "pi-local"
    monkeypatch.setattr(identity.socket, "gethostname", lambda: "renamed")
    assert used(outbox) == "pi-local"


def test_id_of_the_config_holds_and_is_kept_without_it(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "t.toml"
    file.write_text('id = "north"')
    loaded = config.load(file)
    outbox = Path(loaded.outbox.path)
    identity.begin(outbox, loaded.id)
    outbox.touch()
    identity.keep(outbox, loaded.id)
    file.write_text("")
    loaded = config.load(file)
    assert (loaded.id, loaded.upstream.client_id) == ("north", "tidegate-north")
    identity.keep(outbox, "south")
    assert "the id has changed" in caplog.text
    assert config.load(file).id == "south"


@pytest.mark.parametrize("damage", ["", "with space\n", "x" * 65, "\0\0\0"])
def test_note_that_cannot_be_read_is_as_none_and_mended(tmp_path: Path, damage: str) -> None:
    outbox = tmp_path / "outbox.db"
    outbox.touch()
    (tmp_path / "outbox.db-id").write_text(damage)
    assert used(outbox) == "pi-local"
    assert (tmp_path / "outbox.db-id").read_text().splitlines()[0] == "pi-local"


def test_outbox_on_another_machine_says_so_once_and_keeps_its_id(
        tmp_path: Path, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = tmp_path / "outbox.db"
    name = used(outbox)
    assert "0123" not in (tmp_path / "outbox.db-id").read_text()
    assert not caplog.records
    here.write_text("4567\n")
    assert identity.keep(outbox, name)
    assert "another machine" in caplog.text
    assert not identity.keep(outbox, name)
    assert used(outbox) == name


def test_machine_without_a_name_is_no_other_one(tmp_path: Path, here: Path) -> None:
    outbox = tmp_path / "outbox.db"
    name = used(outbox)
    here.unlink()
    assert not identity.keep(outbox, name)
    here.write_text("4567\n")
    assert identity.keep(outbox, name)  # what was noted before stays


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match=r"outbox.db-id"):
        identity.begin(tmp_path / "file" / "outbox.db", "x")


def test_full_disk_does_not_stop_a_gateway_that_has_an_outbox(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    outbox = tmp_path / "outbox.db"
    outbox.touch()

    def full(_outbox: Path, _name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity, "_write", full)
    caplog.set_level(logging.WARNING)
    assert not identity.keep(outbox, "pi-local")
    assert "cannot note the id" in caplog.text


# --- who else has it

def falls(duel: Duel, times: int, lasts_s: float = 1.0, *, by_broker: bool = True,
          code: int = 0) -> list[str]:
    said = []
    for number in range(times):
        duel.opened(number * 20.0)
        said.append(duel.fell(code, number * 20.0 + lasts_s, by_broker=by_broker))
    return said


def test_taken_over_at_mqtt_5_is_said_at_once_and_once() -> None:
    duel = Duel("tidegate-x")
    said = falls(duel, 3, code=TAKEN_OVER)
    assert [bool(text) for text in said] == [True, False, False]
    assert "another client uses the client identifier tidegate-x" in said[0]
    duel.opened(100.0)
    duel.stands(100.0 + OVER_S - 1)
    assert duel.told
    duel.stands(100.0 + OVER_S)
    assert not duel.told


def test_link_that_the_other_end_closes_again_and_again_is_probably_taken_over() -> None:
    duel = Duel("tidegate-x")
    said = falls(duel, FALLS + 3)
    assert [number for number, text in enumerate(said, 1) if text] == [FALLS]
    assert "another client probably uses" in duel.told


@pytest.mark.parametrize(("lasts_s", "by_broker", "code"), [
    (SOON_S + 1, True, 0), (1.0, False, 0), (1.0, True, 0x89)])
def test_link_that_falls_late_or_by_the_network_or_says_why_is_not(
        lasts_s: float, by_broker: bool, code: int) -> None:
    duel = Duel("tidegate-x")
    assert not any(falls(duel, 3 * FALLS, lasts_s, by_broker=by_broker, code=code))
    assert not duel.told
