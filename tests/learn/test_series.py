"""Windows over a device's rows: which rows make a sample, what is refused, and that all that learns sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fedthings as ft
from fedthings.commands.predict import command
from fedthings.errors import DataError, SpecError
from fedthings.federation import dumps
from fedthings.learn import save
from fedthings.learn.data import Shard
from fedthings.learn.model import outputs
from fedthings.learn.series import Window, as_samples
from fedthings.phase import fits
from fedthings.spelling import decode


def series(n: int, features: int = 2) -> tuple[np.ndarray, np.ndarray]:
    X = np.arange(n * features, dtype="f4").reshape(n, features)
    return X, 100 + np.arange(n, dtype="f4")


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("n", [0, 1, 4, 7, 8, 23])
def test_a_sample_is_so_many_rows_and_its_target_that_of_the_last(n: int, steps: int, stride: int, ahead: int) -> None:
    X, y = series(n)
    window = Window(steps, stride, ahead)
    made = window.shard(Shard(X, y, X[:0], y[:0]))
    starts = [i for i in range(0, n, stride) if i + steps - 1 + ahead < n]
    assert window.count(n) == len(starts) == len(made.X) == len(made.y)
    for start, sample, target in zip(starts, made.X, made.y, strict=True):
        np.testing.assert_array_equal(sample, X[start : start + steps] if steps > 1 else X[start])
        assert target == y[start + steps - 1 + ahead]
    assert made.test_X.shape == (0, steps, 2) if steps > 1 else (0, 2)


def test_windows_share_the_rows_memory() -> None:
    X, y = series(100)
    assert np.shares_memory(Window(30).shard(Shard(X, y, X[:0], y[:0])).X, X)


def task(**settings) -> ft.Task:
    model = ft.sequential((4, 2), ft.flatten(), ft.dense(1), ft.rescale())
    return ft.Task(**{"model": model, "loss": "mse", "normalise": "fleet", "window": ft.window(4)} | settings)


def test_what_does_not_fit_is_refused() -> None:
    X, y = series(3)
    with pytest.raises(DataError, match=r"boiler has 3 training rows, and one sample takes 4 \(task.window\)"):
        fits(ft.Federation(task()), Shard(X, y, X[:0], y[:0]), "boiler")
    with pytest.raises(SpecError, match=r"window has 5 steps and the model takes \(4, 2\)"):
        task(window=ft.window(5))
    for wrong, said in (({"steps": 0}, "window.steps is 0"), ({"stride": 0}, "stride is 0"), ({"ahead": -1}, "ahead")):
        with pytest.raises(SpecError, match=said):
            Window(**wrong)


def test_a_federation_of_windows_is_that_of_the_samples_they_make() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)).astype("f4")
    y = np.convolve(X[:, 0], [1, 2, 3])[:300].astype("f4") * 5 + 40
    device, split = np.repeat([0, 1, 2], 100), np.tile(np.arange(100) >= 80, 3).astype("i1")
    rows = ft.Fleet.from_arrays(X, y, device, split)
    made = [ft.window(4, stride=2).shard(rows.shard(name)) for name in rows.names]
    samples = ft.Fleet.from_arrays(
        np.concatenate([part for s in made for part in (s.X, s.test_X)]),
        np.concatenate([part for s in made for part in (s.y, s.test_y)]),
        np.concatenate([np.full(len(s.X) + len(s.test_X), i) for i, s in enumerate(made)]),
        np.concatenate([np.repeat([0, 1], [len(s.X), len(s.test_X)]) for s in made]),
    )
    runs = []
    for fleet, window in ((rows, ft.window(4, stride=2)), (samples, ft.window())):
        runs.append(ft.simulate(ft.Federation(task(window=window), pace=ft.Pace(goal=3)), fleet, 15))
    np.testing.assert_array_equal(runs[0].row, runs[1].row)
    assert runs[0].summary["metrics"] == runs[1].summary["metrics"]
    assert runs[0].summary["metrics"]["rmse"] < 15  # in the units of the target, whose deviation is 19
    np.testing.assert_array_equal(runs[0].predict(X[:50]), runs[0].predict(as_samples(X[:50], (4, 2))))
    assert runs[0].predict(X[:50]).shape == (47, 1)


def test_it_travels_in_toml() -> None:
    import tomllib

    federation = ft.Federation(task(window=ft.window(4, 2, 1)))
    assert decode(tomllib.loads(dumps(federation)), ft.Federation) == federation


def test_predict_takes_the_rows_of_a_series(tmp_path: Path) -> None:
    model = ft.sequential((4, 2), ft.flatten(), ft.dense(1), ft.rescale([10], [3]))
    row, (X, _) = model.init(0), series(9)
    save.save(tmp_path / "model.safetensors", model, row, {})
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in X.tolist()))
    found = CliRunner().invoke(command, ["--state", str(tmp_path), "--data", str(tmp_path / "rows.csv")])
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[0] == "output_0" and len(lines) == 1 + 6
    want = outputs(model, row, as_samples(X, model.input))[:, 0]
    np.testing.assert_allclose([float(line) for line in lines[1:]], want, rtol=1e-5)
