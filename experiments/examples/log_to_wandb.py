"""Logs a training to Weights & Biases: `maml.train(config, workdir, [LogToWandb(wandb.init(project="maml"))])`."""

from typing import Any

import mamlpp_jax as maml


class LogToWandb(maml.Callback):
    """Logs every outer step, validation and the test; `run` is what `wandb.init` returns."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def on_steps(self, records: Any) -> None:
        for record in records:
            self.run.log({"loss": record["loss"], "accuracy": record["accuracy"]}, record["step"])

    def on_epoch(self, record: Any) -> None:
        self.run.log({"val_accuracy": record["val_accuracy"]}, record["step"])

    def on_end(self, outcome: maml.Outcome) -> None:
        self.run.summary["test_accuracy"] = outcome.accuracy
