"""The arrays' side of a federation: models, folds, steps and history. It reads no clock and no socket.

The service and the simulator give it the same calls, so the same reports make the same model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fedthings import down, history
from fedthings.aggregate import fold, ring
from fedthings.bodies import Report, Subtotal
from fedthings.claims import releases
from fedthings.compress import delta
from fedthings.errors import SpecError, StoreError
from fedthings.federation import Federation, phases
from fedthings.history import Line, Tally
from fedthings.learn import staying
from fedthings.learn.data import Shard, check_test
from fedthings.learn.local import evaluator
from fedthings.learn.metrics import usual, values
from fedthings.partial import Partial, expect, template
from fedthings.phase import Phase, answer, first, follow, received, statistic
from fedthings.privacy import secagg
from fedthings.privacy.central import Source
from fedthings.privacy.secagg import SecAgg
from fedthings.protocol.events import Assign, Command, Discard, Ticket
from fedthings.spelling import decode, encode
from fedthings.statistics.statistic import Known
from fedthings.subtotal import merge, most_bytes, verify
from fedthings.vector import Array, Key, Payload, Vector
from fedthings.wire import number_size, size, ticket_size

BEST = -1
"""Where the best version's row lies among the rows."""


class Made(NamedTuple):
    """What an advance gives: the lines of history that are complete now, and why the training ends (events.Stepped).

    `held`: an edge has made all of its rounds; the next version begins with the next task from above.
    """

    lines: list[Line]
    stop: str = ""
    held: bool = False


