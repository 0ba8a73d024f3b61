"""What a device keeps for predictions: the model of the fleet, or one of its own."""

from __future__ import annotations

import numpy as np

from fedthings.device.shelf import Shelf
from fedthings.learn import prototypes
from fedthings.phase import Phase, kept
from fedthings.vector import Payload


def keep(shelf: Shelf, name: str, phase: Phase, model: Payload, version: int) -> None:
    """Keep `version` of the model received, or device `name`'s own as its kept reports have left it."""
    state = shelf.state[0] if shelf.state else None
    if phase.task.model.prototypes is not None:  # there is no model of the fleet: its own network predicts
        shelf.keep(*prototypes.held(phase.task, name, phase.seed, state), version)
    else:
        shelf.keep(phase.task.model, kept(phase, model, state), version)


def aligned(arrays: Payload) -> Payload:
    """Return `arrays` as they can be computed with: in a file they are not aligned."""
    return {name: np.require(row, requirements="A") for name, row in arrays.items()}
