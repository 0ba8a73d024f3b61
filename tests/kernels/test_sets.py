"""Instruction sets: each that this processor has gives what NumPy gives, and what it has not is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

kernels = pytest.importorskip("fedthings_kernels")

TRAIN = """
import sys
import numpy as np
from fedthings.learn import engines, model as ft
from fedthings.learn.data import Shard
from fedthings.learn.task import Recipe, Task
from fedthings.vector import Key

rng = np.random.default_rng(3)
models = {
    "mlp": ft.mlp(29, 50, 37, 5),
    "signal": ft.sequential(
        (33, 5), ft.conv1d(17, 5, 1, "same", "relu"), ft.max_pool(2), ft.conv1d(20, 3, 2), ft.flatten(), ft.dense(5)
    ),
    "picture": ft.sequential(
        (12, 11, 3), ft.conv2d(18, 3, 1, "same", "tanh"), ft.avg_pool(2), ft.layer_norm(), ft.flatten(), ft.dense(5)
    ),
}
found = {"set": engines.described(Task(model=ft.mlp(3, 2), loss="cross_entropy"), sys.argv[1])}
for name, model in models.items():
    task = Task(model=model, loss="cross_entropy", recipe=Recipe(lr=0.05, batch=7, epochs=2, optimizer="momentum"))
    shards = []
    for n in (23, 7, 1):
        X = rng.standard_normal((n, *model.input), np.float32)
        shards.append(Shard(X, rng.integers(0, 5, n), X[:0], np.zeros(0, int)))
    found[name] = np.empty((3, model.layout.dim), np.float32)
    train = engines.build(task, 0.1, sys.argv[1])
    train(model.init(7), None, shards, [Key(5, f"d{i}", 2, 0) for i in range(3)], [1.0] * 3, found[name])
np.savez(sys.argv[2], **found)
"""

FOLD = """
import numpy as np
import fedthings_kernels as kernels

def edges(scale):
    \"\"\"What float32 has at its ends, and what becomes halves, 2**23, 2**50 and 2**63 at `scale`.\"\"\"
    powers = [2.0**k for k in (49, 50, 51, 52, 62, 63, 64)]
    ones = [0.25, 0.5, 0.75, 1, 1.5, 2.5, 2**22 + 0.5, 2**23 + 1, *powers]
    some = np.ldexp(ones, -scale).astype(np.float32)
    info = np.finfo(np.float32)
    ends = np.array([0, 1, info.smallest_subnormal, info.tiny, info.max, np.inf, np.nan], np.float32)
    some = np.concatenate([some, np.nextafter(some, np.float32(0)), np.nextafter(some, np.float32(np.inf)), ends])
    return np.concatenate([some, -some])

rng = np.random.default_rng(5)
with np.errstate(all="ignore"):
    for scale in (-1000, -150, -128, -127, -126, -125, -1, 0, 1, 30, 36, 60, 64, 126, 127, 128, 150, 1000):
        values = edges(scale)
        for dim in (1, 15, 16, 17, 35, 512, 531):
            alone = np.repeat(values[:, None], dim, 1)  # only where no other value is large are sums short
            rows = np.concatenate([alone, rng.choice(values, (6, dim))])
            weights = rng.choice([1, 1, 3, 0, -2, 1 << 40], len(rows))
            scaled = np.rint(rows * np.float64(2.0**scale))
            inside = (scaled >= -(2.0**63)) & (scaled < 2.0**63)
            whole = np.where(inside, np.where(inside, scaled, 0).astype(np.int64), np.iinfo(np.int64).min)
            limb, largest = np.zeros(dim, np.int64), np.zeros(len(rows), np.float32)
            kernels.fold(rows, weights, scale, limb, largest)
            assert (limb == (whole * weights[:, None]).sum(0)).all(), (scale, dim)
            assert (largest.view(np.int32) == (rows.view(np.int32) & 0x7FFFFFFF).max(-1)).all(), (scale, dim)
            for value, fixed in zip(alone, whole):
                limb[:] = 0
                kernels.fold(value[None], np.ones(1, np.int64), scale, limb, largest[:1])
                assert (limb == fixed).all(), (scale, dim, value[0])
print(kernels.instructions())
"""


def python(code: str, *arguments: str, chosen: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python anew, with the instruction set that is `chosen`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDTHINGS_KERNELS")}
    if chosen is not None:
        environment["FEDTHINGS_KERNELS_SET"] = chosen
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return what NumPy changes."""
    path = tmp_path_factory.mktemp("sets") / "numpy.npz"
    ran = python(TRAIN, "numpy", str(path))
    assert ran.returncode == 0, ran.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("name", kernels.sets())
def test_every_set_gives_what_numpy_gives(name: str, plain: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    ran = python(TRAIN, "kernels", str(path), chosen=name)
    assert ran.returncode == 0, ran.stderr
    found = dict(np.load(path))
    assert found.pop("set") == f"kernels {kernels.version} {name}"
    for model, change in found.items():
        np.testing.assert_allclose(change, plain[model], rtol=0, atol=2e-4 * np.abs(plain[model]).max())


@pytest.mark.parametrize("name", kernels.sets())
def test_every_set_sums_what_float_cannot_hold_as_numpy_does(name: str) -> None:
    """What is out of range is the smallest int64, which takes itself back."""
    ran = python(FOLD, chosen=name)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == name


def test_the_widest_is_used_unless_one_is_named() -> None:
    code = "import fedthings_kernels as k; print(k.instructions(), *k.sets())"
    for chosen in (None, "", *kernels.sets()):
        ran = python(code, chosen=chosen)
        assert ran.stdout.split() == [chosen or kernels.sets()[0], *kernels.sets()]
    assert kernels.sets()[-1] == "generic"


def test_a_set_that_is_not_there_is_refused() -> None:
    ran = python("import fedthings_kernels", chosen="mmx")
    wanted = f'FEDTHINGS_KERNELS_SET is "mmx": this processor runs {", ".join(kernels.sets())}; choose one, or unset it'
    assert ran.returncode == 1 and wanted in ran.stderr
    code = """
from fedthings.errors import SpecError
from fedthings.kernels import kernels
try:
    kernels()
except SpecError as error:
    print(error)
"""
    assert wanted in python(code, chosen="mmx").stdout
