"""Who a device is, in its own directory: one key, put aside while a token that replaces it is not accepted yet."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from fedthings.device.identity import Identity, trust
from fedthings.device.way import Way, named
from fedthings.errors import DataError, SpecError, StoreError, TransportError
from fedthings.identity import tokens
from fedthings.identity.keys import fingerprint, public_of
from fedthings.lifeline import Ending

HUB, WEST = public_of(bytes(32)), public_of(bytes([1]) * 32)


def token(coordinator: bytes = HUB, name: str = "kitchen") -> tokens.Token:
    return tokens.made(coordinator, 2e9, name)


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    first = token()
    identity = Identity(tmp_path / "kitchen", "kitchen", [first])
    key = identity.key
    assert not identity.standings[0].enrolled and identity.standings[0].token == first
    identity.seal().link()
    for name in ("identity.key", "identity.json", "identity.links"):
        assert stat.S_IMODE((tmp_path / "kitchen" / name).stat().st_mode) == 0o600
    identity.enrolled(identity.standings[0])
    assert first.secret not in (tmp_path / "kitchen" / "identity.json").read_text()
    for given in ([], [first]):  # the same command goes on
        again = Identity(tmp_path / "kitchen", "kitchen", given)
        assert again.key == key and again.standings == identity.standings and again.standings[0].enrolled


def test_a_token_for_another_key_replaces_it_when_it_is_accepted(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "kitchen", [token()])
    key, password = identity.key, identity.standings[0].password
    identity.enrolled(identity.standings[0])
    for _ in range(2):  # the coordinator refuses: the device is who it was
        identity = Identity(tmp_path, "kitchen", [token()])
        assert identity.key != key and not identity.standings[0].enrolled
        identity.refused(identity.standings[0])
        assert Identity(tmp_path, "kitchen").key == key
        assert [(s.enrolled, s.password) for s in identity.standings] == [(True, password)]
    identity = Identity(tmp_path, "kitchen", [token()])
    identity = Identity(tmp_path, "kitchen", [token()])  # and yet another, before that one was shown
    new = identity.key
    identity.enrolled(identity.standings[0])
    assert Identity(tmp_path, "kitchen").key == new != key
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.json", "identity.key"]


def test_two_coordinators_know_one_key(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "kitchen", [token(WEST), token(HUB)])
    assert [s.pinned for s in identity.standings] == [WEST, HUB]
    assert identity.standing(1).pinned == HUB and identity.standing(5).pinned == WEST
    assert identity.standings[0].password != identity.standings[1].password


def both(directory: Path) -> tuple[Identity, bytes]:
    """Return a device that two coordinators know, with new tokens of both; and the key that it has had."""
    identity = Identity(directory, "kitchen", [token(WEST), token(HUB)])
    key = identity.key
    for standing in list(identity.standings):
        identity.enrolled(standing)
    return Identity(directory, "kitchen", [token(WEST), token(HUB)]), key


def test_the_old_key_is_kept_until_all_coordinators_have_answered(tmp_path: Path) -> None:
    identity, key = both(tmp_path)
    new = identity.key
    assert new != key
    identity.enrolled(identity.standings[0])
    identity = Identity(tmp_path, "kitchen")
    assert identity.key == new and (tmp_path / "identity.key.before").read_bytes() == key
    identity.enrolled(identity.standings[1])
    assert Identity(tmp_path, "kitchen").key == new and not (tmp_path / "identity.key.before").exists()


def test_a_key_that_was_refused_before_anybody_knew_it_is_not_shown_again(tmp_path: Path) -> None:
    """A device that was taken off a list while it waited: no list takes its key again."""
    first = token()
    key = Identity(tmp_path, "kitchen", [first]).key
    assert Identity(tmp_path, "kitchen", [first]).key == key  # it asks again
    assert Identity(tmp_path, "kitchen", [token(WEST)]).key == key  # another's token, while the first may be accepted
    again = Identity(tmp_path, "kitchen", [token(), token(WEST)])
    assert again.key != key and not any(standing.enrolled for standing in again.standings)


def test_a_refusal_goes_back_to_the_old_key_unless_another_coordinator_has_the_new_one(tmp_path: Path) -> None:
    identity, key = both(tmp_path)
    assert identity.key != key
    identity.refused(identity.standings[0])  # nobody knows the new one: both are as they were
    identity = Identity(tmp_path, "kitchen")
    assert identity.key == key and all(s.enrolled and s.token is None for s in identity.standings)

    identity = Identity(tmp_path, "kitchen", [token(WEST), token(HUB)])
    new = identity.key
    identity.enrolled(identity.standings[0])
    identity.refused(identity.standings[1])
    identity = Identity(tmp_path, "kitchen")
    assert identity.key == new != key and [s.enrolled for s in identity.standings] == [True, False]
    another = token(HUB)
    identity = Identity(tmp_path, "kitchen", [another])  # which does not replace the key again
    assert identity.key == new and identity.standings[1].token == another
    identity.enrolled(identity.standings[1])
    assert Identity(tmp_path, "kitchen").key == new and not (tmp_path / "identity.key.before").exists()


def test_a_key_that_another_coordinator_knows_is_not_replaced_behind_its_back(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "kitchen", [token(WEST), token(HUB)])
    key = identity.key
    for standing in list(identity.standings):
        identity.enrolled(standing)
    before = (tmp_path / "identity.json").read_bytes()
    with pytest.raises(SpecError, match=f"know the old one: {fingerprint(HUB)} by token-.*devices rotate kitchen"):
        Identity(tmp_path, "kitchen", [token(WEST)])
    assert (tmp_path / "identity.json").read_bytes() == before and Identity(tmp_path, "kitchen").key == key
    third = Identity(tmp_path, "kitchen", [token(public_of(bytes([2]) * 32))])  # one more replaces none
    assert third.key == key and len(third.standings) == 3


def test_a_key_aside_that_a_kill_has_left_is_not_taken_for_the_one_in_use(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "kitchen", [token()])
    key = identity.key
    identity.enrolled(identity.standings[0])
    (tmp_path / "identity.key.before").write_bytes(bytes(32))
    identity = Identity(tmp_path, "kitchen", [token()])
    assert identity.key != key
    identity.refused(identity.standings[0])
    assert Identity(tmp_path, "kitchen").key == key


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"kitchen has no token, and .* was never enrolled"):
        Identity(tmp_path, "kitchen")
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Identity(tmp_path, "kitchen")
    with pytest.raises(SpecError, match="the certificates cannot be used"):
        trust("no certificate")
    with pytest.raises(SpecError, match="the certificates cannot be used"):
        trust("kein Zertifikat für uns")
    token().write(tmp_path / "kitchen.token")
    token(name="hall").write(tmp_path / "hall.token")
    token(name="").write(tmp_path / "any.token")
    files = [str(tmp_path / name) for name in ("kitchen.token", "hall.token", "any.token", "none")]
    with pytest.raises(SpecError, match="the tokens are for hall and kitchen: a device has one name"):
        named(None, files[:2])
    with pytest.raises(SpecError, match="this token is for any device"):
        named(None, [files[2]])
    with pytest.raises(SpecError, match="give the device's --token; or"):
        named(None, [])
    with pytest.raises(DataError, match="cannot be read"):
        named("kitchen", [files[3]])
    assert named("attic", [files[2]])[0] == "attic" and named(None, [files[0]])[0] == "kitchen"
    with pytest.raises(SpecError, match="there are 2 tokens for 3 brokers"):
        Way("kitchen", tmp_path, ["mqtt://a", "mqtt://b", "mqtt://c"], [token(WEST), token(HUB)])
    way = Way("kitchen", tmp_path / "new", (), [token()])
    with pytest.raises(SpecError, match="the token names no broker: name it with --broker"):
        way.enrolled(Ending(), 1.0)


def at(root: str, number: int) -> tokens.Token:
    """Return a token of the coordinator `number`, at a broker and under a root of its own."""
    return replace(token(public_of(bytes([number]) * 32)), root=root, broker=f"mqtt://broker-{number}.invalid")


def test_one_root_and_a_password_for_all_brokers_or_each(tmp_path: Path) -> None:
    way = Way("kitchen", tmp_path / "roots", (), [at("ft", 1), at("iot", 2)])
    with pytest.raises(SpecError, match=r"the topic roots 'ft' \(token-.*\) and 'iot' \(token-.*\): .* with --root"):
        way.enrolled(Ending(), 1.0)
    way = Way("kitchen", tmp_path / "words", (), [at("ft", number) for number in (1, 2, 3)], ["one", "two"])
    with pytest.raises(SpecError, match="there are 2 password files for 3 brokers"):
        way.enrolled(Ending(), 1.0)


def test_a_new_token_that_names_no_broker_leaves_the_device_where_it_is(tmp_path: Path) -> None:
    identity = Identity(tmp_path, "kitchen", [at("ft", 1)])
    identity.enrolled(identity.standings[0])
    identity = Identity(tmp_path, "kitchen", [replace(at("ft", 1), broker="")])
    assert identity.standings[0].broker == "mqtt://broker-1.invalid" and not identity.standings[0].enrolled
    identity = Identity(tmp_path, "kitchen", [replace(at("ft", 1), broker="mqtt://new.invalid")])
    assert identity.standings[0].broker == "mqtt://new.invalid"


def test_a_link_that_is_not_let_in_yet_is_tried_again_until_the_end_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, tried = Ending(), []

    def refused(*_: object, **__: object) -> None:
        tried.append(1)
        ending.number = 2 * (len(tried) == 3)
        raise TransportError("refused")

    monkeypatch.setattr("fedthings.device.way.enrol", lambda *_, **__: None)
    monkeypatch.setattr("fedthings.device.way.MqttTransport", refused)
    link = Way("kitchen", tmp_path, (), [at("ft", 1)]).enrolled(ending, 1.0)
    assert link is not None
    with pytest.raises(TransportError, match="refused"):
        link()
    assert len(tried) == 3
