"""The figures on docs/worlds.md are those of the profiles, and its TOML is a world."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedthings.simulation import things
from fedthings.simulation.devices import DEVICES
from fedthings.simulation.links import LINKS

PAGE = (Path(__file__).parents[2] / "docs" / "worlds.md").read_text()


@pytest.mark.parametrize("name", [*DEVICES, *LINKS])
def test_each_profile_stands_on_the_page_with_its_figures(name):
    profile = {**DEVICES, **LINKS}[name]
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    cells = [cell.strip().lstrip("~") for cell in line.strip("|").split("|")]
    figures = [getattr(profile, field) for field in profile.__struct_fields__ if field != "based_on"]
    assert [float(cell) for cell in cells[1 : 1 + len(figures)]] == pytest.approx(figures, rel=0.015)
    assert cells[-1]


def test_the_example_is_a_world(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "world.toml").write_text(text)
    world = things.load(tmp_path / "world.toml")
    assert [group.share for group in world.groups] == [0.6, 0.3, 0.1]
    assert things.load(tmp_path / "world.toml") == world