class Engine:
    """Versions of one model, and the sums from which the next is made.

    `rows` is where models are kept by version (a service keeps them on disk); `init` `(dim,)` is a warm
    start; `test` `(X, y)` is evaluated here at each version; `stop` maps metrics to targets; `noise` says where the
    key of private noise comes from. Raises SpecError for a warm start, a target or a budget that does not fit,
    DataError for such a test set.
    """

    def __init__(
        self,
        federation: Federation,
        rounds: int,
        init: Vector | None = None,
        test: tuple[Array, Array] | None = None,
        stop: Mapping[str, float] | None = None,
        rows: MutableMapping[int, Vector] | None = None,
        noise: Source = "keyed",
    ) -> None:
        self.federation = federation
        # 8 for 8.0 is 8.0 at once, not only when it is restored: a task body is the same after a restart.
        self.phases = [decode(encode(spec), Phase) for spec in phases(federation)]
        self.phase = self.version = 0
        self.rows = rows if rows is not None else {}
        self.test = test
        if test is not None:
            check_test(test, federation.task)
        self.stop = history.targets(stop or {}, federation, test is not None)
        self.best: dict[str, Any] | None = None
        self.pending: Line | None = None  # the newest version's line, not yet measured
        model = federation.task.model
        if init is not None and not isinstance(init, np.ndarray):
            raise SpecError(
                f"the warm start is {init!r}: give a row, such as fedthings.learn.save.warm(path, model) returns"
            )
        if init is not None and init.shape != (model.layout.dim,):
            raise SpecError(
                f"the warm start has {init.size} parameters, the model {model.layout.dim}: use its own file"
            )
        if 0 not in self.rows:
            self.rows[0] = self._untrained() if init is None else init.astype(np.float32)
        self.trained = 0  # the newest trained version; `version` counts within the phase
        self._closed: tuple[fold.Sums, Tally] | None = None  # the set that is fixed, while the helper is asked
        self.state = federation.strategy.begun(self.rows[0], lambda i: model.init(federation.seed + i))
        self.beside: dict[int, dict[str, Array]] = {0: self._goes_down()}  # by version, what goes down with its model
        self.known: Known = {}  # what a statistic keeps from round to round
        self.told = first(self.spec) if self.spec.kind == "query" else self.rows[0]  # the row of a query
        self.answer: dict[str, Any] | None = None  # to it
        self.releases = releases(federation, self.spec, rounds, noise)
        if self.releases is not None and federation.secure is not None:  # devices and helper must know the noise
            self.phases[0] = msgspec.structs.replace(self.spec, claim=self.releases.claim)
        self._begin(Tally())

    # ------------------------------------------------------------- answers

    @property
    def tally(self) -> Tally:
        """What has come in for the version being made."""
        return self.partial.tally

    @property
    def spec(self) -> Phase:
        """The running phase."""
        return self.phases[self.phase]

    def model(self, version: int) -> Payload:
        """Return the rows that devices of the running phase receive as `version`."""
        if self.spec.kind == "normalise":
            return {}
        return received(self.spec, down.arrays(self, version))

    def report_bytes(self, ticket: Ticket) -> int:
        """Return the bytes of the report body of `ticket`: stages and metrics have a fixed size (law 4)."""
        return self._report_bytes + ticket_size(ticket)

    def expect(self, report: Report) -> None:
        """Raise WireError unless `report` has the arrays and the metrics of the running phase."""
        expect(report, self._template)

    def merge(self, subtotal: Subtotal, lag: int) -> None:
        """Add what a gateway has summed, `lag` versions behind; see `subtotal.verify`."""
        merge(self.partial, subtotal, lag)

    def verify(self, subtotal: Subtotal) -> None:
        """Raise WireError unless `subtotal` can be a sum of reports of the running phase."""
        verify(subtotal, self.partial, self._template)

    @property
    def subtotal_bytes(self) -> int:
        """The most bytes that a subtotal of the running phase can have."""
        return most_bytes(self.partial, self._template)

    # -------------------------------------------------------------- events

    def arrived(self, ticket: Ticket) -> int:
        """Count the bytes of a report that is here whole, and return them."""
        size = self.report_bytes(ticket)
        self.partial.tally.bytes_up += size
        return size

    def assigned(self, ticket: Ticket, kept: Ticket | None) -> None:
        """Count the bytes of the model that goes down for `ticket`; see `down.model_bytes`."""
        self.partial.tally.bytes_down += down.model_bytes(self, ticket, kept)

    def conversed(self, members: int) -> None:
        """Count the bytes by which the devices of a version, so many, have agreed on masks (`secagg.said`)."""
        secure = self.federation.secure
        if isinstance(secure, SecAgg) and members > 1:
            up, down = secagg.said(secure.degree(members))
            self.tally.bytes_up += members * up
            self.tally.bytes_down += members * down

    def obey(self, command: Command) -> None:
        """Count what a command means: a model goes down, a report is left out."""
        if isinstance(command, Assign):
            if not command.again:
                self.assigned(command.ticket, command.kept)
        elif isinstance(command, Discard):
            self.tally.dropped[command.reason] += 1

    def keep(self, arrays: Payload, weights: Array, metrics: Mapping[str, Array], lags: Sequence[int]) -> Array:
        """Fold n reports; see `Partial.keep`."""
        return self.partial.keep(arrays, weights, metrics, lags)

    def close(self) -> None:
        """Fix the set of the next version: what is kept from now on is for the one after."""
        self._closed = self.partial.take()

    def leave_out(self, arrays: Payload, lag: int, reason: str, reports: int = 1) -> None:
        """Take one report of secure mode `(...)` out of the set that is fixed, or the sum that it is in of so many."""
        assert self._closed is not None
        sums, tally = self._closed
        ring.leave_out(sums, arrays, lag, reports)
        tally.updates -= reports
        tally.dropped[reason] += 1
        if reports > 1:
            tally.dropped["summed beside one left out"] += reports - 1

    def advance(self, now: float, share: Payload | None = None, lost: str = "") -> Made:
        """Make the next version of the running phase at `now` seconds, from the set that is fixed or all that was kept.

        `share` is the helper's of the sums in secure mode; with `lost`, a reason, the reports of the set are left out.
        """
        spec, (sums, tally) = self.spec, self._closed or self.partial.take()
        self._closed, fresh, self.partial.tally = None, self.partial.tally, tally
        releases, noise = self.releases, None
        if releases is not None and self.partial.ring is not None:  # our noise is in before anything is added to it
            count = 0 if lost or sums.count < self.partial.least else sums.count
            releases.hide(sums.limbs[ring.X][0], now, count, alone=share is None)
        elif releases is not None:
            noise = lambda total: releases.noised(total, now, tally.updates)  # noqa: E731
        if share is not None:
            ring.add(sums, share, self.partial.lags(sums.counts))
        total, weights = self.partial.settled(sums, tally, self.version, lost, noise)
        made = self._advanced(spec, total, weights, now)
        if self.partial.tally is not tally:  # a line is complete with it
            self.partial.tally = fresh
        else:
            tally.merge(fresh)
        return made

    def _advanced(self, spec: Phase, total: Payload, weights: Mapping[int, int], now: float) -> Made:
        self.version += 1
        if spec.kind == "normalise":
            return self._normalised(total)
        if spec.kind == "evaluate":
            return Made(self._complete(closing=True))
        if spec.kind == "query":
            return self._asked(spec, total, now)
        row, stop = self.rows[self.trained], ""
        if total and self.statistic is not None:
            row, self.known, stop = self.statistic.step(row, self.known, total)
        elif total:
            bases = {lag: self.rows[self.trained - lag] for lag in weights}
            if spec.task.local:  # layers that stay do not move here
                change = np.zeros(len(row))
                change[staying.travels(spec.task)] = total["x"]
                total = {**total, "x": change}
            row = spec.strategy.stepped(row, total, weights, bases, self.state, self.version)
        return self._made(row, now, stop)

    def enter(self, phase: int) -> None:
        """Go to `phase` if it is not the running one."""
        if phase != self.phase:
            self.phase, self.version, self.known = phase, 0, {}
            if self.spec.kind == "query":
                self.told = first(self.spec)
            self._begin(self.tally)

    def finish(self) -> list[Line]:
        """Return the line that is still incomplete, where no closing evaluation came."""
        if self._closed is not None:  # the helper was still asked
            self.partial.tally.merge(self._closed[1])
        return self._complete()

    # --------------------------------------------------------------- parts

    def _begin(self, tally: Tally) -> None:
        spec = self.spec
        self.partial, self.statistic = Partial(spec, tally), statistic(spec)
        self.packed: dict[down.Pair, bytes] = {}  # bodies that were packed last
        self.sizes: dict[down.Pair, int] = {}  # of bodies, in bytes
        self.body_bytes = size(down.body(self, self.version)) - number_size(down.made_as(self, self.version))
        self._template = template(spec, self.partial)
        self._report_bytes = size(self._template) - ticket_size(self._template.ticket)

    def _normalised(self, statistics: Payload) -> Made:
        if not statistics:
            raise SpecError("no device sent statistics that can be used: check the data's values")
        for index in range(self.phase + 1, len(self.phases)):
            self.phases[index] = follow(self.spec, statistics, self.phases[index])
        self.tally.updates = 0  # what the phase cost and lost stands in the first version's line
        return Made([])

    def _untrained(self) -> Vector:
        """Return the model to begin with: the statistic's, where there is one."""
        row = self.federation.task.model.init(self.federation.seed)
        found = next((how for spec in self.phases if spec.kind == "train" and (how := statistic(spec))), None)
        return row if found is None else found.start(row)

    def _asked(self, spec: Phase, total: Payload, now: float) -> Made:
        """Take the sums of a round of a query: the last answers it, or says what the next phase must know."""
        assert self.statistic is not None
        lines, stop = [], ""
        if total:
            self.told, self.known, stop = self.statistic.step(self.told, self.known, total)
        if not stop and self.version >= self.statistic.tries:
            raise SpecError(f"the query has no answer after {self.version} rounds: the sums of too many were lost")
        if spec.query:
            lines = [history.line(self.version, now, self.tally, None)]
            self.partial.tally = Tally()
            if stop:
                self.answer = answer(spec, self.known, self.federation.pace.quorum)
        elif stop:
            for index in range(self.phase + 1, len(self.phases)):
                self.phases[index] = follow(spec, self.known, self.phases[index])
            self.tally.updates = 0
        return Made(lines, stop)

    def _made(self, row: Vector, now: float, done: str) -> Made:
        version = self.trained = self.version
        self.rows[version], self.beside[version] = row, self._goes_down()
        test = self._tested(row)
        lines = self._complete()
        self.pending = history.line(version, now, self.tally, test)
        self.partial.tally = Tally()
        # One more than is needed: a checkpoint from before this version must find its own.
        how = self.federation.down
        back = how.back if isinstance(how, delta.Delta) else 0
        oldest = version - max(1, self.federation.pace.staleness) - 1 - back
        for old in [v for v in self.rows if 0 <= v < oldest]:
            del self.rows[old]
        self.beside = {made: rows for made, rows in self.beside.items() if made >= oldest}
        self.sizes = {key: count for key, count in self.sizes.items() if key[0] >= oldest}
        stop = any(history.reached(self.stop, complete, test) for complete in lines)
        if stop or (test is not None and history.reached(self.stop, self.pending, test)):
            return Made(lines, "target")
        return Made(lines, "privacy budget" if self.releases is not None and self.releases.spent else done)

    def _goes_down(self) -> dict[str, Array]:
        """Return what goes down with the newest model, as it is now."""
        names = self.federation.strategy.method.sends(self.federation.task.model.layout.dim)
        return {name: self.state[name].copy() for name in names}

    def _complete(self, closing: bool = False) -> list[Line]:
        if self.pending is None:
            return []
        complete, self.pending = history.measured(self.pending, self.tally, closing), None
        self._best(complete)
        return [complete]

    def _best(self, complete: Line) -> None:
        """Keep the row of the best version by the first metric, on the central test set where there is one."""
        found = complete.get("test") or complete["metrics"]
        name = usual(self.federation.task)[0].name
        if name not in found:
            return
        if self.best is None or history.beats(name, found[name], self.best["metrics"][name]):
            self.best = {"version": complete["version"], "metrics": found}
            self.rows[BEST] = self.rows[complete["version"]]

    def _tested(self, row: Vector) -> dict[str, float] | None:
        """Return the metrics on the central test set."""
        if self.test is None:
            return None
        task, (X, y) = self.spec.task, self.test
        shard = Shard(X[:0], y[:0], X, y)
        fit, _ = evaluator(task).one({"x": row}, None, shard, Key(self.spec.seed, "", 0, 0), 1.0)
        return values(task, fit.metrics)

    # ------------------------------------------------------------- durable

    def snapshot(self) -> dict[str, Any]:
        """Return the state between two versions as plain data and arrays, without the rows themselves."""
        return {
            "phase": self.phase,
            "version": self.version,
            "trained": self.trained,
            "phases": [encode(spec) for spec in self.phases],
            "state": self.state,
            "known": dict(self.known),
            "told": self.told if self.spec.kind == "query" else None,
            "answer": self.answer,
            "beside": [[version, rows] for version, rows in self.beside.items()],
            "best": self.best,
            "pending": self.pending,
            "tally": self.tally.snapshot(),
            "releases": None if self.releases is None else self.releases.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `snapshot` returned; the rows must be there already."""
        self.phase, self.version, self.trained = state["phase"], state["version"], state["trained"]
        self.phases = [decode(spec, Phase) for spec in state["phases"]]
        self.state = {name: np.array(row) for name, row in state["state"].items()}
        self.known, self.answer = {name: np.array(row) for name, row in state["known"].items()}, state["answer"]
        if state["told"] is not None:
            self.told = np.array(state["told"])
        self.beside = {made: {name: np.array(row) for name, row in rows.items()} for made, rows in state["beside"]}
        self.best, self.pending = state["best"], state["pending"]
        if self.releases is not None:
            self.releases.restore(state["releases"])
        tally = Tally()
        tally.restore(state["tally"])
        dim = self.spec.task.model.layout.dim
        if self.rows[self.trained].shape != (dim,):
            raise StoreError(f"the model of version {self.trained} is damaged: it has not {dim} parameters")
        self._begin(tally)
