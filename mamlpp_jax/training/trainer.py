"""The training loop: train, validate, checkpoint, resume, and hand over to the final test."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms import schedules
from mamlpp_jax.algorithms.evaluation import Evaluator, make_evaluator, score
from mamlpp_jax.algorithms.outer_loop import StepMetrics, make_train_step, scan_steps
from mamlpp_jax.artifacts.metric_writer import MetricsWriter, NullWriter
from mamlpp_jax.artifacts.progress import Progress
from mamlpp_jax.distributed import processes
from mamlpp_jax.distributed.mesh import largest_divisor
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import Program
from mamlpp_jax.training.preemption import StoppedError, Stopper
from mamlpp_jax.types import Array, MetaState

_MAX_STEPS_PER_DISPATCH = {"cpu": 5}
_DEFAULT_STEPS_PER_DISPATCH = 50
# Epochs may take seconds; saving each of them would then cost more than losing a minute of work.
MINUTES_BETWEEN_EPOCHS = 1.0

CompiledStep = Callable[..., tuple[MetaState, StepMetrics]]


class TrainingDivergedError(MamlppError):
    """A loss or gradient is no longer a number; what was saved before stays."""


class EpochPlan(NamedTuple):
    """What one epoch runs.

    Attributes:
        epoch: from 0.
        order: derivative order, 1 or 2.
        multi_step: whether every inner step's query loss counts.
        weights: float32 [S], of the query losses.
    """

    epoch: int
    order: int
    multi_step: bool
    weights: Array


def epoch_plan(config: ConfigDict, epoch: int) -> EpochPlan:
    """The schedules' values in one epoch."""
    train = config.train
    multi_step = schedules.is_multi_step(epoch, train.multi_step_epochs)
    weights = (
        schedules.multi_step_weights(epoch, train.inner_steps, train.multi_step_epochs)
        if multi_step
        else np.zeros(train.inner_steps)
    )
    return EpochPlan(
        epoch=epoch,
        order=schedules.derivative_order(epoch, train.first_order_epochs),
        multi_step=multi_step,
        weights=jnp.asarray(weights, jnp.float32),
    )


def compiled_train_steps(program: Program, steps: int) -> CompiledStep:
    """The jitted outer steps, `steps` of them per call; compiles once per (order, multi_step)."""
    one_step = make_train_step(
        program.learner,
        program.optimizer,
        program.draw,
        tasks_per_step=program.config.train.tasks_per_step,
        tasks_per_chunk=program.tasks_per_chunk,
        mesh=program.mesh,
    )
    return jax.jit(
        scan_steps(one_step, steps), static_argnames=("order", "multi_step"), donate_argnums=0
    )


def steps_per_dispatch(config: ConfigDict, start_step: int, most: int | None = None) -> int:
    """Outer steps per call, a divisor of both the epoch and the step a run resumes from.

    Args:
        config: says how many, or leaves it open.
        start_step: what the run resumes from.
        most: a limit where it is left open (`Program.most_steps_ready`).
    """
    usual = _MAX_STEPS_PER_DISPATCH.get(jax.default_backend(), _DEFAULT_STEPS_PER_DISPATCH)
    limit = config.compute.steps_per_dispatch or min(usual, most or usual)
    return largest_divisor(math.gcd(config.train.steps_per_epoch, start_step), limit)


def make_evaluators(program: Program) -> dict[str, Evaluator]:
    """One evaluator per statistics mode of the configuration, as tasks were trained."""
    return {
        mode: make_evaluator(
            program.learner,
            program.draw,
            statistics=mode,
            inner_steps=program.config.train.inner_steps,
            tasks=program.config.evaluation.tasks,
            tasks_per_chunk=program.tasks_per_chunk,
            mesh=program.mesh,
        )
        for mode in config_lib.eval_statistics(program.config)
    }


