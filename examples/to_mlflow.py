"""A federation as a run in MLflow (pip install mlflow); look with `mlflow ui --backend-store-uri sqlite:///mlflow.db`."""

import fedthings as ft
from fedthings.learn.digits import digits

federation = ft.Federation(
    task=ft.Task(model=ft.mlp(64, 32, 10), loss="cross_entropy", recipe=ft.Recipe(lr=0.3, batch=16)),
    pace=ft.Pace(goal=10),
)


def metrics(mlflow):
    """Return what logs each line of the history in the active run of `mlflow`."""

    def log(line: dict) -> None:
        mlflow.log_metrics({"training_loss": line["loss"], **line["metrics"]}, step=line["version"])

    return log


def train(store: str = "sqlite:///mlflow.db", rounds: int = 30) -> ft.Run:
    import mlflow

    mlflow.set_tracking_uri(store)
    with mlflow.start_run(run_name=federation.name):
        mlflow.log_text(ft.dumps(federation), "federation.toml")
        return ft.simulate(federation, digits(devices=10, seed=0), rounds, on_version=metrics(mlflow))


if __name__ == "__main__":
    print(train().summary["metrics"])
