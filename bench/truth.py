"""Truth: what 20 device processes behind links of known delay, rate and loss take, beside what the simulator says.

tests/truth.py runs each setting three times: as processes behind a TCP proxy that is the links, as processes behind
a proxy that is no limit (what is not the links), and in the matching world in virtual time.

python bench/truth.py [--plot truth.png] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is there, as in the commands
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from table import table
from truth import SETTINGS, Compared, compare


def plot(path: Path, found: dict[str, Compared]) -> None:
    """Draw the seconds of each version, measured over simulated."""
    import matplotlib.pyplot as plt

    from fedthings.learn.picture import LINES, PALE, STYLE

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
        for (name, one), colour in zip(found.items(), LINES, strict=False):
            points = (one.simulated, one.measured)
            if SETTINGS[name].pace.staleness:  # milliseconds decide which ten make a version: only the mean is told
                points, name = (fmean(one.simulated), fmean(one.measured)), f"{name} (mean)"
            axes.plot(*points, "o", color=colour, alpha=0.7, label=name, markeredgewidth=0)
        most = 1.1 * max(max(one.simulated + one.measured) for one in found.values())
        axes.plot([0, most], [0, most], color=PALE, linewidth=1, zorder=0)
        axes.fill_between([0, most], [0, 0.9 * most], [0, 1.1 * most], color=PALE, alpha=0.15, linewidth=0, zorder=0)
        axes.set(xlim=(0, most), ylim=(0, most), xlabel="seconds a version, simulated", ylabel="measured")
        axes.set_title("Each version of real processes; shaded: within 10 %", loc="left")
        axes.grid()
        axes.legend(frameon=False)
        figure.savefig(path, dpi=110)


def off(one: float, other: float) -> str:
    """Return by how much `one` differs from `other`."""
    return f"{100 * (one / other - 1):+.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="draw it into this file")
    parser.add_argument("--only", choices=SETTINGS, help="one setting")
    options = parser.parse_args()
    found = {}
    for name in [options.only] if options.only else SETTINGS:
        with tempfile.TemporaryDirectory() as directory:
            found[name] = compare(SETTINGS[name], Path(directory) / "run")
    lines, sizes = [], []
    for name, one in found.items():
        whole = SETTINGS[name].pace.staleness == 0  # otherwise reports are on their way when a version is made
        measured, simulated = fmean(one.measured), fmean(one.simulated)
        worst = max(abs(s / m - 1) for s, m in zip(one.simulated, one.measured, strict=True))
        links = f"{100 * (1 - one.floor / measured):.1f} %"
        same = "yes" if one.same else "-"
        each = f"{100 * worst:.1f} %" if whole else "-"
        lines.append([name, f"{measured:.2f}", f"{simulated:.2f}", off(simulated, measured), each, links, same])
        for way in ("up", "down"):
            carried, served, said, moved = (getattr(b, way) for b in (one.carried, one.served, one.said, one.moved))
            sizes.append(
                [f"{name}, {way}", f"{carried / 1e3:,.1f}", off(moved, carried) if whole else "-", off(said, served)]
            )
    header = ["seconds a version", "measured", "simulated", "difference", "worst version", "of it links", "same model"]
    table(header, [*lines, ["to reach", "", "", "10 %", "", ">= 95 %", "yes"]])
    print()
    header = ["bytes of these versions", "links carried, kB", "the world moves", "histories differ by"]
    table(header, [*sizes, ["to reach", "", "2 %", "2 %"]])
    if options.plot:
        plot(options.plot, found)


if __name__ == "__main__":
    main()
