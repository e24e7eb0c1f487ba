"""Times a trained model in the hands of a user: learning classes and predicting, and a process's first prediction."""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from experiments.benchmark_cases import Case
from experiments.benchmark_children import run_child
from experiments.benchmark_rows import Row, case_row, make_config
from mamlpp_jax.inference.model import from_runs
from mamlpp_jax.inference.saved_model import save_model
from mamlpp_jax.inference.trained_run import TrainedRun
from mamlpp_jax.training.learner import example_images, init_run_state, make_learner

QUERIES = 5
_PROCESSES = 3
_CACHE = "JAX_COMPILATION_CACHE_DIR"
# Its first argument is the saved model, the others the time it was started at, and the classes, shots and queries.
_PROGRAM = """
import json, sys, time
import numpy as np
from mamlpp_jax import FewShotClassifier

started, way, shot, queries = float(sys.argv[2]), *map(int, sys.argv[3:])
clf = FewShotClassifier.from_pretrained(sys.argv[1])
shape = clf.model.image_format.shape
images = np.random.default_rng(0).integers(0, 256, (way * shot + queries, *shape), np.uint8)
support, labels = images[: way * shot], list(range(way)) * shot

def call():
    clf.fit(support, labels).predict(images[way * shot :])

call()
first_s, cpu_s = time.time() - started, time.process_time()
from experiments.benchmark_rows import time_calls
print(json.dumps({"first_s": first_s, "cpu_s": cpu_s, "ms": time_calls(call)}))
"""


def predictions(cases: list[Case]) -> Iterator[Row | None]:
    """Times `fit` and `predict`, and a process's first prediction without and with a compilation cache.

    Yields None where a process fails or takes too long.
    """
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model"
            save_model(model, _random_model(case))
            cached = {**os.environ, _CACHE: str(pathlib.Path(folder) / "cache")}
            cold = {key: value for key, value in os.environ.items() if key != _CACHE}
            run_child(_command(model, case), cached)  # fills the cache
            outputs: dict[str, list[Any]] = {"cold": [], "cached": []}
            for _ in range(_PROCESSES):
                for name, environment in (("cold", cold), ("cached", cached)):
                    outputs[name].append(run_child(_command(model, case), environment))
        yield _row(case, outputs)


def _random_model(case: Case) -> Any:
    """A model that was never trained; times do not depend on its weights."""
    config, shape = make_config(case), (case.size, case.size, case.channels)
    state = init_run_state(config, example_images(shape))
    run = TrainedRun(
        config, make_learner(config), state.meta, state.batch_stats, 0, example_images(shape)
    )
    return from_runs([run])


def _command(model: pathlib.Path, case: Case) -> list[str]:
    numbers = (time.time(), case.way, case.shot, QUERIES)
    return [sys.executable, "-c", _PROGRAM, str(model), *map(str, numbers)]


def _row(case: Case, outputs: dict[str, list[Any]]) -> Row | None:
    done = {name: list(filter(None, each)) for name, each in outputs.items()}
    if not all(done.values()):
        return None
    first, cpu = (
        {name: min(output[key] for output in each) for name, each in done.items()}
        for key in ("first_s", "cpu_s")
    )
    row = case_row(
        "predict",
        case,
        tasks=1,
        compile_s=round(first["cold"], 2),
        cached_s=round(first["cached"], 2),
        note=(
            f"fit and predict of {QUERIES} images; instead of compiling, seconds from a process's start to its first "
            f"prediction ({cpu['cold']:.2f} of CPU time), and with a filled compilation cache ({cpu['cached']:.2f})"
        ),
    )
    row.set_times([ms for each in done.values() for output in each for ms in output["ms"]])
    return row
