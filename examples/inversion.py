"""Gradient inversion: a digit is read out of one plain update, not out of a share of it, nor out of the sum of many."""

import os

import numpy as np
from msgspec.structs import replace

import fedthings as ft
from fedthings.federation import phases
from fedthings.identity.keys import spelled
from fedthings.learn.data import Shard
from fedthings.learn.digits import digits
from fedthings.outgoing import Outgoing
from fedthings.phase import learner
from fedthings.privacy.keys import public_of
from fedthings.privacy.masks import apply
from fedthings.vector import Key

task = ft.Task(model=ft.mlp(64, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.1, batch=2))
federation = ft.Federation(task, ft.fedavg(weight="equal"), ft.Pace(goal=80), stages=(ft.clip(1.0),))
hidden = replace(federation, secure=ft.two_servers(spelled(public_of(os.urandom(32)))))
fleet, model = digits(devices=80, seed=0), {"x": task.model.init(seed=0)}
average = np.mean([fleet.shard(name).X.mean(0) for name in fleet.names], 0)


def invert(update):  # weights move by a multiple of the sample, their bias by the multiple (Phong et al. 2018, sec. 3)
    weights, bias = task.model.layout.views(update).values()
    return weights[:, np.abs(bias).argmax()] / bias[np.abs(bias).argmax()]


def attack(victim=0):
    mine = [Shard(s.X[:2], s.y[:2], s.X[:0], s.y[:0]) for s in map(fleet.shard, fleet.names)]  # two samples, one step
    keys, way = [Key(0, name, 0, 0) for name in fleet.names], Outgoing(phases(hidden)[0])
    fit, _ = learner(phases(federation)[0]).many(model, [None] * 80, mine, keys, [1.0] * 80)
    sent = way.encode(fit, [way.stage.init()] * 80, keys).fit.report
    share = {name: rows[victim] for name, rows in sent.items()}
    apply(share, [(os.urandom(16), np.subtract)])  # what the leader has of it
    seen = {"update": fit.report["x"][victim], "share": share["x"].view("i4") / 2**31, "sum": fit.report["x"].sum(0)}
    # The correlation with the more alike of its two digits: 1 is the same, 0 is no more alike than any two are.
    read = {what: invert(row) - average for what, row in seen.items()}
    return {what: max(np.corrcoef(x, own - average)[0, 1] for own in mine[victim].X) for what, x in read.items()}


if __name__ == "__main__":
    for what, similarity in attack().items():
        print(f"read out of the {what:7}: similarity {similarity:5.2f} with the device's own digit")
