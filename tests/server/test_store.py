"""Two processes at one state: nobody overtakes who decides by what it has read, and who reads is in nobody's way."""

from __future__ import annotations

import threading

import pytest

from fedthings.errors import WireError
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import public_of
from fedthings.server import devices, roll
from fedthings.server.roll import Roll
from fedthings.server.store import DEVICES, Store


@pytest.fixture
def two(tmp_path):
    stores = Store(tmp_path), Store(tmp_path)
    yield stores
    for store in stores:
        store.close()


def test_a_token_for_one_lets_in_one_of_two_that_come_at_once(two, tmp_path, monkeypatch):
    (file,) = devices.enrol(tmp_path, count=1)
    token, found, threads = tokens.read(file), {}, []

    def enrol(number: int, name: str) -> None:
        key = public_of(bytes([number]) * 32)
        try:
            shown = tokens.presented(token, name, key, passwords.hashed("word"))
            found[name] = Roll(two[number]).enrol(token.id, shown)
        except WireError as error:
            found[name] = error.reason

    def other_comes(*_: object) -> None:
        """Let the second come when the first has read the token, and has not yet written that it is used."""
        monkeypatch.undo()
        threads.append(threading.Thread(target=enrol, args=(1, "second")))
        threads[0].start()
        threads[0].join(0.3)

    monkeypatch.setattr(roll.tokens, "check", other_comes)
    enrol(0, "first")
    threads[0].join()
    assert found == {"first": "enrolled", "second": "token used twice"}
    assert Roll(two[0]).read().devices.keys() == {"first"}


def test_who_reads_sees_one_moment_and_keeps_nobody_from_writing(two):
    with two[0].reading() as connection:
        assert not connection.execute(DEVICES.select()).all()
        two[1].know({"kitchen": "hash"})
        assert not connection.execute(DEVICES.select()).all()
    assert [device["name"] for device in two[0].devices()] == ["kitchen"]


def test_what_fails_in_a_transaction_leaves_nothing(two):
    with pytest.raises(ZeroDivisionError), two[0].transaction() as connection:
        connection.execute(DEVICES.insert(), {"name": "kitchen", "added": 0.0})
        1 / 0  # noqa: B018
    assert two[1].devices() == []
    two[1].know({"hall": "hash"})
    assert [device["name"] for device in two[0].devices()] == ["hall"]
