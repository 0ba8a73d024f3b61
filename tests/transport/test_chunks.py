"""Chunks in any order, lost, twice or damaged give the body or nothing; an offer that lies is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedthings.errors import StoreError, WireError
from fedthings.messages import Chunk, Offer
from fedthings.transport.chunks import LARGEST, Assembly, Source

LIMIT = 1 << 20


def starts(assembly: Assembly) -> list[int]:
    """Return where the chunks begin that `assembly` asks for."""
    return [start for want in assembly.wants() for start in want.starts]


def pull(source: Source, assembly: Assembly) -> None:
    """Let `assembly` want and get until it is done."""
    while not assembly.done:
        for want in assembly.wants():
            for chunk in source.answer(want):
                assembly.add(chunk)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(1, 40), st.integers(1, 8), st.booleans(), st.data())
def test_any_order_duplication_and_loss_give_the_body(
    body: bytes, size: int, window: int, first: bool, data: st.DataObject
) -> None:
    source = Source(body, size)
    assembly = Assembly(source.offer("report", first=first), LIMIT, window=window)
    asked: list[int] = []
    rounds = 0
    while not assembly.done:
        wants = [start for want in assembly.wants() for start in want.starts]
        assert len(wants) <= window
        asked += wants
        if not asked:  # all that was asked for is lost: as after a deadline
            assembly.retry()
            rounds += 1
            continue
        picked = data.draw(st.permutations(asked)) if rounds < 3 else asked
        for start in picked:
            if rounds >= 3 or data.draw(st.booleans()):
                chunk = source.part(start, size)
                assert assembly.add(chunk)
                assert not assembly.add(chunk)
        asked = []
    assert assembly.data == body
    assert assembly.wants() == []
    assert assembly.missing == 0 and assembly.wrong == 0


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(1, 30), st.data())
def test_a_damaged_chunk_is_found_and_the_body_comes_after_all(body: bytes, size: int, data: st.DataObject) -> None:
    source = Source(body, size)
    assembly = Assembly(source.offer("model"), LIMIT)
    bad = data.draw(st.integers(0, source.count - 1))
    for index in range(source.count):
        chunk = source.chunk(index)
        if index == bad:
            chunk = msgspec.structs.replace(chunk, data=bytes([chunk.data[0] ^ 1]) + chunk.data[1:])
        assembly.add(chunk)
    assert not assembly.done and assembly.wrong == 1 and assembly.missing >= len(body)
    pull(source, assembly)
    assert assembly.data == body


def test_the_window_slides_when_half_of_it_has_come() -> None:
    source = Source(bytes(range(100)), 1)
    assembly = Assembly(source.offer("model"), LIMIT, window=8)
    assert starts(assembly) == list(range(8))
    assert starts(assembly) == []
    for index in range(3):
        assembly.add(source.chunk(index))
    assert starts(assembly) == []
    assembly.add(source.chunk(3))
    assert starts(assembly) == [8, 9, 10, 11]
    assembly.retry()
    assert starts(assembly) == list(range(4, 12))


def test_first_is_chunk_0() -> None:
    assembly = Assembly(Source(b"small").offer("report", first=True), LIMIT)
    assert assembly.done and assembly.data == b"small"
    with pytest.raises(WireError):
        Assembly(msgspec.structs.replace(Source(b"small").offer("report"), first=b"smal"), LIMIT)


def test_a_file_is_offered_like_bytes(tmp_path: Path) -> None:
    body = bytes(range(256)) * 50
    path = tmp_path / "body"
    path.write_bytes(body)
    source, same = Source(path, 1024), Source(body, 1024)
    assert source.offer("model") == same.offer("model")
    assert [source.chunk(i) for i in range(source.count)] == [same.chunk(i) for i in range(same.count)]
    assert source.digest == hashlib.sha256(body).digest()
    for index in (-1, source.count):
        with pytest.raises(WireError):
            source.chunk(index)


GOOD = Source(b"x" * 100, 10).offer("report")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count": 9}, "malformed"),
        ({"count": 11}, "malformed"),
        ({"size": 101}, "malformed"),
        ({"size": 0, "count": 0}, "malformed"),
        ({"chunk": 0}, "malformed"),
        ({"chunk": -10}, "malformed"),
        ({"chunk": LARGEST + 1, "count": 1}, "malformed"),
        ({"size": LIMIT + 1}, "too large"),
        ({"size": 2**62, "count": 2**62, "chunk": 1}, "too large"),
        ({"first": b"x" * 9}, "malformed"),
    ],
)
def test_an_offer_that_lies_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(WireError) as refused:
        Assembly(msgspec.structs.replace(GOOD, **change), LIMIT)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(b"e" * 32, 0, b"x" * 10),
        Chunk(GOOD.digest, 100, b"x" * 10),
        Chunk(GOOD.digest, 0, b"x" * 9),
        Chunk(GOOD.digest, 0, b"x" * 11),
    ],
)
def test_a_chunk_of_something_else_is_refused(chunk: Chunk) -> None:
    assembly = Assembly(GOOD, LIMIT)
    with pytest.raises(WireError):
        assembly.add(chunk)
    assert assembly.missing == 100


# --------------------------------------------------------------- files and resume


def begun(path: Path, have: int, body: bytes = bytes(range(250)), size: int = 10) -> tuple[Source, Offer]:
    """Leave behind what a process that was killed after `have` chunks leaves."""
    source = Source(body, size)
    offer = source.offer("report")
    assembly = Assembly(offer, LIMIT, path, window=100)
    assembly.wants()
    for index in range(0, 2 * have, 2):
        assembly.add(source.chunk(index))
    return source, offer


def test_a_restarted_process_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source, offer = begun(path, 10)
    assembly = Assembly(offer, LIMIT, path, window=100)
    odd = [10, 30, 50, 70, 90, 110, 130, 150, 170]
    held = [180]  # the last that came: what follows it would have been stored with it
    assert starts(assembly) == sorted([*odd, *held, 190, 200, 210, 220, 230, 240])
    assembly.retry()
    pull(source, assembly)
    assert assembly.data == path.read_bytes() == bytes(range(250))
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    again = Assembly(offer, LIMIT, path)
    assert again.done and again.wants() == [] and again.data == bytes(range(250))


def test_a_file_of_another_offer_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "report"
    begun(path, 10)
    other = Source(bytes(250), 10)
    assembly = Assembly(other.offer("report"), LIMIT, path)
    assert assembly.missing == 250
    pull(other, assembly)
    assert path.read_bytes() == bytes(250)


def test_a_partial_file_that_was_damaged_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source, offer = begun(path, 10)
    part = tmp_path / "report.part"
    part.write_bytes(b"?" + part.read_bytes()[1:])
    assembly = Assembly(offer, LIMIT, path)
    pull(source, assembly)
    assert assembly.wrong == 1 and path.read_bytes() == bytes(range(250))


def test_a_cut_note_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source, offer = begun(path, 10)
    part = tmp_path / "report.part"
    part.write_bytes(part.read_bytes()[:-3])
    assembly = Assembly(offer, LIMIT, path)
    assert assembly.missing == 250
    pull(source, assembly)
    assert assembly.data == bytes(range(250))


def test_killed_between_the_last_chunk_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source, offer = begun(path, 1, body=b"0123456789", size=5)
    part = tmp_path / "report.part"
    part.write_bytes(b"0123456789" + part.read_bytes()[10:-2] + b"\1\1")
    assert Assembly(offer, LIMIT, path).done
    assert path.read_bytes() == b"0123456789" == source.body


def test_killed_when_the_file_had_its_length_but_not_its_name(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source, offer = begun(path, 1, body=b"0123456789", size=5)
    (tmp_path / "report.part").write_bytes(b"0123456789")
    assert Assembly(offer, LIMIT, path).done
    assert path.read_bytes() == source.body and not (tmp_path / "report.part").exists()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40_000), st.lists(st.sampled_from([512, 1024, 2048, 4096, 8192]), min_size=1), st.data())
def test_chunks_of_changing_length_give_the_body_and_nothing_twice(
    size: int, lengths: list[int], data: st.DataObject
) -> None:
    source = Source(hashlib.shake_128(b"body").digest(size), 4096)
    assembly = Assembly(source.offer("report"), LIMIT)
    moved = 0
    for length in [*lengths, 2048] * 50:
        assembly.length = length
        for want in assembly.wants():
            for chunk in source.answer(want, data.draw(st.sampled_from([512, 1024, 1 << 19]))):
                if data.draw(st.integers(0, 3)):
                    assert assembly.add(chunk)
                    moved += len(chunk.data)
        assembly.retry()
        if assembly.done:
            break
    pull(source, assembly)
    assert assembly.data == source.body and moved <= size


def test_what_is_here_is_not_written_over(tmp_path: Path) -> None:
    source = Source(bytes(range(256)) * 16, 1024)
    assembly = Assembly(source.offer("report"), LIMIT, tmp_path / "report")
    assembly.add(source.part(512, 512))
    assert assembly.add(Chunk(source.digest, 0, source.body[:512] + b"?" * 512 + source.body[1024:2048]))  # type: ignore[operator]
    pull(source, assembly)
    assert assembly.wrong == 0 and assembly.data == source.body


def test_a_body_of_one_chunk_is_written_when_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "report"
    source = Source(b"0123456789")
    assembly = Assembly(source.offer("report"), LIMIT, path)
    assembly.add(Chunk(source.digest, 0, b"012345678?"))
    assert assembly.wrong == 1 and not path.exists()
    pull(source, assembly)
    assert path.read_bytes() == b"0123456789" == assembly.data
    assembly.discard()
    assert list(tmp_path.iterdir()) == []


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report"
    _, offer = begun(path, 3)
    Assembly(offer, LIMIT, path).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no-folder"):
        Assembly(GOOD, LIMIT, tmp_path / "no-folder" / "report")
