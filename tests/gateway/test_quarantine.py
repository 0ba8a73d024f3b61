"""Quarantine behind gateways: who has to rest keeps the way by which it comes, and works on when it is let out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fedthings as ft
from fedthings.gateway.edge import Edge
from fedthings.gateway.gateway import Gateway
from fedthings.gateway.process import parties
from fedthings.identity import passwords, tokens
from fedthings.identity.keys import public_of
from fedthings.learn.digits import digits
from fedthings.messages import Bye, Decline, Hello, Offer, Relay
from fedthings.server import devices, quarantine
from fedthings.server.admission import Admission
from fedthings.server.reception import QUARANTINED
from fedthings.transport.topics import COORDINATOR
from fedthings.wire import pack
from gateways import Tree
from virtual import NAME

NAMES = [f"device-{i}" for i in range(4)]
STACKED = {"top": "", "west": "top"}


def federation() -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 6, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.2, batch=16))
    return ft.Federation(task, ft.fedavg(), ft.Pace(goal=4, patience=60.0), devices=4, seed=3)


@pytest.fixture
def admission(tmp_path: Path) -> Iterator[Admission]:
    """A roll that has devices and gateways."""
    files = devices.enrol(tmp_path / "roll", [*NAMES, *STACKED])
    found = Admission(tmp_path / "roll")
    for number, file in enumerate(files):
        token = tokens.read(file)
        key = public_of(bytes([number + 1]) * 32)
        found.roll.enrol(token.id, tokens.presented(token, token.name, key, passwords.hashed("word")))
    found.read(found.roll.read())
    yield found
    found.close()


def at_work(tree: Tree) -> Tree:
    """Go on until a version is under way and all have their tasks."""
    while len(tree.service.coordinator.tasks) < 4 or tree.mail:
        assert tree.step()
    return tree


def settle(tree: Tree) -> None:
    """Let all arrive that is under way."""
    tree.drain()
    while tree.mail:
        assert tree.step()


def above(tree: Tree, admission: Admission) -> Callable[[], None]:
    """Return what makes the coordinator read the roll."""

    def reload() -> None:
        service = tree.service
        quarantine.reload(admission, [quarantine.of(service)], lambda said: service.receive(said, tree.now, more=True))
        service.flush()
        settle(tree)

    return reload


def below(tree: Tree, admission: Admission, name: str) -> Callable[[], None]:
    """Return what makes a gateway read the roll."""

    def reload() -> None:
        gateway = tree.gateways[name]
        quarantine.reload(admission, parties(gateway), lambda said: gateway.from_below(said, tree.now))
        settle(tree)

    return reload


def finish(tree: Tree) -> None:
    """Go on to the end; the last version has all in it."""
    while not tree.service.done:
        assert tree.step()
    assert [line["updates"] for line in tree.service.history][2] == 4


@pytest.mark.parametrize("under", [{}, {"west": ""}, STACKED], ids=["none", "one", "stacked"])
def test_a_device_behind_a_gateway_rests_and_comes_back_the_same_way(
    under: dict[str, str], admission: Admission, tmp_path: Path
) -> None:
    tree = at_work(Tree(federation(), digits(4, 0), 3, tmp_path, under, allowed=admission.allowed, held=admission.held))
    service, reload, via = tree.service, above(tree, admission), next(iter(under), "")
    admission.roll.quarantine(["device-0"])
    reload()
    assert service.coordinator.present == set(NAMES[1:]) and "device-0" not in service.coordinator.tasks
    assert tree.agents["device-0"]._job is None
    for _ in range(2):
        tree.join("device-0")  # it is started anew: it comes by the same gateway, and is told to rest
        home = tree.hubs[tree.homes["device-0"]] if under else tree.hub
        home.link("device-0")
        settle(tree)
        assert service.routes.get("device-0", "") == via and [*service.resting] == ["device-0"]
    admission.roll.approve(["device-0"])
    reload()
    assert "device-0" in service.coordinator.present and service.routes.get("device-0", "") == via
    assert not service.resting and not service.refusals
    finish(tree)


@pytest.mark.parametrize(("name", "whom"), [("west", "device-0"), ("top", "device-0"), ("top", "west")])
def test_a_gateway_follows_its_own_roll(name: str, whom: str, admission: Admission, tmp_path: Path) -> None:
    """What is quarantined may be a device right below it, or one behind another gateway, or that gateway."""
    tree = at_work(Tree(federation(), digits(4, 0), 3, tmp_path, STACKED))
    gateway, reload = tree.gateways[name], below(tree, admission, name)
    assert isinstance(gateway, Gateway)
    gateway.allowed, gateway.held = admission.allowed, admission.held
    out = {whom} if whom != "west" else set(NAMES)
    admission.roll.quarantine([whom])
    reload()
    assert out.isdisjoint(gateway.present) and out.isdisjoint(tree.service.coordinator.present)
    assert out.isdisjoint(tree.service.coordinator.tasks) and {*gateway.resting} == out
    admission.roll.approve([whom])
    reload()
    assert tree.service.coordinator.present == set(NAMES) and not gateway.resting and not gateway.refusals
    finish(tree)


def test_an_edge_follows_its_own_roll(admission: Admission, tmp_path: Path) -> None:
    pace, edge = ft.Pace(goal=1, patience=600.0), ft.Edge(2, patience=60.0)
    spec = ft.Federation(federation().task, ft.fedavg(), pace, devices=1, seed=3, edge=edge)
    settings = {"allowed": admission.allowed, "held": admission.held}
    fleet = digits(4, 0).under(dict.fromkeys(NAMES, "west"))
    tree = Tree(spec, fleet, 3, tmp_path, {"west": ""}, settings=settings, edges=True)
    edge = tree.gateways["west"]
    assert isinstance(edge, Edge)
    while edge.rounds is None or len(edge.rounds.coordinator.tasks) < 4 or tree.mail:
        assert tree.step()
    reload = below(tree, admission, "west")
    admission.roll.quarantine(["device-0"])
    reload()
    assert edge.rounds.coordinator.present == set(NAMES[1:]) and [*edge.rounds.resting] == ["device-0"]
    admission.roll.approve(["device-0"])
    reload()
    assert edge.rounds.coordinator.present == set(NAMES)


def test_who_is_taken_off_the_roll_is_gone(admission: Admission, tmp_path: Path) -> None:
    tree = at_work(
        Tree(federation(), digits(4, 0), 3, tmp_path, {"west": ""}, allowed=admission.allowed, held=admission.held)
    )
    reload = above(tree, admission)
    admission.roll.quarantine(["device-0"])
    reload()
    admission.roll.remove(["device-0", "device-1"])
    reload()
    assert tree.service.coordinator.present == {"device-2", "device-3"} and not tree.service.resting


def test_nothing_that_a_gateway_in_quarantine_says_is_taken(admission: Admission, tmp_path: Path) -> None:
    tree = at_work(
        Tree(federation(), digits(4, 0), 3, tmp_path, {"west": ""}, allowed=admission.allowed, held=admission.held)
    )
    service, reload = tree.service, above(tree, admission)
    ticket = service.coordinator.tasks["device-0"][0]
    admission.roll.quarantine(["west"])
    reload()
    assert not service.coordinator.present and not service.coordinator.tasks and {*service.resting} == set(NAMES)
    assert all(agent._job is None for agent in tree.agents.values())
    offer, decline = Offer("subtotal", b"d" * 32, 9, 1, 9), Relay("device-0", pack(Decline(ticket, "no"), NAME))
    for count, message in enumerate((offer, decline), 1):
        tree.hub.inject("west", COORDINATOR, pack(message, NAME))
        settle(tree)
        assert service.refusals == {QUARANTINED: count} and service.inbound.upload("west") is None
    for name in NAMES:  # they say hello again, and have to wait
        tree.hub.inject("west", COORDINATOR, pack(Relay(name, pack(Hello("x"), NAME)), NAME))
    settle(tree)
    assert not service.coordinator.present and service.refusals == {QUARANTINED: 2} and not service.summed
    admission.roll.approve(["west"])
    reload()
    assert service.coordinator.present == set(NAMES) and set(service.routes.values()) == {"west"}
    finish(tree)


def test_who_has_enrolled_meanwhile_hides_no_change_of_the_roll(admission: Admission, tmp_path: Path) -> None:
    tree = at_work(Tree(federation(), digits(4, 0), 3, tmp_path, {}, allowed=admission.allowed, held=admission.held))
    service, reload = tree.service, above(tree, admission)
    admission.roll.quarantine(["device-0"])
    admission.flush(tree.service.transport, tree.now)  # an answer is due before the operator asks for `reload`
    reload()
    assert service.coordinator.present == set(NAMES[1:]) and [*service.resting] == ["device-0"]
    admission.roll.approve(["device-0"])
    admission.roll.remove(["device-1"])
    admission.flush(tree.service.transport, tree.now)
    reload()
    assert service.coordinator.present == set(NAMES) - {"device-1"} and not service.resting


@pytest.mark.parametrize("stacked", [False, True])
def test_a_gateway_in_quarantine_takes_no_device_from_another_way(
    stacked: bool, admission: Admission, tmp_path: Path
) -> None:
    under = STACKED if stacked else {"west": ""}
    tree = at_work(Tree(federation(), digits(4, 0), 3, tmp_path, under, homes={"device-0": "top" if stacked else ""}))
    upper = tree.gateways["top"] if stacked else tree.service
    hub = tree.hubs["top"] if stacked else tree.hub
    assert not isinstance(upper, Edge)
    upper.allowed, upper.held = admission.allowed, admission.held
    admission.roll.quarantine(["west"])
    (below(tree, admission, "top") if stacked else above(tree, admission))()
    for message in (Hello("x"), Bye()):
        hub.inject("west", COORDINATOR, pack(Relay("device-0", pack(message, NAME)), NAME))
        settle(tree)
        assert "device-0" not in upper.routes and "device-0" not in upper.resting
        assert tree.service.coordinator.present == {"device-0"} == {*tree.service.coordinator.tasks}
    assert upper.refusals == {QUARANTINED: 1}


def test_the_way_that_a_device_has_left_does_not_end_its_rest(admission: Admission, tmp_path: Path) -> None:
    tree = at_work(
        Tree(federation(), digits(4, 0), 3, tmp_path, {"west": ""}, allowed=admission.allowed, held=admission.held)
    )
    service, reload = tree.service, above(tree, admission)
    admission.roll.quarantine(["device-0"])
    reload()
    tree.move("device-0", "")
    tree.hub.link("device-0")
    settle(tree)
    tree.hub.inject("west", COORDINATOR, pack(Relay("device-0", pack(Bye(), NAME)), NAME))
    settle(tree)
    assert [*service.resting] == ["device-0"] and "device-0" not in service.routes
    admission.roll.approve(["device-0"])
    reload()
    assert "device-0" in service.coordinator.present
