"""Tokens: a file that holds all a device needs, and what shows that a device has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from fedthings.errors import DataError, SpecError, StoreError, WireError
from fedthings.identity import keys, passwords, tokens


def test_a_token_is_a_private_file_that_holds_all(tmp_path: Path) -> None:
    token = tokens.made(keys.public_of(bytes(32)), 2e9, "kitchen", "floor")
    token = replace(token, broker="mqtts://hub.local", ca="-----BEGIN CERTIFICATE-----\n")
    token.write(tmp_path / "kitchen.token")
    assert (tmp_path / "kitchen.token").stat().st_mode & 0o777 == 0o600
    assert tokens.read(tmp_path / "kitchen.token") == token
    assert token.pinned == keys.public_of(bytes(32)) and not token.expired and replace(token, expires=1.0).expired
    assert token.password not in (tmp_path / "kitchen.token").read_text() and len(token.password) >= 32


@pytest.mark.parametrize("text", ["", "{}", "secret", '{"id": "token-1", "secret": "s3cret", "more": 1}'])
def test_a_file_that_is_none_is_not_shown(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(DataError, match="is not a token") as error:
        tokens.read(tmp_path / "t")
    assert "s3cret" not in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        tokens.read(tmp_path / "none")


@pytest.mark.parametrize("damage", [lambda key: key[:-1], lambda key: key + "A", lambda key: f"ü{key[1:]}"])
@pytest.mark.parametrize("half", ["secret", "coordinator"])
def test_what_is_damaged_is_not_shown(damage: Callable[[str], str], half: str, tmp_path: Path) -> None:
    token = tokens.made(keys.public_of(bytes(32)), 2e9, "kitchen")
    replace(token, **{half: damage(getattr(token, half))}).write(tmp_path / "t")
    with pytest.raises(DataError, match="is not a token") as error:
        tokens.read(tmp_path / "t")
    assert token.secret[1:10] not in str(error.value)


def test_who_has_the_token_can_show_it_for_one_key_name_and_password() -> None:
    token = tokens.made(bytes(32), 2e9)
    enrol = tokens.presented(token, "kitchen", b"k" * 32, "$7$1$a$b")
    tokens.check(enrol, tokens.public(token))
    for changed in ({"key": b"l" * 32}, {"name": "hall"}, {"password": "$7$1$a$c"}, {"proof": bytes(64)}):
        with pytest.raises(WireError, match="wrong token"):
            tokens.check(replace(enrol, **changed), tokens.public(token))
    with pytest.raises(WireError, match="wrong token"):
        tokens.check(enrol, tokens.public(tokens.made(bytes(32), 2e9)))


def test_a_key_is_made_once_and_damage_is_said(tmp_path: Path) -> None:
    key = keys.held(tmp_path / "deep" / "identity.key")
    assert keys.held(tmp_path / "deep" / "identity.key") == key and len(keys.fingerprint(key)) == 16
    assert (tmp_path / "deep" / "identity.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "short").write_bytes(b"?")
    with pytest.raises(StoreError, match="is damaged: it has 1 bytes, not 32"):
        keys.held(tmp_path / "short")
    with pytest.raises(SpecError, match="the secret of token-1") as error:
        _ = tokens.Token("token-1", "s3cret", "y", 0.0).key
    assert "s3cret" not in str(error.value)


def test_a_password_is_checked_by_its_hash() -> None:
    word = passwords.drawn()
    line = passwords.hashed(word)
    assert word not in line and passwords.matches(word, line) and not passwords.matches(passwords.drawn(), line)
    for bad in ("", "$7$", "$7$0$YQ==$YQ==", "$7$1$?$?", "$6$1$YQ==$YQ==", line[:-4], line + "\n:x"):
        assert passwords.parts(bad) is None and not passwords.matches(word, bad)
