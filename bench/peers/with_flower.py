"""Flower's simulation on Ray: a process a core, each with one thread; written with its Message API.

Devices are named in the messages, so that any node trains any device, with a model that its process has made once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before they are imported
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # for the actors

import torch_model
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workloads import WORKLOADS, Array, Watch, Workload, chosen, options, tell

client = ClientApp()


@cache
def site(name: str, data: str) -> tuple[Workload, torch_model.Net, Array, Array]:
    """Return what a process needs to train devices."""
    torch_model.threads()
    workload = WORKLOADS[name]
    return workload, torch_model.Net(workload), *workload.data(Path(data))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the device that `message` names."""
    config = message.content["config"]
    workload, net, X, y = site(config["workload"], config["data"])
    device = config["device"]
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    torch_model.epoch(net, workload, *torch_model.tensors(X[device], y[device], len(workload.input) - 1))
    metrics = MetricRecord({"num-examples": workload.samples})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


class Sampled(FedAvg):
    """FedAvg of the devices that the workload draws, and the time that each round takes."""

    def __init__(self, workload: Workload, data: Path, watch: Watch) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        self.workload, self.data, self.watch = workload, data, watch

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each device of the round."""
        while len(nodes := list(grid.get_node_ids())) < self.workload.devices:
            time.sleep(0.05)
        self.watch.begin()
        shared = {"workload": self.workload.name, "data": str(self.data)}
        messages = []
        for device in self.workload.sample(server_round):
            record = RecordDict({"arrays": arrays, "config": ConfigRecord({**shared, "device": device})})
            messages.append(Message(content=record, message_type="train", dst_node_id=nodes[device]))
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Fold the replies; a round ends here."""
        found = super().aggregate_train(server_round, replies)
        self.watch.end()
        return found


def main() -> None:
    """Run and tell."""
    given = options(__doc__).parse_args()
    workload, watch, server = chosen(given), Watch(), ServerApp()
    data = given.data.resolve()
    workload.data(data)
    net = torch_model.Net(workload)

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Sampled(workload, data, watch)
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(net.state_dict()), num_rounds=workload.rounds)
        net.load_state_dict(result.arrays.to_torch_state_dict())

    cores = len(os.sched_getaffinity(0))
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": cores, "log_to_driver": False},
    }
    run_simulation(server, client, num_supernodes=workload.devices, backend_config=backend)
    tell("Flower", workload, watch, net.arrays(), how=f"{cores} actors")


if __name__ == "__main__":
    from with_flower import main  # under this name the actors find what they are sent

    main()