def train(
    program: Program,
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    stopper: Stopper | None = None,
) -> None:
    """Trains to the last epoch, from wherever the workdir's latest checkpoint stands.

    Args:
        program: the parts.
        workdir: exists and belongs to this configuration.
        checkpoints: of the workdir.
        stopper: asked between dispatches; None to run to the end.

    Raises:
        StoppedError: the stopper said so; everything done is saved.
        TrainingDivergedError: a loss, gradient norm or meta-parameter is not finite; names the step.
        WorkdirError: files in the workdir cannot be read or written.
    """
    state = program.init_state()
    latest = checkpoints.latest_step()
    processes.check_same(
        "the latest checkpoint",
        [str(latest).encode()],
        f"Every process must see the same folder {workdir}: put it on a shared file system.",
    )
    if latest is not None:
        state = checkpoints.restore(latest, like=state)
        logging.info("resuming after outer step %d from %s", latest, workdir)
    start = int(state.step)
    config = program.config
    with _writer(workdir, start, config) as writer, _progress(start, config) as progress:
        loop = _Loop(program, checkpoints, writer, progress, start, stopper or Stopper())
        try:
            loop.run(state)
        except TrainingDivergedError:
            checkpoints.save()  # the good epochs that were still in memory
            raise


def _writer(workdir: pathlib.Path, start: int, config: ConfigDict) -> MetricsWriter | NullWriter:
    if not processes.is_first():
        return NullWriter()
    return MetricsWriter(workdir, start, config.log.tensorboard)


def _progress(start: int, config: ConfigDict) -> Progress | NullWriter:
    if not processes.is_first():
        return NullWriter()
    return Progress(config_lib.total_steps(config), start, config.log.every_seconds)


