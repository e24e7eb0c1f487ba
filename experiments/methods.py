"""Every method of the family on the quickstart's data: makes what is missing, and draws README's table of it.

    nice -n 10 python -m experiments.methods             # runs or resumes, one method after another; times the steps
    python -m experiments.methods --methods=anil,boil    # these alone
    python -m experiments.methods --table                # prints the table of what is kept, and makes nothing

It can be stopped at any time with SIGTERM or SIGINT: the run saves, and the same command goes on. Methods that are kept
in --results are skipped; remove a folder there to have its run made again. Exit codes: 0 everything is there; 1 a run
failed; 2 bad input; 75 stopped.
"""

from __future__ import annotations

import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import SingleDeviceSharding

from experiments.benchmark_rows import Case, Compiled, compile_step, make_config, time_call
from experiments.paper.keep import keep
from experiments.paper.launcher import Launch, Launcher
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.artifacts.results import TestResult
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli.flags import fail
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.training.learner import epoch_plan, state_shapes
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from mamlpp_jax.training.summary import count_parameters
from mamlpp_jax.utils.files import exists, read_json, wrap_os_errors, write_json

RESULTS = pathlib.Path(__file__).parent / "results" / "methods"
COSTS_FILE = "costs.json"
MISSING = "not run yet"
_CASE = Case("quickstart", filters=32)
_ROUNDS = 7


_SAME_BUDGET = (
    "maml",
    "maml++",
    "fomaml",
    "anil",
    "boil",
    "metasgd",
    "alfa",
    "sharedhead",
    "tasknorm",
)
# With the fields in which a method's budget is not the quickstart's.
METHODS: dict[str, Mapping[str, Any]] = {
    **{name: {} for name in _SAME_BUDGET},
    "reptile": {"train.epochs": 15},
}


def train_command(name: str, workdir: pathlib.Path) -> list[str]:
    """The command that makes a method's run, or continues it."""
    command = [sys.executable, "-m", "mamlpp_jax.main", f"--workdir={workdir}"]
    command.append(f"--config=configs/quickstart.py:method={name}")
    return [*command, *(f"--config.{k}={v}" for k, v in METHODS[name].items())]


def make_runs(
    names: Sequence[str], workdirs: pathlib.Path, results: pathlib.Path, launch: Launch
) -> int:
    """Makes and keeps the runs that are missing; returns the exit code."""
    with wrap_os_errors(workdirs, "make"):
        workdirs.mkdir(parents=True, exist_ok=True)
    code = 0
    for name in names:
        if exists(results / name / "results.json"):
            continue
        logging.info("%s, log in %s", name, workdirs / f"{name}.log")
        ended = launch(train_command(name, workdirs / name), workdirs / f"{name}.log")
        if ended == STOPPED_EXIT_CODE:
            return ended
        if ended:
            logging.error("%s ended with exit code %d", name, ended)
            code = 1
        else:
            keep(Workdir(workdirs / name), results / name, small=True)
    return code


def extra_parameters(names: Sequence[str]) -> dict[str, int]:
    """How many numbers the outer loop learns with each method beyond those with MAML."""
    learned = {}
    for name in dict.fromkeys(["maml", *names]):
        shapes = state_shapes(
            make_config(_CASE, name), (_CASE.size, _CASE.size, 1), _on_one_device()
        )
        learned[name] = count_parameters(shapes.meta)
    return {name: learned[name] - learned["maml"] for name in names}


def measure_times(names: Sequence[str]) -> dict[str, float]:
    """Milliseconds of an outer step of each method's last epoch, on one device.

    The methods take turns, so that other work on the machine falls on all alike; the fastest step of each counts.
    """
    steps = {name: _compiled(name) for name in names}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            times[name].append(time_call(step.call))
    return {name: round(min(found), 1) for name, found in times.items()}


def _compiled(name: str) -> Compiled:
    config = make_config(_CASE, name, {"compute.devices": 1})
    plan = epoch_plan(config, config.train.epochs - 1)
    return compile_step(config, _CASE, plan.order, plan.multi_step)


def _on_one_device() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.local_devices()[0])


def table(results: pathlib.Path) -> str:
    """README's table of what is kept."""
    costs = read_json(results / COSTS_FILE) if exists(results / COSTS_FILE) else {}
    rows = [_row(name, Workdir(results / name).results(), costs) for name in METHODS]
    return markdown_table(rows)


def _row(name: str, results: Mapping[str, Any] | None, costs: Mapping[str, Any]) -> dict[str, str]:
    def cost(key: str, form: str) -> str:
        value = costs.get(key, {}).get(name)
        return MISSING if value is None else form.format(value)

    return {
        "method": f"`{name}`",
        "outer steps": f"{results['steps']:,}" if results else MISSING,
        "test, `batch`": _accuracy(results, "batch"),
        "test, `support`": _accuracy(results, "support"),
        "ms per outer step": cost("ms_per_step", "{:.0f}"),
        "extra parameters": cost("extra_parameters", "{:,}"),
    }


def _accuracy(results: Mapping[str, Any] | None, mode: str) -> str:
    """Of a method with statistics of its own, those stand in the first column."""
    if not results:
        return MISSING
    tests: list[TestResult] = [test for test in results["test"] if test.model == "ensemble"]
    for test in tests:
        text = f"{100 * test.accuracy:.2f} ± {100 * test.ci95:.2f}"
        if test.eval_statistics == mode:
            return text
        if test.train_statistics != "batch" and mode == "batch":
            return f"{text} (`{test.eval_statistics}`)"
    return ""


def _define_flags() -> None:
    flags.DEFINE_list("methods", list(METHODS), "Which to make.")
    flags.DEFINE_bool("table", False, "Print the table of what is kept, and stop.")
    flags.DEFINE_string("workdirs", "runs/methods", "Folder of the runs' workdirs and logs.")
    flags.DEFINE_string("results", str(RESULTS), "Folder of what is kept.")


def _main(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    if len(argv) > 1:
        fail(f"{argv[1]!r} is not a flag; flags start with --.")
    jax.config.update("jax_platforms", "cpu")
    chosen = flags.FLAGS
    results, names = pathlib.Path(chosen.results), chosen.methods
    try:
        if unknown := [name for name in names if name not in METHODS]:
            raise ConfigError(
                f"--methods has {', '.join(unknown)}; choose from {', '.join(METHODS)}."
            )
        if chosen.table:
            print(table(results))
            return
        launcher = Launcher()
        launcher.listen()
        code = make_runs(names, pathlib.Path(chosen.workdirs), results, launcher)
        for number in (signal.SIGTERM, signal.SIGINT):  # What follows has nothing to save.
            signal.signal(number, signal.SIG_DFL)
        if code == 0 and set(names) == set(METHODS):
            every = list(METHODS)
            costs: dict[str, Any] = {"extra_parameters": extra_parameters(every)}
            costs |= {**provenance(1), "ms_per_step": measure_times(every)}
            write_json(results / COSTS_FILE, costs)
        print(table(results))
        sys.exit(code)
    except MamlppError as error:
        fail(str(error))


if __name__ == "__main__":
    _define_flags()
    app.run(_main)
