"""The way down by differences: what it costs, what it errs by, and that nothing is lost but the rounding."""

from __future__ import annotations

import tracemalloc
import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import fedthings as ft
from fedthings import down
from fedthings.bodies import Change
from fedthings.compress.delta import SCALE, build, change, patched
from fedthings.engine import Engine
from fedthings.errors import WireError
from fedthings.federation import phases
from fedthings.learn.digits import digits
from fedthings.phase import received, sent
from fedthings.protocol.events import Ticket
from fedthings.stage import Field
from fedthings.vector import Key
from fedthings.wire import pack_body, unpack_body

TASK = ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16))
KEY = Key(0, "", 0, 0)


def federation(down, pace: ft.Pace | None = None) -> ft.Federation:
    return ft.Federation(TASK, ft.fedavg(), pace or ft.Pace(goal=10), down=down)


@pytest.mark.parametrize("bits", range(2, 9))
def test_it_errs_by_half_a_step_at_most_and_steps_are_powers_of_two(bits: int) -> None:
    x = np.random.default_rng(bits).normal(0, 1e-3, (3, 1000)).astype(np.float32)
    x[1, :64] = 0
    stage = build(ft.delta(bits, block=64), (Field("x", 1000),))
    rows, _ = stage.encode({"x": x}, [None] * 3, [KEY] * 3)
    most = 2 ** (bits - 1) - 1
    assert rows["x"].dtype == np.int8 and np.abs(rows["x"]).max() <= most
    assert (np.frexp(rows[SCALE])[0] == 0.5).all()
    step = np.repeat(rows[SCALE], 64, axis=-1)[:, :1000]
    error = np.abs(stage.decode(rows)["x"] - x)
    assert (error <= step / 2).all()
    padded = np.zeros((3, 1024), np.float32)
    padded[:, :1000] = x
    largest = np.repeat(np.abs(padded).reshape(3, -1, 64).max(-1), 64, axis=-1)[:, :1000]
    assert (error <= largest / most).all()
    assert (stage.decode(rows)["x"][1, :64] == 0).all()
    again, _ = stage.encode(stage.decode(rows), [None] * 3, [KEY] * 3)  # what is on the grid stays where it is
    np.testing.assert_array_equal(stage.decode(again)["x"], stage.decode(rows)["x"])


@pytest.mark.parametrize("bits", [5, 32])
def test_many_are_a_stack_of_one(bits: int) -> None:
    x = np.random.default_rng(0).normal(0, 1, (7, 333)).astype(np.float32)
    stage = build(ft.delta(bits, block=16), (Field("x", 333),))
    rows, _ = stage.encode({"x": x}, [None] * 7, [KEY] * 7)
    for i in range(7):
        one, _ = stage.encode({"x": x[i : i + 1]}, [None], [KEY])
        for name, row in one.items():
            np.testing.assert_array_equal(row[0], rows[name][i])
        np.testing.assert_array_equal(stage.decode(one)["x"][0], stage.decode(rows)["x"][i])


@settings(deadline=None)
@given(st.binary(min_size=1), st.binary())
def test_nothing_is_lost(body: bytes, base: bytes) -> None:
    said = unpack_body(pack_body(change(body, base)), Change)
    assert patched(said, base, len(body)) == body


