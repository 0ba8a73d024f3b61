"""pfl-research: its simulated backend with federated averaging, a process a core, each with one thread.

The driver starts it through torch.distributed.run where there are several processes. A device's batches are the same
in every round, as its data sets have them.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("PFL_PYTORCH_DEVICE", "cpu")  # before it is imported

import torch
import torch_model
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor
from workloads import Watch, chosen, options, tell


class Learner(torch_model.Net):
    """The model with the two methods that pfl asks for."""

    def __init__(self, workload: Any) -> None:
        super().__init__(workload)
        self.criterion = torch_model.criterion(workload)

    def loss(self, x: Tensor, y: Tensor, is_eval: bool = False) -> Tensor:
        """Return the mean loss."""
        return self.criterion(self(x), y)

    def metrics(self, x: Tensor, y: Tensor, is_eval: bool = True) -> dict[str, Any]:
        """Measure nothing."""
        return {"loss": Weighted(0.0, len(y))}


class Rounds(TrainingProcessCallback):
    """Notes the time of each round."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Begin."""
        self.watch.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """End a round."""
        self.watch.end()
        return False, Metrics()


def main() -> None:
    """Run and tell."""
    given = options(__doc__).parse_args()
    workload, watch = chosen(given), Watch()
    torch_model.threads()
    X, y = torch_model.tensors(*workload.data(given.data), len(workload.input) - 1)
    net = Learner(workload)
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    # A few rounds more than are trained: the backend asks for users ahead.
    devices = (device for number in range(1, workload.rounds + 9) for device in workload.sample(number))
    dataset = FederatedDataset(
        lambda device: PyTorchTensorDataset((X[device], y[device]), user_id=str(device)), lambda: next(devices)
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=workload.rounds,
            evaluation_frequency=10**9,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=dataset, val_data=None),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=workload.lr, local_batch_size=workload.batch),
        None,
        callbacks=[Rounds(watch)],
    )
    if os.environ.get("RANK", "0") == "0":
        processes = os.environ.get("WORLD_SIZE", "1")
        tell("pfl-research", workload, watch, net.arrays(), how=f"{processes} process{'es' * (processes != '1')}")
    if torch.distributed.is_initialized():  # whoever leaves while another still talks to it would abort that one
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
