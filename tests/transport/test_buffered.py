"""A socket that reads and writes much at once: what goes through is what was said, in order."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fedthings.transport.buffered import Buffered


@pytest.fixture
def ends() -> Iterator[tuple[Buffered, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield Buffered(near), far


def test_pieces_of_what_one_call_has_brought(ends: tuple[Buffered, socket.socket]) -> None:
    buffered, far = ends
    far.sendall(b"abcdefgh")
    assert [bytes(buffered.recv(1)), bytes(buffered.recv(3)), buffered.pending()] == [b"a", b"bcd", 4]
    far.sendall(b"ij")
    assert bytes(buffered.recv(100)) == b"efgh"
    assert bytes(buffered.recv(100)) == b"ij"
    with pytest.raises(BlockingIOError):
        buffered.recv(1)
    far.close()
    assert not buffered.recv(1)


def test_what_is_sent_goes_with_the_flush(ends: tuple[Buffered, socket.socket]) -> None:
    buffered, far = ends
    far.setblocking(False)
    assert [buffered.send(b"ab"), buffered.send(bytearray(b"cd")), buffered.unwritten] == [2, 2, 4]
    with pytest.raises(BlockingIOError):
        far.recv(10)
    buffered.flush()
    assert far.recv(10) == b"abcd"


def test_a_peer_that_does_not_read_makes_the_sender_wait_and_loses_nothing(
    ends: tuple[Buffered, socket.socket],
) -> None:
    buffered, far = ends
    sent = received = b""
    with pytest.raises(BlockingIOError):
        for n in range(1 << 20):
            packet = n.to_bytes(4, "big") * 1000
            buffered.send(packet)
            sent += packet
    assert buffered.unwritten
    while len(received) < len(sent):
        received += far.recv(1 << 20)
        buffered.flush()
    assert received == sent
    assert not buffered.unwritten


def test_closing_writes_what_waits(ends: tuple[Buffered, socket.socket]) -> None:
    buffered, far = ends
    buffered.send(b"bye")
    buffered.close()
    assert far.recv(10) == b"bye"
