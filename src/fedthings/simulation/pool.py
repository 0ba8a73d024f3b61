"""Workers: in this process, or in processes of their own. How many there are never changes a result."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import threadpoolctl

from fedthings.aggregate.fold import Sums
from fedthings.errors import FedthingsError
from fedthings.history import Tally
from fedthings.learn.fleet import Fleet
from fedthings.simulation.worker import Done, Kept, Setting, States, Worker
from fedthings.vector import Payload


class Job(NamedTuple):
    """A part of a cohort with the model it is trained from."""

    model: Payload
    part: Sequence[Kept]
    states: States | None


class Pool(Protocol):
    """Where workers are."""

    size: int

    def begin(self, setting: Setting) -> None:
        """Begin a phase."""

    def train(self, jobs: Sequence[Job]) -> list[Done]:
        """Do `jobs`, which have no device in common, and return what each came to."""

    def take(self) -> Iterator[tuple[Sums, Tally]]:
        """Yield the partial sums."""

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

    def take(self) -> Iterator[tuple[Sums, Tally]]:
        """Yield the one sum."""
        yield self.worker.take()

    def close(self) -> None:
        """Nothing is to be ended."""


class Link:
    """A process, the pipe to it, what it is doing, and what it has done whose sum it still holds."""

    def __init__(self, pipe: Connection[Any, Any], process: Any) -> None:
        self.pipe, self.process = pipe, process
        self.busy: int | None = None
        self.done: list[int] = []


class Forked:
    """Processes that share the fleet's memory; what one had done that dies is done anew by the others (law 7)."""

    def __init__(self, fleet: Fleet, size: int) -> None:
        self.size, self.fleet = size, fleet
        self.setting: Setting | None = None
        self.links: list[Link] = []
        for _ in range(size):
            self.links.append(self._start())

    def _start(self) -> Link:
        # The fleet is not pickled: a forked process has it in the same memory, until one of both writes there.
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        # An end that stays open in another worker would keep this one from seeing that its pipe is closed.
        others = [ours, *(link.pipe for link in self.links)]
        process = context.Process(
            target=_serve, args=(theirs, others, self.fleet), daemon=True, name="fedthings-worker"
        )
        process.start()
        theirs.close()
        link = Link(ours, process)
        if self.setting is not None:
            ours.send(("begin", self.setting))
        return link

    def begin(self, setting: Setting) -> None:
        """Begin a phase."""
        self.setting = setting
        for index, link in enumerate(self.links):
            try:
                link.pipe.send(("begin", setting))
            except OSError:
                self.links[index] = self._replace(link)

    def train(self, jobs: Sequence[Job]) -> list[Done]:
        """Do `jobs`, each by the next process that is free."""
        waiting = list(range(len(jobs)))[::-1]
        found: dict[int, Done] = {}
        self.jobs = jobs
        while len(found) < len(jobs):
            for index, link in enumerate(self.links):
                if link.busy is None and waiting:
                    job = waiting.pop()
                    try:
                        link.pipe.send(("train", jobs[job]))
                        link.busy = job
                    except OSError:
                        waiting += [job, *self._lost(index, found)]
            ready = wait([link.pipe for link in self.links if link.busy is not None])
            for index, link in enumerate(self.links):
                if link.pipe not in ready or link.busy is None:
                    continue
                try:
                    found[link.busy] = _result(link.pipe.recv())
                    link.done.append(link.busy)
                    link.busy = None
                except (EOFError, OSError):
                    waiting += self._lost(index, found)
        return [found[index] for index in range(len(jobs))]

    def _lost(self, index: int, found: dict[int, Done]) -> list[int]:
        """Put a new process in the place of one that has died, and return the jobs that died with it."""
        link = self.links[index]
        again = [*link.done, *([] if link.busy is None else [link.busy])]
        for job in again:
            found.pop(job, None)
        self.links[index] = self._replace(link)
        return again

    def _replace(self, link: Link) -> Link:
        link.pipe.close()
        link.process.join()
        return self._start()

    def take(self) -> Iterator[tuple[Sums, Tally]]:
        """Yield the sum of each process; one that dies with its sum has its jobs done anew."""
        for index in range(len(self.links)):
            while True:
                link = self.links[index]
                if not link.done:
                    break
                try:
                    link.pipe.send(("take",))
                    taken = _result(link.pipe.recv())
                    link.done.clear()
                    yield taken
                    break
                except (EOFError, OSError):
                    again = self._lost(index, {})
                    for job in again:
                        self.links[index].pipe.send(("train", self.jobs[job]))
                        _result(self.links[index].pipe.recv())
                    self.links[index].done = again

    def close(self) -> None:
        """End the processes."""
        for link in self.links:
            link.pipe.close()
        for link in self.links:
            link.process.join()


def _serve(pipe: Connection[Any, Any], others: Sequence[Connection[Any, Any]], fleet: Fleet) -> None:
    """Work until the other end of `pipe` is closed."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the simulator, which then closes the pipe
    worker = Worker(fleet)
    with threadpoolctl.threadpool_limits(1):
        while True:
            try:
                name, *content = pipe.recv()
            except (EOFError, OSError):
                return
            try:
                match name:
                    case "begin":
                        worker.begin(content[0])
                        continue
                    case "train":
                        answer: Any = worker.train(*content[0])
                    case "take":
                        answer = worker.take()
            except Exception as error:
                answer = error if isinstance(error, FedthingsError) else RuntimeError(traceback.format_exc())
            try:
                pipe.send(answer)
            except OSError:
                return


def _result(answer: Any) -> Any:
    """Return what a worker has answered; raise what went wrong there."""
    if isinstance(answer, Exception):
        raise answer
    return answer
