"""The pictures: each is drawn, says what it shows, and nothing is cut off, with few long names or with many."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedthings as ft
from fedthings.comparison import Comparison, compared
from fedthings.plot import comparison, curve, sweep

pytest.importorskip("matplotlib", reason="NO PICTURES: matplotlib is not installed (extra `plot`)")

ROOT = Path(__file__).parent.parent
LONG = "mu=0.{}, step=momentum(lr=1.0,momentum=0.9), optimizer=adam"


def history(steps: int = 10, pace: float = 1.0, joules: float | None = None, lift: float = 0.0) -> list[dict[str, Any]]:
    """Return lines whose accuracy rises; a version takes `pace` seconds."""
    return [
        {
            "version": version,
            "time": pace * version,
            "updates": 3,
            "dropped": {},
            "loss": 1 / version,
            "metrics": {"loss": 1.5 / version, "accuracy": 0.9 - 0.5 / version + lift},
            "worst_decile": {"accuracy": 0.8 - 0.5 / version},
            "test": {"accuracy": 0.85 - 0.5 / version + lift},
            "bytes_up": 1000,
            "bytes_down": 2000,
            "joules": joules,
        }
        for version in range(1, steps + 1)
    ]


def several(labels: int, seeds: int = 1, joules: float | None = 0.5, name: str = LONG) -> Comparison:
    """Return a comparison of `labels` times `seeds` runs."""
    runs = [
        (name.format(label), history(joules=joules, lift=label / 100 + seed / 300))
        for label in range(labels)
        for seed in range(seeds)
    ]
    return compared([lines for _, lines in runs], [label for label, _ in runs])


def ink(path: Path) -> np.ndarray:
    """Return where a picture is not white, `(height, width)`."""
    from matplotlib import image

    return (image.imread(path)[..., :3] < 0.99).any(-1)


def words(path: Path) -> list[str]:
    """Return the texts in an svg picture."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def whole(path: Path) -> np.ndarray:
    """Return the ink of a picture, in which something is drawn, and nothing at the very edge."""
    found = ink(path)
    assert 0.01 < found.mean() < 0.6
    for edge in (found[:1], found[-1:], found[:, :1], found[:, -1:]):
        assert not edge.any()
    return found


def tallest(found: np.ndarray) -> int:
    """Return the length of the longest upright line: that of an axis."""
    lengths = np.zeros(found.shape[1], int)
    longest = 0
    for row in found:
        lengths = (lengths + 1) * row
        longest = max(longest, lengths.max())
    return longest


# ------------------------------------------------------------------ comparisons


@pytest.mark.parametrize("labels", [1, 3, 8])
def test_a_comparison_is_whole(labels: int, tmp_path: Path) -> None:
    comparison(several(labels, seeds=2), tmp_path / "compared.png")
    comparison(several(1, name="a"), tmp_path / "one.png")
    # However many names there are, below them the lines have their room.
    assert tallest(whole(tmp_path / "compared.png")) > 0.9 * tallest(ink(tmp_path / "one.png"))


def test_a_comparison_says_what_it_shows(tmp_path: Path) -> None:
    found = several(2, seeds=3)
    comparison(found, tmp_path / "compared.svg")
    said = words(tmp_path / "compared.svg")
    assert f"What it took to reach test accuracy {found.target:.4g}; 3 runs each: mean, lowest and highest" in said
    assert {"time (s)", "bytes up and down (kB)", "energy of devices (J)", "test accuracy"} <= set(said)
    assert {LONG.format(0), LONG.format(1), f"target {found.target:.4g}"} <= set(said)


def test_without_joules_there_is_no_energy(tmp_path: Path) -> None:
    comparison(several(2, joules=None), tmp_path / "compared.svg")
    said = words(tmp_path / "compared.svg")
    assert not any("energy" in text for text in said)
    assert not any("runs each" in text for text in said)


def test_one_that_counts_joules_and_one_that_does_not(tmp_path: Path) -> None:
    found = compared([history(joules=0.5), history()], ["counts", "does not"])
    comparison(found, tmp_path / "compared.png")
    whole(tmp_path / "compared.png")


def test_runs_far_apart_are_on_an_axis_of_factors(tmp_path: Path) -> None:
    found = compared([history(pace=0.1), history(pace=4000)], ["quick", "slow"])
    comparison(found, tmp_path / "compared.svg")
    assert {"1 s", "1 min", "1 h", "10 h"} <= set(words(tmp_path / "compared.svg"))
    comparison(found, tmp_path / "compared.png")
    whole(tmp_path / "compared.png")


def test_what_is_far_beyond_the_target_is_not_shown(tmp_path: Path) -> None:
    runs, labels = [history(1000), history(1000, lift=0.05)], ["a", "b"]
    comparison(compared(runs, labels, "accuracy", 0.75), tmp_path / "early.svg")
    comparison(compared(runs, labels, "accuracy", 0.99), tmp_path / "never.svg")
    assert "time (s)" in words(tmp_path / "early.svg")
    assert "time (min)" in words(tmp_path / "never.svg")


# ---------------------------------------------------------------- sweeps, curves


@pytest.mark.parametrize("labels", [1, 3, 8])
def test_a_sweep_is_whole(labels: int, tmp_path: Path) -> None:
    sweep(several(labels, seeds=3), tmp_path / "sweep.png", "house")
    whole(tmp_path / "sweep.png")
    sweep(several(labels, seeds=3, name="mu={}"), tmp_path / "sweep.svg", "house")
    said = words(tmp_path / "sweep.svg")
    assert "house; 3 runs each: mean, lowest and highest" in said
    assert {"version", "test accuracy", "test accuracy of the last version", "mu=0"} <= set(said)


def test_a_curve_is_whole_and_titled(tmp_path: Path) -> None:
    curve(history(), tmp_path / "curve.png", "house")
    whole(tmp_path / "curve.png")
    curve(history(), tmp_path / "curve.svg", "house")
    assert {"house", "accuracy", "loss", "worst tenth of the devices", "central test set"} <= set(
        words(tmp_path / "curve.svg")
    )
    curve([], tmp_path / "empty.png")
    assert ink(tmp_path / "empty.png").any()


# --------------------------------------------------------------------- bad input


def test_another_ending_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(ft.SpecError, match=r"curve\.gif is to be a picture: end its name in \.png, \.svg or \.pdf"):
        curve(history(), tmp_path / "curve.gif")


def test_without_matplotlib_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ft.SpecError, match=r"a picture needs matplotlib: install the extra"):
        curve(history(), tmp_path / "curve.png")


def test_a_place_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ft.StoreError, match=r"the picture .*/file/curve\.png cannot be written: .*; name another"):
        curve(history(), tmp_path / "file" / "curve.png")


# ---------------------------------------------------------------------- the page


def test_the_example_in_the_docs_draws_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="NO DIGITS: scikit-learn is not installed (extra `demo`)")
    page = (ROOT / "docs" / "sweeps.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "docs/compare.png" in code]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/sweeps.md", "exec"), (made := {}))
    costs = made["found"].costs
    assert all(cost.reached == cost.runs == 3 for cost in costs)
    spent = [cost.took["bytes"].mean for cost in costs]
    assert spent == sorted(spent, reverse=True)  # as the page says
    whole(tmp_path / "docs" / "compare.png")
    assert (ROOT / "docs" / "compare.png").stat().st_size < 100_000
