"""Training of one's own, here softmax regression by hand: named arrays in, named arrays out."""

import numpy as np
from scipy.special import softmax

import fedthings as ft
from fedthings.learn.digits import digits


def train(params, data, recipe, key):
    W, order = params["W"], key.rng("order")
    for _ in range(recipe.epochs):
        for batch in np.array_split(order.permutation(len(data.X)), -(-len(data.X) // recipe.batch)):
            p = softmax(data.X[batch] @ W, axis=1) - np.eye(10)[data.y[batch]]
            W -= recipe.lr / len(batch) * data.X[batch].T @ p
    return {"W": W}, None, {}


def linear():
    init, predict = lambda seed: {"W": np.zeros((64, 10), "f4")}, lambda params, X: X @ params["W"]
    return ft.lift(init, train, predict, input=64, outputs=10)


task = ft.Task(model=ft.own("own_training:linear"), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16, epochs=2))
federation = ft.Federation(task, pace=ft.Pace(goal=10))
if __name__ == "__main__":
    print("at the end:", ft.simulate(federation, digits(devices=10, seed=0), rounds=20).summary["metrics"])
