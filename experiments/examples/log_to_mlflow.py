"""Logs a training to MLflow: `maml.train(config, workdir, [LogToMlflow(mlflow)])` inside `mlflow.start_run()`."""

from typing import Any

import mamlpp_jax as maml


class LogToMlflow(maml.Callback):
    """Logs losses, validation accuracies and the test; `mlflow` is the imported module."""

    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def on_steps(self, records: Any) -> None:
        self.mlflow.log_metric("loss", records[-1]["loss"], step=records[-1]["step"])

    def on_epoch(self, record: Any) -> None:
        self.mlflow.log_metric("val_accuracy", record["val_accuracy"], step=record["step"])

    def on_end(self, outcome: maml.Outcome) -> None:
        self.mlflow.log_metric("test_accuracy", outcome.accuracy)
