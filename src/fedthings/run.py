"""A finished or running federation on disk and in the hand: history, summary, model, picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from fedthings.comparison import Comparison, compared, named
from fedthings.engine import BEST, Engine
from fedthings.errors import SpecError, StoreError
from fedthings.federation import Federation, dumps
from fedthings.history import Line, total
from fedthings.learn import save
from fedthings.learn.model import Sequential, outputs
from fedthings.learn.own import Own
from fedthings.learn.series import as_samples
from fedthings.privacy import ledger
from fedthings.spelling import decode
from fedthings.vector import Array, Vector

STATE = "state.sqlite"
"""What a coordinator keeps beside the files that every run has."""
HISTORY, SUMMARY, MODEL, BEST_MODEL, FEDERATION = (
    "history.jsonl",
    "summary.json",
    "model.safetensors",
    "best.safetensors",
    "federation.toml",
)
SWEEP = "sweep.json"
"""What a directory of several runs has instead."""


@dataclass(frozen=True)
class Run:
    """What a federation gives: `history` a line a version, `summary`, and the last model with its scaling.

    `ledger` is that of a federation with a privacy claim, as text.
    """

    federation: Federation
    history: list[Line]
    summary: dict[str, Any]
    model: Sequential | Own
    row: Vector
    best: Vector | None = None
    ledger: str = ""

    def predict(self, X: Array) -> Array:
        """Return the outputs `(n, ...)` of the last model for samples `X` `(n, *shape)`. Raises SpecError.

        A model of windows takes the rows of a series too, and gives an output for each row that ends a window.
        """
        if isinstance(self.model, Own):
            return self.model.predict(self.row, X)
        return outputs(self.model, self.row, as_samples(np.asarray(X), self.model.input))

    def save(self, directory: str | Path) -> None:
        """Write the run directory. Raises StoreError where it holds another federation's run."""
        directory = prepare(directory, self.federation)
        (directory / HISTORY).unlink(missing_ok=True)
        append(directory, self.history)
        finish(directory, self)

    def plot(self, path: str | Path) -> None:
        """Draw metrics and loss over versions into a picture file."""
        from fedthings.plot import curve

        curve(self.history, Path(path), title=self.federation.name)

    def compare(
        self,
        *others: Run,
        path: str | Path | None = None,
        labels: Sequence[str] = (),
        metric: str = "",
        target: float | None = None,
    ) -> Comparison:
        """Compare with `others`; see `compare` below."""
        return compare([self, *others], labels, path, metric, target)


def compare(
    runs: Sequence[Run],
    labels: Sequence[str] = (),
    path: str | Path | None = None,
    metric: str = "",
    target: float | None = None,
) -> Comparison:
    """Compare `runs` by what it took them to reach `target` of `metric`, and draw it into the picture `path`.

    Runs with the same label are repetitions: their mean and spread are shown. By default a label says in what the
    federations differ (not by the seed), the metric is the first that all have, and the target what the least good
    of the runs reached. Raises SpecError.
    """
    runs = list(runs)
    if not runs:
        raise SpecError("there are no runs to compare: give at least one")
    if labels and len(labels) != len(runs):
        raise SpecError(f"there are {len(labels)} labels for {len(runs)} runs: give each run one")
    found = compared([run.history for run in runs], labels or named([run.federation for run in runs]), metric, target)
    if path is not None:
        from fedthings import plot

        plot.comparison(found, Path(path))
    return found


def result(engine: Engine, history: Sequence[Line], facts: Mapping[str, Any]) -> Run:
    """Return the run that `engine` has ended with; `facts` are what only the driver knows."""
    last = dict(history[-1]) if history else {}
    releases = engine.releases
    privacy = {} if releases is None else {"privacy": ledger.status(releases.claim, releases.lines)}
    summary = {
        **last,
        **privacy,
        "total": total(history),
        "rounds": len(history) if engine.federation.query else engine.trained,
        "seed": engine.federation.seed,
        "best": engine.best,
        **({"answer": engine.answer} if engine.federation.query else {}),
        "engine": environment(),
        **facts,
    }
    return Run(
        engine.federation,
        list(history),
        summary,
        engine.spec.task.model,
        np.array(engine.rows[engine.trained]),
        np.array(engine.rows[BEST]) if BEST in engine.rows else None,
        written_ledger(engine),
    )


def written_ledger(engine: Engine) -> str:
    """Return the privacy ledger as text, "" where nothing is claimed."""
    return "" if engine.releases is None else ledger.text(engine.releases.claim, engine.releases.lines)


