"""The training loop: train, validate, checkpoint, resume, and hand over to the final test."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from absl import logging

from mamlpp_jax import config as config_lib
from mamlpp_jax.algorithms.averaging import evaluated_meta
from mamlpp_jax.algorithms.metrics import Scores, score
from mamlpp_jax.algorithms.outer_loop import StepMetrics
from mamlpp_jax.artifacts.metric_writer import MetricsWriter, NullWriter
from mamlpp_jax.artifacts.progress import Progress
from mamlpp_jax.artifacts.provenance import describe, provenance
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.data.pipeline import Window
from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.training.callbacks import Callback
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.compile_ahead import CompileAhead
from mamlpp_jax.training.experiment import Experiment
from mamlpp_jax.training.jitted import jitted_evaluator, jitted_train_steps, steps_per_dispatch
from mamlpp_jax.training.learner import epoch_plan, plan_name
from mamlpp_jax.training.memory_checkpoints import MemoryCheckpoints
from mamlpp_jax.training.preemption import PreemptionHandler, StoppedError
from mamlpp_jax.types import MetaState, StepPlan
from mamlpp_jax.utils.terminal import phase

# Epochs may take seconds; saving each of them would then cost more than losing a minute of work.
MINUTES_BETWEEN_EPOCHS = 1.0


class TrainingDivergedError(MamlppError):
    """A loss or gradient is no longer a number; what was saved before stays."""


def train(
    experiment: Experiment,
    workdir: Workdir | None,
    checkpoints: Checkpoints | MemoryCheckpoints,
    preemption: PreemptionHandler | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Trains to the last epoch, from wherever the latest checkpoint stands; without a workdir it writes nothing.

    The handler of preemption is consulted between dispatches; without one it runs to the end.

    Raises:
        StoppedError: the handler said so; everything done is saved.
        TrainingDivergedError: a loss, gradient norm or meta-parameter is not finite; names the step.
    """
    preemption = preemption or PreemptionHandler()
    latest = checkpoints.latest_step()
    processes.check_same(
        "the latest checkpoint",
        [str(latest).encode()],
        f"Every process must see the same folder {workdir}: put it on a shared file system.",
    )
    if latest is None:
        with phase("making the first state"):
            state = experiment.init_run_state()
    else:
        with phase(f"reading the checkpoint after outer step {latest}"):
            state = checkpoints.restore(latest, like=experiment.state_shapes())
        logging.info("resuming after outer step %d from %s", latest, workdir)
    preemption.check_signal()
    start, config = int(state.step), experiment.config
    with contextlib.ExitStack() as stack:
        writer: MetricsWriter | NullWriter = NullWriter()
        progress: Progress | NullWriter = NullWriter()
        if processes.is_first():
            log, total = config.log, config_lib.total_steps(config)
            if workdir is not None:
                writer = stack.enter_context(MetricsWriter(workdir.path, start, log.tensorboard))
            progress = stack.enter_context(Progress(total, start, log.every_seconds))
        # A run may go on elsewhere.
        writer.timing({"step": start, "made": describe(provenance(experiment.mesh.size))})
        heard = callbacks if processes.is_first() else ()
        loop = _Loop(experiment, checkpoints, writer, progress, start, preemption, heard)
        try:
            loop.run(state)
        except TrainingDivergedError:
            checkpoints.save()  # the good epochs that were still in memory
            raise


