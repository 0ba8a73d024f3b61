"""Public data of real devices: what each set is, whose, under which licence, and how it is loaded from a folder.

Nothing is fetched and nothing is bundled: licences forbid it. A set is one npz file with the keys X, y, device and
split (0 train, 1 test); `about` says how it is made from its source where it is not obvious.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedthings.errors import DataError, nearest
from fedthings.learn.fleet import Fleet
from fedthings.learn.tables import entries
from fedthings.vector import Array


class Dataset(NamedTuple):
    """One set: its file, what it is of, how many devices and samples, the shapes of X and y, its source and licence."""

    file: str
    about: str
    device: str
    devices: int
    samples: int
    shape: tuple[int, ...]
    target: tuple[int, ...]
    source: str
    licence: str


SETS: dict[str, Dataset] = {
    "wisdm": Dataset(
        "wisdm_v11.npz",
        "activity of a phone's owner, 6 classes, from 43 features of 10 s of acceleration",
        "a user",
        36,
        5418,
        (43,),
        (),
        "http://www.cis.fordham.edu/wisdm/ (v1.1, transformed; Kwapisz, Weiss & Moore 2010)",
        "free for research, to be cited",
    ),
    "iot23": Dataset(
        "iot23.npz",
        "flows of one host, 0 benign or 1 malicious, from 49 features of Zeek's conn.log (numbers, one-hot, history)",
        "a host",
        9,
        46662,
        (49,),
        (),
        "https://doi.org/10.5281/zenodo.4743746 (Garcia, Parmisano & Erquiaga, the small captures)",
        "CC BY 4.0",
    ),
    "ton_iot": Dataset(
        "ton_iot.npz",
        "telemetry, 0 normal or 1 attacked; X is the union of each device's own 2 to 4 columns, the others NaN",
        "a kind of thing",
        7,
        261119,
        (17,),
        (),
        "https://research.unsw.edu.au/projects/toniot-datasets (Train_Test_IoT; Moustafa et al.)",
        "free for academic research; commercial use needs the author's agreement",
    ),
    "citylearn": Dataset(
        "citylearn2022_homes.npz",
        "load of the next hour (kWh) from 24 lags, solar power, weather, hour (1-24), day type (1-8) and month",
        "a home",
        17,
        148512,
        (31,),
        (),
        "https://github.com/intelligent-environments-lab/CityLearn (citylearn_challenge_2022_phase_all; Nweye et al.)",
        "MIT",
    ),
    "metr_la": Dataset(
        "metr_la_week.npz",
        "speed (mph) of the next 12 times 5 minutes from the last 12, one week",
        "a loop detector",
        207,
        407790,
        (12,),
        (12,),
        "https://github.com/lehaifeng/T-GCN (los_speed.csv; Jagadish et al. 2014)",
        "public agency data, no licence given",
    ),
    "cmapss": Dataset(
        "cmapss.npz",
        "cycles that an engine has left, from 3 settings and 21 sensors, a row a cycle; `subset` 1 to 4, test engines "
        "are others",
        "an engine",
        1416,
        265256,
        (24,),
        (),
        "https://www.nasa.gov/intelligent-systems-division (Turbofan Engine Degradation; Saxena & Goebel 2008)",
        "work of the United States government, to be cited",
    ),
    "keti_rooms": Dataset(
        "keti_rooms.npz",
        "motion in this minute, 0 or 1, from CO2, humidity, light, temperature, minute of the day, day of the week",
        "a room",
        45,
        479007,
        (6,),
        (),
        "https://www.kaggle.com/datasets/ranakrc/smart-building-system (Hong, Gu & Whitehouse 2017)",
        "research, to be cited",
    ),
    "beijing_air": Dataset(
        "beijing_air.npz",
        "PM2.5 of the next hour (ug/m3) from the last measurements and weather, gaps NaN",
        "a station",
        12,
        409180,
        (16,),
        (),
        "https://archive.ics.uci.edu/dataset/501 (Zhang et al. 2017)",
        "CC BY 4.0",
    ),
    "shakespeare": Dataset(
        "shakespeare_roles.npz",
        "the next character after 80, as numbers below 63",
        "a role",
        174,
        194957,
        (80,),
        (),
        "https://github.com/karpathy/char-rnn (tinyshakespeare)",
        "public domain",
    ),
}


def arrays(name: str, folder: str | Path) -> dict[str, Array]:
    """Return all arrays of the set `name` in `folder`. Raises DataError that says where an absent set is to be had."""
    found = described(name)
    path = Path(folder) / found.file
    if not path.is_file():
        raise DataError(
            f"there is no file {path}: get {name} from {found.source} (licence: {found.licence}), and write it as npz "
            "with the keys X, y, device and split"
        )
    held = entries(path)
    for key, shape in (("X", found.shape), ("y", found.target), ("device", ()), ("split", ())):
        wanted = (found.samples, *shape)
        if key not in held or held[key].shape != wanted:
            there = f"the shape {held[key].shape}" if key in held else "no place"
            raise DataError(f"{path}: {key} has {there}, and {name} has {wanted}: it is another set, or a part of it")
    return held


def fleet(name: str, folder: str | Path) -> Fleet:
    """Return the fleet of the set `name` in `folder`, each device with its own samples.

    Of "cmapss" these are the engines that train, in the order of their cycles; test engines are others, so `arrays`
    has them. Raises DataError.
    """
    held = arrays(name, folder)
    X, y, device, split = (held[key] for key in ("X", "y", "device", "split"))
    if name == "cmapss":
        order = np.lexsort((held["cycle"], device))
        order = order[split[order] == 0]
        X, y, device, split = X[order], y[order].astype(np.float32), device[order], split[order]
    return Fleet.from_arrays(X, y, device, split)


def described(name: str) -> Dataset:
    """Return what the set `name` is. Raises DataError."""
    if name not in SETS:
        raise DataError(f"there is no set {name!r} in the catalogue: {nearest(name, list(SETS))}")
    return SETS[name]
