"""Every method of the family on the quickstart's data: makes missing runs, and prints the documentation's table.

    nice -n 10 python -m experiments.methods             # runs or resumes, one method after another; times the steps
    python -m experiments.methods --methods=anil,boil    # these alone
    python -m experiments.methods --seeds=0,1,2          # of each three seeds
    python -m experiments.methods --table                # prints the table of archived runs, and makes nothing

It can be stopped at any time with SIGTERM or SIGINT: the run saves, and the same command goes on. Methods that are
archived in --results are skipped; remove a folder there to have its run made again. Exit codes: 0 everything is there;
1 a run failed; 2 bad input; 75 stopped.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import SingleDeviceSharding

from experiments.benchmark_rows import Case, compile_step, make_config, time_in_turns
from experiments.command_line import run_main
from experiments.launcher import Launcher
from experiments.paper.cells import mean_and_spread
from experiments.paper.keep import archive
from experiments.paper.runs import SEEDS, Run
from experiments.paper.sweep import Sweep
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.artifacts.results import Evaluation
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.training.dry_run import count_parameters
from mamlpp_jax.training.learner import epoch_plan, example_images, state_shapes
from mamlpp_jax.utils.files import exists, read_json, write_json

RESULTS = pathlib.Path(__file__).parent / "results" / "methods"
COSTS_FILE = "costs.json"
MISSING = "not run yet"
_CASE = Case("quickstart", filters=32)
_ROUNDS = 7
# With the fields in which a method's budget is not the quickstart's.
METHODS: dict[str, Mapping[str, Any]] = {
    **{name: {} for name in ("maml", "maml++", "fomaml", "anil", "boil", "metasgd", "alfa")},
    **{name: {} for name in ("metacurvature", "metal", "metal_inductive", "protomaml", "cavia")},
    **{"sharedhead": {}, "tasknorm": {}, "reptile": {"train.epochs": 15}},
}


class MethodSweep(Sweep):
    """Makes runs of which the numbers alone are archived, neither weights nor figures."""

    def archive(self, run: Run, failure: str, log: pathlib.Path) -> int:
        """Archives a run that is finished, or that diverged; returns the exit code."""
        del log
        archive(Workdir(self.workdirs / run.name), self.results / run.name, failure, small=True)
        return 0


def method_run(name: str, seed: int = 0) -> Run:
    """Returns the run of a method."""
    folder = f"{name}-seed{seed}" if seed else name
    return Run("quickstart", 5, 1, name, "none", seed, fields=METHODS[name], folder=folder)


def extra_parameters(names: Sequence[str]) -> dict[str, int]:
    """Returns how many numbers the outer loop learns with each method beyond those with MAML."""
    device, learned = SingleDeviceSharding(jax.local_devices()[0]), {}
    images = example_images((_CASE.size, _CASE.size, 1))
    for name in dict.fromkeys(["maml", *names]):
        shapes = state_shapes(make_config(_CASE, name), images, device)
        learned[name] = count_parameters(shapes.meta)
    return {name: learned[name] - learned["maml"] for name in names}


def measure_times(names: Sequence[str]) -> dict[str, float]:
    """Returns milliseconds of the fastest outer step of each method's last epoch, on one device."""
    steps = []
    for name in names:
        config = make_config(_CASE, name, {"compute.devices": 1})
        plan = epoch_plan(config, config.train.epochs - 1)
        steps.append(compile_step(config, _CASE, plan.order, plan.multi_step))
    times = time_in_turns([step.call for step in steps], _ROUNDS)
    return {name: round(min(each), 1) for name, each in zip(names, times, strict=True)}


def table(results: pathlib.Path) -> str:
    """Returns a Markdown table of archived runs."""
    costs = read_json(results / COSTS_FILE) if exists(results / COSTS_FILE) else {}
    runs = {name: _all_seeds(results, name) for name in METHODS}
    rows = [
        {**_row(name, runs[name], costs), "seeds above `maml`": _above(runs[name], runs["maml"])}
        for name in METHODS
    ]
    return markdown_table(rows)


