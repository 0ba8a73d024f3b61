"""Partial sums: what some of the reports toward a version come to. Any split of the reports gives the same (law 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedthings.aggregate import fold
from fedthings.aggregate.step import Constant, share
from fedthings.federation import Phase, schema, stage
from fedthings.history import Tally
from fedthings.learn.metrics import impossible
from fedthings.vector import Array, Payload


class Partial:
    """The sums and the tally of reports of one phase; `reports` are the most that one version can have.

    Several `threads` sum many rows faster, and to the same bits.
    """

    def __init__(self, spec: Phase, reports: int, tally: Tally | None = None, threads: int = 1) -> None:
        self.threads = threads
        self.schema, self.stage = schema(spec), stage(spec)
        self.fields = fold.announced(self.schema, reports)
        stale = spec.strategy.staleness
        self.stale = None if spec.kind != "train" or isinstance(stale, Constant) else stale
        self.whole = 1 if self.stale is None else fold.WHOLE
        self.sums = fold.init(self.fields)
        self.tally = tally or Tally()

    def keep(self, arrays: Payload, weights: Array, metrics: Mapping[str, Array], lags: Sequence[int]) -> Array:
        """Fold n reports, rows `(n, ...)` as encoded, weights `(n,)`, metrics `(n, m)`; refuse bad values (law 4).

        Return for each why it was left out, "" where it was not `(n,)`.
        """
        rows = self.stage.decode(arrays)
        reasons = fold.refused(self.fields, rows, weights, self.threads, fold.WEIGHT // self.whole)
        if metrics:
            reasons[impossible(metrics) & (reasons == "")] = "impossible metrics"
        good = reasons == ""
        lag = np.asarray(lags)
        if not good.all():
            self.tally.dropped.update(reasons[~good].tolist())
            rows = {name: row[good] for name, row in rows.items()}
            weights, lag, metrics = weights[good], lag[good], {name: stats[good] for name, stats in metrics.items()}
        shares = None
        if self.stale is not None:
            shares = np.array([round(fold.WHOLE * share(self.stale, 0, one)) for one in lag.tolist()], np.int64)
        fold.add(self.sums, self.fields, rows, weights, lag, self.threads, shares)
        self.tally.updates += len(weights)
        self.tally.keep(metrics)
        return reasons

    def take(self) -> tuple[fold.Sums, Tally]:
        """Return what was kept, and begin anew."""
        taken = self.sums, self.tally
        self.sums, self.tally = fold.init(self.fields), Tally()
        return taken

    def merge(self, sums: fold.Sums, tally: Tally) -> None:
        """Add what another has taken."""
        fold.merge(self.sums, sums)
        self.tally.merge(tally)
