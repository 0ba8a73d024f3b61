"""Law 9: a task is data; whatever a coordinator sends, a device runs none of it that its owner has not allowed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import fedthings
import fedthings as ft
from fedthings.device.rules import Rules
from fedthings.errors import SpecError
from fedthings.federation import phases
from fedthings.learn import own
from fedthings.learn.digits import digits
from fedthings.phase import Phase
from fedthings.spelling import decode, encode
from virtual import Virtual

SOURCE = Path(fedthings.__path__[0])
RUNS = {"eval", "exec", "compile", "__import__"}


def federation() -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")
    return ft.Federation(task, pace=ft.Pace(goal=2, patience=5.0))


def test_nothing_that_runs_code_is_called():
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill"} & set(names), file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in RUNS, f"{file}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", file


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "shell"},
        {"code": "import os"},
        {"task": {"model": {"input": [64], "layers": [{"type": "python", "source": "1"}]}, "loss": "cross_entropy"}},
    ],
)
def test_a_task_that_is_not_a_task_is_refused(change):
    spec = encode(phases(federation())[0])
    with pytest.raises(SpecError):
        decode({**spec, **change}, Phase)


def test_a_device_declines_it_and_goes_on(tmp_path, monkeypatch):
    from fedthings.server import bodies

    real = bodies.encode
    monkeypatch.setattr(bodies, "encode", lambda spec: {**real(spec), "code": "import os"})
    world = Virtual(federation(), digits(2, 0), 1, tmp_path)
    while world.step() and not world.service.engine.tally.dropped:
        pass
    assert set(world.service.engine.tally.dropped) == {"does not fit"}
    world.service.close()
    assert msgspec.structs.asdict(federation())["name"] == "federation"


# ------------------------------------------- a model that is Python code of the device


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module that is installed on every device, and leaves a trace where it is imported and called."""
    folder = tmp_path / "site"
    folder.mkdir()
    trace = tmp_path / "trace"
    (folder / "kitchen_net.py").write_text(
        f"""
import numpy as np
import fedthings as ft

def note(what):
    with open({str(trace)!r}, "a") as file:
        file.write(what + " ")

note("imported")

def net():
    note("net")
    init = lambda seed: {{"w": np.zeros((64, 10))}}
    return ft.lift(init, lambda w, data, recipe: (w, None, {{}}), lambda w, X: X @ w["w"], input=64, outputs=10)

def other():
    note("other")
"""
    )
    monkeypatch.syspath_prepend(folder)
    yield trace
    sys.modules.pop("kitchen_net", None)
    own._made.cache_clear()


def told(world: Virtual, name: str) -> list[str]:
    news: list[str] = []
    world.agents[name].on_news = news.append
    return news


def step_until(world: Virtual, done) -> None:
    while not done() and world.step():
        pass
    world.service.close()


@pytest.mark.parametrize(
    ("allow", "factory", "reason", "trace"),
    [
        ((), "kitchen_net:net", "owner: model not allowed", None),
        (("kitchen_net:other",), "kitchen_net:net", "owner: model not allowed", None),
        (("kitchen_net",), "kitchen_net:net", "", None),  # a whole module cannot be allowed
        (("kitchen_net:ne",), "kitchen_net:net", "owner: model not allowed", None),
        (("cellar_net:net",), "cellar_net:net", "model not available", None),
        (("kitchen_net:other",), "kitchen_net:other", "model not available", {"imported", "other"}),
    ],
)
def test_what_its_owner_has_not_allowed_by_name_is_not_even_imported(
    allow, factory, reason, trace, installed, tmp_path, monkeypatch
):
    from fedthings.server import bodies

    real = bodies.encode
    monkeypatch.setattr(
        bodies, "encode", lambda spec: {**real(spec), "task": {**real(spec)["task"], "model": [factory, {}]}}
    )
    if not reason:
        with pytest.raises(SpecError, match=r"rules\.allow names 'kitchen_net': write it as"):
            Rules(allow=allow)
        return
    rules = {name: Rules(allow=allow) for name in ("device-0", "device-1")}
    world = Virtual(federation(), digits(2, 0), 1, tmp_path / "run", rules=rules)
    news = told(world, "device-0")
    step_until(world, lambda: sum(world.service.engine.tally.dropped.values()) == 2)
    assert world.service.engine.tally.dropped == {reason: 2}
    assert (set(installed.read_text().split()) if installed.exists() else None) == trace
    assert ("kitchen_net" in sys.modules) == (trace is not None)
    said = f"join with --allow {factory}" if "allowed" in reason else factory
    assert any(text.startswith(f"declined: {reason}") and said in text for text in news)


def test_what_its_owner_has_allowed_by_name_is_trained_there_and_declined_elsewhere(installed, tmp_path):
    task = ft.Task(model=ft.own("kitchen_net:net"), loss="cross_entropy")
    spec = ft.Federation(task, pace=ft.Pace(goal=2, patience=5.0, quorum=1))
    rules = {"device-0": Rules(allow=("kitchen_net:net",))}
    world = Virtual(spec, digits(2, 0), 2, tmp_path / "run", rules=rules)
    while not world.service.done and world.step():
        pass
    world.service.announce()  # it is over: devices say hello, and are told where the last model is
    while world.step():
        pass
    run = world.result()
    assert [line["updates"] for line in run.history] == [1, 1]
    assert [set(line["dropped"]) for line in run.history] == [{"owner: model not allowed"}] * 2
    kept = [(tmp_path / "run" / "devices" / name / "model.safetensors").exists() for name in ("device-0", "device-1")]
    assert kept == [True, False]
    assert installed.read_text().split() == ["imported", "net"]  # once in a process
