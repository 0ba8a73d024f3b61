"""The catalogue: what it says of each set is what lies there, and what is absent or another is told with a remedy."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import fedthings as ft
from fedthings.errors import DataError
from fedthings.learn.catalogue import SETS


@pytest.mark.parametrize("name", SETS)
def test_each_set_is_as_described(name: str, data: Path) -> None:
    found, held = SETS[name], ft.catalogue.arrays(name, data)
    assert held["X"].shape == (found.samples, *found.shape)
    assert len(np.unique(held["device"])) == found.devices
    assert set(np.unique(held["split"]).tolist()) == {0, 1}
    assert found.source.startswith("http") and found.licence


def test_a_fleet_of_each_device(data: Path) -> None:
    fleet = ft.catalogue.fleet("wisdm", data)
    assert len(fleet) == 36 and fleet.sizes.sum() == 4335
    engines = ft.catalogue.fleet("cmapss", data)
    assert len(engines) == 709 and not engines.test_sizes.any()
    left = engines.shard(engines.names[0]).y
    np.testing.assert_array_equal(np.diff(left), -1)  # in the order of cycles


def test_what_is_not_there_says_where_it_is_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*wisdm_v11.npz: get wisdm from http.*licence: .*cited"):
        ft.catalogue.fleet("wisdm", tmp_path)
    with pytest.raises(DataError, match="there is no set 'wisdom' in the catalogue: did you mean `wisdm`"):
        ft.catalogue.fleet("wisdom", tmp_path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wisdm_v11.npz"

    def refused(said: str) -> None:
        with pytest.raises(DataError, match=said):
            ft.catalogue.fleet("wisdm", tmp_path)

    file.write_bytes(b"PK\x03\x04")
    refused("is not an npz file")
    np.savez(file, X=np.zeros((3, 43)), y=np.zeros(3))
    refused(r"X has the shape \(3, 43\), and wisdm has \(5418, 43\): it is another set")
    np.savez(file, X=np.array([{}] * 3, object))
    refused("X holds Python objects, which are not loaded: save numbers")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("X.npy", "hello")
    refused(r"X has the shape \(\), and wisdm has")
