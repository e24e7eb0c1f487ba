"""What a caller hears of a training that runs in its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Callback:
    """Hears of a training; a subclass overrides what it needs.

    An exception that a method raises ends the training: what was done is saved, and the exception reaches the caller.

    Example:
        >>> class Watch(maml.Callback):
        ...     def on_epoch(self, record):
        ...         print(f"epoch {record['epoch'] + 1}: {record['val_accuracy']:.0%}")
        >>> Watch().on_epoch({"epoch": 0, "val_accuracy": 0.5})  # as `maml.train(config, callbacks=[Watch()])` does
        epoch 1: 50%
    """

    def on_steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Called with a record per outer step: step, epoch, loss, accuracy, learning_rate, grad_norm."""

    def on_epoch(self, record: Mapping[str, Any]) -> None:
        """Called after each validation: step, epoch, val_accuracy and, by statistics, val_ci95_* and val_loss_*."""

    def on_end(self, outcome: Any) -> None:
        """Called with what `mamlpp_jax.train` returns."""
