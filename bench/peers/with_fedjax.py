"""FedJAX: federated averaging with its compiled backend, on all cores as XLA likes; its other backend was slower."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

if not hasattr(jax, "tree_map"):
    jax.tree_map = jax.tree_util.tree_map  # JAX has renamed it since FedJAX's last release

import fedjax
from workloads import Watch, Workload, chosen, options, tell

Batch = dict[str, Any]


def loss(workload: Workload, parameters: list[Any], batch: Batch) -> Any:
    """Return the mean loss of `batch`; channels last, as the workloads and XLA have it."""
    h, y = batch["x"], batch["y"]
    axes, pairs = h.ndim - 2, list(zip(parameters[::2], parameters[1::2], strict=True))
    layout = ("NHC", "HIO", "NHC") if axes == 1 else ("NHWC", "HWIO", "NHWC")
    for weight, bias in pairs[: len(workload.filters)]:
        h = jax.nn.relu(jax.lax.conv_general_dilated(h, weight, (1,) * axes, "SAME", dimension_numbers=layout) + bias)
        for axis in range(1, axes + 1):
            h = h.reshape(*h.shape[:axis], h.shape[axis] // 2, 2, *h.shape[axis + 1 :]).max(axis + 1)
    h = h.reshape(h.shape[0], -1)
    for i, (weight, bias) in enumerate(pairs[len(workload.filters) :]):
        h = (jax.nn.relu(h) if i else h) @ weight + bias
    if h.shape[1] == 1:
        z = h[:, 0]
        return jnp.mean(jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], 1))


def main() -> None:
    """Run and tell."""
    given = options(__doc__).parse_args()
    workload, watch = chosen(given), Watch()
    X, y = workload.data(given.data)
    X, y = np.array(X), np.array(y, np.int32)
    gradient = jax.jit(lambda parameters, batch, key: jax.grad(loss, 1)(workload, parameters, batch))
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        gradient,
        fedjax.optimizers.sgd(workload.lr),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload.batch, num_epochs=1, drop_remainder=False, seed=0),
    )
    state = algorithm.init([jnp.asarray(array) for array in workload.parameters()])
    watch.begin()
    for number in range(1, workload.rounds + 1):
        devices = workload.sample(number)
        keys = jax.random.split(jax.random.PRNGKey(number), len(devices))
        data = [fedjax.ClientDataset({"x": X[device], "y": y[device]}) for device in devices]
        state, _ = algorithm.apply(state, list(zip(devices, data, keys, strict=True)))
        jax.block_until_ready(state.params)
        watch.end()
    tell("FedJAX", workload, watch, [np.asarray(array) for array in state.params], how="jit")


if __name__ == "__main__":
    main()
