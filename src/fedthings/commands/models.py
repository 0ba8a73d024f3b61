"""`fedthings models`: the versions of a run, and which one is the best."""

from __future__ import annotations

from pathlib import Path

import click

from fedthings.commands import as_json, example, show_json, show_table
from fedthings.commands.runs import described_best, history, read_json
from fedthings.units import quantity


@click.command()
@click.argument("run", type=click.Path())
@click.option("--last", default=20, show_default=True, type=click.IntRange(1), help="How many versions to list.")
@as_json
@example("fedthings models runs/wisdm --last 5")
def command(run: str, last: int, as_json: bool) -> None:
    """List the versions of a run with their metrics.

    A * marks the best version of RUN, whose model is kept beside the last.
    """
    from fedthings.errors import StoreError

    path = Path(run)
    lines = history(path)
    if not lines:
        raise StoreError(f"{path} is no run directory with versions: `fedthings runs` lists those there are")
    summary = path / "summary.json"
    best = (read_json(summary).get("best") or {}) if summary.is_file() else {}
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if as_json:
        show_json({"versions": lines, "best": best, "files": files})
        return
    names = list(dict.fromkeys(name for line in lines for name in line["metrics"]))
    rows = [
        [
            f"{line['version']}{'*' * (line['version'] == best.get('version'))}",
            f"{line['time']:.1f}",
            line["updates"],
            line["loss"],
            *(line["metrics"].get(name) for name in names),
            quantity(line["bytes_up"]),
        ]
        for line in lines[-last:]
    ]
    show_table(("version", "seconds", "reports", "training loss", *names, "up"), rows)
    if best:
        click.echo(f"best: {described_best(best)}")
    click.echo(f"models: {', '.join(files) or 'none yet'}")