class _Loop:
    """The moving parts of one call of `train`."""

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints | MemoryCheckpoints,
        writer: MetricsWriter | NullWriter,
        progress: Progress | NullWriter,
        start: int,
        preemption: PreemptionHandler,
        callbacks: Sequence[Callback],
    ) -> None:
        self.experiment, self.config = experiment, experiment.config
        self.callbacks = callbacks
        self.preemption = preemption
        self.checkpoints, self.writer, self.progress = checkpoints, writer, progress
        self.per_dispatch = steps_per_dispatch(experiment, start)
        self.train_steps = jitted_train_steps(experiment, self.per_dispatch)
        self.compiled: set[str] = set()
        self.ahead = CompileAhead()
        self.statistics = config_lib.eval_statistics(self.config)[0]
        self.evaluate = jitted_evaluator(experiment, "val", [self.statistics], every_step=False)
        # All at once: the last bit of a cosine depends on how many are computed together.
        every_step = np.arange(config_lib.total_steps(self.config))
        self.rates = np.broadcast_to(experiment.learning_rate(every_step), every_step.shape)
        self.saved_at = time.monotonic()
        self.validation_seconds = 0.0  # of the latest one, without compilation
        # For each dispatch from `start` to the end, a source of its training tasks.
        tasks = range(self.config.train.tasks_per_step)
        firsts = range(start, len(every_step), self.per_dispatch)
        windows = [Window(range(first, first + self.per_dispatch), tasks) for first in firsts]
        self.sources = experiment.tasks["train"].windows(windows)

    def run(self, state: MetaState) -> None:
        epochs, per_epoch = self.config.train.epochs, self.config.train.steps_per_epoch
        with self.ahead, contextlib.closing(self.sources):
            if int(state.step) == 0:
                self.report_start(state)
            for epoch in range(int(state.step) // per_epoch, epochs):
                state = self.train_epoch(state, epoch)
                record = self.validate(state, epoch)
                self.checkpoints.buffer(state, record["val_accuracy"])
                self._tell("on_epoch", record)
                # After the last epoch there is only the test left, which consults the handler itself.
                last = epoch + 1 == epochs
                reason = "" if last else self.preemption.reason()
                if last or reason or self._save_is_due():
                    self._save(state)
                if reason:
                    self._leave(state, reason)

    def train_epoch(self, state: MetaState, epoch: int) -> MetaState:
        """Runs what is left of an epoch; metrics of a dispatch are fetched after the next one started."""
        pending: tuple[int, StepMetrics] | None = None
        started = time.monotonic()
        per_epoch, plan = self.config.train.steps_per_epoch, epoch_plan(self.config, epoch)
        for first in range(int(state.step), (epoch + 1) * per_epoch, self.per_dispatch):
            reason = self.preemption.reason() if pending is not None else ""
            if pending is not None and (reason or self._save_is_due()):
                started = self._collect(epoch, pending, started)
                pending = None
                self.writer.flush()
                self._save(state)
                if reason:
                    self._leave(state, reason)
                started = time.monotonic()  # saving has a record of its own
            state, metrics = self._dispatch(state, plan)
            if pending is not None:
                started = self._collect(epoch, pending, started)
            pending = (first, metrics)
        if pending is not None:
            self._collect(epoch, pending, started)
        return state

    def _dispatch(self, state: MetaState, plan: StepPlan) -> tuple[MetaState, StepMetrics]:
        """Starts the next outer steps; the first ones of a kind are compiled meanwhile, which takes long."""
        name, source = plan_name(plan), next(self.sources)
        if name in self.compiled:
            return self.train_steps(state, source, plan)
        if self.compiled <= {"evaluation"}:
            self._compile_later_plans(state, source, name)
        self.compiled.add(name)
        with phase(f"compiling the training function ({name})"):
            self.ahead.wait(name)
            return self.train_steps(state, source, plan)

    def _compile_later_plans(self, state: MetaState, source: Any, first: str) -> None:
        """Begins to compile what later epochs compute, in a thread; `first` names what is compiled here."""
        train = self.config.train
        later = range(int(state.step) // train.steps_per_epoch, train.epochs)
        plans = {plan_name(plan): plan for plan in (epoch_plan(self.config, e) for e in later)}
        for name, plan in plans.items():
            if name != first:
                self.ahead.add(name, self.train_steps, state, source, plan)

    def _tell(self, event: str, news: Any) -> None:
        """Calls a method of every callback; what is finished is saved before an error of theirs goes on."""
        try:
            for callback in self.callbacks:
                getattr(callback, event)(news)
        except BaseException:
            self.checkpoints.save()
            raise

    def _save(self, state: MetaState) -> None:
        started = time.monotonic()
        self.checkpoints.save(state)
        self.saved_at = time.monotonic()
        # The time that the run waited; the rest of saving goes on in the background.
        self.writer.timing({"step": int(state.step), "save_seconds": self.saved_at - started})

    def _leave(self, state: MetaState, reason: str) -> NoReturn:
        """Ends the run when what has been saved is on the disk."""
        self.checkpoints.wait()
        raise StoppedError(
            f"{reason}; saved after outer step {int(state.step)}. The run goes on when it is started again."
        )

    def _save_is_due(self) -> bool:
        waited = (time.monotonic() - self.saved_at) / 60
        every = self.config.checkpoint.every_minutes
        if self.checkpoints.has_buffered:
            every = min(every, MINUTES_BETWEEN_EPOCHS)
        # Clocks differ, and a save is the work of all processes.
        return processes.any_process(waited >= every)

    def _collect(self, epoch: int, pending: tuple[int, StepMetrics], started: float) -> float:
        """Fetches and reports one dispatch's metrics; returns the time it was done."""
        first, metrics = pending
        fetched = jax.device_get(metrics)
        records = self._records(epoch, first, fetched)
        now = time.monotonic()
        good, problem = _until_bad(records, fetched.finite)
        self.writer.train(records[:good])
        self._tell("on_steps", records[:good])
        if problem:
            raise TrainingDivergedError(problem)
        last = records[-1]
        seconds = now - started
        rate = len(records) / max(seconds, 1e-9)
        self.writer.timing({"step": last["step"], "seconds": seconds, "steps_per_second": rate})
        later = self.validation_seconds * (self.config.train.epochs - epoch)
        self.progress.update(last["step"], last["loss"], last["accuracy"], epoch, seconds, later)
        return now

    def _records(self, epoch: int, first: int, metrics: StepMetrics) -> list[dict[str, Any]]:
        steps = np.arange(first, first + len(metrics.loss))
        columns = {
            "step": steps + 1,
            "epoch": np.full_like(steps, epoch),
            "loss": metrics.loss,
            "accuracy": metrics.metric,
            "learning_rate": self.rates[steps],
            "grad_norm": metrics.grad_norm,
        }
        rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def report_start(self, state: MetaState) -> None:
        """Reports what trained weights reach on the validation tasks before they are trained further."""
        start = self.experiment.start
        if start is None or not start.has_head:
            return
        # Otherwise the head is new, and what it reaches is chance.
        if start.config.model.shared_head == self.config.model.shared_head:
            self._say_accuracy("before training", self._validate(state, "the start"))

    def validate(self, state: MetaState, epoch: int) -> dict[str, Any]:
        """Reports the accuracy under the first statistics mode, which ranks the epoch, and returns the record."""
        started, first = time.monotonic(), "evaluation" not in self.compiled
        scores = self._validate(state, f"epoch {epoch + 1}")
        step, mode = int(state.step), self.statistics
        record = {
            "step": step,
            "epoch": epoch,
            "val_accuracy": scores.accuracy,
            f"val_accuracy_{mode}": scores.accuracy,
            f"val_ci95_{mode}": scores.ci95,
            f"val_loss_{mode}": scores.loss,
        }
        self.writer.validation(record)
        seconds = time.monotonic() - started
        self.writer.timing({"step": step, "validation_seconds": seconds})
        self.validation_seconds = 0.0 if first else seconds
        self.writer.flush()
        self._say_accuracy(f"epoch {epoch + 1} of {self.config.train.epochs}", scores)
        return record

    def _validate(self, state: MetaState, name: str) -> Scores:
        """The scores on the validation tasks under the first statistics mode."""
        compiling = "" if "evaluation" in self.compiled else "compiling the evaluation, "
        self.compiled.add("evaluation")
        tasks = self.config.evaluation.tasks
        with phase(f"{compiling}validating {name} on {tasks} tasks") as report:
            meta, stream = evaluated_meta(state), self.experiment.tasks["val"]
            predictions = self.evaluate(meta, state.batch_stats, stream, report)
            return score(predictions[self.statistics])

    def _say_accuracy(self, what: str, scores: Scores) -> None:
        self.progress.message(
            f"{what}: validation accuracy {100 * scores.accuracy:.2f} ± {100 * scores.ci95:.2f} % "
            f"({self.statistics} statistics)"
        )


def _until_bad(records: list[dict[str, Any]], finite: np.ndarray) -> tuple[int, str]:
    """The number of outer steps before the first with a number that is not finite, and the error; "" without one."""
    for count, (record, is_finite) in enumerate(zip(records, finite, strict=True)):
        bad = [
            f"{name} is {record[name]}"
            for name in ("loss", "grad_norm")
            if not math.isfinite(record[name])
        ]
        if not is_finite and not bad:
            bad = ["a meta-parameter is not a finite number"]
        if bad:
            return count, (
                f"{bad[0]} at outer step {record['step']} (epoch {record['epoch'] + 1}); the checkpoints saved "
                "before it are untouched. Start a new workdir with gradient clipping (train.clip_norm=10, or "
                "train.clip_value=10 as the released mini-ImageNet code), a smaller train.learning_rate or a "
                "smaller inner.learning_rate; norm.train_statistics=running is known to diverge."
            )
    return len(records), ""