class _Loop:
    """The moving parts of one call of `train`."""

    def __init__(
        self,
        program: Program,
        checkpoints: Checkpoints,
        writer: MetricsWriter | NullWriter,
        progress: Progress | NullWriter,
        start: int,
        stopper: Stopper,
    ) -> None:
        self.program, self.config = program, program.config
        self.stopper = stopper
        self.checkpoints, self.writer, self.progress = checkpoints, writer, progress
        self.per_dispatch = steps_per_dispatch(self.config, start, program.most_steps_ready)
        self.train_steps = compiled_train_steps(program, self.per_dispatch)
        self.evaluators = make_evaluators(program)
        # All at once: the last bit of a cosine depends on how many are computed together.
        every_step = np.arange(config_lib.total_steps(self.config))
        self.rates = np.broadcast_to(program.learning_rate(every_step), every_step.shape)
        self.saved_at = time.monotonic()
        self.feed = program.feed(start, self.per_dispatch)

    def run(self, state: MetaState) -> None:
        per_epoch = self.config.train.steps_per_epoch
        with contextlib.closing(self.feed):
            for epoch in range(int(state.step) // per_epoch, self.config.train.epochs):
                plan = epoch_plan(self.config, epoch)
                state = self.train_epoch(state, plan)
                self.checkpoints.hold(state, self.validate(state, plan))
                # After the last epoch there is only the test left, which is asked about by itself.
                last = epoch + 1 == self.config.train.epochs
                reason = "" if last else self.stopper.reason()
                if last or reason or self._save_is_due():
                    self._save(state)
                if reason:
                    self._leave(state, reason)

    def train_epoch(self, state: MetaState, plan: EpochPlan) -> MetaState:
        """Runs what is left of an epoch; metrics of a dispatch are fetched after the next one started."""
        pending: tuple[int, StepMetrics] | None = None
        started = time.monotonic()
        first_of_all = int(state.step)
        for first in self._dispatches(first_of_all):
            reason = self.stopper.reason() if first > first_of_all else ""
            if pending is not None and (reason or self._save_is_due()):
                started = self._collect(plan, pending, started)
                pending = None
                self.writer.flush()
                self._save(state)
                if reason:
                    self._leave(state, reason)
            state, metrics = self.train_steps(
                state,
                next(self.feed),
                plan.weights,
                order=plan.order,
                multi_step=plan.multi_step,
            )
            if pending is not None:
                started = self._collect(plan, pending, started)
            pending = (first, metrics)
        if pending is not None:
            self._collect(plan, pending, started)
        return state

    def _save(self, state: MetaState) -> None:
        started = time.monotonic()
        self.checkpoints.save(state)
        self.saved_at = time.monotonic()
        # What the run waited for; the rest of saving goes on in the background.
        self.writer.timing({"step": int(state.step), "save_seconds": self.saved_at - started})

    def _leave(self, state: MetaState, reason: str) -> NoReturn:
        """Ends the run when what has been saved is on the disk."""
        self.checkpoints.wait()
        raise StoppedError(
            f"{reason}; saved after outer step {int(state.step)}. The run goes on when it is started again."
        )

    def _dispatches(self, step: int) -> Iterator[int]:
        per_epoch = self.config.train.steps_per_epoch
        return iter(range(step, (step // per_epoch + 1) * per_epoch, self.per_dispatch))

    def _save_is_due(self) -> bool:
        waited = (time.monotonic() - self.saved_at) / 60
        every = self.config.checkpoint.every_minutes
        if self.checkpoints.holds:
            every = min(every, MINUTES_BETWEEN_EPOCHS)
        # Clocks differ, and a save is the work of all processes.
        return processes.any_process(waited >= every)

    def _collect(self, plan: EpochPlan, pending: tuple[int, StepMetrics], started: float) -> float:
        """Fetches and reports one dispatch's metrics; returns the time it was done."""
        first, metrics = pending
        fetched = jax.device_get(metrics)
        rows = self._rows(plan, first, fetched)
        _check_finite(rows, fetched.finite)
        now = time.monotonic()
        self.writer.train(rows)
        self.writer.timing(
            {
                "step": rows[-1]["step"],
                "seconds": now - started,
                "steps_per_second": len(rows) / max(now - started, 1e-9),
            }
        )
        last = rows[-1]
        self.progress.update(last["step"], last["loss"], last["accuracy"], plan.epoch)
        return now

    def _rows(self, plan: EpochPlan, first: int, metrics: StepMetrics) -> list[dict[str, Any]]:
        steps = np.arange(first, first + len(metrics.loss))
        columns = zip(
            steps,
            metrics.loss,
            metrics.accuracy,
            metrics.grad_norm,
            self.rates[steps],
            strict=True,
        )
        return [
            {
                "step": int(step) + 1,
                "epoch": plan.epoch,
                "loss": float(loss),
                "accuracy": float(accuracy),
                "learning_rate": float(rate),
                "grad_norm": float(grad_norm),
            }
            for step, loss, accuracy, grad_norm, rate in columns
        ]

    def validate(self, state: MetaState, plan: EpochPlan) -> float:
        """Reports every statistics mode; returns the accuracy that ranks the epoch."""
        started = time.monotonic()
        row: dict[str, Any] = {"step": int(state.step), "epoch": plan.epoch}
        texts = []
        for mode, evaluate in self.evaluators.items():
            scores = score(evaluate(state.meta, state.batch_stats, self.program.sources["val"]))
            row.setdefault("val_accuracy", scores.accuracy)
            row[f"val_accuracy_{mode}"] = scores.accuracy
            row[f"val_ci95_{mode}"] = scores.ci95
            row[f"val_loss_{mode}"] = scores.loss
            texts.append(f"{mode} {100 * scores.accuracy:.2f} ± {100 * scores.ci95:.2f} %")
        self.writer.validation(row)
        self.writer.timing({"step": row["step"], "validation_seconds": time.monotonic() - started})
        self.writer.flush()
        self.progress.message(
            f"epoch {plan.epoch} (last: {self.config.train.epochs - 1}): validation accuracy by "
            f"statistics: {', '.join(texts)}"
        )
        return row["val_accuracy"]


def _check_finite(rows: list[dict[str, Any]], finite: np.ndarray) -> None:
    for row, sound in zip(rows, finite, strict=True):
        bad = [f"{n} is {row[n]}" for n in ("loss", "grad_norm") if not math.isfinite(row[n])]
        if not sound and not bad:
            bad = ["a meta-parameter is not a finite number"]
        if bad:
            raise TrainingDivergedError(
                f"{bad[0]} at outer step {row['step']} (epoch {row['epoch']}); the checkpoints saved "
                "before it are untouched. Start a new workdir with gradient clipping (train.clip_norm=10, or "
                "train.clip_value=10 as the released mini-ImageNet code), a smaller train.learning_rate or a "
                "smaller inner.learning_rate; norm.train_statistics=running is known to diverge."
            )
