"""Who may join: names that can be, passwords known by their hash only, a list that says what is wrong."""

from __future__ import annotations

import pytest

from fedthings.errors import SpecError, StoreError
from fedthings.server import devices
from fedthings.server.access import Access, matches


def test_a_password_is_known_by_its_hash_only(tmp_path):
    passwords = devices.add(tmp_path, ["kitchen", "hall"])
    assert len(set(passwords.values())) == 2 and all(len(word) >= 22 for word in passwords.values())
    listed = {device["name"]: device["password"] for device in devices.listed(tmp_path)}
    assert set(listed) == {"kitchen", "hall"}
    assert matches(passwords["hall"], listed["hall"]) and not matches(passwords["kitchen"], listed["hall"])

    access = Access(tmp_path)
    access.admit({"coordinator": "", **listed})
    access.write()
    assert passwords["hall"] not in (tmp_path / "broker.json").read_text()
    lines = dict(line.split(":", 1) for line in access.hashes.read_text().splitlines())
    assert matches(passwords["hall"], lines["hall"])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "x" * 65, "coordinator", "../etc"])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(SpecError, match="a device cannot be called"):
        devices.add(tmp_path / "run", ["good", name])
    assert not (tmp_path / "run").exists()


def test_who_is_there_already_and_who_is_not(tmp_path):
    devices.add(tmp_path, ["kitchen"])
    with pytest.raises(StoreError, match="kitchen is there already: remove it first"):
        devices.add(tmp_path, ["hall", "kitchen"])
    assert [device["name"] for device in devices.listed(tmp_path)] == ["kitchen"]
    with pytest.raises(StoreError, match=r"'hall' is not on the list .* has kitchen"):
        devices.remove(tmp_path, ["hall"])
    devices.remove(tmp_path, ["kitchen"])
    assert devices.listed(tmp_path) == []
    with pytest.raises(StoreError, match="there is no run directory"):
        devices.listed(tmp_path / "none")
