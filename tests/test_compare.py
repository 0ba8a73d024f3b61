"""Comparisons: what each run had spent when it reached a target, over repetitions; and what runs are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import fedthings as ft
from fedthings.comparison import band, compared, course, named, shortened, shown


def line(version: int, accuracy: float, joules: float | None = None, **more: Any) -> dict[str, Any]:
    """Return a line of history: each version takes 10 s, 300 bytes up and 700 down."""
    return {
        "version": version,
        "time": 10.0 * version,
        "updates": 3,
        "dropped": {},
        "loss": 2.0 - accuracy,
        "metrics": {"loss": 1.0 - accuracy, "accuracy": accuracy},
        "worst_decile": {},
        "bytes_up": 300,
        "bytes_down": 700,
        "joules": joules,
        **more,
    }


def history(*accuracies: float, joules: float | None = None) -> list[dict[str, Any]]:
    return [line(version, accuracy, joules) for version, accuracy in enumerate(accuracies, 1)]


def federation(**more: Any) -> ft.Federation:
    return ft.Federation(task=ft.Task(model=ft.mlp(4, 3, 2), loss="cross_entropy"), **more)


def made(*accuracies: float, joules: float | None = None, **more: Any) -> ft.Run:
    spec = federation(**more)
    return ft.Run(spec, history(*accuracies, joules=joules), {}, spec.task.model, np.zeros(23, np.float32))


SLOW, QUICK, NEVER = (0.5, 0.6, 0.7, 0.8), (0.7, 0.9, 0.85, 0.8), (0.1, 0.2, 0.3, 0.25)


# ------------------------------------------------------- what reaching it took


def test_what_had_been_spent_when_the_target_was_first_reached() -> None:
    found = compared([history(*SLOW, joules=2.5), history(*QUICK)], ["slow", "quick"], target=0.7)
    slow, quick = found.costs
    assert (slow.label, slow.runs, slow.reached) == ("slow", 1, 1)
    assert {name: spread.mean for name, spread in slow.took.items()} == {
        "version": 3,
        "seconds": 30,
        "bytes": 3000,
        "joules": 7.5,
    }
    assert {name: spread.mean for name, spread in quick.took.items()} == {"version": 1, "seconds": 10, "bytes": 1000}
    assert (quick.best.mean, quick.last.mean) == (0.9, 0.8)
    assert slow.best.deviation is None
    assert found.joules
    assert not compared([history(*SLOW)], ["slow"]).joules


def test_who_does_not_reach_it_has_no_cost() -> None:
    found = compared([history(*SLOW), history(*NEVER)], ["some", "some"], target=0.75)
    (cost,) = found.costs
    assert (cost.runs, cost.reached) == (2, 1)
    assert cost.took["seconds"] == (40.0, None)
    assert compared([history(*NEVER)], ["none"], target=0.75).costs[0].took == {}


def test_the_spread_is_over_runs_with_the_same_label() -> None:
    found = compared([history(*SLOW), history(*QUICK), history(*QUICK)], ["a", "b", "a"], target=0.7)
    assert [(cost.label, cost.runs) for cost in found.costs] == [("a", 2), ("b", 1)]
    mean, deviation = found.costs[0].took["version"]
    assert (mean, deviation) == (2.0, pytest.approx(np.std([3, 1], ddof=1)))
    assert found.costs[0].best == (pytest.approx(0.85), pytest.approx(np.std([0.8, 0.9], ddof=1)))


def test_a_low_metric_is_reached_from_above() -> None:
    found = compared([history(*SLOW), history(*QUICK)], ["slow", "quick"], "loss", 0.31)
    assert [cost.took["version"].mean for cost in found.costs] == [3, 1]
    assert [cost.best.mean for cost in found.costs] == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize(
    ("metric", "accuracies", "target"),
    [
        ("accuracy", [(0.1, 0.87654), (0.9, 0.2)], 0.876),
        ("loss", [(0.1, 0.87654), (0.9, 0.2)], 0.124),
        ("accuracy", [(0.0, 0.0)], 0.0),
        ("accuracy", [(0.0123456,)], 0.0123),
    ],
)
def test_the_target_is_what_the_least_good_has_reached(
    metric: str, accuracies: list[tuple[float, ...]], target: float
) -> None:
    found = compared([history(*one) for one in accuracies], ["a"] * len(accuracies), metric)
    assert found.target == pytest.approx(target)
    assert found.costs[0].reached == len(accuracies)


def test_joules_are_those_of_the_lines_that_count_them() -> None:
    lines = [line(1, 0.1, 2.0), line(2, 0.2, None), line(3, 0.3, 4.0)]
    assert course(lines, "metrics", "accuracy").spent["joules"].tolist() == [2, 2, 6]
    assert "joules" not in course(history(*SLOW), "metrics", "accuracy").spent


def test_lines_without_the_metric_cost_and_do_not_count() -> None:
    lines = [line(1, 0.9, metrics={}), line(2, 0.5), line(3, 0.9)]
    found = compared([lines], ["a"], "accuracy", 0.8)
    assert found.courses["a"][0].values.tolist() == [0.5, 0.9]
    assert found.costs[0].took["bytes"].mean == 3000


def test_the_central_test_set_goes_first_where_all_have_one() -> None:
    tested = [line(1, 0.9, test={"loss": 3.0, "accuracy": 0.4})]
    found = compared([tested], ["a"])
    assert (found.costs[0].last.mean, found.measure) == (0.4, "test accuracy")
    both = compared([tested, history(*SLOW)], ["a", "b"])
    assert (both.costs[0].last.mean, both.measure) == (0.9, "accuracy")


def test_without_test_samples_the_training_loss_is_compared() -> None:
    bare = [line(version, accuracy, metrics={}) for version, accuracy in enumerate(SLOW, 1)]
    found = compared([bare], ["a"], target=1.3)
    assert (found.metric, found.measure) == ("loss", "training loss")
    assert found.costs[0].took["version"].mean == 3
    with pytest.raises(ft.SpecError, match="the runs have no metric in common: give each test samples"):
        compared([[line(1, 0.5, metrics={}, loss=None)]], ["a"])


def test_a_band_has_a_place_for_each_version_of_each() -> None:
    short = course(history(0.0, 0.4), "metrics", "accuracy")
    late = course([line(2, 0.2, time=15.0), line(3, 0.4, time=25.0)], "metrics", "accuracy")
    places, mean, low, high = band([short, late], "seconds")
    assert places.tolist() == [15, 20]
    assert mean == pytest.approx([0.2, 0.35])
    assert low == pytest.approx([0.2, 0.3])
    assert high == pytest.approx([0.2, 0.4])


# ------------------------------------------------------------------- its door


def test_runs_are_compared_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, other = made(*SLOW), made(*QUICK, strategy=ft.fedprox(0.1))
    found = one.compare(other, target=0.8, path=tmp_path / "new" / "compared.svg")
    assert [(cost.label, cost.took["version"].mean) for cost in found.costs] == [
        ("mu=0.0, partial=false", 4),
        ("mu=0.1, partial=true", 2),
    ]
    assert "mu=0.1" in (tmp_path / "new" / "compared.svg").read_text()
    assert ft.compare([one, other], target=0.8)[:4] == found[:4]
    assert list(ft.compare([one, other], ["slow", "quick"]).courses) == ["slow", "quick"]


@pytest.mark.parametrize(
    ("runs", "options", "said"),
    [
        ([], {}, "there are no runs to compare: give at least one"),
        ([SLOW, QUICK], {"labels": ["one"]}, "there are 1 labels for 2 runs: give each run one"),
        ([SLOW, ()], {"labels": ["one", "two"]}, "two has no version yet: leave it out"),
        ([SLOW], {"metric": "acuracy"}, "the metric 'acuracy' is not in every run: did you mean `accuracy`?"),
        ([SLOW], {"target": float("nan")}, "target is nan: give a value of accuracy that a run can reach"),
        ([SLOW], {"path": "compared.txt"}, "compared.txt is to be a picture: end its name in .png, .svg or .pdf"),
    ],
)
def test_bad_input_is_a_message(runs: list[Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ft.SpecError) as caught:
        ft.compare([made(*accuracies) for accuracies in runs], **options)
    assert said in str(caught.value)


# --------------------------------------------------------------------- labels


def test_a_label_is_the_name_or_what_differs() -> None:
    assert named([federation(name="a"), federation(name="b", seed=1)]) == ["a", "b"]
    assert named([federation()]) == ["federation"]
    prox = replace(federation(), strategy=ft.Strategy(mu=0.1))
    assert named([federation(), prox, replace(prox, seed=1)]) == ["mu=0.0", "mu=0.1", "mu=0.1"]
    assert named([federation(name="a"), federation(name="b"), replace(prox, name="b")]) == [
        "a, mu=0.0",
        "b, mu=0.0",
        "b, mu=0.1",
    ]


def test_seeds_are_repetitions_and_what_nothing_tells_apart_is_numbered() -> None:
    assert named([federation(seed=seed) for seed in (0, 1)]) == ["federation", "federation"]
    assert named([federation(), federation()]) == ["federation 1", "federation 2"]


def test_a_path_is_shortened_as_far_as_it_tells() -> None:
    paths = ["strategy.mu", "strategy.step.lr", "task.recipe.lr"]
    assert shortened(paths) == {paths[0]: "mu", paths[1]: "step.lr", paths[2]: "recipe.lr"}
    assert shortened(["lr", "task.lr"]) == {"lr": "lr", "task.lr": "task.lr"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (True, "true"),
        ("adam", "adam"),
        ([1, "a"], "[1,a]"),
        ({"type": "dense", "units": 3}, "dense(units=3)"),
        ({"kind": "sgd"}, "sgd"),
        ({"a": 1}, "(a=1)"),
        (b"scaling", "567cf0"),
    ],
)
def test_values_are_shown_as_a_person_writes_them(value: Any, text: str) -> None:
    assert shown(value) == text
