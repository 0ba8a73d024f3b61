"""Shares: what the leader stores of a report says nothing of it, and a seed opens for one report only."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedthings.errors import SpecError, WireError
from fedthings.identity.keys import held, spelled
from fedthings.privacy import keys, masks, shares
from fedthings.privacy.shares import Channel, Scope, TwoServers
from fedthings.protocol.events import Ticket
from fedthings.vector import keyed
from secure import chi_square

SECRET = bytes(range(32))
PUBLIC = keys.public_of(SECRET)
SCOPE = Scope("house-1", bytes(32), 3, False, 32, 1000, 5)
TICKET = Ticket(1, 2, "kitchen", 0)


def report(dim: int = 1000, value: int = 0, bits: int = 32) -> dict[str, np.ndarray]:
    return {"x": np.full(dim, value, f"u{bits // 8}"), "exact": np.arange(5, dtype=np.uint64)}


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("dim", [0, 1, 1000, 40_000])
def test_the_mask_is_the_key_stream_of_aes_128(bits: int, dim: int) -> None:
    seed = bytes(range(16))
    arrays = report(dim, 0, bits)
    arrays["exact"][:] = 0
    masks.apply(arrays, [(seed, np.add)])
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(dim * bits // 8 + 40))
    assert arrays["x"].tobytes() + arrays["exact"].tobytes() == stream


def test_the_two_shares_add_up_to_the_report() -> None:
    want = report(value=2**32 - 7)
    sent = shares.split({name: row.copy() for name, row in want.items()}, PUBLIC, SCOPE, TICKET)
    seed = shares.unseal(sent["seed"].tobytes(), SECRET, SCOPE.of(TICKET, shares.digest(sent)))
    masks.apply(sent, [(seed, np.add)])
    assert all(np.array_equal(sent[name], row) for name, row in want.items())
    assert len(sent["seed"]) == shares.SEALED


def test_each_report_has_a_seed_of_its_own() -> None:
    seen = {shares.split(report(), PUBLIC, SCOPE, TICKET)["x"].tobytes() for _ in range(20)}
    assert len(seen) == 20


def damaged(sealed: bytes) -> bytes:
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


OTHERS = {
    "another device's": lambda s, k, t, h: (s, k, t._replace(device="hall"), h),
    "another version's": lambda s, k, t, h: (s, k, t._replace(version=3), h),
    "another attempt's": lambda s, k, t, h: (s, k, t._replace(attempt=1), h),
    "another share's": lambda s, k, t, h: (s, k, t, bytes(32)),
    "for another helper": lambda s, k, t, h: (s, bytes(31) + b"\1", t, h),
    "damaged": lambda s, k, t, h: (damaged(s), k, t, h),
    "cut short": lambda s, k, t, h: (s[:40], k, t, h),
    "zeros": lambda s, k, t, h: (bytes(64), k, t, h),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_seed_opens_for_its_report_only(other: str) -> None:
    sent = shares.split(report(), PUBLIC, SCOPE, TICKET)
    hash_ = shares.digest(sent)
    assert len(shares.unseal(sent["seed"].tobytes(), SECRET, SCOPE.of(TICKET, hash_))) == 16
    sealed, key, ticket, hash_ = OTHERS[other](sent["seed"].tobytes(), SECRET, TICKET, hash_)
    with pytest.raises(WireError, match="malformed seed"):
        shares.unseal(sealed, key, SCOPE.of(ticket, hash_))


@pytest.mark.parametrize(
    "scope",
    [
        SCOPE._replace(federation="house-2"),
        SCOPE._replace(task=b"\1" + bytes(31)),
        SCOPE._replace(min_batch=2),
        SCOPE._replace(bits=16, dim=2000),
        SCOPE._replace(exact=4),
    ],
)
def test_a_seed_opens_for_its_task_and_its_minimum_only(scope: Scope) -> None:
    sent = shares.split(report(), PUBLIC, SCOPE, TICKET)
    with pytest.raises(WireError, match="malformed seed"):
        shares.unseal(sent["seed"].tobytes(), SECRET, scope.of(TICKET, shares.digest(sent)))


# ---------------------------------------------------------------------- the transcript


def updates(bits: int) -> dict[str, np.ndarray]:
    rng = keyed("updates")
    return {
        "nothing": np.zeros(1 << 18, f"u{bits // 8}"),
        "all alike": np.full(1 << 18, 12345, f"u{bits // 8}"),
        "an update": rng.normal(0, 300, 1 << 18).astype(f"i{bits // 8}").view(f"u{bits // 8}"),
    }


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("name", ["nothing", "all alike", "an update"])
def test_what_the_leader_stores_is_uniform_and_independent_of_the_update(bits: int, name: str) -> None:
    update = updates(bits)[name]
    scope = SCOPE._replace(bits=bits, dim=len(update), exact=1 << 12)
    sent = shares.split({"x": update.copy(), "exact": np.zeros(1 << 12, np.uint64)}, PUBLIC, scope, TICKET)
    for row in (sent["x"], sent["exact"]):
        assert chi_square(np.bincount(row.view(np.uint8), minlength=256)) > 1e-6
    # Of coordinates that are above, at and below 0, and of neighbours, the highest and the lowest bits are as uneven.
    for part in (sent["x"] >> (bits - 4), sent["x"] & 15):
        for sign in (-1, 0, 1):
            some = part[np.sign(update.view(f"i{bits // 8}")) == sign]
            assert not len(some) or chi_square(np.bincount(some, minlength=16)) > 1e-6
        pairs = part[::2].astype(np.int64) * 16 + part[1::2]
        assert chi_square(np.bincount(pairs, minlength=256)) > 1e-6


def test_the_chi_square_sees_an_update_that_is_not_hidden() -> None:
    assert chi_square(np.bincount(updates(32)["an update"].view(np.uint8), minlength=256)) < 1e-9


# ------------------------------------------------------------------------------ a batch


def test_a_commitment_is_of_the_set_and_not_of_its_order() -> None:
    tickets = [TICKET, TICKET._replace(device="hall"), TICKET._replace(device="attic")]
    hashes, seeds = [bytes([i]) * 32 for i in range(3)], [bytes([i]) * 64 for i in range(3)]
    want = shares.commitment(SCOPE, tickets, hashes, seeds)
    assert shares.commitment(SCOPE, tickets[::-1], hashes[::-1], seeds[::-1]) == want
    assert shares.commitment(SCOPE, tickets[:2], hashes[:2], seeds[:2]) != want
    assert shares.commitment(SCOPE, tickets, hashes, seeds[::-1]) != want
    assert shares.commitment(SCOPE._replace(min_batch=2), tickets, hashes, seeds) != want


def test_a_channel_is_between_two_and_for_one_purpose() -> None:
    other, third = bytes(range(1, 33)), bytes(range(2, 34))
    ours, theirs = Channel(SECRET, keys.public_of(other)), Channel(other, PUBLIC)
    closed = ours.close(b"batch", b"about")
    assert theirs.open(closed, b"about") == b"batch"
    for channel, data, about in (
        (Channel(third, PUBLIC), closed, b"about"),
        (theirs, closed, b"something else"),
        (theirs, damaged(closed), b"about"),
        (theirs, b"short", b"about"),
    ):
        with pytest.raises(WireError, match="wrong key"):
            channel.open(data, about)
    with pytest.raises(WireError, match="malformed"):
        Channel(SECRET, bytes(32))


# --------------------------------------------------------------------------- the spec


@pytest.mark.parametrize("key", ["", "abc", spelled(PUBLIC)[:-1], spelled(PUBLIC) + "=", "é" * 43])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match=r"secure\.helper is"):
        TwoServers(key)


@pytest.mark.parametrize(
    "fields", [{"min_batch": 1}, {"bits": 24}, {"heaviest": 0}, {"name": "a b"}, {"patience": 0.0}]
)
def test_a_number_that_cannot_be_is_refused(fields: dict) -> None:
    with pytest.raises(SpecError, match=f"secure\\.{next(iter(fields))} is"):
        TwoServers(spelled(PUBLIC), **fields)


def test_a_key_is_made_once_and_read_by_its_owner_only(tmp_path) -> None:
    key = held(tmp_path / "a.key")
    assert held(tmp_path / "a.key") == key and len(key) == 32
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert keys.public(spelled(keys.public_of(key)), "it") == keys.public_of(key)
