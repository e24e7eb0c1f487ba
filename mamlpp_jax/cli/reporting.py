"""The results of a run as files and on the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from mamlpp_jax.artifacts.predictions import QueryPredictions
from mamlpp_jax.artifacts.results import to_json
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.config.own_code import is_own
from mamlpp_jax.config.parts import INNER_LOSSES
from mamlpp_jax.distributed import processes
from mamlpp_jax.reports.results_page import results_page, results_table
from mamlpp_jax.utils.files import write_atomically


def write_report(
    results: Mapping[str, Any], queries: Mapping[str, QueryPredictions], workdir: Workdir
) -> None:
    """Writes a run's results: the page, `results.json`, every prediction, and accuracy by class."""
    # The page shows the figures that are there by now.
    page = results_page(to_json(results), workdir.path)
    write_atomically(workdir.path / "results.md", page.encode())
    workdir.write_results(results, queries)
    workdir.write_by_class()


def print_results(results: Mapping[str, Any], workdir: Workdir) -> None:
    """Prints the tests of a run, and what can be done with it next."""
    if not processes.is_first():
        return
    if not results["test"]:
        print(
            f"\npretrained: {workdir}; to meta-learn from it, give another configuration "
            f"--config.train.start_from={workdir}",
            flush=True,
        )
        return
    drawn = ", ".join(sorted(path.name for path in workdir.path.glob("*.png"))) or "none"
    print(
        f"\n{results_table(to_json(results))}\n\n"
        f"results: {workdir.path / 'results.md'}\n"
        f"accuracy by class: {workdir.by_class_file}\n"
        f"figures in {workdir}: {drawn}\n"
        "next, a test on more tasks, to stand beside this one:\n"
        f"  {_python()} -m mamlpp_jax.main --mode=evaluate --workdir={workdir} --tasks=1000",
        flush=True,
    )
    config = results["config"]
    transductive = INNER_LOSSES[config.get("inner", {}).get("loss", "cross_entropy")].transductive
    if not is_own(config["data"]["name"]) and not transductive:
        print(
            "or classify images like those of the training, EXAMPLES with a folder for each of your classes:\n"
            f"  {_python()} -m mamlpp_jax.predict --model={workdir} --support=EXAMPLES --query=IMAGES "
            "--output=predictions.csv",
            flush=True,
        )


def _python() -> str:
    """The command that starts this interpreter in the user's shell."""
    found = shutil.which("python")
    # Not `samefile`: the interpreters of virtual environments are links to one file.
    same = found and os.path.abspath(found) == os.path.abspath(sys.executable)
    return "python" if same or not sys.executable else shlex.quote(sys.executable)
