"""Partial sums: what some of the reports toward a version come to. Any split of the reports gives the same (law 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from fedthings.aggregate import fold, ring
from fedthings.aggregate.step import Constant, share
from fedthings.bodies import Report
from fedthings.errors import WireError
from fedthings.history import Tally
from fedthings.learn.metrics import MANY, MOST, impossible, judging
from fedthings.phase import Phase, bound, measures, rings, schema, stage
from fedthings.privacy import clip
from fedthings.privacy.shares import SEALED, SEALED_SEED, TwoServers
from fedthings.protocol.events import Ticket
from fedthings.stage import zeros
from fedthings.vector import Array, Key, Payload

Noise: TypeAlias = Callable[[Payload], Payload]
"""What adds noise to the sums of a private federation."""


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
        self.ring, self.least = rings(spec), spec.secure.min_batch if spec.secure is not None else 1
        self.sums = self._nothing()
        self.tally = tally or Tally()

    def _nothing(self) -> fold.Sums:
        return fold.init(self.fields) if self.ring is None else ring.init(self.ring)

    def keep(self, arrays: Payload, weights: Array, metrics: Mapping[str, Array], lags: Sequence[int]) -> Array:
        """Fold n reports, rows `(n, ...)` as encoded, weights `(n,)`, metrics `(n, m)`; refuse bad values (law 4).

        Return for each why it was left out, "" where it was not `(n,)`.
        """
        reasons = np.full(len(weights), "", dtype=object)
        if self.ring is not None:  # nothing can be seen of one report
            ring.keep(self.sums, arrays, lags, apart=self.stale is not None)
            self.tally.updates += len(reasons)
            return reasons
        rows, lag = self._bounded(self.stage.decode(arrays)), np.asarray(lags)
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

    def gather(self, arrays: Payload, reports: int, lag: int) -> None:
        """Add a sum of so many reports of secure mode `(...)`, or of the leader's shares of them, that lag by `lag`."""
        rows = {name: arrays[name][None] for name in self.sums.limbs}
        ring.keep(self.sums, rows, [lag], apart=self.stale is not None, each=reports)
        self.tally.updates += reports

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

    def lags(self, counts: Mapping[int, int]) -> ring.Lags:
        """Return which lags of reports in a ring are summed together: all, or those that count for about the same.

        Each sum is opened by itself, so each is of enough reports, of which there are `counts` of each lag.
        """
        return (tuple(sorted(counts)),) if self.stale is None else ring.classes(counts, self.least)

    def take(self) -> tuple[fold.Sums, Tally]:
        """Return what was kept, and begin anew."""
        taken = self.sums, self.tally
        self.sums, self.tally = self._nothing(), Tally()
        return taken

    def settled(
        self, sums: fold.Sums, tally: Tally, version: int, lost: str = "", noise: Noise | None = None
    ) -> tuple[Payload, Mapping[int, int]]:
        """Return what `sums`, taken from here, come to for the model after `version`, and their weight by lag.

        {} where no report is in them. Of sums in a ring, nothing hidden any more, `tally` learns what they say; with
        `lost`, a reason, they are left out. Where `noise` is added to a sum first, that of no report comes to noise.
        """
        count, weights = sums.count, dict(sums.weights)
        total: Payload = {}
        if self.ring is not None:
            total, count, weights = self._opened(self.ring, sums, tally, lost)
        elif noise is not None:
            count = max(1, tally.updates)
            total = noise(fold.done(sums, self.fields, self.whole, over=1))
        elif count:
            total = fold.done(sums, self.fields, self.whole)
        return self.stage.settle(total, count, Key(self.seed, "", version, 0)) if count else {}, weights

    def _opened(self, the: ring.Ring, sums: fold.Sums, tally: Tally, lost: str) -> tuple[Payload, int, dict[int, int]]:
        """Return the mean or sum of each array, of how many reports, and their weight by lag."""
        count = sums.count
        if not count:
            return {}, 0, {}
        if count < self.least:
            lost = lost or "batch below the minimum"
        lags = self.lags(sums.counts)
        found = None if lost else ring.opened(the, sums, lags, self._mean_shares(sums.counts, lags), self.whole)
        if found and any(not _measurable(name, total, found.used) for name, total in found.metrics.items()):
            found = found._replace(metrics={}) if the.longest else None  # what can be wrong is not the update
        tally.updates = found.used if found else 0
        if (left := count - tally.updates) > 0:
            tally.dropped[lost or ("not usable" if found else "impossible sum")] += left
        if found is None or not found.used:
            return {}, 0, {}
        for name, total in found.metrics.items():
            tally.sums[name] = tally.sums.get(name, 0) + total
        return found.rows, found.used, {min(sums.counts): found.weight}

    def _mean_shares(self, counts: Mapping[int, int], lags: ring.Lags) -> list[int]:
        """Return what each report of the sum of each of `lags` counts for: the mean of their shares."""
        if self.stale is None:
            return [1]
        found = []
        for some in lags:
            n, shares = sum(counts[lag] for lag in some), self._shares(np.array(some))
            assert shares is not None
            total = sum(counts[lag] * int(one) for lag, one in zip(some, shares, strict=True))
            found.append((2 * total + n) // (2 * n))
        return found

    def merge(self, sums: fold.Sums, tally: Tally) -> None:
        """Add what another has taken."""
        (fold if self.ring is None else ring).merge(self.sums, sums)
        self.tally.merge(tally)


def _measurable(name: str, total: Array, n: int) -> bool:
    """Return whether `n` devices can have measured `total` of the metric `name`."""
    bound = n * MOST
    return bool(
        (np.abs(total.astype(np.float64)) <= bound).all() and (judging(name) is None or 0 <= total[0] <= n * MANY)
    )


def template(spec: Phase, partial: Partial) -> Report:
    """Return a report as every device must send it in the phase `spec`, of which `partial` is."""
    ticket, key = Ticket(0, 0, "device", 0), Key(spec.seed, "device", 0, 0)
    if partial.ring is not None:
        hidden = {name: row[0] for name, row in partial.ring.zeros(1).items()}
        seed = {SEALED_SEED: np.zeros(SEALED, np.uint8)} if isinstance(spec.secure, TwoServers) else {}
        return Report(ticket, {**hidden, **seed}, np.ones(1, np.int64), {})
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
