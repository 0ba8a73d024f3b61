"""Who may join: names that can be, tokens that are private, a list that says what is wrong."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from fedthings.cli import main
from fedthings.errors import SpecError, StoreError, WireError
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import fingerprint, public_of
from fedthings.messages import Enrol
from fedthings.server import devices
from fedthings.server.place import Place
from fedthings.server.roll import Roll
from fedthings.server.store import Store


@pytest.fixture
def roll(tmp_path) -> Roll:
    store = Store(tmp_path)
    yield Roll(store)
    store.close()


def key(number: int) -> bytes:
    """Return the public key of one of the devices here."""
    return public_of(bytes([number]) * 32)


def shown(file, name: str, number: int = 1) -> Enrol:
    """Return what a device says that has the token in `file`."""
    return tokens.presented(tokens.read(file), name, key(number), passwords.hashed("word"))


def refused(roll: Roll, enrol: Enrol, reason: str, sender: str = "") -> None:
    before = roll.read().devices
    with pytest.raises(WireError) as error:
        roll.enrol(sender or enrol.token, enrol)
    assert error.value.reason == reason
    assert roll.read().devices == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "x" * 65, "coordinator", "../etc", "token-1"])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(SpecError, match="a device cannot be called"):
        devices.enrol(tmp_path / "run", ["good", name])
    assert not (tmp_path / "run").exists()


def test_who_is_there_already_and_who_is_not(tmp_path, roll):
    devices.enrol(tmp_path, ["kitchen"])
    with pytest.raises(StoreError, match=r"kitchen is there already: `fedthings devices rotate kitchen`"):
        devices.enrol(tmp_path, ["hall", "kitchen"])
    assert [device["name"] for device in devices.listed(tmp_path)] == ["kitchen"]
    with pytest.raises(StoreError, match=r"'hall' is not on the list, which has kitchen"):
        roll.remove(["hall"])
    with pytest.raises(StoreError, match=r"'hall' is not on the list"):
        devices.enrol(tmp_path, ["hall"], again=True)
    assert main(["devices", "--out", str(tmp_path), "remove", "kitchen"]) == 0
    assert devices.listed(tmp_path) == [] and not devices.token_file(tmp_path, "kitchen").exists()
    with pytest.raises(StoreError, match="there is no run directory"):
        devices.listed(tmp_path / "none")


def test_a_token_enrols_one_key_once(tmp_path, roll):
    (file,) = devices.enrol(tmp_path, ["kitchen"], group="floor")
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    assert roll.read().known.keys == {}
    good = shown(file, "kitchen")
    refused(roll, shown(file, "hall"), "another's token")
    refused(roll, good, "another's topic", sender="hall")
    refused(roll, replace(good, key=key(2)), "wrong token")
    refused(roll, replace(good, token="token-0"), "unknown token")
    assert roll.enrol(good.token, good) == "enrolled" == roll.enrol("kitchen", good)  # the answer may be lost
    assert roll.read().known.keys == {"kitchen": key(1)} and roll.of("floor") == ["kitchen"]
    refused(roll, shown(file, "kitchen", 2), "token used twice")
    assert roll.read().logins["kitchen"] == good.password


def test_a_token_for_many_is_used_up_and_takes_nobodys_name(tmp_path, roll):
    devices.enrol(tmp_path, ["kitchen"])
    (file,) = devices.enrol(tmp_path, count=2, group="meters")
    assert file.name == "meters.token"
    refused(roll, shown(file, "kitchen"), "name taken")
    refused(roll, shown(file, "a/b"), "malformed")
    refused(roll, replace(shown(file, "one"), password="word"), "wrong token")
    assert roll.enrol(tokens.read(file).id, shown(file, "one", 1)) == "enrolled"
    refused(roll, shown(file, "two", 1), "key in use")
    assert roll.enrol(tokens.read(file).id, shown(file, "two", 2)) == "enrolled"
    refused(roll, shown(file, "three", 3), "token used twice")
    assert roll.of("meters") == ["one", "two"]


def test_an_expired_token(tmp_path, roll):
    (file,) = devices.enrol(tmp_path, ["kitchen"], lasts=-1.0)
    refused(roll, shown(file, "kitchen"), "expired token")
    assert roll.read().logins == {}


def test_a_key_is_approved_quarantined_revoked_and_replaced(tmp_path, roll):
    (file,) = devices.enrol(tmp_path, ["kitchen"], approve=True)
    with pytest.raises(StoreError, match="kitchen is invited: it has not enrolled its key yet"):
        roll.approve(["kitchen"])
    assert roll.enrol("kitchen", shown(file, "kitchen")) == "waiting"
    assert roll.read().known.keys == {} and "kitchen" not in roll.read().logins
    roll.approve(["kitchen"])
    assert roll.read().known.keys == {"kitchen": key(1)}
    roll.quarantine(["kitchen"])
    assert roll.read().devices["kitchen"].state == "quarantined" and roll.read().known.keys == {"kitchen": key(1)}

    (new,) = devices.enrol(tmp_path, ["kitchen"], again=True)
    assert roll.read().known.keys == {"kitchen": key(1)}  # until the new one is there
    assert roll.enrol("kitchen", shown(new, "kitchen", 2)) == "quarantined"
    refused(roll, shown(new, "kitchen", 1), "revoked key")
    roll.approve(["kitchen"])
    roll.revoke(["kitchen"])
    there = roll.read()
    assert there.devices["kitchen"].state == "revoked" and there.known.keys == {} == there.logins
    (new,) = devices.enrol(tmp_path, ["kitchen"], again=True)
    refused(roll, shown(new, "kitchen", 2), "revoked key")
    assert roll.enrol("kitchen", shown(new, "kitchen", 3)) == "enrolled"
    roll.rename("kitchen", "pantry")
    assert roll.read().known.keys == {"pantry": key(3)}
    with pytest.raises(StoreError, match="'kitchen' is not on the list"):
        roll.rename("kitchen", "cellar")
    roll.remove(["pantry"])
    (new,) = devices.enrol(tmp_path, ["pantry"])
    refused(roll, shown(new, "pantry", 3), "revoked key")


def test_the_commands(tmp_path, roll, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["enrol", "kitchen", "hall", "--group", "floor", *out]) == 0
    assert "kitchen  token in" in capsys.readouterr().out
    files = {name: devices.token_file(tmp_path, name) for name in ("kitchen", "hall")}
    for number, (name, file) in enumerate(files.items()):
        assert roll.enrol(name, shown(file, name, number)) == "enrolled"
    assert main(["devices", *out, "quarantine", "--group", "floor"]) == 0
    assert main(["devices", *out, "approve", "hall"]) == 0
    assert main(["devices", *out, "group", "attic", "hall"]) == 0
    assert main(["devices", *out, "rename", "hall", "loft"]) == 0
    assert main(["devices", *out, "revoke", "kitchen", "--json"]) == 0
    capsys.readouterr()
    assert main(["devices", *out, "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["devices"]
    assert [(d["name"], d["state"], d["group"], d["key"]) for d in listed] == [
        ("kitchen", "revoked", "floor", "-"),
        ("loft", "enrolled", "attic", fingerprint(key(1))),
    ]
    assert all("password" not in device for device in listed)
    assert main(["devices", *out, "rotate", "kitchen"]) == 0
    for words in (["quarantine"], ["quarantine", "kitchen", "--group", "floor"], ["approve", "--group", "none"]):
        assert main(["devices", *out, *words]) == 2
    for words in ([], ["a", "--count", "3"], ["a", "--expires", "soon"], ["a", "--broker", "mqtt://a:b@c"]):
        assert main(["enrol", *words, *out]) == 2


def test_a_token_has_the_root_of_the_run_unless_it_is_told_another(tmp_path, capsys):
    def root(run, *words: str) -> str:
        assert main(["enrol", words[0], "--out", str(run), *words[1:]]) == 0
        return tokens.read(devices.token_file(run, words[0])).root

    assert root(tmp_path / "new", "kitchen") == "ft" and root(tmp_path / "new", "hall", "--root", "iot") == "iot"
    with pytest.raises(SpecError, match="a/#"):
        devices.enrol(tmp_path / "new", ["attic"], root="a/#")
    Place("wisdm-1", "mqtt://hub.local", "house").write(tmp_path / "new")
    assert root(tmp_path / "new", "cellar") == "house"
    assert main(["devices", "--out", str(tmp_path / "new"), "acl", "--root", "garden"]) == 0
    (tmp_path / "new" / "serve.json").unlink()  # it has been prepared, and not yet served
    assert root(tmp_path / "new", "shed") == "garden"
    words = ["devices", "--out", str(tmp_path / "new"), "rotate", "shed"]
    assert main([*words, "--broker", "mqtt://hub.local"]) == 0
    token = tokens.read(devices.token_file(tmp_path / "new", "shed"))
    assert (token.root, token.broker) == ("garden", "mqtt://hub.local")
    capsys.readouterr()
    assert main([*words, "--broker", "mqtt://me:word@hub.local"]) == 2
    assert "leave user and password out" in capsys.readouterr().err


def test_a_name_that_no_certificate_can_have(tmp_path, capsys):
    assert main(["tls", str(tmp_path), "--client", "x" * 65]) == 2
    assert "a device cannot be called" in capsys.readouterr().err
