"""Training of one's own, here by scikit-learn: named arrays in, named arrays out."""

import numpy as np
from sklearn.linear_model import SGDClassifier

import fedthings as ft
from fedthings.learn.digits import digits


def train(params, data, recipe, key):
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=recipe.lr, random_state=key.word("") % 2**32)
    model.partial_fit(data.X[:1], data.y[:1], classes=np.arange(10))  # makes the arrays, which are then replaced
    model.coef_, model.intercept_ = params["coef"], params["intercept"]
    model.partial_fit(data.X, data.y)
    return {"coef": model.coef_, "intercept": model.intercept_}, None, {}


def linear():
    start = {"coef": np.zeros((10, 64), "f4"), "intercept": np.zeros(10, "f4")}
    return ft.lift(lambda seed: start, train, lambda p, X: X @ p["coef"].T + p["intercept"], input=64, outputs=10)


task = ft.Task(model=ft.own("own_training:linear"), loss="cross_entropy", recipe=ft.Recipe(lr=0.1))
federation = ft.Federation(task, pace=ft.Pace(goal=10))
if __name__ == "__main__":
    print("at the end:", ft.simulate(federation, digits(devices=10, seed=0), rounds=20).summary["metrics"])
