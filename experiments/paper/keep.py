"""Archives a run: small enough to be committed, enough to trace every number.

    python -m experiments.paper.keep WORKDIR experiments/results/NAME [why the run failed] [--members] [--half]

The archive has the results, the configuration, the predictions of the tests, a line per epoch
(`epochs.jsonl`), the figures, and the best epoch as a saved model, which `FewShotClassifier.from_pretrained` reads.
--members has every epoch of the ensemble in that model, whatever its size; --half stores weights in half precision.
"""

from __future__ import annotations

import io
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from experiments.command_line import run_main
from experiments.paper.runs import EPOCHS_FILE, FAILURE_FILE
from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts.metric_writer import TIMING_FILE, read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.errors import ConfigError, WorkdirError
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.saved_model import (
    ARCHIVED_WEIGHTS,
    CARD,
    CONFIG,
    DESCRIPTION,
    WEIGHTS,
    model_files,
)
from mamlpp_jax.inference.trained_run import load_best
from mamlpp_jax.inference.weights import rounded_to_half
from mamlpp_jax.utils.files import json_bytes, read_json, wrap_os_errors, write_atomically

LIMIT_BYTES = 800_000  # of a run; its model and figures are left out where they do not fit
_FIGURE_COLORS = 64


def archive(
    workdir: Workdir,
    output: pathlib.Path,
    failure: str = "",
    *,
    small: bool = False,
    members: bool = False,
    half: bool = False,
) -> None:
    """Archives a finished run, or what there is of one that failed, into a folder, made if need be.

    Files of an earlier archive are replaced, once all of the run's are read. `failure` says why the run ended without a
    test; `small` leaves out the model, the figures and the page that shows them. With `members` every epoch of the
    ensemble is archived, whatever the size; otherwise the best epoch, if it fits. `half` stores weights in half
    precision.

    Raises:
        WorkdirError: the run is not finished, or a file cannot be read or written.
        ModelError: a weight is too large for half precision.
    """
    config = workdir.config()
    results = {} if failure else read_json(workdir.results_file)
    if not failure and not results["finished"]:  # tested by an evaluation, while it was trained
        raise WorkdirError(
            f"the run in {workdir} is not finished: its {workdir.results_file.name} is of outer step "
            f"{results['steps']}. Give its training command again, and archive it afterwards."
        )
    data = read_json(workdir.data_file)
    counts = {split: len(names) for split, names in data.pop("classes").items()}
    records = epoch_records(workdir, config.train.steps_per_epoch)
    files = {
        CONFIG: json_bytes(config_lib.without_folders(config).to_dict()),
        "data.json": json_bytes({**data, "num_classes": counts}),
        EPOCHS_FILE: "".join(f"{json.dumps(record)}\n" for record in records).encode(),
    }
    if failure:
        files[FAILURE_FILE] = f"{failure}\n".encode()
    else:
        own = config_lib.without_folders(ConfigDict(results["config"]))
        results["config"] = own.to_dict()
        older = workdir.correct_file.exists() and not workdir.predictions_file.exists()
        tests = workdir.correct_file if older else workdir.predictions_file
        for path in [tests, *([] if small else [workdir.path / "results.md"])]:
            with wrap_os_errors(path, "read"):
                files[path.name] = path.read_bytes()
        # Last, since a folder with results counts as complete.
        last = {workdir.results_file.name: json_bytes(results)}
        if not small:
            room = LIMIT_BYTES - _size(files | last)
            files |= _model_and_figures(workdir, room, members=members, half=half)
        files |= last
    with wrap_os_errors(output, "make"):
        output.mkdir(parents=True, exist_ok=True)
        earlier = (FAILURE_FILE, workdir.results_file.name, WEIGHTS, CARD, DESCRIPTION)
        named = [output / name for name in (*earlier, ARCHIVED_WEIGHTS)]
        for path in (*named, *output.glob("*.png")):
            path.unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(output / name, content)


def _model_and_figures(
    workdir: Workdir, room: int, *, members: bool, half: bool
) -> dict[str, bytes]:
    """The run's model and, the smallest first, its figures, as far as there is room for so many bytes."""
    count = workdir.config().evaluation.ensemble if members else 1
    best = from_runs(load_best(workdir.path, count))
    model = model_files(rounded_to_half(best) if half else best)
    del model[CONFIG]  # which the run has
    figures = sorted(_figures(workdir.path).items(), key=lambda item: len(item[1]))
    files = model if members else {}
    for group in (*([] if members else [model]), *({name: content} for name, content in figures)):
        if _size(group) <= room:
            files = files | group
            room -= _size(group)
    return files


def _size(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def epoch_records(workdir: Workdir, steps_per_epoch: int) -> list[dict[str, Any]]:
    """A record per epoch: means of the training metrics, the validation, seconds, and its provenance.

    `ms_per_step` is the median over dispatches, which leaves compilation out; `seconds` and `validation_seconds`
    are elapsed times; `made` is the hardware and commit at the epoch's end.
    """
    times, metrics = read_metrics(workdir.path, TIMING_FILE), read_metrics(workdir.path)
    starts = [row for row in times if "made" in row]
    times = [row for row in times if "made" not in row]
    epochs = sorted({row["epoch"] for row in metrics})
    records = [
        _epoch_record(
            epoch,
            [row for row in metrics if row["epoch"] == epoch],
            [row for row in times if (row["step"] - 1) // steps_per_epoch == epoch],
        )
        for epoch in epochs
    ]
    for record in records:
        machines = [row["made"] for row in starts if row["step"] < record["step"]]
        record |= {"made": machines[-1]} if machines else {}
    return records


def _epoch_record(
    epoch: int, metrics: Sequence[Mapping[str, Any]], times: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    training = [row for row in metrics if "loss" in row]
    validation = [row for row in metrics if "val_accuracy" in row]
    record: dict[str, Any] = {"epoch": epoch, "step": max(row["step"] for row in metrics)}
    for key in ("loss", "accuracy", "grad_norm", "learning_rate"):
        record[key] = statistics.fmean(row[key] for row in training)
    record["grad_norm_max"] = max(row["grad_norm"] for row in training)
    for row in validation:
        record |= row
    speeds = [row["steps_per_second"] for row in times if "steps_per_second" in row]
    if speeds:
        record["ms_per_step"] = 1000 / statistics.median(speeds)
    for key in ("seconds", "validation_seconds", "save_seconds"):
        record[key] = sum(row.get(key, 0.0) for row in times)
    return record


def _figures(workdir: pathlib.Path) -> dict[str, bytes]:
    """The run's figures with fewer colours, by the names of their files."""
    figures = {}
    for path in workdir.glob("*.png"):
        buffer = io.BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").quantize(_FIGURE_COLORS).save(buffer, "png", optimize=True)
        figures[path.name] = buffer.getvalue()
    return figures


def _main(words: list[str]) -> None:
    if len(words) not in (2, 3):
        raise ConfigError(
            "give the workdir, the folder to copy to, and perhaps why the run failed."
        )
    jax.config.update("jax_platforms", "cpu")
    chosen = flags.FLAGS
    workdir, output, *failure = words
    options = {"members": chosen.members, "half": chosen.half}
    archive(Workdir(workdir), pathlib.Path(output), *failure, **options)


if __name__ == "__main__":
    flags.DEFINE_bool("members", False, "Archive every epoch of the ensemble, of any size.")
    flags.DEFINE_bool("half", False, "Store weights in half precision.")
    run_main(_main, rest=True)
