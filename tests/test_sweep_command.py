"""`fedthings simulate --sweep`: tables, bars, bad options, a disk that is full and then larger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings import run
from fedthings.cli import main
from fedthings.commands.sweep import listing
from fedthings.simulation.simulator import simulate
from sweeps import ROUNDS, arrays, federation, fleet


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0, 0.01,1e-3", [0, 0.01, 1e-3]),
        ("sgd,adam", ["sgd", "adam"]),
        ('"a,b",c', ['"a', 'b"', "c"]),
        ('"a,b","c"', ["a,b", "c"]),
        ("true,false", [True, False]),
        ('{kind="adam",lr=0.1},{kind="sgd"}', [{"kind": "adam", "lr": 0.1}, {"kind": "sgd"}]),
        (" ", []),
    ],
)
def test_values_on_the_command_line(text: str, values: list[Any]) -> None:
    assert listing(text) == values


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "fed.toml").write_text(ft.dumps(federation()))
    np.savez(tmp_path / "data.npz", **arrays())
    words = ["simulate", tmp_path / "fed.toml", "--fleet", tmp_path / "data.npz", "--rounds", ROUNDS]
    return [*map(str, words), "--engine", "numpy", "--out", str(tmp_path / "out")]


def test_a_sweep_as_a_table(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--sweep", "strategy.mu=0,0.5", "--sweep", "task.recipe.lr=0.1,0.3", "--seeds", "2"]
    assert main([*words, *more]) == 0
    out, err = capsys.readouterr()
    assert "run 8/8  mu=0.5, lr=0.3, seed 1  version 4/4  accuracy" in err
    header, *rows, foot = out.splitlines()
    assert header.split()[:5] == ["mu", "lr", "runs", "last", "accuracy"]
    assert [row.split()[:3] for row in rows] == [[mu, lr, "2"] for mu in ("0", "0.5") for lr in ("0.1", "0.3")]
    assert "standard deviation over seeds" in foot
    assert max(map(len, out.splitlines())) <= 80
    assert main([*words, *more, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "8 of 8 runs are there already" in err
    found = json.loads(out.splitlines()[-1])
    assert [result["settings"] for result in found["results"]] == [
        {"strategy.mu": mu, "task.recipe.lr": lr} for mu in (0, 0.5) for lr in (0.1, 0.3)
    ]
    assert found["results"][0]["last"].keys() == {"mean", "deviation"}
    assert (found["metric"], found["part"]) == ("accuracy", "metrics")


def test_a_sweep_with_a_world_counts_joules(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world.toml").write_text('[[groups]]\ndevice = "pi4"\nlink = "wifi"\n')
    long = "task.recipe.optimizer={}".format("sgd,adam")
    assert main([*words, "--world", str(tmp_path / "world.toml"), "--sweep", long]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[0].split()[-1] == "energy"
    assert max(map(len, out.splitlines())) <= 80


def test_the_bar_counts_what_is_there_and_the_name_is_whole_where_it_is_long(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    step = 'strategy.step={{kind="adam",lr={}}},{{kind="momentum",lr=1.0,momentum=0.9}}'
    more = ["--sweep", step.format(0.1), "--sweep", "task.recipe.optimizer=sgd,adam", "--seeds"]
    assert main([*words, *more, "1"]) == 0
    capsys.readouterr()
    said: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "fedthings.progress.Progress.say", lambda bar, text, made: said.append((text, made / bar.rounds))
    )
    assert main([*words, *more, "2"]) == 0
    out, err = capsys.readouterr()
    assert "4 of 8 runs are there already" in err
    assert said[0][0].startswith("run 5/8  ")
    assert (said[0][1], said[-1][1]) == (4.25 / 8, 1)
    label = "step=momentum(lr=1.0,momentum=0.9), optimizer=adam"
    assert label in out.splitlines()
    assert max(map(len, out.splitlines())) <= 80


def test_without_test_samples_the_training_loss_is_the_measure(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", **{**arrays(), "split": np.zeros(80, int)})
    assert main([*words, "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    assert out.split()[:4] == ["runs", "last", "training", "loss"]
    assert "version 4/4  loss 0." in err


def test_without_a_picture_there_is_a_table(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*words, "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    assert "no picture: a picture needs matplotlib" in err
    assert len(out.splitlines()) == 3


def test_seeds_alone_are_a_sweep(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--seeds", "2"]) == 0
    assert main([*words, "--seed", "7", "--seeds", "1"]) == 0  # more of the same
    assert sorted(path.name for path in (tmp_path / "out").glob("seed*")) == ["seed=0", "seed=1", "seed=7"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sweep", "strategy.mu"], "is not like strategy.mu=0,0.01,0.1"),
        (["--sweep", "strategy.mu="], "strategy.mu has no values"),
        (["--sweep", "strategy.mu=1", "--sweep", "strategy.mu=2"], "strategy.mu is given twice"),
        (["--sweep", "strategy.nu=1"], "unknown field `strategy.nu`: did you mean `mu`?"),
        (["--seeds", "0"], "0 is not in the range"),
        (["--seeds", "2", "--trace"], "--trace is written to the run directory of one run"),
    ],
)
def test_bad_options_are_a_message(
    words: list[str], more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_needs_a_directory(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words[:-2], "--seeds", "2"]) == 2
    assert "a sweep needs --out DIR" in capsys.readouterr().err


def test_a_run_that_could_not_be_made_is_told_at_the_end(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--sweep", "devices=0,99"]) == 1
    out, err = capsys.readouterr()
    assert "devices=99,seed=0 could not be made: devices is 99, the fleet has 4" in err
    assert len(out.splitlines()) == 2


@contextmanager
def small(directory: Path, size: str) -> Iterator[None]:
    """Put a small disk at `directory`."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: mounting a tmpfs needs root; a full disk is tested with a false one only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_real_disk_is_full_and_then_larger(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = len(words) - 1  # where --out is named
    words = [*words, "--seeds", "6"]
    assert main([*words[:place], str(tmp_path / "elsewhere"), *words[place + 1 :]]) == 0
    capsys.readouterr()
    files = [path for path in (tmp_path / "elsewhere").glob("*/*") if path.is_file()]
    half = sum(-(-path.stat().st_size // 4096) for path in files) // 2  # of the pages that a tmpfs needs
    with small(tmp_path / "out", f"{4 * half}k"):
        assert main(words) == 5
        err = capsys.readouterr().err
        assert "No space left on device; make room" in err
        assert len([line for line in err.splitlines() if line.startswith("fedthings: ")]) == 1
        there = len(list((tmp_path / "out").glob("*/summary.json")))
        assert 0 < there < 6
        subprocess.run(["mount", "-o", "remount,size=16m", str(tmp_path / "out")], check=True)
        assert main(words) == 0
        err = capsys.readouterr().err
        assert f"{there} of 6 runs are there already" in err
        alone = simulate(federation(seed=5), fleet(), ROUNDS, engine="numpy")
        assert np.array_equal(run.read(tmp_path / "out" / "seed=5").row, alone.row)
