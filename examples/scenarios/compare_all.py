"""All scenarios side by side: python compare_all.py FOLDER PICTURE [SCENARIO ...] prints the table and draws it."""

import runpy
import sys
from pathlib import Path

SCENARIOS = {
    "smart_home": ("auc", "AUC"),
    "smart_energy": ("rmse", "RMSE, kWh"),
    "smart_traffic": ("rmse", "RMSE, mph"),
    "maintenance": ("rmse", "RMSE, cycles"),
    "security": ("auc", "AUC"),
    "mixed_things": ("auc", "AUC"),
    "wearables": ("accuracy", "accuracy"),
    "air_quality": ("rmse", "RMSE, ug/m3"),
}


def draw(found: dict[str, dict], picture: str) -> None:
    """Draw a panel a scenario: each way over all test samples, and the mean of the worst tenth of the devices."""
    from matplotlib.figure import Figure

    figure = Figure((12, 1.2 + 2.4 * -(-len(found) // 4)), layout="constrained")
    panels = figure.subplots(-(-len(found) // 4), 4, squeeze=False).reshape(-1)
    for panel, (name, ways) in zip(panels, found.items(), strict=False):
        metric, label = SCENARIOS[name]
        places = range(len(ways))
        panel.bar(places, [way.metrics[metric] for way in ways.values()], 0.6, color="#4477aa")
        panel.plot(places, [way.worst_decile[metric] for way in ways.values()], "D", color="#ee6677")
        every = [value for way in ways.values() for value in (way.metrics[metric], way.worst_decile[metric])]
        low, high = min(every), max(every)
        panel.set_ylim(max(0, low - 0.4 * (high - low)), high + 0.1 * (high - low))
        panel.set_title(f"{name.replace('_', ' ')} ({label})", fontsize=10)
        panel.set_xticks(list(places), ["local", "federated", "+ personal", "central"], fontsize=7)
    for panel in panels[len(found) :]:
        panel.axis("off")
    figure.suptitle("bars: all test samples; diamonds: the worst tenth of the devices", fontsize=9)
    figure.savefig(picture, dpi=80)


def main(folder: str, picture: str, names: list[str]) -> None:
    found: dict[str, dict] = {}
    for name in names or SCENARIOS:
        print(f"{name}:", flush=True)
        ways = found[name] = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["main"](folder)
        metric, _ = SCENARIOS[name]
        for way, measured in ways.items():
            print(f"  {way}: {measured.metrics[metric]:.4f} ({measured.worst_decile[metric]:.4f})", flush=True)
    draw(found, picture)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
