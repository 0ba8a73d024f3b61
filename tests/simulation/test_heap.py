"""Memory of large arrays stays during a simulation, and goes back with its end."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import numpy as np, psutil
from fedthings.simulation.heap import kept_memory

def held():
    return psutil.Process().memory_info().rss

def used():
    large, small = np.ones(16 << 20), np.ones(1)  # 128 MB, and something that may lie behind it
    del large
    return small

before = held()
with kept_memory():
    used()
    kept = held() - before
over = held() - before
small = used()
print(kept, over, held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_memory_stays_and_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, over, after = (int(word) / 1e6 for word in done.stdout.split())
    assert kept > 128
    assert over < 16
    assert after < 16