BODY, BASE = bytes(range(250)) * 40, bytes(250) * 40
ZEROS = np.frombuffer(zlib.compress(bytes(1 << 26))[2:-4], np.uint8)
SAID = change(BODY, BASE)
WRONG = {
    "another base": (SAID, BODY, "wrong base"),
    "no base": (SAID, b"", "wrong base"),
    "a base where none is due": (change(BODY), BASE, "wrong base"),
    "larger than is taken": (replace(SAID, size=10_001), BASE, "too large"),
    "less than announced": (replace(SAID, size=9_999), BASE, "malformed"),
    "more than announced": (change(BODY[:-1]), b"", ""),
    "not deflated": (replace(SAID, difference=np.full(9, 255, np.uint8)), BASE, "malformed"),
    "cut short": (replace(SAID, difference=SAID.difference[:-3]), BASE, "malformed"),
    "bytes behind the end": (replace(SAID, difference=np.append(SAID.difference, np.uint8(0))), BASE, "malformed"),
    "another model": (replace(SAID, digest=sha256(b"").digest()), BASE, "wrong digest"),
    "a bomb": (replace(change(b"?"), difference=ZEROS), b"", "malformed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_by_its_reason_and_allocates_little(case: str) -> None:
    said, base, reason = WRONG[case]
    if case == "more than announced":
        said, reason = replace(said, size=len(BODY)), "malformed"
    tracemalloc.start()
    with pytest.raises(WireError) as refused:
        patched(said, base, len(BODY))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == reason
    assert peak < 200_000


def test_a_model_is_what_the_task_says_whoever_is_told_by_what() -> None:
    spec = phases(federation(ft.delta(6, block=64)))[0]
    row = TASK.model.init(3)
    arrays = sent(spec, row, 5)
    np.testing.assert_array_equal(sent(spec, row, 9)["x"], arrays["x"])  # no version is rounded otherwise
    assert np.abs(received(spec, arrays)["x"] - row).max() <= arrays[SCALE].max() / 2
    for name, wrong in (("x", arrays["x"][:-1]), ("x", arrays["x"].astype("f4")), (SCALE, arrays[SCALE][:1])):
        with pytest.raises(WireError, match="wrong arrays"):
            received(spec, {**arrays, name: wrong})


def test_it_travels_as_toml_and_its_numbers_have_bounds(tmp_path: Path) -> None:
    spec = federation(ft.delta(6, back=3))
    (tmp_path / "fed.toml").write_text(ft.dumps(spec))
    assert ft.load(tmp_path / "fed.toml") == spec
    for wrong in ({"bits": 1}, {"bits": 16}, {"block": 4}, {"back": -1}):
        with pytest.raises(ft.SpecError, match=rf"down\.delta\.{next(iter(wrong))} is"):
            ft.delta(**wrong)


def test_the_history_counts_what_each_device_lacks() -> None:
    """The model is the same however far back differences reach: they lose nothing, and cost less."""
    fleet = digits(10, 0)
    runs = {back: ft.simulate(federation(ft.delta(8, back=back)), fleet, 12) for back in (0, 1, 32)}
    whole = runs[0].summary["total"]["bytes_down"]
    for run in runs.values():
        np.testing.assert_array_equal(run.row, runs[0].row)
    assert runs[1].history == runs[32].history  # all take part in every version
    assert runs[32].summary["total"]["bytes_down"] < 0.8 * whole
    plain = ft.simulate(federation(ft.int8()), fleet, 12)
    assert runs[32].summary["total"]["bytes_down"] < 0.8 * plain.summary["total"]["bytes_down"]
    assert runs[32].summary["metrics"]["accuracy"] > plain.summary["metrics"]["accuracy"] - 0.02


def test_at_32_bits_nothing_is_rounded() -> None:
    fleet = digits(10, 0)
    plain, run = (ft.simulate(federation(down), fleet, 12) for down in (None, ft.delta(32)))
    np.testing.assert_array_equal(run.row, plain.row)
    assert run.summary["metrics"] == plain.summary["metrics"]
    assert run.summary["total"]["bytes_down"] < 0.8 * plain.summary["total"]["bytes_down"]


def test_who_takes_part_seldom_gets_one_difference_or_the_whole() -> None:
    fleet, pace = digits(10, 0), ft.Pace(goal=2)
    totals = [
        ft.simulate(federation(ft.delta(8, back=back), pace), fleet, 25).summary["total"]["bytes_down"]
        for back in (0, 2, 32)
    ]
    assert totals[2] < totals[1] < totals[0]


def test_the_engine_offers_what_is_less() -> None:
    engine = Engine(federation(ft.delta(8, back=2)), 9)
    whole = len(down.packed(engine, 0))
    assert down.base(engine, 0, None) is None and down.model_bytes(engine, Ticket(0, 0, "d", 0)) == whole
    row = engine.rows[0]
    for version in (1, 2, 3):
        engine.rows[version] = row + np.float32(1e-4 * version)
    engine.trained = engine.version = 3
    near, far = Ticket(0, 1, "d", 0), Ticket(0, 0, "d", 0)
    assert down.base(engine, 3, near) == near and down.base(engine, 3, far) is None
    assert down.model_bytes(engine, Ticket(0, 3, "d", 0), near) == len(down.packed(engine, 3, near)) < whole / 2
    assert down.model_bytes(engine, Ticket(0, 3, "d", 0), far) == len(down.packed(engine, 3))
    engine.rows[1] = np.random.default_rng(0).normal(0, 9, row.shape).astype("f4")  # it has nothing in common
    engine.sizes.clear()
    engine.packed.clear()
    assert down.base(engine, 3, near) is None
