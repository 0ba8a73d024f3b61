"""`fedthings export`: the model of a run as a file for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from fedthings.commands import as_json, example, show_json
from fedthings.commands.predict import allowed, held
from fedthings.units import quantity

ARRAYS = ("safetensors", "npz")


@click.command()
@click.argument("run", type=click.Path())
@click.option(
    "--to", "kind", type=click.Choice([*ARRAYS, "onnx", "torch", "keras"]), default="safetensors", show_default=True
)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="The file to write.")
@click.option("--best", is_flag=True, help="The best version instead of the last.")
@click.option("--allow", metavar="PACKAGE.MODULE:FACTORY", help="Run this model, code that is installed here.")
@as_json
@example(
    "fedthings export runs/wisdm --to npz --out wisdm_model.npz",
    "fedthings export runs/wisdm --to onnx --out wisdm.onnx",
)
def command(run: str, kind: str, out: str, best: bool, allow: str | None, as_json: bool) -> None:
    """Write the model of a run for other programs.

    RUN is a run or state directory. safetensors and npz hold the arrays by name,
    scaling included. onnx, torch (.pt2, of torch.export) and keras hold the whole
    model: the file is read again, and must predict what the model does to 1e-5.
    """
    from fedthings.learn import save

    source = held(str(Path(run, "best.safetensors")) if best else run)
    model, row, _ = save.load(source)
    path = Path(out)
    facts: dict[str, Any] = {"file": out, "format": kind, "parameters": row.size}
    if kind in ARRAYS:
        path.parent.mkdir(parents=True, exist_ok=True)
        _arrays(source, kind, path)
    else:
        from fedthings.learn import export
        from fedthings.learn.own import Own

        if isinstance(model, Own):
            allowed(model.factory, allow)
        facts["gap"] = export.write(kind, model, row, path)
    facts["bytes"] = path.stat().st_size
    if as_json:
        show_json(facts)
        return
    click.echo(f"{row.size:,} parameters, {quantity(facts['bytes'])} -> {out}")
    if "gap" in facts:
        click.echo(f"read again, it predicts the same to {facts['gap']:.1g}")


def _arrays(source: Path, kind: str, path: Path) -> None:
    """Write the arrays of a model file by their names."""
    import numpy as np
    from safetensors.numpy import load_file

    if kind == "safetensors":
        shutil.copyfile(source, path)
        return
    with path.open("wb") as file:
        np.savez(file, **load_file(source))
