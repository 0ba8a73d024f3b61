"""FedLab: its standalone pipeline in one process with one thread, which is all it has without a GPU."""

# ruff: noqa: E402 (what it must not import is put in place first)
from __future__ import annotations

import sys
from typing import Any
from unittest.mock import MagicMock

# Its modules for well-known data sets import torchvision, which is of no use here and would bring another PyTorch.
for module in ("torchvision", "torchvision.transforms", "torchvision.datasets"):
    sys.modules[module] = MagicMock()

import torch_model
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.core.standalone import StandalonePipeline
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from workloads import Watch, Workload, chosen, options, tell


class Quiet:
    """A logger that says nothing."""

    def info(self, *_: Any) -> None:
        """Say nothing."""


class Devices:
    """The data, given out as FedLab's own data sets do it."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        self.X, self.y = X, y

    def get_dataloader(self, device: int, batch_size: int) -> DataLoader[Any]:
        """Return the batches of a device."""
        return DataLoader(TensorDataset(self.X[device], self.y[device]), batch_size=batch_size, shuffle=True)


class Server(SyncServerHandler):
    """FedAvg of the devices that the workload draws."""

    def __init__(self, net: torch_model.Net, workload: Workload) -> None:
        super().__init__(net, workload.rounds, workload.cohort / workload.devices, logger=Quiet())
        self.workload = workload

    @property
    def num_clients_per_round(self) -> int:
        """The devices of a round."""
        return self.workload.cohort

    def sample_clients(self) -> list[int]:
        """Return the devices of the round that begins."""
        return self.workload.sample(self.round + 1)


class Timed(StandalonePipeline):
    """The pipeline, and the time that each round takes."""

    def __init__(self, server: Server, trainer: SGDSerialClientTrainer, watch: Watch) -> None:
        super().__init__(server, trainer)
        self.watch = watch

    def evaluate(self) -> None:
        """End a round."""
        self.watch.end()


def main() -> None:
    """Run and tell."""
    given = options(__doc__).parse_args()
    workload, watch = chosen(given), Watch()
    torch_model.threads()
    trainer = SGDSerialClientTrainer(torch_model.Net(workload), workload.devices, logger=Quiet())
    trainer.setup_dataset(Devices(*torch_model.tensors(*workload.data(given.data), len(workload.input) - 1)))
    trainer.setup_optim(1, workload.batch, workload.lr)
    trainer.criterion = torch_model.criterion(workload)
    server = Server(torch_model.Net(workload), workload)
    pipeline = Timed(server, trainer, watch)
    watch.begin()
    pipeline.main()
    tell("FedLab", workload, watch, server.model.arrays(), how="1 process")


if __name__ == "__main__":
    main()
