"""A model on its way down: its body, whole or as what differs from the one that a device holds, and its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from fedthings.bodies import Model
from fedthings.compress import delta
from fedthings.phase import differs, sent
from fedthings.protocol.events import Ticket
from fedthings.vector import Payload
from fedthings.wire import number_size, pack_body

if TYPE_CHECKING:
    from fedthings.engine import Engine

PACKED = 2
"""Bodies held that were packed last: the one that is counted is the one that is sent, and the whole beside it."""
Pair: TypeAlias = tuple[int, int, int]
"""The trained version that goes down, and the phase and the version of the one it is told by, -1 for none."""


def body(engine: Engine, version: int) -> Model:
    """Return the model body that devices of the running phase receive as `version`."""
    return Model(engine.phase, made_as(engine, version), arrays(engine, version))


def arrays(engine: Engine, version: int) -> Payload:
    """Return the arrays of that body."""
    if engine.spec.kind == "normalise":
        return {}
    if engine.spec.kind == "query":
        return sent(engine.spec, engine.told, version)
    return _arrays(engine, made_as(engine, version))


def _arrays(engine: Engine, made: int) -> Payload:
    """Return the arrays in which the trained version `made` goes down."""
    bound = engine.releases.bound if engine.releases else 0.0
    return sent(engine.spec, engine.rows[made], made, bound, engine.beside.get(made))


def base(engine: Engine, version: int, kept: Ticket | None) -> Ticket | None:
    """Return `kept`, the last ticket of a device that was kept, where less goes down to it as `version` for that.

    Such a device holds the model of `kept`; for others, and where it pays not, it is None.
    """
    how = engine.spec.down
    if not isinstance(how, delta.Delta) or kept is None or not differs(engine.spec):
        return None
    if not differs(engine.phases[kept.phase]) or made_as(engine, version) - _held(engine, kept) > how.back:
        return None
    return kept if _bytes(engine, version, kept) < _bytes(engine, version, None) else None


def packed(engine: Engine, version: int, base: Ticket | None = None) -> bytes:
    """Return the body that goes down as `version`: to whoever holds the model of the ticket `base`, if any."""
    if not differs(engine.spec):
        return pack_body(body(engine, version))
    key = _pair(engine, version, base)
    if key not in engine.packed:
        held = b"" if base is None else pack_body(Model(base.phase, key[2], _arrays(engine, key[2])))
        made = pack_body(delta.change(pack_body(body(engine, version)), held))
        if len(engine.packed) == PACKED:
            del engine.packed[next(iter(engine.packed))]
        engine.packed[key], engine.sizes[key] = made, len(made)
    return engine.packed[key]


def model_bytes(engine: Engine, ticket: Ticket, kept: Ticket | None = None) -> int:
    """Return the bytes of the model body that goes down for `ticket`; `kept` is the device's last that was kept."""
    if differs(engine.spec):
        return _bytes(engine, ticket.version, base(engine, ticket.version, kept))
    return engine.body_bytes + number_size(made_as(engine, ticket.version))


def _bytes(engine: Engine, version: int, base: Ticket | None) -> int:
    """Return the bytes of the body that `packed` gives."""
    key = _pair(engine, version, base)
    if key not in engine.sizes:
        packed(engine, version, base)
    return engine.sizes[key]


def _pair(engine: Engine, version: int, base: Ticket | None) -> Pair:
    """Return which trained version goes down, and the phase and the version of the one it is told by."""
    made = made_as(engine, version)
    return (made, -1, -1) if base is None else (made, base.phase, _held(engine, base))


def _held(engine: Engine, kept: Ticket) -> int:
    """Return which trained version a device has received for `kept`."""
    return engine.trained if engine.phases[kept.phase].kind == "evaluate" else kept.version


def made_as(engine: Engine, version: int) -> int:
    """Return which trained version devices of the running phase receive as `version`."""
    return engine.trained if engine.spec.kind == "evaluate" else version
