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
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.inference.saved_model import KEPT_WEIGHTS, weights_bytes
from mamlpp_jax.inference.trained_run import load_run
from mamlpp_jax.utils.files import read_json, wrap_os_errors, write_atomically, write_json

LIMIT_BYTES = 800_000  # of a run; weights and figures that do not fit are left out
_FIGURE_COLORS = 64
_FOLDERS = ("manual_dir", "tfds_dir", "cache_dir")  # where this machine has its data


def keep(workdir: Workdir, output: pathlib.Path, failure: str = "", *, small: bool = False) -> None:
    """Copies a finished run, or what there is of one that failed.

    Args:
        workdir: of the run.
        output: made if need be; files of an earlier copy are replaced.
        failure: why the run ended without a test; "" for a finished run.
        small: leaves out the weights, the figures and the page that shows them.

    Raises:
        WorkdirError: the run is not finished, or a file cannot be read or written.
    """
    config = workdir.config()
    results = {} if failure else read_json(workdir.results_file)
    if (
        not failure and not results["finished"]
    ):  # it was tested by an evaluation, while it was trained
        raise WorkdirError(
            f"the run in {workdir} is not finished: its {workdir.results_file.name} is of outer step "
            f"{results['steps']}. Give its training command again, and keep it afterwards."
        )
    with wrap_os_errors(output, "make"):
        output.mkdir(parents=True, exist_ok=True)
        for name in (FAILURE_FILE, "results.json", KEPT_WEIGHTS):
            (output / name).unlink(missing_ok=True)  # of an earlier copy
        for path in output.glob("*.png"):
            path.unlink()
    write_json(output / "config.json", _without_folders(config.to_dict()))
    data = read_json(workdir.data_file)
    counts = {split: len(names) for split, names in data.pop("classes").items()}
    write_json(output / "data.json", {**data, "num_classes": counts})
    lines = (json.dumps(record) for record in epoch_records(workdir, config.train.steps_per_epoch))
    write_atomically(output / EPOCHS_FILE, "".join(f"{line}\n" for line in lines).encode())
    if failure:
        write_atomically(output / FAILURE_FILE, f"{failure}\n".encode())
        return
    results["config"] = _without_folders(results["config"])
    for name in (workdir.correct_file.name, *(() if small else ("results.md",))):
        write_atomically(output / name, (workdir.path / name).read_bytes())
    if not small:
        run = load_run(workdir.path)
        described = ("experiment", "method", "protocol", "seed", "commit")
        about = {key: str(results[key]) for key in described}
        about |= {"epoch": str(run.epoch), "step": str(run.step)}
        weights = weights_bytes(run.meta, run.batch_stats, **about)
        if len(weights) < LIMIT_BYTES:
            write_atomically(output / KEPT_WEIGHTS, weights)
        _copy_figures(workdir.path, output)
    write_json(output / "results.json", results)  # Last: a folder with results is complete.


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "data": {**config["data"], **dict.fromkeys(_FOLDERS, "")}}


def epoch_records(workdir: Workdir, steps_per_epoch: int) -> list[dict[str, Any]]:
    """A record per epoch: means of the training metrics, the validation, and seconds.

    `ms_per_step` is the median over dispatches, which leaves compilation out; `seconds` and `validation_seconds`
    are what passed.
    """
    timing = workdir.path / TIMING_FILE
    with wrap_os_errors(timing, "read"):
        times = [json.loads(line) for line in timing.read_text().splitlines()]
    metrics = read_metrics(workdir.path)
    epochs = sorted({row["epoch"] for row in metrics})
    return [
        _epoch_record(
            epoch,
            [row for row in metrics if row["epoch"] == epoch],
            [row for row in times if (row["step"] - 1) // steps_per_epoch == epoch],
        )
        for epoch in epochs
    ]


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


def _copy_figures(workdir: pathlib.Path, output: pathlib.Path) -> None:
    """Copies the figures with fewer colours, the smallest first, as far as there is room."""
    figures = {}
    for path in workdir.glob("*.png"):
        buffer = io.BytesIO()
        with Image.open(path) as image:
            image.convert("RGB").quantize(_FIGURE_COLORS).save(buffer, "png", optimize=True)
        figures[path.name] = buffer.getvalue()
    others = (path for path in output.iterdir() if path.suffix != ".png")
    room = LIMIT_BYTES - sum(path.stat().st_size for path in others)
    for name, content in sorted(figures.items(), key=lambda item: len(item[1])):
        room -= len(content)
        if room >= 0:
            write_atomically(output / name, content)


def _main(argv: list[str]) -> None:
    if len(argv) not in (3, 4):
        raise app.UsageError(
            "give the workdir, the folder to copy to, and perhaps why the run failed."
        )
    jax.config.update("jax_platforms", "cpu")
    keep(Workdir(argv[1]), pathlib.Path(argv[2]), *argv[3:])


if __name__ == "__main__":
    app.run(_main)
