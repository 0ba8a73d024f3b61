"""Law 9: a task is data; whatever a coordinator sends, a device runs none of it."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

import fedthings
import fedthings as ft
from fedthings.errors import SpecError
from fedthings.federation import Phase, encode, phases
from fedthings.learn.digits import digits
from fedthings.spelling import decode
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
