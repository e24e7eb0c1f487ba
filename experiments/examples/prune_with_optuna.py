"""Searches the inner rate with Optuna, which ends trainings early that validate badly."""

from typing import Any

import optuna

import mamlpp_jax as maml


class Prune(maml.Callback):
    """Reports each validation to a trial and ends the training where the trial is to be pruned."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_epoch(self, record: Any) -> None:
        self.trial.report(record["val_accuracy"], record["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned


def search(config: Any, trials: int, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """Trains `trials` times and returns the study."""

    def objective(trial: optuna.Trial) -> float:
        config.inner.learning_rate = trial.suggest_float("inner.learning_rate", 0.01, 1, log=True)
        return maml.train(config, callbacks=[Prune(trial)]).accuracy

    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=trials)
    return study
