"""How a simulation is left, and how the same call goes on with it later: a checkpoint between two versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedthings import checkpoint, run
from fedthings.errors import StoreError
from fedthings.protocol.events import Ticket
from fedthings.simulation.agenda import Answer
from fedthings.simulation.worker import Kept

if TYPE_CHECKING:
    from fedthings.simulation.simulator import Simulator

CHECKPOINT = "checkpoint.cbor"


def leave(simulator: Simulator, out: Path) -> None:
    """Write the checkpoint from which `resume` goes on."""
    state = {
        "rounds": simulator.rounds,
        "lines": len(simulator.history),
        "now": simulator.now,
        "coordinator": simulator.coordinator.snapshot(),
        "engine": simulator.engine.snapshot(),
        "rows": simulator.engine.rows,
        "states": simulator.cohorts.snapshot(),
        "edges": None if simulator.edges is None else simulator.edges.snapshot(),
        "kept": [[list(ticket), *more] for ticket, *more in simulator.kept],
        "agenda": [[at, list(ticket), *more] for at, (ticket, *more) in simulator.agenda.all()],
        "resting": simulator.resting,
        "told": {device: [list(ticket), deadline] for device, (ticket, deadline) in simulator.told.items()},
        "changes": simulator.changes.taken,
    }
    partial = out / (CHECKPOINT + ".part")
    partial.write_bytes(checkpoint.pack(state))
    partial.replace(out / CHECKPOINT)


def resume(simulator: Simulator, out: Path) -> None:
    """Go on from a checkpoint in `out`, or begin a new history there."""
    if not (out / CHECKPOINT).exists():
        (out / run.HISTORY).unlink(missing_ok=True)
        (out / run.HISTORY).touch()
        return
    try:
        _restore(simulator, out, checkpoint.unpack((out / CHECKPOINT).read_bytes()))
    except (LookupError, ValueError, TypeError) as error:
        raise StoreError(
            f"{out / CHECKPOINT} is damaged ({type(error).__name__}: {error}): remove it to begin anew"
        ) from error


def _restore(simulator: Simulator, out: Path, state: Any) -> None:
    if state["rounds"] != simulator.rounds:
        raise StoreError(
            f"{out} was left after a run of {state['rounds']} rounds, not {simulator.rounds}: give the same number"
        )
    simulator.now = state["now"]
    # What a process wrote after the checkpoint, and was then killed, is made again.
    lines = (out / run.HISTORY).read_text().splitlines(keepends=True)[: state["lines"]]
    simulator.history = [json.loads(line) for line in lines]
    run.replace(out / run.HISTORY, "".join(lines))
    simulator.coordinator.restore(state["coordinator"])
    simulator.engine.rows.update(state["rows"])
    simulator.engine.restore(state["engine"])
    if simulator.edges is not None:
        simulator.edges.restore(state["edges"], state["states"])
    else:
        simulator.cohorts.restore(simulator.engine.phase, simulator.engine.spec, state["states"])
    simulator.kept = [Kept(Ticket(*ticket), *more) for ticket, *more in state["kept"]]
    for at, ticket, *more in state["agenda"]:
        simulator.agenda.plan(at, Answer(Ticket(*ticket), *more))
        simulator.planned.add(Ticket(*ticket))
    simulator.first, simulator.joining, simulator.resting = [], [], dict(state["resting"])
    simulator.told = {device: (Ticket(*ticket), deadline) for device, (ticket, deadline) in state["told"].items()}
    while simulator.changes.taken < state["changes"]:
        simulator.changes.take()
