"""Queries: read by a grammar, answered as the pooled samples would, refused with the columns there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import DataError, SpecError
from fedthings.federation import dumps, load, question
from fedthings.learn.data import Shard
from fedthings.statistics.query import parse, stability

NAMES = ("temperature", "wind speed", "mode")


def samples(n: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    X = np.stack([1010 + rng.normal(0, 3, n), rng.lognormal(0, 2, n), rng.integers(-1, 3, n)], 1).astype("f4")
    X[rng.random(n) < 0.1, 0] = np.nan
    return X, rng.integers(0, 4, n), np.arange(n) % 7


def shard(columns: tuple[str, ...] = ()) -> Shard:
    X, y, device = samples()
    mine = device == 0
    return Shard(X[mine], y[mine], X[:0], y[:0], columns)


def fleet(tmp_path: Path) -> ft.Fleet:
    X, y, device = samples()
    np.savez(tmp_path / "f.npz", X=X, y=y, device=device, split=np.arange(len(X)) % 5 == 0, columns=np.array(NAMES))
    return ft.Fleet.from_npz(tmp_path / "f.npz")


def test_moments_are_those_of_the_pooled_samples(tmp_path: Path) -> None:
    X, _, _ = samples()
    x = X[:, 0][~np.isnan(X[:, 0])].astype("f8")
    due = {
        "count": len(x),
        "missing": len(X) - len(x),
        "sum": x.sum(),
        "mean": x.mean(),
        "variance": x.var(),
        "deviation": x.std(),
        "min": x.min(),
        "max": x.max(),
    }
    for verb, value in due.items():
        answer = ft.query(fleet(tmp_path), f"{verb}(temperature)")
        assert answer.value == pytest.approx(value, rel=1e-9), verb
        assert (answer.devices, answer.samples, answer.missing) == (7, len(x), len(X) - len(x))
    assert ft.query(fleet(tmp_path), "count()").value == len(X)
    assert ft.query(fleet(tmp_path), 'mean("wind speed", 2)').value == {
        "wind speed": pytest.approx(X[:, 1].astype("f8").mean()),
        "2": pytest.approx(X[:, 2].mean()),
    }


def test_the_variance_survives_a_large_mean() -> None:
    x = (1e6 + np.random.default_rng(0).normal(0, 1, 1000)).astype("f4")
    found = ft.query(ft.Fleet.from_arrays(x[:, None], x, np.arange(1000) % 5), "variance(0)")
    assert found.value == pytest.approx(x.astype("f8").var(), rel=1e-9)
    assert found.rounds == 2


@pytest.mark.parametrize("column", range(3))
def test_quantiles_are_values_of_the_pooled_samples(tmp_path: Path, column: int) -> None:
    shares = [0, 0.05, 0.5, 0.95, 1]
    x = samples()[0][:, column]
    due = np.quantile(x[~np.isnan(x)], shares, method="inverted_cdf")
    found = ft.query(fleet(tmp_path), f"quantiles({column}, {shares})")
    assert np.array_equal(np.array(found.value, "f4"), due)
    assert found.rounds <= 7
    assert ft.query(fleet(tmp_path), f"median({column})").value == due[2]


def test_a_share_of_whole_samples_is_that_many_of_them() -> None:
    x = np.random.default_rng(2).permutation(np.arange(1, 101, dtype="f4"))
    things = ft.Fleet.from_arrays(x[:, None], x, np.arange(100) % 4)
    shares = [i / 100 for i in range(1, 101)]
    assert ft.query(things, f"quantiles(0, {shares})").value == list(range(1, 101))
    between = [share - 0.005 for share in shares]  # where no product is whole, NumPy rounds as we do
    due = np.quantile(x, between, method="inverted_cdf")
    assert ft.query(things, f"quantiles(0, {between})").value == due.tolist()


def test_histograms_are_those_of_the_pooled_samples(tmp_path: Path) -> None:
    X, y, _ = samples()
    counts, edges = np.histogram(X[:, 1].astype("f8"), 12)
    found = ft.query(fleet(tmp_path), 'histogram("wind speed", 12)').value
    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges)
    found = ft.query(fleet(tmp_path), "histogram(mode, [0, 1, 2])").value
    whole = np.bincount(X[:, 2].astype(int) + 1)
    assert found == {"edges": [0, 1, 2], "counts": [whole[1], whole[2] + whole[3]], "below": whole[0], "above": 0}
    found = ft.query(fleet(tmp_path), "labels(3)").value
    assert found == {"counts": np.bincount(y)[:3].tolist(), "others": int((y == 3).sum())}


def test_drift_is_the_population_stability_index(tmp_path: Path) -> None:
    p = np.bincount(samples()[0][:, 2].astype(int) + 1)
    q = np.array([10, 20, 30, 40])
    found = ft.query(fleet(tmp_path), "drift(mode, [-1, 0, 1, 2, 3], [10, 20, 30, 40])").value
    share, other = p / p.sum(), q / q.sum()
    assert found == pytest.approx(((share - other) * np.log(share / other)).sum())
    assert stability(p, p * 3) == 0
    assert np.isfinite(stability(np.array([1, 0]), np.array([0, 1])))


WRONG = {
    "meen(a)": "begins with 'meen': did you mean `mean`?",
    "mean a": "has 'a' at character 6: write it like mean(temperature)",
    "mean(a": "ends too early",
    "mean(a,)": "has ')' at character 8",
    "mean(a) + 1": "has '+' at character 9",
    "mean(a; b)": "has ';' at character 7: put names that have it in quotes",
    "mean()": "has other arguments than mean takes",
    "mean(1.5)": "has other arguments than mean takes",
    "quantiles(a, 0.5)": "write it like quantiles(temperature, [.05, .5, .95])",
    "quantiles(a, [50])": "quantiles are shares from 0 to 1",
    "histogram(a, 0)": "give a whole number from 1 to 4096",
    "histogram(a, [2, 1])": "each above the one before",
    "drift(a, [0, 1], [1, 2])": "one for each of the 1 bins",
    "__import__('os')": "begins with '__import__': valid are: count",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_read_is_answered_with_how_it_would_be_right(text: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    assert WRONG[text] in str(error.value)


def test_a_column_that_no_device_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'humidity': there are temperature, wind speed, mode, y"):
        ft.query(fleet(tmp_path), "mean(humidity)")
    with pytest.raises(DataError, match="no column 7"):
        ft.query(fleet(tmp_path), "mean(7)")
    X, y, device = samples()
    X[:, 1] = np.nan
    with pytest.raises(SpecError, match="no device has a value in 1"):
        ft.query(ft.Fleet.from_arrays(X, y, device), "mean(1)")
    X[device == 3, 1] = 2
    nothing = ft.Fleet.from_arrays(X, y, device)
    with pytest.raises(SpecError, match="1 of the devices have a value in 1, below the quorum of 2"):
        ft.query(nothing, "max(1)")
    assert ft.query(nothing, "max(1)", quorum=1).value == 2


def test_a_query_is_a_federation_and_travels_in_toml(tmp_path: Path) -> None:
    spec = question("quantiles(temperature, [.05, .5])", quorum=3)
    (tmp_path / "q.toml").write_text(dumps(spec))
    assert load(tmp_path / "q.toml") == spec
    (tmp_path / "by_hand.toml").write_text('query = "mean(temperature)"\n')
    run = ft.simulate(load(tmp_path / "by_hand.toml"), fleet(tmp_path), 1, out=tmp_path / "run")
    assert run.summary["answer"]["value"] == pytest.approx(np.nanmean(samples()[0][:, 0], dtype="f8"))
    assert ft.Run is type(run)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(SpecError, match="`task` is missing"):
        ft.Federation()
    with pytest.raises(SpecError, match="stages is set beside query"):
        ft.Federation(query="mean(a)", stages=(ft.clip(1.0),))


def test_columns_by_name_need_no_names_in_arrays() -> None:
    X, y, device = samples()
    assert ft.query(ft.Fleet.from_arrays(X, y, device), "count(0)").value == np.isfinite(X[:, 0]).sum()
    assert ft.query(ft.Fleet.from_arrays(X, y, device), "mean(y)").value == pytest.approx(y.mean())
