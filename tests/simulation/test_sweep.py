"""Sweeps: every combination with every seed, one directory each; what was stopped goes on, what is wrong is said."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings import run
from fedthings.simulation.simulator import simulate
from fedthings.simulation.sweep import Sweep, Trial, read, shown, sweep, trials, varied
from fedthings.simulation.world import Outcome, Steady, always
from sweeps import GRID, ROUNDS, arrays, federation, fleet, models, swept


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return swept(tmp_path_factory.mktemp("sweep") / "whole")


# --------------------------------------------------------------- what is run


def test_all_combinations_with_all_seeds(tmp_path: Path) -> None:
    planned = trials(federation(seed=7), GRID, tmp_path, 3)
    assert [trial.directory.name for trial in planned[:4]] == [
        "mu=0,lr=0.1,seed=7",
        "mu=0,lr=0.1,seed=8",
        "mu=0,lr=0.1,seed=9",
        "mu=0,lr=0.3,seed=7",
    ]
    assert len({trial.directory for trial in planned}) == len(planned) == 12
    assert [trial.seed for trial in trials(federation(), {}, tmp_path, np.int64(2))] == [0, 1]
    assert [trial.seed for trial in trials(federation(), {}, tmp_path, np.array([5, 3]))] == [5, 3]
    for trial in planned:
        mu, lr = trial.settings["strategy.mu"], trial.settings["task.recipe.lr"]
        made = trial.federation
        assert (made.strategy.mu, made.task.recipe.lr, made.seed) == (mu, lr, trial.seed)
        assert trial.label == f"mu={mu}, lr={lr}"
        assert made.task.model == federation().task.model


def test_each_run_is_that_of_simulate(whole: Sweep) -> None:
    assert len(whole.runs) == 8
    for trial, made in zip(whole.trials, whole.runs, strict=True):
        alone = simulate(trial.federation, fleet(), ROUNDS, engine="numpy")
        assert np.array_equal(made.row, alone.row)
        assert made.history == alone.history


def test_results_are_over_the_seeds(whole: Sweep) -> None:
    results = whole.results()
    assert [result.label for result in results] == [trial.label for trial in whole.trials[::2]]
    first = [made.history[-1]["metrics"]["accuracy"] for made in whole.runs[:2]]
    assert results[0].last.mean == pytest.approx(np.mean(first))
    assert results[0].last.deviation == pytest.approx(np.std(first, ddof=1))
    assert results[0].bytes.mean == sum(
        line["bytes_up"] + line["bytes_down"] for line in whole.runs[0].history
    )  # of both seeds
    assert results[0].joules is None
    losses = whole.results("loss")
    assert losses[0].best.mean == pytest.approx(
        np.mean([min(line["metrics"]["loss"] for line in made.history) for made in whole.runs[:2]])
    )
    with pytest.raises(ft.SpecError, match="did you mean `accuracy`"):
        whole.results("acuracy")


def test_a_picture(whole: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    whole.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ft.SpecError, match=r"end its name in \.png, \.svg or \.pdf"):
        whole.plot(tmp_path / "sweep.txt")


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("strategy.step", ft.momentum(lr=0.5), lambda made: made.strategy.step == ft.momentum(lr=0.5)),
        ("strategy.step.kind", "adam", lambda made: made.strategy.step == ft.adam(lr=1.0)),
        ("task.model.layers.0.units", 5, lambda made: made.task.model.layers[0].units == 5),
        ("task.recipe.optimizer", "adam", lambda made: made.task.recipe.optimizer == "adam"),
        ("pace.goal", 2, lambda made: (made.pace.goal, made.pace.concurrency) == (2, 2)),
        ("task.recipe.epochs", np.int64(2), lambda made: made.task.recipe.epochs == 2),
    ],
)
def test_any_field_can_be_varied(path: str, value: Any, found: Any, tmp_path: Path) -> None:
    (trial,) = trials(federation(), {path: [value]}, tmp_path)
    assert found(trial.federation)


def test_names_of_directories_are_safe_and_tell_values_apart(tmp_path: Path) -> None:
    steps = [{"kind": "adam", "lr": 0.1}, {"kind": "adam", "lr": 0.2}, {"kind": "sgd"}]
    planned = trials(federation(), {"strategy.step": steps, "name": ["a", "b"]}, tmp_path)
    names = [trial.directory.name for trial in planned]
    assert len(set(names)) == 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-=,") for name in names)
    assert [shown(step) for step in steps] == ["adam(lr=0.1)", "adam(lr=0.2)", "sgd"]


# ------------------------------------------------------------ stopped, goes on


class Stop:
    """Does something at a version of a run, and counts those that were made."""

    def __init__(self, trial: int = -1, version: int = 0, act: Any = None) -> None:
        self.seen: list[tuple[str, int]] = []
        self.at, self.act = (trial, version), act
        self.names: list[str] = []

    def __call__(self, trial: Trial, line: dict[str, Any]) -> None:
        if trial.directory.name not in self.names:
            self.names.append(trial.directory.name)
        self.seen.append((trial.directory.name, line["version"]))
        if (len(self.names) - 1, line["version"]) == self.at:
            self.act()


def test_ctrl_c_and_again(whole: Sweep, tmp_path: Path) -> None:
    first, again = Stop(3, 2, lambda: signal.raise_signal(signal.SIGINT)), Stop()
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", on_version=first)
    made = swept(tmp_path / "out", on_version=again)
    assert models(made) == models(whole)
    assert [one.history for one in made.runs] == [one.history for one in whole.runs]
    assert not set(first.seen) & set(again.seen)  # nothing is made twice
    assert len(first.seen) + len(again.seen) == 8 * ROUNDS


def test_a_crash_and_again(whole: Sweep, tmp_path: Path) -> None:
    def crash() -> None:
        raise RuntimeError

    first, again = Stop(3, 2, crash), Stop()
    with pytest.raises(RuntimeError):
        swept(tmp_path / "out", on_version=first)
    made = swept(tmp_path / "out", on_version=again)
    assert models(made) == models(whole)
    assert [one.history for one in made.runs] == [one.history for one in whole.runs]
    assert not {name for name, _ in again.seen} & set(first.names[:3])  # those that had ended


def test_ctrl_c_then_a_crash_and_again(whole: Sweep, tmp_path: Path) -> None:
    """What was written between the last Ctrl-C and a crash does not count twice."""

    def crash() -> None:
        raise RuntimeError

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "out", on_version=Stop(3, 1, lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(RuntimeError):
        swept(tmp_path / "out", on_version=Stop(0, 3, crash))
    with (tmp_path / "out" / whole.trials[3].directory.name / run.HISTORY).open("a") as file:
        file.write('{"vers')
    made = swept(tmp_path / "out")
    assert models(made) == models(whole)
    assert [one.history for one in made.runs] == [one.history for one in whole.runs]


def test_more_values_and_seeds_may_be_given(whole: Sweep, tmp_path: Path) -> None:
    swept(tmp_path / "out", {"strategy.mu": [0.5], "task.recipe.lr": [0.3]}, 1)
    seen = Stop()
    made = swept(tmp_path / "out", on_version=seen)
    assert models(made) == models(whole)
    assert len(seen.names) == 7
    planned = {trial.directory.name: trial.label for trial in made.trials}
    assert list(read(tmp_path / "out")["runs"].items()) == list(planned.items())  # in the order of the values
    swept(tmp_path / "out", {"strategy.mu": [0.5], "task.recipe.lr": [0.3]}, 1)
    assert read(tmp_path / "out")["runs"] == planned  # none is forgotten


def test_another_sweep_or_a_run_is_left_alone(tmp_path: Path) -> None:
    grid = {"strategy.mu": [0]}
    swept(tmp_path / "out", grid, 1)
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(fields: strategy\.mu there, pace\.goal here\)"):
        swept(tmp_path / "out", {"pace.goal": [2]}, 1)
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(rounds: 4 there, 5 here\): name another"):
        sweep(federation(), fleet(), 5, grid, tmp_path / "out")
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(federation differs\)"):
        sweep(federation(units=4), fleet(), ROUNDS, grid, tmp_path / "out")
    one_label = arrays()
    one_label["y"] = one_label["y"].copy()
    one_label["y"][-1] ^= 1
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(data differs\)"):
        sweep(federation(), ft.Fleet.from_arrays(**one_label), ROUNDS, grid, tmp_path / "out")
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(test differs\)"):
        swept(tmp_path / "out", grid, 1, test=(one_label["X"], one_label["y"]))
    with pytest.raises(ft.StoreError, match="holds a sweep, not a run"):
        simulate(federation(), fleet(), ROUNDS, out=tmp_path / "out")
    with pytest.raises(ft.StoreError, match="holds a run, not a sweep"):
        swept(tmp_path / "out" / "mu=0,seed=0", grid, 1)
    for damaged in ("[", "[]", "{}"):
        (tmp_path / "out" / "sweep.json").write_text(damaged)
        with pytest.raises(ft.StoreError, match=r"sweep\.json cannot be read \(.+\): name another"):
            swept(tmp_path / "out", grid, 1)


def test_settings_that_cannot_run_are_noted_and_the_others_are_made(tmp_path: Path) -> None:
    made = swept(tmp_path / "out", {"devices": [0, 99]}, 1)
    assert list(made.failed) == ["devices=99,seed=0"]
    assert "devices is 99, the fleet has 4" in made.failed["devices=99,seed=0"]
    assert [result.label for result in made.results()] == ["devices=0"]
    with pytest.raises(ft.SpecError, match="devices is 99"):
        swept(tmp_path / "none", {"devices": [99]}, 1)


def test_a_full_disk_and_again(whole: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, calls = run.append, []

    def full(directory: Path, lines: Any) -> None:
        calls.append(directory)
        if len(calls) == 11:
            with (directory / run.HISTORY).open("a") as file:
                file.write('{"vers')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(directory, lines)

    monkeypatch.setattr(run, "append", full)
    with pytest.raises(ft.StoreError, match=r"No space left on device; make room .* nothing acknowledged is lost"):
        swept(tmp_path / "out")
    made = swept(tmp_path / "out")
    assert models(made) == models(whole)
    assert [one.history for one in made.runs] == [one.history for one in whole.runs]


# ---------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("grid", "seeds", "said"),
    [
        ({"strategy.nu": [1]}, 1, "unknown field `strategy.nu`: did you mean `mu`?"),
        ({"strateg.mu": [1]}, 1, "unknown field `strateg`: did you mean `strategy`?"),
        ({"strategy.mu.x": [1]}, 1, "unknown field `strategy.mu.x`: strategy.mu is 0.0, which has no fields"),
        ({"task.model.layers.7.units": [1]}, 1, "task.model.layers has 2 entries, numbered from 0"),
        ({"strategy.mu": ["high"]}, 1, "strategy.mu is 'high': give a number"),
        ({"strategy.mu": [-1]}, 1, "strategy.mu is -1"),
        ({"strategy.mu": []}, 1, "strategy.mu has no values: give at least one"),
        ({"strategy.mu": 0.1}, 1, "strategy.mu is 0.1: give a list of values"),
        ({"strategy.mu": [1, 1.0]}, 1, "strategy.mu has the value 1 more than once"),
        ({"strategy.mu": [abs]}, 1, "strategy.mu has a value that is not data"),
        ({"seed": [1, 2]}, 1, "give the seeds by themselves"),
        ({}, 0, "seeds is 0: give how many, at least 1"),
        ({}, [], "seed has no values"),
        ({}, [0.5], "seed is 0.5: give a whole number"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(grid: Any, seeds: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ft.SpecError) as caught:
        swept(tmp_path / "out", grid, seeds)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_data_that_does_not_fit_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ft.DataError, match=r"the model takes \(5,\): reshape the data"):
        swept(tmp_path / "out", {"task.model.input": [[4], [5]]}, 1)
    assert not (tmp_path / "out").exists()


def test_a_call_that_could_make_no_run_can_be_put_right(tmp_path: Path) -> None:
    with pytest.raises(ft.SpecError, match="did you mean `accuracy`"):
        swept(tmp_path / "out", {}, 2, stop={"acuracy": 0.9})
    with pytest.raises(ft.SpecError, match="rounds is 0: it must be at least 1"):
        sweep(federation(), fleet(), 0, {}, tmp_path / "out")
    made = swept(tmp_path / "out", {}, 2, stop={"accuracy": 0.0})
    assert [one.summary["reason"] for one in made.runs] == ["target", "target"]


class Slow:
    """A world that does not say what it is."""

    def outcome(self, ticket: Any, now: float, work: Any, until: float) -> Outcome:
        return Outcome(now + 2.0)

    def changes(self, names: Any) -> Iterator[Any]:
        return always(names)


def test_a_world_of_ones_own_is_known_again(tmp_path: Path) -> None:
    swept(tmp_path / "out", {}, 1, world=Slow())
    assert len(swept(tmp_path / "out", {}, 2, world=Slow()).runs) == 2
    with pytest.raises(ft.StoreError, match=r"holds another sweep \(world: Slow there, Steady\(seconds=3\.0\) here\)"):
        swept(tmp_path / "out", {}, 2, world=Steady(3.0))


def test_what_follows_from_the_goal_follows_it() -> None:
    over = ft.Federation(task=federation().task, pace=ft.Pace(goal=2, concurrency=4))
    assert varied(over, {"pace.goal": 3}).pace.concurrency == 4
