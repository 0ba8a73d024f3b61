"""Workers: one in this process, or several elsewhere. How many there are never changes a result."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from fedthings.aggregate.fold import Sums
from fedthings.errors import FedthingsError, SpecError
from fedthings.history import Tally
from fedthings.learn.fleet import Fleet
from fedthings.simulation.worker import Done, Kept, Models, Setting, States, Worker

DEATHS = 5
"""Deaths of one worker and those that took its place, within one version, after which the run ends."""


class Job(NamedTuple):
    """A part of a cohort with the models it is trained from."""

    models: Models
    part: Sequence[Kept]
    states: States | None


class Pool(Protocol):
    """Where workers are."""

    size: int

    def begin(self, setting: Setting) -> None:
        """Begin a phase."""

    def train(self, jobs: Sequence[Job]) -> list[Done]:
        """Do `jobs`, which have no device in common, and return what each came to."""

    def take(self) -> Iterator[dict[int, tuple[Sums, Tally]]]:
        """Yield the partial sums of each worker."""

    def close(self) -> None:
        """End the workers."""


class Here:
    """One worker in this process."""

    size = 1

    def __init__(self, fleet: Fleet) -> None:
        self.worker = Worker(fleet)

    def begin(self, setting: Setting) -> None:
        """Begin a phase."""
        self.worker.begin(setting)

    def train(self, jobs: Sequence[Job]) -> list[Done]:
        """Do `jobs` one after the other."""
        return [self.worker.train(*job) for job in jobs]

    def take(self) -> Iterator[dict[int, tuple[Sums, Tally]]]:
        """Yield the sums of the one."""
        yield self.worker.take()

    def close(self) -> None:
        """Nothing is to be ended."""


class Link(Protocol):
    """The way to a worker elsewhere. Who is gone is an EOFError or an OSError."""

    def send(self, message: tuple[Any, ...]) -> None:
        """Ask for something: ("begin", setting), ("train", job) or ("take",)."""

    def receive(self) -> Any:
        """Return the next answer; to "begin" there is none."""

    def close(self) -> None:
        """End the worker."""


GONE = (EOFError, OSError)


class Seat:
    """Where a worker sits: the link to it, what it is doing, what it has done whose sum it still holds."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.busy: int | None = None
        self.done: list[int] = []
        self.deaths = 0


class Several:
    """Workers elsewhere; what one had done that dies is done anew by the others (law 7).

    `start` starts one; `ready` waits until any of some links has an answer, and returns those that do.
    """

    def __init__(
        self, size: int, start: Callable[[], Link], ready: Callable[[Sequence[Link]], Collection[Link]]
    ) -> None:
        self.size, self._start, self._ready = size, start, ready
        self.setting: Setting | None = None
        self.seats: list[Seat] = []
        for _ in range(size):
            self.seats.append(Seat(start()))

    def begin(self, setting: Setting) -> None:
        """Begin a phase."""
        self.setting = setting
        for seat in self.seats:
            try:
                seat.link.send(("begin", setting))
            except GONE:
                self._replace(seat)

    def train(self, jobs: Sequence[Job]) -> list[Done]:
        """Do `jobs`, each by the next worker that is free."""
        self.jobs = jobs
        waiting = list(range(len(jobs)))[::-1]
        found: dict[int, Done] = {}
        for seat in self.seats:
            seat.deaths = 0
        while len(found) < len(jobs):
            for seat in self.seats:
                if seat.busy is None and waiting:
                    seat.busy = waiting.pop()
                    try:
                        seat.link.send(("train", jobs[seat.busy]))
                    except GONE:
                        waiting += self._lost(seat, found)
            ready = self._ready([seat.link for seat in self.seats if seat.busy is not None])
            for seat in self.seats:
                if seat.busy is None or seat.link not in ready:
                    continue
                try:
                    found[seat.busy] = result(seat.link.receive())
                    seat.done.append(seat.busy)
                    seat.busy = None
                except GONE:
                    waiting += self._lost(seat, found)
        return [found[index] for index in range(len(jobs))]

    def take(self) -> Iterator[dict[int, tuple[Sums, Tally]]]:
        """Yield the sums of each worker; one that dies with its sum has its jobs done anew."""
        for seat in self.seats:
            while seat.done:
                try:
                    seat.link.send(("take",))
                    taken = result(seat.link.receive())
                    seat.done = []
                    yield taken
                except GONE:
                    self._again(seat, self._lost(seat, {}))

    def _again(self, seat: Seat, jobs: list[int]) -> None:
        """Do `jobs` anew, by the worker that has taken the place of the one that died."""
        while len(seat.done) < len(jobs):
            job = jobs[len(seat.done)]
            seat.done.append(job)
            try:
                seat.link.send(("train", self.jobs[job]))
                result(seat.link.receive())
            except GONE:
                self._lost(seat, {})

    def _lost(self, seat: Seat, found: dict[int, Done]) -> list[int]:
        """Put a new worker in the place of one that has died, and return the jobs that died with it."""
        again = [*seat.done, *([] if seat.busy is None else [seat.busy])]
        for job in again:
            found.pop(job, None)
        seat.done, seat.busy = [], None
        self._replace(seat)
        return again

    def _replace(self, seat: Seat) -> None:
        seat.deaths += 1
        if seat.deaths == DEATHS:
            raise SpecError(
                f"a worker has died {DEATHS} times in one version: look for what kills it (memory?), use fewer workers"
            )
        seat.link.close()
        seat.link = self._start()
        if self.setting is not None:
            seat.link.send(("begin", self.setting))

    def close(self) -> None:
        """End the workers."""
        for seat in self.seats:
            seat.link.close()


def answer(worker: Worker, message: tuple[Any, ...]) -> Any:
    """Return what `worker` says to a message, or the error that came of it."""
    name, *content = message
    if name == "begin":
        worker.failed = _tried(lambda: worker.begin(content[0]))  # nobody reads it: it is said when there is work
        return None
    return worker.failed or _tried(lambda: worker.train(*content[0]) if name == "train" else worker.take())


def _tried(do: Callable[[], Any]) -> Any:
    """Return what `do` returns, or the error that came of it."""
    try:
        return do()
    except FedthingsError as error:
        return error
    except Exception:
        return RuntimeError(traceback.format_exc())


def result(answered: Any) -> Any:
    """Return what a worker has answered; raise what went wrong there."""
    if isinstance(answered, Exception):
        raise answered
    return answered
