"""A run directory that cannot be used: told with the remedy, and what lies in it stays as it was."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

import fedthings as ft
from fedthings import checkpoint
from fedthings.lifeline import alone
from fedthings.run import read
from fedthings.server import service
from fedthings.server.service import Service
from fedthings.server.store import FILE
from fedthings.transport.memory import Hub
from virtual import NAME, Virtual

from .conftest import Command, contents, federation, fleet

ROUNDS = 4


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the fleet's file."""
    folder = tmp_path / "data"
    fleet(3).write(folder)
    lines = ["a,b,c,d,y,device"]
    for name in fleet(3).names:
        shard = fleet(3).shard(name)
        lines += [",".join(map(str, (*row, label, name))) for row, label in zip(shard.X, shard.y, strict=True)]
    (tmp_path / "fleet.csv").write_text("\n".join(lines))
    return tmp_path / "fleet.csv"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the directory of a run that is served, and was left after two versions."""
    world = left(tmp_path / "run")
    world.service.close()
    return tmp_path / "run"


def left(directory: Path) -> Virtual:
    world = Virtual(federation(3), fleet(3), ROUNDS, directory)
    while world.service.engine.trained < 2:
        world.step()
    return world


def served(directory: Path, spec: ft.Federation | None = None, rounds: int = ROUNDS) -> Service:
    return Service(spec or federation(3), rounds, directory, Hub().coordinator(NAME))


def test_of_another_federation(run: Path, data: Path, tmp_path: Path, command: Command) -> None:
    other = tmp_path / "other.toml"
    other.write_text(ft.dumps(federation(3, lr=0.2)))
    before = contents(run)
    for words in (("serve", other), ("simulate", other, "--fleet", data), ("demo", "--devices", 2)):
        ended = command(*words, "--out", run)
        assert ended.code == 5
        assert f"{run} holds another federation's run: name another directory, or remove it" in ended.err
    assert contents(run) == before


def test_of_another_number_of_rounds(run: Path) -> None:
    before = contents(run)
    with pytest.raises(ft.StoreError, match="holds a run with --rounds 4, not 5: give the same"):
        served(run, rounds=5)
    after = contents(run)
    assert {name: after[name] for name in before if "sqlite" not in name} == {
        name: data for name, data in before.items() if "sqlite" not in name
    }
    served(run).close()


def test_simulated_where_it_is_served_and_the_other_way(
    run: Path, fed: Path, data: Path, tmp_path: Path, command: Command
) -> None:
    before = contents(run)
    ended = command("simulate", fed, "--fleet", data, "--out", run)
    assert ended.code == 5
    assert "holds a run that is served: name another directory" in ended.err
    assert contents(run) == before
    simulated = tmp_path / "simulated"
    assert command("simulate", fed, "--fleet", data, "--rounds", 2, "--out", simulated).code == 0
    before = contents(simulated)
    with pytest.raises(ft.StoreError, match="holds a run that was simulated: name another directory"):
        served(simulated)
    after = contents(simulated)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("where", ["file", "/sys/fedthings", "/proc/self/fedthings"])
def test_that_is_no_directory_or_cannot_be_written(
    where: str, fed: Path, data: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / where
    for words in (("serve", fed), ("simulate", fed, "--fleet", data), ("demo", "--devices", 2)):
        ended = command(*words, "--out", out)
        assert ended.code == 5
        assert f"{out} cannot be used as a run directory: " in ended.err
    assert (tmp_path / "file").read_text() == "mine"
    shard = tmp_path / "data" / "device-0.npz"
    ended = command("join", "--broker", "mqtt://127.0.0.1:1", "--name", "a", "--data", shard, "--state", out)
    assert ended.code == 5
    assert f"{out} cannot be used: " in ended.err


def test_held_by_another_process(run: Path, fed: Path, data: Path, tmp_path: Path, command: Command) -> None:
    with alone(run, "the run directory"):
        before = contents(run)
        ended = command("serve", fed, "--out", run, "--rounds", ROUNDS)
        assert ended.code == 5
        assert f"the run directory {run} is in use by process" in ended.err
        assert contents(run) == before
    simulated = tmp_path / "simulated"
    with alone(simulated, "the run directory"):
        ended = command("simulate", fed, "--fleet", data, "--out", simulated)
        assert (ended.code, "is in use by process" in ended.err) == (5, True)


def test_with_a_damaged_store(run: Path, fed: Path, command: Command) -> None:
    for file in run.glob("state.sqlite-*"):
        file.unlink()
    (run / FILE).write_bytes(b"this is no database at all " * 100)
    ended = command("serve", fed, "--out", run, "--rounds", ROUNDS)
    assert ended.code == 5
    assert "the run's state is damaged (file is not a database): bring it back from a copy" in ended.err


TERMS = {"rounds": ROUNDS, "stop": {}, "init": "", "test": ""}
DAMAGES = {
    "not whole": (lambda whole: checkpoint.pack(whole)[:-9], "the checkpoint cannot be read"),
    "not a state": (lambda whole: checkpoint.pack([1, 2]), "the checkpoint is damaged"),
    "half a state": (lambda whole: checkpoint.pack({**whole, "coordinator": {}}), "is damaged (KeyError: 'phase')"),
    "another kind": (lambda whole: checkpoint.pack({**whole, "engine": 7}), "is damaged (TypeError:"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_with_a_damaged_checkpoint(case: str, run: Path, fed: Path, command: Command) -> None:
    damaged, said = DAMAGES[case]
    database = sqlite3.connect(run / FILE)
    ((state,),) = database.execute("SELECT state FROM checkpoint").fetchall()
    database.execute("UPDATE checkpoint SET state = ?", (damaged(checkpoint.unpack(state)),))
    database.commit()
    database.close()
    history = (run / "history.jsonl").read_bytes()
    ended = command("serve", fed, "--out", run, "--rounds", ROUNDS, "--broker", "mosquitto")
    assert ended.code == 5
    assert said in ended.err
    assert "begin anew" in ended.err or "new directory" in ended.err
    assert (run / "history.jsonl").read_bytes() == history


@pytest.mark.parametrize("damage", [None, b"", b"\0" * 12])
def test_with_a_damaged_model(damage: bytes | None, run: Path) -> None:
    for file in (run / "models").glob("*.f4"):
        file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(ft.StoreError, match="damaged"):
        served(run)


def test_with_a_report_that_was_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt was given, so going on without the report would lose it: it is told."""
    monkeypatch.setattr(service, "JOURNALED", 0)
    world = left(tmp_path)
    while world.service.coordinator.kept < 2:
        world.step()
    world.service.close()
    gone = sorted((tmp_path / "spool").iterdir())
    kept = {file: file.read_bytes() for file in gone}
    for file in gone:
        file.unlink()
    with pytest.raises(ft.StoreError, match=r"the state in .* is damaged \(FileNotFoundError"):
        served(tmp_path)
    for file, report in kept.items():
        file.write_bytes(report)
    served(tmp_path).close()


