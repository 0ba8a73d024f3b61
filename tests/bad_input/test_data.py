"""Data that does not fit: told with the device, the value and a remedy, before anything runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from virtual import Virtual

from .conftest import Command, contents, federation, fleet

N = 60


def arrays(**other: object) -> dict[str, object]:
    """Return what a good file holds, with some of it replaced; None takes it out."""
    y = np.arange(N) % 2
    X = np.random.default_rng(0).normal(size=(N, 4)) + y[:, None]
    good = {"X": X, "y": y, "device": np.arange(N) // 20, "split": np.arange(N) % 20 >= 16}
    return {key: value for key, value in {**good, **other}.items() if value is not None}


def spoilt(value: float) -> np.ndarray:
    X = np.array(arrays()["X"])
    X[3, 1] = value
    return X


Y = np.arange(N) % 2
CASES = {
    "no y": ({"y": None}, "lacks the keys y (found: X, device, split)"),
    "no X": ({"X": None}, "lacks the keys X (found: y, device, split)"),
    "y too short": ({"y": Y[:50]}, "y has 50 entries but X has 60 rows: give one for each sample"),
    "other features": ({"X": np.zeros((N, 3))}, "device-0: X has samples of shape (3,), the model takes (4,): reshape"),
    "X of one axis": ({"X": np.zeros(N)}, "X has the shape (60,): give it one row a sample, (n, features)"),
    "no samples": ({k: v[:0] for k, v in arrays().items()}, "X has no rows: give at least one sample"),
    "no rows to train": ({"split": np.arange(N) >= 40}, "device-2 has no training samples: give it some (split 0)"),
    "split 2": ({"split": np.full(N, 2)}, "split has 2: it must be 0 (train) or 1 (test)"),
    "NaN": ({"X": spoilt(np.nan)}, '(the first: sample 3, feature 1) missing (NaN): set normalise="fleet"'),
    "infinite": ({"X": spoilt(np.inf)}, "(the first: sample 3, feature 1) infinite: repair the value"),
    "beyond float32": ({"X": spoilt(1e39)}, "(the first: sample 3, feature 1) infinite: repair the value"),
    "label too large": ({"y": 7 * Y}, "device-0: y has the label 7, the model has 2 outputs: labels go from 0 to 1"),
    "negative label": ({"y": -Y}, "device-0: y has the label -1, the model has 2 outputs: labels go from 0 to 1"),
    "half a label": ({"y": Y + 0.5}, "device-0: y has the label 0.5: cross_entropy takes whole class numbers"),
    "label NaN": ({"y": np.where(Y, np.nan, 0)}, "device-0: y has 8 of 16 numbers (the first: sample 1) not finite"),
    "two labels a sample": ({"y": np.c_[Y, Y]}, "device-0: y has shape (16, 2): give one class number for each sample"),
    "dates": ({"y": np.full(N, np.datetime64("2020"))}, "y holds datetime64[Y]"),
    "text features": ({"X": np.full((N, 4), "warm")}, "X holds <U4, not numbers: encode text as numbers first"),
    "half a device": ({"device": np.arange(N) / 20}, "device has 0.05: name devices by text or whole numbers"),
    "pickled": ({"y": np.array([{}] * N, dtype=object)}, "y holds Python objects, which are not loaded: save numbers"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit(case: str, fed: Path, tmp_path: Path, command: Command) -> None:
    replaced, said = CASES[case]
    file = tmp_path / "data.npz"
    np.savez(file, **arrays(**replaced))
    before = contents(tmp_path)
    ended = command("check", fed, "--data", file)
    assert ended.code == 3
    assert said in ended.out + ended.err
    ended = command("simulate", fed, "--fleet", file, "--out", tmp_path / "run")
    assert ended.code == 3
    assert said in ended.err
    assert contents(tmp_path) == before


def whole() -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays())
    return file.getvalue()


def flipped() -> bytes:
    data = bytearray(whole())
    data[400] ^= 255
    return bytes(data)


def packed(**entries: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in entries.items():
            archive.writestr(f"{name}.npy", text)
    return file.getvalue()


FILES = {
    "empty": (lambda: b"", "is not an npz file: write it with numpy.savez, or name a .csv file"),
    "text": (lambda: b"hello", "is not an npz file"),
    "pickle": (lambda: pickle.dumps(arrays()), "is not an npz file"),
    "cut short": (lambda: whole()[:900], "is not an npz file"),
    "cut at the end": (lambda: whole()[:-30], "is not an npz file"),
    "a bit flipped": (flipped, "cannot be read as npz, it may be damaged: Bad CRC-32"),
    "another zip": (lambda: packed(readme="hello"), "lacks the keys X, y"),
    "no arrays": (lambda: packed(X="1", y="2", device="3"), "X holds |S1 with the shape (): give an array of numbers"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_npz(case: str, fed: Path, tmp_path: Path, command: Command) -> None:
    made, said = FILES[case]
    file = tmp_path / "data.npz"
    file.write_bytes(made())
    for words in (
        ("check", fed, "--data", file),
        ("join", "--broker", "mqtt://127.0.0.1:1", "--name", "a", "--data", file, "--state", tmp_path / "state"),
    ):
        ended = command(*words)
        assert ended.code == 3
        assert said in ended.err
        assert str(file) in ended.err


HEADER = "a,b,c,d,y,device\n"
TABLES = {
    "empty": ("", "is empty: its first line must name the columns"),
    "header only": (HEADER, "has no line below its header: give at least one sample"),
    "text among numbers": (
        HEADER + "1,2,3,4,0,x\n1,2,warm,4,1,x\n",
        "the column 'c' has 'warm' in line 3 among its numbers: leave the cell empty",
    ),
    "a cell too few": (HEADER + "1,2,3,4,0\n", "has 5 cells in line 2, but its header 6"),
    "no target": ("a,b,device\n1,2,x\n", "say which column is the target, of a, b, device"),
    "a column twice": ("a,a,y,device\n1,2,0,x\n", "has the column 'a' twice: give each its own name"),
    "no label": (HEADER + "1,2,3,4,,x\n", "the column 'y' has an empty cell in sample 1"),
    "infinite": (HEADER + "1,2,inf,4,0,x\n", "x: X has 1 of 4 numbers (the first: sample 0, feature 2) infinite"),
    "gaps": (HEADER + "1,2,,4,0,x\n1,2,3,4,1,x\n", "x: X has 1 of 8 numbers (the first: sample 0, feature 2) missing"),
    "not UTF-8": ("ä,b\n", "cannot be read as CSV: 'utf-8' codec can't decode byte 0xe4"),
}


@pytest.mark.parametrize("case", TABLES)
def test_what_is_no_csv(case: str, fed: Path, tmp_path: Path, command: Command) -> None:
    text, said = TABLES[case]
    file = tmp_path / "data.csv"
    file.write_text(text, encoding="latin-1")
    ended = command("check", fed, "--data", file)
    assert ended.code == 3
    assert said in ended.out + ended.err


def test_a_fleet_that_does_not_say_whose_each_sample_is(fed: Path, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, **arrays(device=None))
    ended = command("simulate", fed, "--fleet", file)
    assert ended.code == 3
    assert "does not say whose each sample is: give it a column or key `device`" in ended.err


def test_no_file_and_a_directory(fed: Path, tmp_path: Path, command: Command) -> None:
    ended = command("check", fed, "--data", tmp_path / "none.npz")
    assert (ended.code, "there is no file" in ended.err) == (3, True)
    ended = command("check", fed, "--data", tmp_path)
    assert (ended.code, "is a directory: name an npz or a CSV file" in ended.err) == (3, True)


def test_more_samples_than_a_report_may_weigh() -> None:
    n = 65_537
    many = ft.Fleet.from_arrays(np.zeros((n, 4), np.float32), np.zeros(n, np.int64), np.zeros(n, np.int64))
    with pytest.raises(ft.DataError, match=r'a report weighs at most 65536: keep fewer of them, .* to "equal"'):
        ft.simulate(federation(1), many, 1)


def test_a_device_whose_data_does_not_fit_declines_and_the_others_go_on(tmp_path: Path) -> None:
    spec, honest = federation(3), fleet(4)
    world = Virtual(spec, honest, 3, tmp_path)
    shard = honest.shard("device-3")
    news: list[str] = []
    world.agents["device-3"].shard = shard._replace(y=shard.y + 5)
    world.agents["device-3"].on_news = news.append
    run = world.run()
    assert run.summary["rounds"] == 3
    assert "cannot do the task: device-3: y has the label 6, the model has 2 outputs: labels go from 0 to 1" in news[0]
    assert sum(line["updates"] for line in run.history) == 9
    assert {reason for line in run.history for reason in line["dropped"]} <= {"does not fit"}
