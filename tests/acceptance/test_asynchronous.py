"""Heavy-tailed delays: FedBuff reaches 97 % on MNIST in a third of the virtual time of synchronous rounds."""

from __future__ import annotations

import runpy
from pathlib import Path
from statistics import median

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "async_modes.py"


@pytest.mark.long
@pytest.mark.parametrize("tail", ["log-normal, spread 1.5", "Pareto, tail 1.2"])
def test_fedbuff_takes_at_most_a_third_of_the_time_of_synchronous_rounds(data, tail, monkeypatch):
    """K = 10 beside rounds of 10, equal server rates; 10 devices at work in both, and 30 (Nguyen et al. 2022)."""
    monkeypatch.syspath_prepend(str(BENCH.parent))
    bench = runpy.run_path(str(BENCH))
    images = bench["load"](data)

    def took(mode: str) -> float:
        runs = [bench["reach"](mode, bench["TAILS"][tail], images, seed) for seed in range(3)]
        return median(bench["seconds"](run) for run in runs)

    synchronous = took("synchronous, 10")
    for many in (10, 30):
        buffered = took(f"FedBuff K=10, {many} at work")
        print(f"{tail}: synchronous {synchronous:.0f} s, FedBuff with {many} at work {buffered:.0f} s")
        assert buffered <= synchronous / 3