def environment(trains: str = "") -> dict[str, str]:
    """Return what decides the bits of a result: library, build of the BLAS, instruction set, what `trains` (law 2)."""
    libraries: list[dict[str, Any]] = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
    blas = min(libraries, key=lambda found: "numpy" not in found["filepath"], default={})  # others bring their own
    return {
        "library": f"numpy {np.__version__}",
        "build": f"{blas.get('internal_api', 'none')} {blas.get('version', '')}".strip(),
        "instructions": str(blas.get("architecture", "generic")),
        **({"trains": trains} if trains else {}),
    }


# ------------------------------------------------------------------- directory


def prepare(directory: str | Path, federation: Federation) -> Path:
    """Make the run directory and write federation.toml. Raises StoreError where it is another federation's."""
    directory = Path(directory)
    text = dumps(federation)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # passwords and their hashes lie in it
        file = directory / FEDERATION
        if (directory / SWEEP).exists():
            raise StoreError(f"{directory} holds a sweep, not a run: name another directory")
        if not file.exists():
            replace(file, text)
        elif file.read_bytes() != text.encode():
            raise StoreError(f"{directory} holds another federation's run: name another directory, or remove it")
    except OSError as error:
        raise StoreError(f"{directory} cannot be used as a run directory: {error.strerror}") from None
    return directory


def unfinished(directory: str | Path) -> None:
    """Raise StoreError where a run has ended in `directory`: it is not to be written over."""
    if (Path(directory) / SUMMARY).exists():
        model = Path(directory) / MODEL
        raise StoreError(
            f"{directory} holds a run that has ended: name another directory for a new one, with --init {model} "
            "to begin with its model; or remove the directory"
        )


@contextmanager
def written(directory: Path) -> Iterator[None]:
    """Turn what a disk says into a StoreError with the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the run directory {directory} cannot be written: {error.strerror or error}; make room or check its "
            "rights, then start again: nothing acknowledged is lost"
        ) from error


def replace(file: Path, text: str) -> None:
    """Write `text` to `file`, all of it or nothing: a full disk leaves what was there."""
    partial = file.with_name(file.name + ".part")
    partial.write_text(text)
    partial.replace(file)


def append(directory: Path, lines: Sequence[Line]) -> None:
    """Add `lines` to history.jsonl."""
    with (directory / HISTORY).open("a") as file:
        file.writelines(map(written_line, lines))


def written_line(line: Line) -> str:
    """Return the line of history.jsonl."""
    return json.dumps(line) + "\n"


def account(directory: Path, engine: Engine) -> None:
    """Write the privacy ledger, before what stands in it last is seen by anyone."""
    if engine.releases is None:
        return
    file, lines = directory / ledger.FILE, engine.releases.lines
    if len(lines) > 1 and file.exists() and engine.releases.written == len(lines) - 1:
        with file.open("a") as more:
            more.write(ledger.line(lines[-1]))
    else:
        replace(file, written_ledger(engine))
    engine.releases.written = len(lines)


def finish(directory: Path, run: Run) -> None:
    """Write the models and the summary of a run that has ended."""
    if run.ledger:
        replace(directory / ledger.FILE, run.ledger)
    notes = {"version": str(run.summary["rounds"])}
    if not run.federation.query:
        save.save(directory / MODEL, run.model, run.row, notes)
    if run.best is not None and run.summary["best"]:
        save.save(directory / BEST_MODEL, run.model, run.best, {"version": str(run.summary["best"]["version"])})
    replace(directory / SUMMARY, json.dumps(run.summary, indent=2) + "\n")


def read(directory: str | Path) -> Run:
    """Read a run directory back. Raises StoreError where it is none."""
    import tomllib

    directory = Path(directory)
    try:
        federation = decode(tomllib.loads((directory / FEDERATION).read_text()), Federation)
        history = [json.loads(line) for line in (directory / HISTORY).read_text().splitlines()]
        summary = json.loads((directory / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{directory} is not the directory of a finished run: {error}") from None
    if federation.query:
        model: Any = federation.task.model
        return Run(federation, history, summary, model, np.zeros(model.layout.dim, np.float32))
    model, row, _ = save.load(directory / MODEL)
    best = save.load(directory / BEST_MODEL)[1] if (directory / BEST_MODEL).exists() else None
    book = (directory / ledger.FILE).read_text() if federation.privacy is not None else ""
    return Run(federation, history, summary, model, row, best, book)
