"""`fedthings predict`: what the model on this device says about samples of its own."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedthings.commands import as_json, example, show_json

if TYPE_CHECKING:
    from collections.abc import Iterable


@click.command()
@click.option("--state", required=True, type=click.Path(), help="The device's state or run directory, or a model file.")
@click.option("--data", required=True, type=click.Path(), help="Samples: npz with X, or CSV; y is not needed.")
@click.option("--out", type=click.Path(dir_okay=False), help="A CSV file.  [default: standard output]")
@click.option("--federation", metavar="NAME", help="Where the device is in several: whose model.")
@click.option("--allow", metavar="PACKAGE.MODULE:FACTORY", help="Run this model, code that is installed here.")
@as_json
@example("fedthings predict --state ~/.fedthings/kitchen --data today.csv --out answers.csv")
def command(state: str, data: str, out: str | None, federation: str | None, allow: str | None, as_json: bool) -> None:
    """Predict with the model that this device holds.

    No connection is needed. Writes one line a sample with the model's outputs; a
    model of windows answers for each row that ends one.
    """
    from fedthings.learn import save
    from fedthings.learn.model import outputs
    from fedthings.learn.own import Own
    from fedthings.learn.series import as_samples
    from fedthings.learn.tables import read

    model, row, _ = save.load(held(state, federation or ""))
    if isinstance(model, Own):
        allowed(model.factory, allow)
        answers = model.predict(row, read(data, labelled=False).X)
    else:
        answers = outputs(model, row, as_samples(read(data, labelled=False).X, model.input))
    answers = answers.reshape(len(answers), -1)
    if as_json:
        show_json({"samples": len(answers), "outputs": answers.tolist()})
        return
    header = [f"output_{column}" for column in range(answers.shape[1])]
    rows = ([f"{value:.7g}" for value in answer] for answer in answers.tolist())
    if out is None:
        _write(sys.stdout, header, rows)
        return
    with Path(out).open("w", newline="") as file:
        _write(file, header, rows)
    click.echo(f"{len(answers):,} samples -> {out}", err=True)


def held(state: str, federation: str = "") -> Path:
    """Return the model file in a state or run directory, of `federation` where a device has models of several.

    Raises StoreError where there is none, SpecError where it is to be named.
    """
    from fedthings.errors import SpecError, StoreError

    path = Path(state)
    if path.is_dir():
        path = path / "model.safetensors"
        models = {found.parent.name: found for found in sorted(Path(state).glob("*/model.safetensors"))}
        if federation and federation not in models:
            raise SpecError(f"{state} has no model of {federation!r}: it has {', '.join(models) or 'none'}")
        if not federation and not path.is_file() and len(models) > 1:
            raise SpecError(f"{state} has models of several: name one with --federation, of {', '.join(models)}")
        if not path.is_file() and models:
            path = models[federation or next(iter(models))]
    if not path.is_file():
        raise StoreError(
            f"there is no model {path}: name the directory of a device that has trained, or of a run that has "
            "ended (one that has not: go on with it, or `fedthings cancel` it)"
        )
    return path


def allowed(factory: str, allow: str | None) -> None:
    """Raise SpecError unless the model, which is Python code, may run: a file alone is not to decide it (law 9)."""
    from fedthings.errors import SpecError

    if allow != factory:
        raise SpecError(f"the model is the Python code {factory}: give --allow {factory} if it is to run here")


def _write(file: Any, header: list[str], rows: Iterable[list[str]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
