"""`fedthings export`: the model of a run as a file for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.predict import held
from fedthings.units import quantity


@click.command()
@click.argument("run", type=click.Path())
@click.option("--to", "kind", type=click.Choice(["safetensors", "npz"]), default="safetensors", show_default=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The file to write.")
@click.option("--best", is_flag=True, help="The best version instead of the last.")
@as_json
@example("fedthings export runs/wisdm --to npz --out wisdm_model.npz")
def command(run: str, kind: str, out: str, best: bool, as_json: bool) -> None:
    """Write the model of a run for other programs.

    RUN is a run or state directory. The file holds the arrays by name, scaling included.
    """
    import numpy as np
    from safetensors.numpy import load_file

    from fedthings.learn import save

    source = held(str(Path(run, "best.safetensors")) if best else run)
    _, row, _ = save.load(source)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "safetensors":
        shutil.copyfile(source, path)
    else:
        with path.open("wb") as file:
            np.savez(file, **load_file(source))
    facts = {"file": out, "format": kind, "parameters": row.size, "bytes": path.stat().st_size}
    if as_json:
        show_json(facts)
    else:
        click.echo(f"{row.size:,} parameters, {quantity(path.stat().st_size)} -> {out}")
