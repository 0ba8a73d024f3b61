"""The example of gradient inversion: it works where it is said to, and fails for the mask and the sum alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="NO DIGITS: scikit-learn is not installed (extra `demo`)")
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "inversion.py"


def test_a_digit_is_read_out_of_an_update_only(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = runpy.run_path(str(EXAMPLE))["attack"]
    for victim in range(0, 80, 8):
        found = attack(victim)
        assert found["update"] > 0.85
        assert found["share"] < 0.65 and found["sum"] < 0.65  # 64 numbers of noise are sometimes 0.3, by chance
    monkeypatch.setitem(attack.__globals__, "apply", lambda arrays, seeds: None)
    assert attack()["share"] > 0.85  # so it is the mask that hides it
