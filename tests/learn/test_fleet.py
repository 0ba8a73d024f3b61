"""A fleet: whose samples are whose, from arrays, files and functions; what is refused, and how it is said."""

import stat
import time
from pathlib import Path

import numpy as np
import pytest

from fedthings.errors import DataError
from fedthings.learn.digits import digits
from fedthings.learn.fleet import Fleet
from fedthings.learn.mnist import mnist
from fedthings.learn.tables import read

X = np.arange(12, dtype=np.float64).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2], np.int8)
DEVICE = np.array([7, 3, 7, 3, 7, 3])
SPLIT = np.array([0, 0, 1, 1, 0, 0])


def saved(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


# ---------------------------------------------------------------- shards


def test_each_participant_has_its_own_rows_in_their_order() -> None:
    fleet = Fleet.from_arrays(X, Y, DEVICE, SPLIT)
    assert fleet.names == ("device-3", "device-7")
    assert len(fleet) == 2
    shard = fleet.shard("device-7")
    np.testing.assert_array_equal(shard.X, X[[0, 4]])
    np.testing.assert_array_equal(shard.y, [0, 1])
    np.testing.assert_array_equal(shard.test_X, X[[2]])
    np.testing.assert_array_equal(shard.test_y, [2])
    np.testing.assert_array_equal(fleet.sizes, [2, 2])
    np.testing.assert_array_equal(fleet.test_sizes, [1, 1])
    assert shard.X.dtype == np.float32
    assert shard.y.dtype == np.int64


def test_shards_are_views_of_one_table() -> None:
    fleet = Fleet.from_arrays(X, Y, DEVICE)
    one, other = fleet.shard("device-3"), fleet.shard("device-7")
    assert one.X.base is not None
    assert one.X.base is other.X.base


@pytest.mark.parametrize(
    ("y", "kind"),
    [(Y, "int64"), (Y > 0, "int64"), (Y.astype(np.float64), "float32"), (np.ones((6, 3)), "float32")],
)
def test_labels_are_integers_and_real_targets_are_real(y: np.ndarray, kind: str) -> None:
    assert Fleet.from_arrays(X, y, DEVICE).shard("device-3").y.dtype == kind


def test_images_keep_their_values() -> None:
    images = np.full((6, 2, 2, 1), 255, np.uint8)
    shard = Fleet.from_arrays(images, Y, DEVICE).shard("device-3")
    assert shard.X.dtype == np.float32
    assert shard.X.shape == (3, 2, 2, 1)
    assert shard.X.max() == 255


def test_text_labels_become_sorted_classes() -> None:
    fleet = Fleet.from_arrays(X, ["walk", "sit", "run", "run", "sit", "walk"], DEVICE)
    assert fleet.classes == ("run", "sit", "walk")
    np.testing.assert_array_equal(fleet.shard("device-7").y, [2, 0, 1])


def test_names_are_kept_where_they_fit_and_cleaned_where_not() -> None:
    fleet = Fleet.from_arrays(X, Y, ["a.b_c-1", "room 12/é", "room 12/é", "a.b_c-1", "x" * 64, "x" * 64])
    assert fleet.names == ("a.b_c-1", "room-12", "x" * 64)


def test_things_are_grouped_into_participants() -> None:
    mapped = Fleet.from_arrays(X, Y, [1, 2, 3, 1, 2, 3], participant={1: "house", "3": "house"})
    assert mapped.names == ("house", "device-2")
    np.testing.assert_array_equal(mapped.shard("house").X, X[[0, 2, 3, 5]])
    listed = Fleet.from_arrays(X, Y, DEVICE, participant=["b", "b", "a", "a", "a", "b"])
    assert listed.names == ("a", "b")
    np.testing.assert_array_equal(listed.shard("a").X, X[[2, 3, 4]])


def test_a_million_devices_are_quick_and_small() -> None:
    n = 1_000_000
    rows = np.zeros((2 * n, 1), np.float32)
    device = np.repeat(np.arange(n), 2)
    began = time.perf_counter()
    fleet = Fleet.from_arrays(rows, np.zeros(2 * n, np.int64), device)
    assert fleet.shard("device-999999").X.base is rows
    assert len(fleet) == n
    assert len(fleet.cohort(fleet.names[::100], [0.0] * 10_000)) == 10_000
    assert time.perf_counter() - began < 10


def test_a_fleet_tells_how_much_each_has() -> None:
    fleet = Fleet.from_arrays(X, Y, DEVICE, SPLIT)
    assert fleet.counts("device-7") == (2, 1)
    assert fleet.size("device-7", at=5.0) == 2
    assert fleet.fixed
    with pytest.raises(DataError, match="no participant 'device-8'"):
        fleet.size("device-8")


# ---------------------------------------------------------------- names


NUMBERS = [[0, 1, 2, 3, 4], [3, 7, 8, 100, 2**40], [-5, -1, 0, 4, 9]]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_numbered_names_are_a_sequence(numbers: list[int]) -> None:
    names = Fleet.from_arrays(np.zeros((5, 1)), np.zeros(5), numbers).names
    whole = tuple(f"device-{number}" for number in numbers)
    assert names == whole
    assert tuple(names) == whole
    assert len(names) == 5
    assert [names[i] for i in (0, 2, -1)] == [whole[i] for i in (0, 2, -1)]
    for part in (slice(1, 4), slice(None, None, 2), slice(3, 3), slice(-2, None), slice(None, None, -1)):
        assert names[part] == whole[part]
        assert len(names[part]) == len(whole[part])
    assert names[1:][::2] == whole[1:][::2]
    assert [names.index(name) for name in whole] == list(range(5))
    assert whole[3] in names
    for other in ("device-50", "device-", "device-07", "device-+1", "gadget-3", "device-1e3", "device-9" * 9, "", 3):
        assert other not in names
    assert names != whole[:4]
    with pytest.raises(ValueError, match="'device-50' is not among"):
        names.index("device-50")


def test_a_name_that_is_not_there_is_named() -> None:
    fleet = Fleet.from_arrays(X, Y, DEVICE)
    for wrong in ("device-5", "device-03", "kitchen", "device-99999999999999999999"):
        with pytest.raises(DataError, match=f"the fleet has no participant '{wrong}'"):
            fleet.cohort(["device-3", wrong, "device-7"], [0.0] * 3)


# ----------------------------------------------------------------- files


def test_npz_and_csv_give_the_same_fleet(tmp_path: Path) -> None:
    npz = Fleet.from_npz(saved(tmp_path / "a.npz", X=X, y=Y, device=DEVICE, split=SPLIT, extra=Y))
    rows = (f"{a},{d},{b},{s},{t}" for (a, b), t, d, s in zip(X, Y, DEVICE, SPLIT, strict=True))
    csv = Fleet.from_csv(lines(tmp_path / "a.csv", "left,unit,right,split,kind", *rows), target="kind", device="unit")
    assert npz.names == csv.names
    for name in npz.names:
        for one, other in zip(npz.shard(name)[:4], csv.shard(name)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_csv_empty_cells_are_nan_and_text_columns_are_left_out(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.csv",
        "\ufeffwhen,heat,hum,label,device",
        "Mon,1.5,,on,k1",
        "Tue,,2,off,k1",
        "",
        "Wed,-1e3,3,on,k 2",
    )
    fleet = Fleet.from_csv(path)
    assert fleet.left_out == ("when",)
    assert fleet.names == ("k-2", "k1")
    assert fleet.classes == ("off", "on")
    np.testing.assert_array_equal(fleet.shard("k1").X, [[1.5, np.nan], [np.nan, 2]])
    np.testing.assert_array_equal(fleet.shard("k1").y, [1, 0])


def test_csv_longer_than_one_piece(tmp_path: Path) -> None:
    n = 20_000
    fleet = Fleet.from_csv(lines(tmp_path / "a.csv", "v,y,device", *(f"{i},{i % 3},{i % 2}" for i in range(n))))
    np.testing.assert_array_equal(fleet.shard("device-1").X[:, 0], np.arange(1, n, 2))


def test_each_device_gets_its_own_file_for_its_eyes_only(tmp_path: Path) -> None:
    fleet = Fleet.from_arrays(X, Y, DEVICE, SPLIT)
    paths = fleet.write(tmp_path / "own")
    assert set(paths) == set(fleet.names)
    for name, path in paths.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with np.load(path) as archive:
            assert sorted(archive.files) == ["X", "split", "y"]
        for one, other in zip(Fleet.one(path, "whatever"), fleet.shard(name), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_device_takes_its_part_of_a_file_of_several(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", X=X, y=Y, device=DEVICE, split=SPLIT)
    np.testing.assert_array_equal(Fleet.one(path, "device-7").X, X[[0, 4]])
    with pytest.raises(DataError, match="no participant 'device-8': did you mean `device-7`"):
        Fleet.one(path, "device-8")


def test_a_device_file_with_text_labels_needs_all_classes(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.csv", "v,y", "1,sit", "2,walk")
    with pytest.raises(DataError, match=r"text labels.*name all classes"):
        Fleet.one(path, "k1")
    np.testing.assert_array_equal(Fleet.one(path, "k1", classes=("run", "sit", "walk")).y, [1, 2])
    with pytest.raises(DataError, match="'walk' is not among the classes"):
        Fleet.one(path, "k1", classes=("run", "sit"))


# -------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": X, "y": Y}, r"lacks the keys device \(found: X, y\)"),
        ({"Z": X}, r"lacks the keys X, y, device \(found: Z\)"),
        ({"X": X, "y": Y[:4], "device": DEVICE}, "y has 4 entries but X has 6 rows"),
        ({"X": X, "y": Y, "device": DEVICE[:5]}, "device has 5 entries but X has 6 rows"),
        ({"X": X, "y": Y, "device": DEVICE, "split": SPLIT[1:]}, "split has 5 entries"),
        ({"X": X, "y": Y, "device": DEVICE, "split": SPLIT + 1}, "split has 2: it must be 0"),
        ({"X": X, "y": Y, "device": DEVICE, "split": DEVICE == 7}, "device-7 has no training samples"),
        ({"X": X[:0], "y": Y[:0], "device": DEVICE[:0]}, "X has no rows"),
        ({"X": X[:, 0], "y": Y, "device": DEVICE}, r"X has the shape \(6,\)"),
        ({"X": X.astype(str), "y": Y, "device": DEVICE}, "X holds <U"),
        ({"X": X.astype(object), "y": Y, "device": DEVICE}, "X holds Python objects"),
        ({"X": X, "y": Y, "device": DEVICE + 0.5}, "name devices by text or whole numbers"),
        ({"X": X, "y": Y, "device": ["a b", "a/b", "c", "c", "c", "c"]}, "both called 'a-b'"),
        ({"X": X, "y": Y, "device": ["..", "b", "c", "c", "c", "c"]}, "no letter or digit"),
    ],
)
def test_npz_refused(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Fleet.from_npz(saved(tmp_path / "a.npz", **arrays))


def test_an_npz_of_no_samples_is_refused_without_labels_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"X holds float64 with the shape \(\)"):
        read(saved(tmp_path / "a.npz", X=3.0), labelled=False)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([""], "is empty|names the columns"),
        (["a,y,device"], "no line below its header"),
        (["a,a,y,device", "1,2,3,4"], "column 'a' twice"),
        (["a,y,device", "1,2,3", "1,2"], "2 cells in line 3, but its header 3"),
        (["a,y,device", "1,0,k", "?,0,k"], r"'a' has '\?' in line 3"),
        (["a,y,device", "1,,k"], "column 'y' has an empty cell in sample 1"),
        (["a,b,device", "1,0,k"], "say which column is the target, of a, b, device"),
        (["a,y", "1,0"], "does not say whose each sample is"),
        (["when,y,device", "Mon,0,k"], "no column of numbers"),
    ],
)
def test_csv_refused(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Fleet.from_csv(lines(tmp_path / "a.csv", *rows))


def test_misspelt_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.csv", "heat,motion,device", "1,0,k")
    with pytest.raises(DataError, match="no column 'moton': did you mean `motion`"):
        Fleet.from_csv(path, target="moton")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        Fleet.from_npz(tmp_path / "none.npz")
    with pytest.raises(DataError, match="is a directory"):
        Fleet.from_npz(tmp_path)
    with pytest.raises(DataError, match="is not an npz file"):
        Fleet.from_npz(lines(tmp_path / "a.npz", "a,b"))
    whole = saved(tmp_path / "b.npz", X=X, y=Y, device=DEVICE).read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[:60] + b"\xff" * 20 + whole[80:])
    with pytest.raises(DataError, match=r"c\.npz"):
        Fleet.from_npz(tmp_path / "c.npz")
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        Fleet.from_csv(tmp_path / "d.csv")


def test_participant_mapping_must_name_devices_that_are_there() -> None:
    with pytest.raises(DataError, match="names the device '33', which has no samples: did you mean `3`"):
        Fleet.from_arrays(X, Y, DEVICE, participant={33: "house"})


# ------------------------------------------------------------- real data


def test_wisdm(data: Path) -> None:
    fleet = Fleet.from_npz(data / "wisdm_v11.npz")
    assert len(fleet) == 36
    assert fleet.sizes.sum() == 4335
    assert fleet.test_sizes.sum() == 1083
    assert fleet.shard(fleet.names[0]).X.shape[1] == 43


def test_test_engines_without_training_samples_are_named(data: Path) -> None:
    with pytest.raises(DataError, match=r"device-11001 \(and 706 more\) has no training samples"):
        Fleet.from_npz(data / "cmapss.npz")


def test_mnist(data: Path) -> None:
    X, y, test_X, test_y = mnist(data / "mnist")
    assert X.shape == (60000, 28, 28, 1)
    assert test_X.shape == (10000, 28, 28, 1)
    assert X.dtype == np.float32
    assert (X.min(), X.max()) == (0, 1)
    assert y.tolist()[:5] == [5, 0, 4, 1, 9]
    assert test_y.tolist()[:5] == [7, 2, 1, 0, 4]


def test_mnist_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="put MNIST's four files"):
        mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="not a whole gzip file"):
        mnist(tmp_path)


@pytest.mark.parametrize("devices", [1, 10, 89])
def test_digits_are_uneven_and_every_device_has_both_parts(devices: int) -> None:
    fleet = digits(devices, seed=4)
    assert len(fleet) == devices
    total = fleet.sizes + fleet.test_sizes
    assert total.sum() == 1797
    assert total.min() >= 20
    assert fleet.test_sizes.min() >= 4
    np.testing.assert_array_equal(fleet.test_sizes, total // 5)
    if devices == 10:
        assert total.max() > 2 * total.min()
        shares = np.stack([np.bincount(fleet.shard(n).y, minlength=10) / len(fleet.shard(n).y) for n in fleet.names])
        assert shares.max() > 0.25
    shard = fleet.shard(fleet.names[0])
    assert (shard.X.min(), shard.X.max()) == (0, 1)


def test_digits_follow_the_seed() -> None:
    one, same, other = digits(10, 1), digits(10, 1), digits(10, 2)
    np.testing.assert_array_equal(one.shard("device-3").X, same.shard("device-3").X)
    assert one.sizes.tolist() != other.sizes.tolist()
    with pytest.raises(DataError, match="devices is 90"):
        digits(90, 0)