def _above(runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """In how many seeds the first accuracy of a method is above another's; "" where not all seeds are there."""
    if runs == others or min(len(runs), len(others)) < len(SEEDS):
        return ""
    pairs = zip(map(_first_accuracy, runs), map(_first_accuracy, others), strict=True)
    return f"{sum(one > other for one, other in pairs)} of {len(runs)}"


def _first_accuracy(run: Mapping[str, Any]) -> float:
    """The ensemble's accuracy under the first statistics."""
    return next(float(test.accuracy) for test in run["test"] if test.model == "ensemble")


def _all_seeds(results: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """The results of a method's archived runs by ascending seed."""
    runs = (Workdir(results / method_run(name, seed).name).results() for seed in SEEDS)
    return [run for run in runs if run]


def _row(name: str, runs: Sequence[Mapping[str, Any]], costs: Mapping[str, Any]) -> dict[str, str]:
    def cost(key: str, form: str) -> str:
        value = costs.get(key, {}).get(name)
        return MISSING if value is None else form.format(value)

    return {
        "method": f"`{name}`",
        "outer steps": f"{runs[0]['steps']:,}" if runs else MISSING,
        "seeds": ", ".join(str(run["seed"]) for run in runs),
        "test, `batch`": _accuracy(runs, "batch"),
        "test, `support`": _accuracy(runs, "support"),
        "ms per outer step": cost("ms_per_step", "{:.0f}"),
        "extra parameters": cost("extra_parameters", "{:,}"),
    }


def _accuracy(runs: Sequence[Mapping[str, Any]], mode: str) -> str:
    """The ensemble's accuracy: of one seed with its interval over tasks, of several their mean and deviation.

    That of a method with statistics of its own stands in the first column.
    """
    if not runs:
        return MISSING
    tests: list[Evaluation] = [t for run in runs for t in run["test"] if t.model == "ensemble"]
    own = mode == "batch" and all(test.train_statistics != "batch" for test in tests)
    shown = [test for test in tests if own or test.eval_statistics == mode]
    if not shown:
        return ""
    text = mean_and_spread([100 * test.accuracy for test in shown], ".2f")
    text += f" [± {100 * shown[0].ci95:.2f}]" if len(shown) == 1 else ""
    return f"{text} (`{shown[0].eval_statistics}`)" if own else text


def _define_flags() -> None:
    flags.DEFINE_list("methods", list(METHODS), "Which to make.")
    flags.DEFINE_list("seeds", ["0"], f"Of these seeds, some of {', '.join(map(str, SEEDS))}.")
    flags.DEFINE_bool("table", False, "Print the table of archived runs, and stop.")
    flags.DEFINE_string("workdirs", "runs/methods", "Folder of the runs' workdirs and logs.")
    flags.DEFINE_string("results", str(RESULTS), "Folder of the archived runs.")


def _main() -> int:
    jax.config.update("jax_platforms", "cpu")
    chosen, code = flags.FLAGS, 0
    results, names, seeds = pathlib.Path(chosen.results), chosen.methods, chosen.seeds
    if unknown := [name for name in names if name not in METHODS]:
        raise ConfigError(f"--methods has {', '.join(unknown)}; choose from {', '.join(METHODS)}.")
    if unknown := [seed for seed in seeds if seed not in map(str, SEEDS)]:
        raise ConfigError(f"--seeds has {', '.join(unknown)}; choose from 0, 1 and 2.")
    if not chosen.table:
        launcher = Launcher()
        sweep = MethodSweep(pathlib.Path(chosen.workdirs), results, launcher)
        with launcher.listening():
            code = sweep([method_run(name, int(seed)) for seed in seeds for name in names])
        if code == 0 and set(names) == set(METHODS):
            costs = {"extra_parameters": extra_parameters([*METHODS]), **provenance(1)}
            costs["ms_per_step"] = measure_times([*METHODS])
            write_json(results / COSTS_FILE, costs)
    print(table(results))
    return code


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
