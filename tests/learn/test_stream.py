"""Fleets that a function makes: asked for who works, at the time of the work; what it may not return is said."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import DataError
from fedthings.learn.data import Cohort, Shard
from fedthings.learn.fleet import Fleet
from fedthings.simulation.world import Steady

X = np.arange(12, dtype=np.float64).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2], np.int8)


def arriving(name: str, at: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what a device has at `at`: two samples, and one more every ten seconds."""
    number = int(name.split("-")[1])
    n = 2 + int(min(at, 1000) // 10)
    return np.full((n, 3), number, np.float64), np.arange(n) % 2


def test_a_function_makes_what_a_device_has_at_a_time() -> None:
    fleet = Fleet.from_function(arriving, 5)
    assert fleet.names == tuple(f"device-{i}" for i in range(5))
    assert not fleet.fixed
    shard = fleet.shard("device-3", at=25.0)
    np.testing.assert_array_equal(shard.X, np.full((4, 3), 3))
    assert (shard.X.dtype, shard.y.dtype) == (np.float32, np.int64)
    assert (shard.test_X.shape, shard.test_y.shape) == ((0, 3), (0,))
    assert [len(shard.X) for shard in fleet.cohort(["device-0", "device-1"], [0.0, 55.0])] == [2, 7]
    assert fleet.size("device-1", at=55.0) == 7
    assert fleet.counts("device-1") == (2, 0)
    assert fleet.sizes.tolist() == [2] * 5
    assert fleet.test_sizes.tolist() == [0] * 5
    assert repr(fleet) == "Fleet(5 participants, made by a function, X (3,))"


def test_a_function_is_asked_for_the_first_device_and_then_for_who_works() -> None:
    asked: list[tuple[str, float]] = []

    def make(name: str, at: float) -> Shard:
        asked.append((name, at))
        return Shard(X[:4], Y[:4], X[4:], Y[4:])

    fleet = Fleet.from_function(make, ["attic", "barn", "cellar"], size=(4, 2))
    assert asked == [("attic", 0.0)]
    assert fleet.sizes.tolist() == [4, 4, 4]
    assert fleet.test_sizes.tolist() == [2, 2, 2]
    assert fleet.counts("barn", 7.0) == (4, 2)
    assert len(asked) == 1
    assert len(fleet.shard("cellar", 7.0).test_X) == 2
    assert asked[1:] == [("cellar", 7.0)]
    with pytest.raises(DataError, match="no participant 'cellr': did you mean `cellar`"):
        fleet.shard("cellr")
    assert len(asked) == 2


def test_sizes_of_a_huge_function_are_not_counted_in_secret() -> None:
    fleet = Fleet.from_function(arriving, 100_000)
    with pytest.raises(DataError, match=r"100,000 devices have is known only by making it.*size="):
        _ = fleet.sizes
    assert fleet.size("device-99999", at=10.0) == 3
    told = Fleet.from_function(arriving, 100_000, size=lambda name, at: 2 + int(at // 10))
    assert told.sizes.sum() == 200_000
    assert told.size("device-7", at=30.0) == 5


def test_a_cohort_function_makes_many_at_once() -> None:
    def many(names: Sequence[str], at: Sequence[float]) -> Cohort:
        shards = [arriving(name, when) for name, when in zip(names, at, strict=True)]
        ends = np.cumsum([len(X) for X, _ in shards])
        starts = ends - [len(X) for X, _ in shards]
        table = np.concatenate([X for X, _ in shards]).astype(np.float32)
        return Cohort(table, np.concatenate([y for _, y in shards]), np.stack([starts, ends, ends], -1))

    one, together = Fleet.from_function(arriving, 50), Fleet.from_function(arriving, 50, cohort=many)
    names, at = ["device-7", "device-9", "device-7"], [0.0, 20.0, 50.0]
    cohort = together.cohort(names, at)
    assert isinstance(cohort, Cohort)
    for shard, other in zip(cohort, one.cohort(names, at), strict=True):
        for part, its in zip(shard, other, strict=True):
            np.testing.assert_array_equal(part, its)


def always(made: object) -> Callable[[str, float], object]:
    return lambda name, at: made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (X, r"device-0 at 0 s: the function returned ndarray of 6: return \(X, y\)"),
        ((X, Y, X), r"returned tuple of 3"),
        (None, "returned NoneType"),
        ((X[:0], Y[:0]), "device-0 at 0 s has no training samples: return at least one at all times"),
        ((X, Y[:4]), "device-0 at 0 s: y has 4 entries but X has 6 rows"),
        ((X[:, 0], Y), r"device-0 at 0 s: X has the shape \(6,\)"),
        ((X.astype(str), Y), "device-0 at 0 s: X holds <U"),
        ((X, ["a", "b"] * 3), "y has text labels such as 'a': number them"),
        ((X, Y, X[:, :1], Y), r"test_X holds float32 of shape \(1,\).*device-0 at 0 s float32 of shape \(2,\)"),
        ((X, Y, X, Y[:2]), "device-0 at 0 s: test samples: y has 2 entries"),
    ],
)
def test_what_a_function_may_not_return(made: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Fleet.from_function(always(made), 3)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (
            (X[:, :1], Y),
            r"device-2 at 9.5 s: X holds float32 of shape \(1,\).*device-0 at 0 s .*\(2,\): make all alike",
        ),
        ((X, Y / 2), "device-2 at 9.5 s: y holds float32 of shape .* int64"),
        ((X, np.stack([Y, Y], 1)), r"device-2 at 9.5 s: y holds int64 of shape \(2,\)"),
        ((X[:0], Y[:0]), "device-2 at 9.5 s has no training samples"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_what_changes_later_is_refused_with_device_and_time(later: object, said: str, together: bool) -> None:
    def make(name: str, at: float) -> object:
        return later if name == "device-2" and at > 9 else (X, Y)

    def many(names: Sequence[str], at: Sequence[float]) -> list[object]:
        return [make(name, when) for name, when in zip(names, at, strict=True)]

    fleet = Fleet.from_function(make, 4, cohort=many if together else None)
    assert len(fleet.cohort(["device-1", "device-2"], [9.5, 0.0])) == 2
    with pytest.raises(DataError, match=said):
        fleet.cohort(["device-1", "device-2"], [0.0, 9.5])


@pytest.mark.parametrize(
    ("bounds", "X", "said"),
    [
        ([[0, 2, 2], [2, 2, 4]], np.ones((4, 3), "f4"), "device-1 at 3 s has no training samples"),
        ([[0, 2, 2], [2, 4, 4]], np.ones((4, 2), "f4"), r"device-0 at 3 s: X holds float32 of shape \(2,\)"),
        ([[0, 2, 2]], np.ones((4, 3), "f4"), "cohort= returned Cohort of 1 for 2 devices"),
    ],
)
def test_a_cohort_that_does_not_fit_is_refused_by_device(bounds: list[list[int]], X: np.ndarray, said: str) -> None:
    good = Cohort(np.ones((4, 3), "f4"), np.zeros(4, np.int64), np.array([[0, 4, 4]]))

    def many(names: Sequence[str], at: Sequence[float]) -> Cohort:
        return good if len(names) == 1 else Cohort(X, np.zeros(len(X), np.int64), np.array(bounds))

    fleet = Fleet.from_function(lambda name, at: good[0], 4, cohort=many)
    with pytest.raises(DataError, match=said):
        fleet.cohort(["device-0", "device-1"], [3.0, 3.0])


def test_a_size_that_is_not_true_is_refused() -> None:
    with pytest.raises(DataError, match="device-0 at 0 s has 2 training and 0 test samples, size= says 3 and 0"):
        Fleet.from_function(arriving, 3, size=3)
    fleet = Fleet.from_function(arriving, 3, size=lambda name, at: 2)
    with pytest.raises(DataError, match=r"device-1 at 20 s has 4 training.*size= says 2 and 0: make both the same"):
        fleet.shard("device-1", 20.0)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (0, "devices is 0"),
        ([], "devices names none"),
        (["a", "b", "a"], "devices has the name 'a' twice"),
        (["a", "b c"], "devices has the name 'b c': letters"),
        (["a", 3], "devices has the name 3"),
    ],
)
def test_names_that_cannot_be(devices: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Fleet.from_function(arriving, devices)  # type: ignore[arg-type]


def test_an_error_of_the_function_itself_says_for_whom() -> None:
    def make(name: str, at: float) -> object:
        return (X, Y) if at < 5 else {}["missing"]

    with pytest.raises(KeyError) as caught:
        Fleet.from_function(make, 3).shard("device-1", 6.0)
    assert caught.value.__notes__ == ["while the fleet's function made the data of device-1 at 6 s"]


def federation(inputs: int) -> ft.Federation:
    return ft.Federation(
        task=ft.Task(model=ft.sequential(inputs, ft.dense(2)), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=4)),
        strategy=ft.fedavg(),
        pace=ft.Pace(goal=3, concurrency=4),
    )


def test_data_that_arrives_is_trained_as_it_was_when_the_task_was_given_out() -> None:
    asked: list[float] = []

    def make(name: str, at: float) -> tuple[np.ndarray, np.ndarray]:
        asked.append(at)
        return arriving(name, at)

    run = ft.simulate(federation(3), Fleet.from_function(make, 6), rounds=5, world=Steady(10.0), workers=1)
    assert len(run.history) >= 5
    assert {0.0, 10.0, 20.0} <= set(asked)
    forked = ft.simulate(federation(3), Fleet.from_function(arriving, 6), rounds=5, world=Steady(10.0), workers=2)
    np.testing.assert_array_equal(run.model["x"] if isinstance(run.model, dict) else run.model, forked.model)


def test_a_simulation_refuses_what_is_wrong_later() -> None:
    def make(name: str, at: float) -> tuple[np.ndarray, np.ndarray]:
        return (X[:, :1], Y % 2) if at > 15 else (X, Y % 2)

    with pytest.raises(DataError, match=r"device-\d at 20 s: X holds float32 of shape \(1,\)"):
        ft.simulate(federation(2), Fleet.from_function(make, 6), rounds=5, world=Steady(10.0))
    with pytest.raises(DataError, match=r"the model takes \(3,\)"):
        ft.simulate(federation(3), Fleet.from_function(make, 6), rounds=5)
