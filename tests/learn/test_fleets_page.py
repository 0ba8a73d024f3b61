"""What docs/fleets.md says of partitioners is what their docstrings say, and its code runs and draws its picture."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.learn import partition

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "fleets.md").read_text()
SOURCE = re.compile(r"[A-Z]\w+(?: [A-Z]\.)? et al\. \d{4}(?:, section \d(?:\.\d)*)?")
NAMES = [
    name
    for name, value in vars(partition).items()
    if inspect.isfunction(value) and value.__module__ == partition.__name__ and not name.startswith("_")
]


def row(call: str) -> str:
    """Return the line of a table that begins with a call of this function."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{call}(")]
    return line


def parameters(call: str) -> list[str]:
    found = re.match(r"\| `[\w.]+\((.*?)\)`", row(call))
    assert found is not None
    return found[1].split(", ")


def test_the_table_has_every_partitioner() -> None:
    table = PAGE.split("| `ft.partition.` |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)\(", table, re.M)) == sorted(NAMES)
    assert len(NAMES) > 8


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_sources_are_those_of_the_partitioner(name: str) -> None:
    found = getattr(partition, name)
    assert parameters(name) == list(inspect.signature(found).parameters)
    assert set(SOURCE.findall(row(name))) == set(SOURCE.findall(" ".join(found.__doc__.split())))


@pytest.mark.parametrize("name", ["synthetic", "clusters"])
def test_arguments_are_those_of_what_makes_data_up(name: str) -> None:
    assert parameters(f"ft.{name}") == list(inspect.signature(getattr(ft, name)).parameters)


def test_the_code_runs_and_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="NO DIGITS: scikit-learn is not installed (extra `demo`)")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    made: dict[str, ft.Fleet] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(code, "docs/fleets.md", "exec"), made)
    assert set(made["rooms"].names) == {"kitchen", "hall", "attic"}
    assert (made["rooms"].sizes == 160).all() and (made["rooms"].test_sizes == 40).all()
    assert len(made["digits"]) == 12 and set(made["digits"].sizes + made["digits"].test_sizes) == {149, 150}
    assert (tmp_path / "docs" / "fleet.png").stat().st_size > 20_000
    assert (DOCS / "fleet.png").stat().st_size < 100_000
    assert made["growing"].size("device-0", at=3600.0) == 3620
    assert len(made["run"].history) == 10  # type: ignore[attr-defined]
    assert (len(made["skewed"]), len(made["huge"])) == (30, 1_000_000)
