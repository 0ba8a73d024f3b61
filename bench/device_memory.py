"""What a device needs in memory to receive a model of 100 MB and keep it for predictions, beside one of 1 kB.

The coordinator has ended and stays (`serve --stay`), so that the device fetches the last model and trains nothing: to
train takes the model, its gradient and its change beside it. The model lies in the device's directory while it comes
in, is checked by SHA-256 and written to model.safetensors piece by piece.

python bench/device_memory.py [--hidden 4990]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import fedthings as ft
from fedthings.errors import FedthingsError
from fedthings.server.ask import ask
from processes import Processes, rows
from table import table

FEATURES, CLASSES = 5000, 8


def received(hidden: int, *options: str) -> tuple[float, float, float, float]:
    """Return the megabytes of the model file, the peaks of anonymous and of all memory, and the seconds it took."""
    task = ft.Task(model=ft.mlp(FEATURES if hidden else 8, *[hidden] * bool(hidden), CLASSES), loss="cross_entropy")
    federation = ft.Federation(task=task, strategy=ft.fedavg(), pace=ft.Pace(goal=1), devices=1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Processes(directory, "mosquitto", federation, 1) as fleet:
            fleet.serve("--stay", *options)
            while True:
                try:
                    if ask("cancel", fleet.run)["state"] == "finished":
                        break
                except FedthingsError:
                    time.sleep(0.2)
            data = rows(directory / "rows.npz", FEATURES if hidden else 8, CLASSES, samples=4)
            begun = time.perf_counter()
            device = fleet.join(fleet.names[0], data)
            anonymous = peak = 0.0
            while device.poll() is None:
                found = peaks(device.pid)
                anonymous, peak = max(anonymous, found[0]), max(peak, found[1])
                time.sleep(0.002)
            took = time.perf_counter() - begun
            size = (directory / fleet.names[0] / federation.name / "model.safetensors").stat().st_size
    return size / 1e6, anonymous, peak, took


def peaks(pid: int) -> tuple[float, float]:
    """Return the megabytes of anonymous memory now, and of the largest resident set so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    words = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "VmHWM"))}
    return int(words.get("RssAnon", 0)) * 1024 / 1e6, int(words.get("VmHWM", 0)) * 1024 / 1e6


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=4990)
    parser.add_argument("--http", action="store_true", help="over HTTP instead of MQTT")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    more = ("--http", "0") if options.http else ()
    small, large = received(0), received(options.hidden, *more)
    print(f"A device that fetches the last model, {'HTTP' if options.http else 'MQTT'}; load {load:.1f}.\n")
    lines = [
        ["the model's file", f"{small[0]:.3f} MB", f"{large[0]:.1f} MB", ""],
        ["peak of anonymous memory", f"{small[1]:.0f} MB", f"{large[1]:.0f} MB", f"<= {small[1] + 64:.0f} MB"],
        [
            "peak RSS, with the pages of files that the system may take back",
            f"{small[2]:.0f} MB",
            f"{large[2]:.0f} MB",
            "",
        ],
        ["seconds from start to end", f"{small[3]:.1f}", f"{large[3]:.1f}", ""],
    ]
    table(["device", "small", "large", "to reach"], lines)


if __name__ == "__main__":
    main()
