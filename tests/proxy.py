"""Bad links on one machine: a TCP proxy between devices and the broker, with rate, delay, losses, jitter and cuts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import NamedTuple

from fedthings.simulation.links import Link
from fedthings.vector import keyed


class Carried(NamedTuple):
    """Bytes that have come out of the links."""

    up: int
    down: int


class Proxy:
    """`with Proxy(port, links) as proxy:` device `name` finds the broker of `port` at `proxy.ports[name]`.

    A packet of at most `payload` bytes waits its turn at the rate of its direction, takes it again for each time
    that it is lost, and comes out half a round trip and up to `jitter` seconds later, in order. What is lost and
    late is keyed by `seed`, device and direction: the same stream of packets fares the same in every run.

    With `cut` all connections are lost again and again, after so many seconds and up to a tenth more or less. The
    link then takes bytes only as fast as it carries them, and `said` holds, a connection each, what devices have put
    on it, whether it has come out or not.
    """

    def __init__(
        self, broker: int, links: Mapping[str, Link], seed: int = 0, jitter: float = 0.0, cut: float = 0.0
    ) -> None:
        self.ports: dict[str, int] = {}
        self._broker, self._links, self._seed, self._jitter = broker, links, seed, jitter
        self._ways: list[_Way] = []
        self.said: list[bytearray] = []
        self.cuts = 0
        self._cut = cut
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def carried(self) -> Carried:
        """What all devices together have sent and got so far."""
        ways = list(self._ways)
        return Carried(sum(way.bytes for way in ways if way.up), sum(way.bytes for way in ways if not way.up))

    async def _open(self) -> None:
        self._doors = []
        for name, link in self._links.items():
            ways = self._way(name, link, True), self._way(name, link, False)
            self._ways += ways
            door = await asyncio.start_server(lambda *near, ways=ways: self._carry(*near, *ways), "127.0.0.1", 0)
            self._doors.append(door)
            self.ports[name] = door.sockets[0].getsockname()[1]
        self._cutting = asyncio.create_task(self._cut_again_and_again())

    async def _cut_again_and_again(self) -> None:
        rng = keyed("cuts", self._seed)
        while self._cut:
            await asyncio.sleep(self._cut * rng.uniform(0.9, 1.1))
            self.cuts += 1
            for task in self._tasks:
                task.cancel()

    def _way(self, name: str, link: Link, up: bool) -> _Way:
        return _Way(link, up, self._jitter, keyed("proxy", self._seed, name, "up" if up else "down"))

    async def _close(self) -> None:
        self._cutting.cancel()
        for door in self._doors:
            door.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: _Way, down: _Way) -> None:
        """Carry one connection both ways until an end closes it."""
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker)
            try:
                said = bytearray() if self._cut else None
                self.said += [said] if said is not None else []
                async with asyncio.TaskGroup() as group:
                    group.create_task(up.carry(reader, far_writer, said))
                    group.create_task(down.carry(far_reader, writer, bytearray() if self._cut else None))
            finally:
                far_writer.close()
        except* (OSError, asyncio.CancelledError):  # a killed device, a broker that has gone, the end of the proxy
            pass
        finally:
            writer.close()
            self._tasks.discard(own)


class _Way:
    """One direction of one device's link, through all the connections that it makes."""

    def __init__(self, link: Link, up: bool, jitter: float, rng: object) -> None:
        rate = link.up if up else link.down
        assert None not in (rate, link.payload, link.round_trip, link.loss)
        self.up, self.bytes = up, 0
        self._rate, self._payload, self._loss = rate / 8, link.payload, link.loss
        self._delay, self._jitter, self._rng = link.round_trip / 2, jitter, rng
        self._free = self._last = 0.0  # when the link is free again; when the newest packet comes out

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytearray | None = None
    ) -> None:
        """Carry from `reader` to `writer` until the end of what comes; with `said` note it, and take it no faster."""
        if said is not None:  # what was under way on the connection before is lost
            self._free = self._last = 0.0
        packets: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._let_out(packets, writer))
            while data := await reader.read(1 << 16 if said is None else self._payload):
                for start in range(0, len(data), self._payload):
                    packet = data[start : start + self._payload]
                    packets.put_nowait((self._due(len(packet)), packet))
                if said is not None:
                    said += data
                    await asyncio.sleep(self._free - asyncio.get_running_loop().time())
            packets.put_nowait((self._last, b""))

    def _due(self, size: int) -> float:
        """Return when a packet of `size` bytes that is ready now comes out."""
        times = self._rng.geometric(1 - self._loss) if self._loss else 1
        self._free = max(self._free, asyncio.get_running_loop().time()) + times * size / self._rate
        late = self._jitter * self._rng.random() if self._jitter else 0.0
        self._last = max(self._last, self._free + self._delay + late)
        return self._last

    async def _let_out(self, packets: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, packet = await packets.get()
            await asyncio.sleep(due - clock())
            if not packet:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            self.bytes += len(packet)  # first: who has got it may ask at once
            writer.write(packet)
