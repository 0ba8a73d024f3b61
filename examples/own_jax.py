"""JAX functions of one's own: `init` makes any tree of parameters, `apply` gives outputs."""

import jax

import fedthings as ft
from fedthings.learn.digits import digits


def net(width: int = 32):
    def init(key):
        keys, draw = jax.random.split(key), jax.nn.initializers.glorot_uniform()
        sizes = [(64, width), (width, 10)]
        return [{"W": draw(k, size), "b": jax.numpy.zeros(size[1])} for k, size in zip(keys, sizes, strict=True)]

    def apply(params, X):
        first, last = params
        return jax.nn.relu(X @ first["W"] + first["b"]) @ last["W"] + last["b"]

    return ft.with_jax(init, apply, input=64)


task = ft.Task(model=ft.own("own_jax:net"), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16, epochs=2))
federation = ft.Federation(task, pace=ft.Pace(goal=10))
if __name__ == "__main__":
    print("at the end:", ft.simulate(federation, digits(devices=10, seed=0), rounds=20).summary["metrics"])