@pytest.mark.parametrize("damage", [b"\xff\xff", checkpoint.pack([1]), checkpoint.pack({"terms": TERMS})])
def test_a_simulation_with_a_damaged_checkpoint(
    damage: bytes, fed: Path, data: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "simulated"
    out.mkdir()
    (out / "federation.toml").write_text(ft.dumps(federation(3)))
    (out / "checkpoint.cbor").write_bytes(damage)
    (out / "history.jsonl").write_text("")
    ended = command("simulate", fed, "--fleet", data, "--rounds", ROUNDS, "--out", out)
    assert ended.code == 5
    assert (out / "checkpoint.cbor").read_bytes() == damage


def test_a_run_that_is_not_finished(run: Path, data: Path, tmp_path: Path, command: Command) -> None:
    before = contents(run)
    ended = command("predict", "--state", run, "--data", data)
    assert ended.code == 5
    assert f"there is no model {run}/model.safetensors: name the directory of a device that has trained" in ended.err
    for more in ((), ("--best",)):
        ended = command("export", run, "--out", tmp_path / "model", *more)
        assert (ended.code, "there is no model" in ended.err) == (5, True)
    with pytest.raises(ft.StoreError, match="is not the directory of a finished run"):
        read(run)
    listed = json.loads(command("runs", tmp_path, "--json").out)["runs"]
    assert [(entry["run"], entry["state"]) for entry in listed] == [(str(run), "stopped")]
    assert json.loads(command("models", run, "--json").out)["files"] == []
    assert contents(run) == before
    assert not (tmp_path / "model").exists()


def test_a_model_file_that_is_none(fed: Path, data: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "simulated"
    command("simulate", fed, "--fleet", data, "--rounds", 1, "--out", out)
    whole = (out / "model.safetensors").read_bytes()
    for damaged in (b"", b"hello", whole[:-9], whole.replace(b"dense", b"dunce")):
        (out / "model.safetensors").write_bytes(damaged)
        for words in (("predict", "--state", out, "--data", data), ("export", out, "--out", tmp_path / "copy")):
            ended = command(*words)
            assert ended.code == 3
            assert "is no model file of fedthings, or is cut short" in ended.err


def test_a_device_with_a_damaged_state(tmp_path: Path) -> None:
    world = Virtual(federation(3, keep=0.5), fleet(3), 1, tmp_path)
    world.run()
    directory = tmp_path / "devices" / "device-0"
    for damaged in (b"\xff", checkpoint.pack([1, 2, 3]), checkpoint.pack(7)):
        (directory / "state.cbor").write_bytes(damaged)
        with pytest.raises(ft.StoreError, match=r"is damaged: remove state\.cbor and report\.cbor there"):
            world.join("device-0")
