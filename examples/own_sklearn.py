"""Estimators of scikit-learn: logistic regression by gradients, and naive Bayes, which one round finishes."""

from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB

import fedthings as ft
from fedthings.learn.digits import digits


def linear(alpha: float = 1e-4):
    return ft.with_sklearn(lambda: SGDClassifier(loss="log_loss", alpha=alpha), input=64, outputs=10)


def bayes(smoothing: float = 0.01):
    return ft.with_sklearn(lambda: GaussianNB(var_smoothing=smoothing), input=64, outputs=10)


task = ft.Task(model=ft.own("own_sklearn:linear"), loss="cross_entropy", recipe=ft.Recipe(lr=0.03, epochs=2))
federation = ft.Federation(task, pace=ft.Pace(goal=10))
once = ft.Federation(ft.Task(model=ft.own("own_sklearn:bayes"), loss="cross_entropy"), pace=ft.Pace(goal=10))
if __name__ == "__main__":
    fleet = digits(devices=10, seed=0)
    print("naive Bayes:", ft.simulate(once, fleet, rounds=1).summary["metrics"])
    print("at the end:", ft.simulate(federation, fleet, rounds=20).summary["metrics"])
