"""Copies what is kept of a run: small enough to be committed, enough to trace every number.

    python -m experiments.paper.keep WORKDIR experiments/results/NAME [why the run failed]

Kept are the results, the configuration, the correct query images per test task, a line per epoch (`epochs.jsonl`),
the figures and the weights of the best epoch (`weights.safetensors`); `FewShotClassifier.from_pretrained` reads the
folder.
"""

from __future__ import annotations

import io
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app
from PIL import Image

from experiments.paper.runs import EPOCHS_FILE, FAILURE_FILE
from mamlpp_jax.artifacts.metric_writer import TIMING_FILE, read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli.flags import fail
from mamlpp_jax.errors import MamlppError, WorkdirError
from mamlpp_jax.inference.saved_model import KEPT_WEIGHTS, weights_bytes
from mamlpp_jax.inference.trained_run import load_run
from mamlpp_jax.utils.files import json_bytes, read_json, wrap_os_errors, write_atomically

LIMIT_BYTES = 800_000  # of a run; weights and figures that do not fit are left out
_FIGURE_COLORS = 64
_FOLDERS = ("manual_dir", "tfds_dir", "cache_dir")  # where this machine has its data


def keep(workdir: Workdir, output: pathlib.Path, failure: str = "", *, small: bool = False) -> None:
    """Copies a finished run, or what there is of one that failed.

    Args:
        workdir: of the run.
        output: made if need be; files of an earlier copy are replaced, once all of the run's are read.
        failure: why the run ended without a test; "" for a finished run.
        small: leaves out the weights, the figures and the page that shows them.

    Raises:
        WorkdirError: the run is not finished, or a file cannot be read or written.
    """
    config = workdir.config()
    results = {} if failure else read_json(workdir.results_file)
    if not failure and not results["finished"]:  # tested by an evaluation, while it was trained
        raise WorkdirError(
            f"the run in {workdir} is not finished: its {workdir.results_file.name} is of outer step "
            f"{results['steps']}. Give its training command again, and keep it afterwards."
        )
    data = read_json(workdir.data_file)
    counts = {split: len(names) for split, names in data.pop("classes").items()}
    records = epoch_records(workdir, config.train.steps_per_epoch)
    files = {
        "config.json": json_bytes(_without_folders(config.to_dict())),
        "data.json": json_bytes({**data, "num_classes": counts}),
        EPOCHS_FILE: "".join(f"{json.dumps(record)}\n" for record in records).encode(),
    }
    if failure:
        files[FAILURE_FILE] = f"{failure}\n".encode()
    else:
        room = LIMIT_BYTES - sum(map(len, files.values()))
        files |= _files_of_finished(workdir, results, room, small)
    with wrap_os_errors(output, "make"):
        output.mkdir(parents=True, exist_ok=True)
        earlier = (FAILURE_FILE, workdir.results_file.name, KEPT_WEIGHTS)
        for path in (*(output / name for name in earlier), *output.glob("*.png")):
            path.unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(output / name, content)


def _files_of_finished(
    workdir: Workdir, results: dict[str, Any], room: int, small: bool
) -> dict[str, bytes]:
    """What a failed run does not have; the results come last, since a folder with results counts as complete."""
    results = {**results, "config": _without_folders(results["config"])}
    files = {}
    for path in (workdir.correct_file, *([] if small else [workdir.path / "results.md"])):
        with wrap_os_errors(path, "read"):
            files[path.name] = path.read_bytes()
    last = {workdir.results_file.name: json_bytes(results)}
    room -= sum(map(len, (files | last).values()))
    return files | ({} if small else _that_fit(workdir, results, room)) | last


def _that_fit(workdir: Workdir, results: Mapping[str, Any], room: int) -> dict[str, bytes]:
    """The weights of the best epoch and, the smallest first, the figures, as far as there is room for so many bytes."""
    run = load_run(workdir.path)
    described = ("experiment", "method", "protocol", "seed", "commit")
    about = {key: str(results[key]) for key in described}
    about |= {"epoch": str(run.epoch), "step": str(run.step)}
    weights = weights_bytes(run.meta, run.batch_stats, **about)
    figures = sorted(_figures(workdir.path).items(), key=lambda item: len(item[1]))
    files = {}
    for name, content in ((KEPT_WEIGHTS, weights), *figures):
        if len(content) <= room:
            files[name] = content
            room -= len(content)
    return files


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "data": {**config["data"], **dict.fromkeys(_FOLDERS, "")}}


def epoch_records(workdir: Workdir, steps_per_epoch: int) -> list[dict[str, Any]]:
    """A record per epoch: means of the training metrics, the validation, seconds, and where it was made.

    `ms_per_step` is the median over dispatches, which leaves compilation out; `seconds` and `validation_seconds`
    are what passed; `made` is the hardware and commit at the epoch's end.
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
        made = [row["made"] for row in starts if row["step"] < record["step"]]
        record |= {"made": made[-1]} if made else {}
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


def _main(argv: list[str]) -> None:
    if len(argv) not in (3, 4):
        raise app.UsageError(
            "give the workdir, the folder to copy to, and perhaps why the run failed."
        )
    jax.config.update("jax_platforms", "cpu")
    try:
        keep(Workdir(argv[1]), pathlib.Path(argv[2]), *argv[3:])
    except MamlppError as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(_main)
