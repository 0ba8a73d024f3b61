"""Workers that are processes of this machine and share the fleet's memory."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import threadpoolctl

from fedthings.learn.fleet import Fleet
from fedthings.simulation.pool import Link, Several, answer
from fedthings.simulation.worker import Worker


def forked(fleet: Fleet, size: int) -> Several:
    """Return `size` workers in processes of their own."""
    pipes: list[Connection[Any, Any]] = []  # our ends

    def start() -> Link:
        # The fleet is not pickled: a forked process has it in the same memory, until one of both writes there.
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        pipes[:] = [ours, *(pipe for pipe in pipes if not pipe.closed)]
        # An end that stays open in another worker would keep this one from seeing that its pipe is closed.
        process = context.Process(target=_serve, args=(theirs, pipes, fleet), daemon=True, name="fedthings-worker")
        process.start()
        theirs.close()
        return Pipe(ours, process)

    return Several(size, start, _ready)


class Pipe:
    """The pipe to a forked process."""

    def __init__(self, pipe: Connection[Any, Any], process: Any) -> None:
        self.pipe, self.process = pipe, process
        self.send, self.receive = pipe.send, pipe.recv

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        self.pipe.close()
        self.process.join()


def _ready(links: Sequence[Any]) -> Collection[Any]:
    ready = wait([link.pipe for link in links])
    return [link for link in links if link.pipe in ready]


def _serve(pipe: Connection[Any, Any], others: Sequence[Connection[Any, Any]], fleet: Fleet) -> None:
    """Work until the other end of `pipe` is closed."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the simulator, which then closes the pipe
    worker = Worker(fleet)
    with threadpoolctl.threadpool_limits(1):
        while True:
            try:
                message = pipe.recv()
                answered = answer(worker, message)
                if message[0] != "begin":
                    pipe.send(answered)
            except (EOFError, OSError):
                return
