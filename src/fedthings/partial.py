"""Partial sums: what some of the reports toward a version come to. Any split of the reports gives the same (law 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedthings.aggregate import fold
from fedthings.aggregate.step import Constant, share
from fedthings.errors import WireError
from fedthings.federation import Phase, bound, measures, schema, stage
from fedthings.history import Tally
from fedthings.learn.metrics import impossible
from fedthings.messages import Report
from fedthings.privacy import clip
from fedthings.protocol.events import Ticket
from fedthings.stage import zeros
from fedthings.vector import Array, Key, Payload


class Partial:
    """The sums and the tally of reports of the phase `spec`.

    Several `threads` sum many rows faster, and to the same bits.
    """

    def __init__(self, spec: Phase, tally: Tally | None = None, threads: int = 1) -> None:
        self.threads, self.seed = threads, spec.seed
        self.schema, self.stage = schema(spec), stage(spec)
        self.fields = fold.announced(self.schema, spec.reports)
        stale = spec.strategy.staleness
        self.stale = None if spec.kind != "train" or isinstance(stale, Constant) else stale
        self.whole = 1 if self.stale is None else fold.WHOLE
        self.private, self.bound = spec.privacy is not None, bound(spec)
        self.sums = fold.init(self.fields)
        self.tally = tally or Tally()

    def keep(self, arrays: Payload, weights: Array, metrics: Mapping[str, Array], lags: Sequence[int]) -> Array:
        """Fold n reports, rows `(n, ...)` as encoded, weights `(n,)`, metrics `(n, m)`; refuse bad values (law 4).

        Return for each why it was left out, "" where it was not `(n,)`.
        """
        rows, lag = self._bounded(self.stage.decode(arrays)), np.asarray(lags)
        reasons = np.full(len(weights), "", dtype=object)
        if metrics:
            reasons[impossible(metrics)] = "impossible metrics"
        if self.stale is not None or self.private:  # the sums have room for a share or a weight
            reasons[weights != 1] = "weight out of range"
        some = reasons == ""
        if not some.all():
            rows, lag = {name: row[some] for name, row in rows.items()}, lag[some]
        reasons[some] = fold.keep(self.sums, self.fields, rows, weights[some], lag, self.threads, self._shares(lag))
        good = reasons == ""
        if self.private:  # what only a value decides may not show: such a report counts as one of zeros
            self.tally.updates += len(reasons)
            return reasons
        if not good.all():
            self.tally.dropped.update(reasons[~good].tolist())
            metrics = {name: stats[good] for name, stats in metrics.items()}
        self.tally.updates += int(good.sum())
        self.tally.keep(metrics)
        return reasons

    def _bounded(self, rows: Payload) -> Payload:
        """Return decoded `rows` within what is claimed of them, whatever compression or a device has made of them."""
        if not self.private:
            return rows
        name = clip.BELOW.name
        below = {name: np.clip(rows[name], -0.5, 0.5)} if name in rows else {}
        return {**rows, "x": clip.bounded(rows["x"], self.bound), **below}

    def _shares(self, lag: Array) -> Array | None:
        """Return what reports that lag so many versions count for; None where all count alike."""
        if self.stale is None:
            return None
        return np.array([round(self.whole * share(self.stale, 0, one)) for one in lag.tolist()], np.int64)

    def stale_by(self, lag: int, limb: Array) -> Array:
        """Return what `limb`, a sum of reports that were not stale, comes to where they are `lag` versions behind."""
        if self.stale is None or not lag:
            return limb
        return limb // self.whole * self._shares(np.array([lag]))  # each was added so many times: nothing is lost

    def take(self) -> tuple[fold.Sums, Tally]:
        """Return what was kept, and begin anew."""
        taken = self.sums, self.tally
        self.sums, self.tally = fold.init(self.fields), Tally()
        return taken

    def settled(self, sums: fold.Sums, version: int, noise: Callable[[Payload], Payload] | None = None) -> Payload:
        """Return what `sums`, taken from here, come to for the model after `version`; {} where no report is in them.

        Where `noise` is added to a sum first, that of no report comes to noise.
        """
        count = sums.count if noise is None else max(1, self.tally.updates)
        if not count:
            return {}
        total: Payload = fold.done(sums, self.fields, self.whole, over=0 if noise is None else 1)
        if noise is not None:
            total = noise(total)
        return self.stage.settle(total, count, Key(self.seed, "", version, 0))

    def merge(self, sums: fold.Sums, tally: Tally) -> None:
        """Add what another has taken."""
        fold.merge(self.sums, sums)
        self.tally.merge(tally)


def template(spec: Phase, partial: Partial) -> Report:
    """Return a report as every device must send it in the phase `spec`, of which `partial` is."""
    ticket, key = Ticket(0, 0, "device", 0), Key(spec.seed, "device", 0, 0)
    rows, _ = partial.stage.encode(zeros(partial.schema), [partial.stage.init()], [key])
    arrays = {name: row[0] for name, row in rows.items()}
    return Report(ticket, arrays, np.ones(1, np.int64), measures(spec))


def expect(report: Report, template: Report) -> None:
    """Raise WireError unless `report` has the arrays and the metrics of `template`."""
    alike("array", report.arrays, template.arrays)
    alike("metric", report.metrics, template.metrics)
    if report.weight.shape != (1,) or report.weight.dtype != np.int64:
        raise WireError("wrong type", "weight is one int64")


def alike(what: str, sent: Payload, due: Payload) -> None:
    """Raise WireError unless `sent` has the names, dimensions and types of `due`; `what` is one of them."""
    if sent.keys() != due.keys():
        raise WireError("wrong arrays", f"{what}s {sorted(sent)} where {sorted(due)} are due")
    for name, row in due.items():
        if sent[name].shape != row.shape:
            raise WireError("wrong dimension", f"{what} {name} is {sent[name].shape}, not {row.shape}")
        if sent[name].dtype != row.dtype:
            raise WireError("wrong type", f"{what} {name} is {sent[name].dtype}, not {row.dtype}")
