"""`fedthings runs`: what there is, in which state, and what it took runs to reach a target."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.cli import main
from fedthings.commands.runs import SWEEP, members
from fedthings.commands.sweep import measured
from fedthings.comparison import Spread
from fedthings.simulation import sweep as sweeps
from fedthings.units import BYTES, JOULES, SECONDS, Unit

WORLD = ft.Things(groups=(ft.Group(device="pi4", link="wifi"),))
COUNT = (Unit("", 1, 0),)


def federation(**more: Any) -> ft.Federation:
    task = ft.Task(model=ft.mlp(4, 3, 2), loss="cross_entropy", recipe=ft.Recipe(lr=0.02, batch=8))
    return ft.Federation(task=task, pace=ft.Pace(goal=3), **more)


def fleet() -> ft.Fleet:
    n = 80
    y = np.arange(n) % 2
    X = (np.random.default_rng(0).normal(size=(n, 4)) + 3 * y[:, None]).astype(np.float32)
    return ft.Fleet.from_arrays(X, y, np.arange(n) // 20, np.arange(n) % 20 >= 15)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two runs, one of them with joules, and two sweeps of the same settings."""
    there = tmp_path_factory.mktemp("runs")
    ft.simulate(federation(), fleet(), 6, out=there / "plain", engine="numpy")
    ft.simulate(federation(), fleet(), 6, out=there / "pi", world=WORLD, engine="numpy")
    for name in ("one", "two"):
        grid = {"strategy.mu": [10, 9]}
        ft.sweep(federation(), fleet(), 5, grid, there / name, 2, engine="numpy")
    return there


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["runs", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = told(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


# ------------------------------------------------------------------ what there is


def test_runs_and_sweeps_are_listed(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {Path(entry["run"]).name: entry for entry in listed(capsys, "list", there)["runs"]}
    assert set(entries) == {"plain", "pi", "one", "two"}
    assert (entries["plain"]["version"], entries["plain"]["state"]) == (6, "done")
    assert (entries["one"]["runs"], entries["one"]["planned"], entries["one"]["state"]) == (4, 4, "done")
    code, out, _ = told(capsys, there)  # `list` is meant where nothing is named
    assert code == 0
    assert "4 runs" in out
    assert (code, out) == told(capsys, "list", there)[:2]


def test_without_a_directory_it_is_runs(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(capsys)[0] == 5
    (tmp_path / "runs").mkdir()
    assert told(capsys)[:2] == (0, "no runs in runs\n")
    (tmp_path / "runs" / "mine").symlink_to(there / "plain")
    assert [entry["run"] for entry in listed(capsys)["runs"]] == ["runs/mine"]


def test_a_run_is_stopped_running_or_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "federation.toml").touch()
    handle = os.open(run / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert listed(capsys, tmp_path)["runs"][0]["state"] == "stopped"
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert listed(capsys, tmp_path)["runs"][0]["state"] == "running"
    finally:
        os.close(handle)
    (run / "summary.json").write_text("{}")
    assert listed(capsys, tmp_path)["runs"][0]["state"] == "done"


def test_a_sweep_stopped_between_two_runs_is_not_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(trial: sweeps.Trial, line: Any) -> None:
        if trial.seed == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ft.sweep(federation(), fleet(), 1, {}, tmp_path / "sweep", 3, on_version=stop, engine="numpy")
    (tmp_path / "sweep" / "seed=1" / "federation.toml").unlink()  # as if it had not begun
    (entry,) = listed(capsys, tmp_path)["runs"]
    assert (entry["runs"], entry["planned"], entry["state"]) == (1, 3, "stopped")
    assert "1 of 3 runs" in told(capsys, tmp_path)[1]


# ------------------------------------------------------------------- what it took


def test_two_runs_beside_each_other(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "compared.png"
    code, out, _ = told(capsys, "compare", there / "plain", there / "pi", "--target", 0.9, "--out", picture)
    assert code == 0
    title, header, *_ = out.splitlines()
    assert title == "to reach accuracy 0.9:"
    assert header.split()[-5:] == ["version", "time", "bytes", "energy", "best"]
    assert str(there / "plain") in out
    assert f"picture in {picture}" in out
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plain, pi = listed(capsys, "compare", there / "plain", there / "pi", "--target", 0.9)["runs"]
    lines = [json.loads(line) for line in (there / "pi" / "history.jsonl").read_text().splitlines()]
    until = [line for line in lines if line["version"] <= pi["version"]["mean"]]
    assert until[-1]["metrics"]["accuracy"] >= 0.9 > max(line["metrics"]["accuracy"] for line in until[:-1])
    assert pi["seconds"] == {"mean": until[-1]["time"], "deviation": None}
    assert pi["bytes"]["mean"] == sum(line["bytes_up"] + line["bytes_down"] for line in until)
    assert pi["joules"]["mean"] == pytest.approx(sum(line["joules"] for line in until))
    assert (plain["joules"], plain["version"]) == (None, pi["version"])


def test_the_seeds_of_a_setting_are_taken_together(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys, "compare", there / "one")
    assert [(one["label"], one["runs"], one["reached"]) for one in found["runs"]] == [("mu=10", 2, 2), ("mu=9", 2, 2)]
    assert found["runs"][0]["best"]["deviation"] is not None
    _, out, _ = told(capsys, "compare", there / "one")
    assert "2 of 2" in out
    assert "± is the standard deviation over the runs that reached it" in out


def test_two_sweeps_are_told_apart(there: Path) -> None:
    one, two = there / "one", there / "two"
    labels = members([one, two])
    assert list(dict.fromkeys(labels.values())) == [f"{sweep}: mu={mu}" for sweep in (one, two) for mu in (10, 9)]
    assert len(labels) == 8
    mixed = members([one / "mu=9,seed=0", there / "plain", one / "mu=9,seed=0"])
    assert list(mixed.items()) == [(one / "mu=9,seed=0", "mu=9"), (there / "plain", str(there / "plain"))]


def test_seeds_alone_have_the_name_of_their_directory(tmp_path: Path) -> None:
    ft.sweep(federation(), fleet(), 1, {}, tmp_path / "seeds", 2, engine="numpy")
    assert set(members([tmp_path / "seeds"]).values()) == {str(tmp_path / "seeds")}


def test_what_is_too_wide_has_a_line_for_its_name(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["step=adam(" + "beta=0.9," * 8 + f"lr={rate})" for rate in (0.1, 0.2)]
    monkeypatch.setattr(
        "fedthings.commands.runs.members", lambda paths: dict(zip((there / "plain", there / "pi"), labels, strict=True))
    )
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = told(capsys, "compare", "any")
    assert [line for line in out.splitlines() if line.startswith("step")] == labels
    assert max(len(line) for line in out.splitlines() if line not in labels) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    _, wide, _ = told(capsys, "compare", "any")
    assert len(wide.splitlines()) == len(out.splitlines()) - 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list", "{there}/none"], 5, "there is no directory"),
        (["compare"], 2, "Missing argument 'RUNS...'"),
        (["compare", "{there}"], 5, "is no run directory: `fedthings runs` lists those there are"),
        (["compare", "{there}/one/typo"], 5, "typo is no run directory"),
        (["compare", "{there}/plain", "--metric", "acuracy"], 2, "did you mean `accuracy`?"),
        (["compare", "{there}/plain", "--target", "high"], 2, "'high' is not a valid float"),
        (["compare", "{there}/plain", "--target", "inf"], 2, "target is inf"),
        (["compare", "{there}/plain", "--out", "a.txt"], 2, "a.txt is to be a picture"),
    ],
)
def test_bad_input_is_a_message(
    arguments: list[str], code: int, said: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, _, err = told(capsys, *(argument.format(there=there) for argument in arguments))
    assert (ended, said in err) == (code, True), err


def test_runs_that_have_no_version_yet_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("run", "sweep/seed=0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "federation.toml").touch()
    (tmp_path / "sweep" / SWEEP).write_text('{"fields": [], "runs": {"seed=0": "federation"}}')
    for name, code in (("run", 2), ("sweep", 5)):
        ended, _, err = told(capsys, "compare", tmp_path / name)
        assert (ended, f"{name} has no version yet: leave it out" in err) == (code, True), err
    (tmp_path / "sweep" / SWEEP).write_text("{")
    for words in (["compare", tmp_path / "sweep"], ["list", tmp_path]):
        ended, _, err = told(capsys, *words)
        assert (ended, "sweep.json is damaged" in err) == (5, True), err


# -------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("spread", "units", "text"),
    [
        (None, SECONDS, "-"),
        (Spread(12.0, None), COUNT, "12"),
        (Spread(7.0, 0.0), COUNT, "7"),
        (Spread(25.3, 4.7), SECONDS, "25 ± 5 s"),
        (Spread(5.333, 1.155), SECONDS, "5.3 ± 1.2 s"),
        (Spread(2.3, 0.0912), SECONDS, "2.30 ± 0.09 s"),
        (Spread(2.3, 0.123), SECONDS, "2.30 ± 0.12 s"),
        (Spread(1_052_586.0, 227_891.0), BYTES, "1.1 ± 0.2 MB"),
        (Spread(4000.0, 3000.0), JOULES, "4 ± 3 kJ"),
    ],
)
def test_mean_and_deviation_to_the_digit_that_tells(spread: Spread | None, units: tuple[Unit, ...], text: str) -> None:
    assert measured(spread, units) == text


def test_the_name_of_a_sweeps_file_is_one() -> None:
    assert SWEEP == sweeps.FILE
