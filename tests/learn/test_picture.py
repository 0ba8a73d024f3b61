"""The picture of a fleet: what is counted for it, and that each kind is drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fedthings.errors import SpecError
from fedthings.learn import partition
from fedthings.learn.fleet import Fleet
from fedthings.learn.picture import ASKED, LABELS, _short, draw, said, taken
from fedthings.learn.synthetic import clusters

pytest.importorskip("matplotlib")

X = np.zeros((1200, 2), np.float32)
Y = np.arange(1200) % 10
RNG = np.random.default_rng(0)


def fleet(devices: int, y: np.ndarray = Y) -> Fleet:
    return Fleet.from_arrays(X, y, partition.lognormal_sizes(y, devices, 1.0, 0), np.arange(1200) % 1200 > 1100)


FLEETS = {
    "few with labels": lambda: fleet(7),
    "one": lambda: Fleet.from_arrays(X, Y, np.zeros(1200, int)),
    "few with values": lambda: fleet(5, RNG.normal(size=1200)),
    "many with labels": lambda: Fleet.from_arrays(X, Y, partition.shards(Y, 60, 2, 0)),
    "many with values": lambda: Fleet.from_arrays(X, RNG.normal(size=(1200, 3)), np.arange(1200) % 70),
    "many labels": lambda: Fleet.from_arrays(X, np.arange(1200) % 63, np.arange(1200) % 50),
    "of very different sizes": lambda: Fleet.from_arrays(X, Y, partition.power_sizes(Y, 50, 2.0, 0)),
    "text": lambda: Fleet.from_arrays(X, np.array(["walk", "sit"])[Y % 2], np.array(["a long name-1", "b"])[Y % 2]),
    "huge": lambda: clusters(1_000_000, labels=2),
}


@pytest.mark.parametrize("name", FLEETS)
def test_drawn(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "fleet.png"
    FLEETS[name]().plot(path, title="A fleet")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 8000


def test_labels_are_counted() -> None:
    found = taken(Fleet.from_arrays(X, Y, np.arange(1200) % 4, np.arange(1200) >= 1000), 0.0)
    assert found.sizes.tolist() == [[250, 50]] * 4
    assert found.labels == [str(i) for i in range(10)]
    assert found.counts.tolist()[0] == [50, 0] * 5
    assert found.held.tolist() == [5] * 4


def test_rare_labels_are_drawn_together() -> None:
    y = np.concatenate([np.arange(600) % 3, np.arange(600) % 63])
    found = taken(Fleet.from_arrays(X, y, np.arange(1200) % 4), 0.0)
    assert len(found.labels) == LABELS
    assert found.labels[-1] == f"{63 - LABELS + 1} others"
    assert found.labels[:3] == ["0", "1", "2"]
    assert found.counts.sum() == 1200
    assert found.known == 63


def test_values_are_quantiles() -> None:
    y = np.linspace(0, 1, 1200)
    for targets in (y, np.arange(1200)):
        found = taken(Fleet.from_arrays(X, targets, np.zeros(1200, int)), 0.0)
        assert found.labels == ()
        np.testing.assert_allclose(found.quantiles[0], np.quantile(targets, (0.05, 0.25, 0.5, 0.75, 0.95)), rtol=1e-6)


def test_of_a_huge_fleet_some_are_looked_at() -> None:
    huge = clusters(1_000_000)
    found = taken(huge, 0.0)
    assert len(found.names) == ASKED
    assert said(huge, found) == "1,000,000 devices, 5,000 of them looked at; 100,000 training samples"


def test_what_arrives_is_drawn_at_a_time() -> None:
    made = Fleet.from_function(lambda name, at: (X[: 1 + int(at)], Y[: 1 + int(at)]), 3)
    assert taken(made, 8.0).sizes[:, 0].tolist() == [9] * 3


def test_names_are_short() -> None:
    assert _short(["device-1", "device-12"]) == ["1", "12"]
    assert _short(["CTU-Honeypot-4-1", "CTU-Malware-8-1"]) == ["Honeypot-4-1", "Malware-8-1"]
    assert _short(["device-1"]) == ["device-1"]
    assert _short(["attic", "barn"]) == ["attic", "barn"]
    assert _short(["x" * 40, "y"])[0] == "x" * 10 + "…" + "x" * 11


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"fleet is to be a picture: end its name in \.png"):
        draw(fleet(3), tmp_path / "fleet")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SpecError, match=r"pip install fedthings\[plot\]"):
        draw(fleet(3), tmp_path / "fleet.png")


def test_real_fleets(data: Path, tmp_path: Path) -> None:
    for name in ("wisdm_v11", "metr_la_week", "keti_rooms"):
        Fleet.from_npz(data / f"{name}.npz").plot(tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
