"""Forgetting: what is stored of one device is removed, and what cannot be is said plainly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from fedthings import run
from fedthings.bodies import Subtotal
from fedthings.errors import StoreError
from fedthings.federation import load
from fedthings.lifeline import alone
from fedthings.privacy import ledger
from fedthings.privacy.shares import TwoServers
from fedthings.protocol.events import Arrived, Ticket
from fedthings.server import devices, place
from fedthings.server.access import Access
from fedthings.server.gateways import Inbound
from fedthings.server.roll import Roll
from fedthings.server.serve import TRACE
from fedthings.server.store import Store
from fedthings.server.turns import Turns


class Stays(NamedTuple):
    """What stays of a device in one run: the `versions` made from its reports, and what a claim says of them.

    `privacy` is the status of the ledger, None where nothing is claimed; `said` are sentences.
    """

    run: str
    federation: str
    versions: list[int]
    privacy: dict[str, Any] | None
    said: list[str]


def forget(directory: Path, name: str) -> list[Stays]:
    """Remove what is stored of the device `name` in the run `directory`, and return what stays, for each federation.

    Raises StoreError where it is no run, where its coordinator runs, where nothing is known of `name`, and where a
    report of it is in a set that is being made: a restart must make the same version.
    """
    if not (directory / run.STATE).is_file() and not place.several(directory):
        raise StoreError(f"{directory} holds no state of a federation: name the directory of a served run with --out")
    devices.own(directory)
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(directory, "the run directory"))
        except StoreError as error:
            raise StoreError(
                f"{name} cannot be forgotten while the coordinator holds the state ({error}): `fedthings devices --out "
                f"{directory} remove {name}` puts it out at once; forget it when the coordinator has stopped"
            ) from None
        runs = list(place.several(directory).values()) or [directory]
        stores = {}
        for where in dict.fromkeys([directory, *runs]):
            stores[where] = Store(where)
            stack.callback(stores[where].close)
        listed = [device["name"] for device in stores[directory].devices()]
        if name not in listed and not any(_known(stores[where], where, name) for where in runs):
            shown = ", ".join(listed[:10]) or "nobody"
            raise StoreError(f"nothing is stored of a device {name!r} in {directory}, whose list has {shown}")
        for where in runs:
            _settled(stores[where], where, name)
        found = [_stays(stores[where], where, name) for where in runs]
        Roll(stores[directory]).forget(name)
        for where, store in stores.items():
            store.forget(name, lambda event: _arrived(event, name))
            for file in _spooled(where, name):
                file.unlink(missing_ok=True)
        devices.token_file(directory, name).unlink(missing_ok=True)
        access = Access(directory)
        if access.passwords.pop(name, None) is not None:
            access.write()
    return found


def _arrived(event: Sequence[Any], name: str) -> bool:
    """Return whether the journal's `event` is a report of `name` that has arrived."""
    return bool(event[0] == Arrived.__name__ and event[1][2] == name)


def _known(store: Store, where: Path, name: str) -> bool:
    """Return whether a run knows a device that is on no list, or not any more."""
    return bool(store.versions(name) or _spooled(where, name)) or name in _last(store)


def _last(store: Store) -> set[str]:
    """Return whose reports the coordinator remembers."""
    saved = store.saved()
    return set() if saved is None else {Ticket(*ticket).device for ticket in saved.state["coordinator"]["last"]}


def _spooled(where: Path, name: str) -> list[Path]:
    """Return the files of reports of `name`, whole and begun."""
    found = [path for path in (where / "spool").glob("*.cbor*") if path.is_file()]
    return [path for path in found if path.name.split(".cbor")[0].split("-", 2)[2].rpartition("-")[0] == name]


def _settled(store: Store, where: Path, name: str) -> None:
    """Raise StoreError where a report of `name` is in a set that is being made."""
    saved = store.saved()
    if saved is None or saved.state["coordinator"]["flags"][2]:  # never served, or done
        return
    made = saved.state["engine"]["trained"] + 1
    if name in {ticket[2] for ticket, _ in saved.state["filling"]} or name in set(_reporting(saved.events, where)):
        raise StoreError(
            f"a report of {name} is in the set of version {made}, which {where} is making, and a restart must make the "
            "same: start `fedthings serve` until that version is there, or end it by `fedthings cancel`; then forget "
            f"{name}"
        )


def _reporting(events: Iterator[tuple[float, list[Any], bytes | None]], where: Path) -> Iterator[str]:
    """Yield whose reports have arrived since the checkpoint, by themselves or in a gateway's sum."""
    inbound = Inbound(where / "subtotals", Turns())
    for _, (kind, *fields), _ in events:
        if kind == Arrived.__name__:
            yield fields[0][2]
        elif kind == Subtotal.__name__:
            yield from (ticket.device for ticket in inbound.read(fields[0]).tickets)


def _stays(store: Store, where: Path, name: str) -> Stays:
    """Return what stays of `name` in the run in `where`."""
    if not (where / run.FEDERATION).exists():
        return Stays(str(where), "", [], None, ["it was let in, and nothing was served yet"])
    federation, versions = load(where / run.FEDERATION), store.versions(name)
    privacy = None
    if (where / ledger.FILE).is_file():
        privacy = ledger.status(*ledger.read(where))
    said = []
    if versions:
        said.append(
            f"its reports are in {_listed(versions)}: sums of many, from which none can be taken out again. These "
            "models, those made after them, and every copy that devices have keep what they learned from it; only a "
            "training begun anew without it does not have it"
        )
        if privacy is None:
            said.append("no privacy is claimed: nothing bounds what these models tell of it")
        else:
            said.append(
                "the ledger stays as it is: who holds the models can tell whether it took part only as well as epsilon "
                f"{privacy['epsilon']:.3f} at delta {privacy['delta']:g} allows, after {privacy['releases']:,} releases"
            )
    else:
        said.append("none of its reports is in a model")
    if name in _last(store):
        said.append(
            "its name, and when it reported, stay in the coordinator's state, on which caps and minimum separation rest"
        )
    if (where / TRACE).exists():
        said.append(f"{where / TRACE} names it, with the time of each report: delete the file if you do not need it")
    if isinstance(federation.secure, TwoServers):
        said.append("the helper keeps which of its reports were summed, so that none is summed twice; it has no report")
    return Stays(str(where), federation.name, versions, privacy, said)


def _listed(versions: Sequence[int]) -> str:
    """Return version numbers in words, with neighbours together."""
    spans: list[list[int]] = []
    for version in sorted(set(versions)):
        if spans and version == spans[-1][1] + 1:
            spans[-1][1] = version
        else:
            spans.append([version, version])
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)
    return f"version{'s' * (len(set(versions)) > 1)} {shown}"
