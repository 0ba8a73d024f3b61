"""Law 11: every wait has a name and a deadline. Law 12: bytes are counted alike in both worlds."""

from __future__ import annotations

import fedthings as ft
from fedthings import down
from fedthings.learn.digits import digits
from fedthings.messages import Offer
from fedthings.protocol.events import Ticket
from fedthings.server.status import status
from fedthings.simulation.world import Uneven
from fedthings.transport.transport import Delivery
from virtual import Virtual

WORLD = Uneven(median=2.0, spread=1.0, lost=0.2, seed=1)


def federation(pace: ft.Pace) -> ft.Federation:
    task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy")
    return ft.Federation(task, pace=pace, devices=5)


def test_whatever_is_waited_for_is_in_the_status(tmp_path):
    world = Virtual(federation(ft.Pace(goal=5, patience=8.0, quorum=4)), digits(5, 0), 4, tmp_path, WORLD)
    reasons = set()
    while not world.service.done:
        assert world.step()
        if not world.mail and not world.service.done:
            waits = status(world.service, world.now)["waiting"]
            assert waits
            assert all(wait["seconds"] is not None and wait["seconds"] < 8.001 for wait in waits)
            reasons |= {wait["for"].split(":")[0] for wait in waits}
    assert reasons == {"reports"}
    assert status(world.service, world.now)["waiting"] == []
    world.service.close()


def test_bytes_are_those_of_the_bodies_that_travelled(tmp_path):
    world = Virtual(federation(ft.Pace(goal=5, patience=8.0, quorum=4)), digits(5, 0), 4, tmp_path, WORLD)
    sizes = []
    deliver = world.hub.deliver

    def weigh(address, arrival):
        if isinstance(arrival, Delivery) and isinstance(arrival.message, Offer):
            ticket = arrival.message.ticket
            if world.service.coordinator.open(ticket):
                sizes.append(arrival.message.size)
        deliver(address, arrival)

    world.hub.deliver = weigh
    history = world.run().history
    assert sum(sizes) == sum(line["bytes_up"] for line in history)
    model = down.model_bytes(world.service.engine, Ticket(0, 0, "device", 0))
    assert all(line["bytes_down"] % model <= 4 for line in history[:1])
    simulated = ft.simulate(federation(ft.Pace(goal=5, patience=8.0, quorum=4)), digits(5, 0), 4, world=WORLD)
    assert [(line["bytes_up"], line["bytes_down"]) for line in history] == [
        (line["bytes_up"], line["bytes_down"]) for line in simulated.history
    ]
