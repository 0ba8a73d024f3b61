"""One signature on a message: as pycose makes and reads it, and nothing in any other form."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedthings.errors import WireError
from fedthings.identity import cose
from fedthings.identity.keys import key_id, public_of

SEED = bytes(range(32))
PUBLIC = public_of(SEED)
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
BOUND = cbor2.dumps(["fed", "ft/from/kitchen"])
numbers = st.integers(0, 2**64 - 1)


def signed(payload: bytes = b"a message", number: int = 7, answers: int = 3) -> bytes:
    return cose.sign(payload, KEY, key_id(PUBLIC), number, answers, BOUND)


@given(st.binary(max_size=70000), numbers, numbers)
def test_what_is_signed_is_read_again(payload: bytes, number: int, answers: int) -> None:
    data = signed(payload, number, answers)
    assert cose.is_signed(data)
    found = cose.parse(data)
    assert (found.kid, found.number, found.answers, found.payload) == (key_id(PUBLIC), number, answers, payload)
    cose.verify(found, PUBLIC, BOUND)


def test_pycose_reads_what_we_sign() -> None:
    messages = pytest.importorskip("pycose.messages")
    from pycose.algorithms import EdDSA
    from pycose.headers import KID, Algorithm
    from pycose.keys import OKPKey

    tagged = cbor2.loads(signed())  # not by pycose's decode(): it wants what cbor2 gave before its version 6
    assert tagged.tag == messages.Sign1Message.cbor_tag
    protected, unprotected, payload, signature = tagged.value
    message = messages.Sign1Message.from_cose_obj([protected, dict(unprotected), payload, signature], True)
    assert message.payload == b"a message" and message.uhdr == {}
    assert message.phdr[Algorithm] == EdDSA and message.phdr[KID] == key_id(PUBLIC)
    assert message.phdr[cose.NUMBER] == 7 and message.phdr[cose.ANSWERS] == 3
    message.key = OKPKey(crv="ED25519", x=PUBLIC, optional_params={"KEY_OPS": ["VERIFY"]})
    message.external_aad = BOUND
    assert message.verify_signature()
    message.external_aad = cbor2.dumps(["fed", "ft/from/hall"])
    assert not message.verify_signature()


def test_we_read_what_pycose_signs() -> None:
    messages = pytest.importorskip("pycose.messages")
    from pycose.algorithms import EdDSA
    from pycose.headers import KID, Algorithm
    from pycose.keys import OKPKey

    header = {Algorithm: EdDSA, KID: key_id(PUBLIC), cose.NUMBER: 7, cose.ANSWERS: 3}
    message = messages.Sign1Message(phdr=header, payload=b"a message", external_aad=BOUND)
    message.key = OKPKey(crv="ED25519", x=PUBLIC, d=SEED, optional_params={"KEY_OPS": ["SIGN"]})
    data = message.encode()
    assert data == signed()  # EdDSA is deterministic: the same bytes
    cose.verify(cose.parse(data), PUBLIC, BOUND)


@pytest.mark.parametrize("change", range(len(signed())))
def test_a_changed_byte_is_refused(change: int) -> None:
    data = bytearray(signed())
    data[change] ^= 1
    with pytest.raises(WireError):
        if not cose.is_signed(bytes(data)):
            raise WireError("not signed")
        cose.verify(cose.parse(bytes(data)), PUBLIC, BOUND)


@pytest.mark.parametrize("length", range(2, len(signed())))
def test_a_message_cut_short_or_too_long_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="malformed"):
        cose.parse(signed()[:length])
    with pytest.raises(WireError, match="malformed"):
        cose.parse(signed() + signed()[:length])


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="malformed"):
        cose.parse(b"\xd2\x84" + data)


@pytest.mark.parametrize("other", [public_of(bytes(32)), b"\xff" * 32, bytes(31)])
def test_another_key_or_binding_is_refused(other: bytes) -> None:
    with pytest.raises(WireError, match="wrong signature"):
        cose.verify(cose.parse(signed()), other, BOUND)
    with pytest.raises(WireError, match="wrong signature"):
        cose.verify(cose.parse(signed()), PUBLIC, cbor2.dumps(["other", "ft/from/kitchen"]))
