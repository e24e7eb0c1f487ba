"""Runs what is missing of a list of runs and keeps what is to be committed.

    nice -n 19 python -m experiments.paper.sweep --list=first
    python -m experiments.paper.sweep --list=table1 --protocol=short --seeds=0 --print_commands
    python -m experiments.paper.sweep --list=FILE --test_tasks=6000
    python -m experiments.paper.sweep --list=options --test_tasks=6000 --test_inner_steps=10
    python -m experiments.paper.sweep --list=sharedhead --test_way=20
    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m experiments.paper.sweep --list=FILE --at_once=6 -- FLAG ...

Lists: see `experiments.paper.runs`. It can be stopped at any time with SIGTERM or SIGINT: the run saves, and the same
command goes on. Runs that are kept in --results are skipped; remove a folder there to have its run made again. A kept
run that lacks a wanted test is tested where its workdir is still there, else counted as failed.
What follows ` -- ` are flags for every training. With --at_once several runs share a device that one leaves idle; the
seconds they record are then those of a shared device.
Images are taken from MAMLPP_DATA_DIR/omniglot and MAMLPP_DATA_DIR/mini_imagenet where that variable is set. Exit
codes: 0 everything is there; 1 a run failed; 2 bad input; 75 stopped.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from absl import app, flags, logging

from experiments.paper.launcher import Launch, Launcher
from experiments.paper.runs import FAILURE_FILE, LISTS, Run, load_runs
from mamlpp_jax.cli.flags import fail
from mamlpp_jax.config.rules import parse_list
from mamlpp_jax.errors import ConfigError, MamlppError
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from mamlpp_jax.utils.files import read_json, wrap_os_errors

_LIST = flags.DEFINE_string("list", "first", f"{', '.join(LISTS)}, or a file.")
_PROTOCOL = flags.DEFINE_string(
    "protocol",
    "",
    "Of the list's runs; default: paper for tables, short for other lists.",
)
_SEEDS = flags.DEFINE_list("seeds", [], "Only runs with these seeds.")
_PRINT = flags.DEFINE_bool("print_commands", False, "Print the commands of missing runs, and stop.")
_WORKDIRS = flags.DEFINE_string(
    "workdirs",
    os.environ.get("MAMLPP_WORKDIRS", "runs/paper"),
    "Folder of the runs' workdirs and logs.",
)
_RESULTS = flags.DEFINE_string("results", "experiments/results", "Folder of what is kept.")
_TASKS = flags.DEFINE_integer(
    "test_tasks", 0, "Test on so many tasks too; 0 = as configured only.", lower_bound=0
)
_INNER_STEPS = flags.DEFINE_integer(
    "test_inner_steps", 0, "Test with so many inner steps too; 0 = as trained only.", lower_bound=0
)
_WAY = flags.DEFINE_integer(
    "test_way", 0, "Test with so many ways too; 0 = as trained only.", lower_bound=0
)
_AT_ONCE = flags.DEFINE_integer("at_once", 1, "Runs at a time.", lower_bound=1)

FAILED_EXIT_CODE = 1
_DIVERGED = re.compile(r"error: (.* at outer step \d+ \(epoch \d+\).*)")


class Sweep:
    """Where runs are made and kept, and how."""

    def __init__(
        self,
        workdirs: pathlib.Path,
        results: pathlib.Path,
        tasks: int,
        launch: Launch,
        inner_steps: int = 0,
        way: int = 0,
        *,
        at_once: int = 1,
        further: Sequence[str] = (),
    ) -> None:
        """Sets the sweep up; nothing is run.

        Args:
            workdirs: has the workdir and the log of each run.
            results: has what is kept of each run.
            tasks: number of tasks of the additional tests; 0 for as many as configured.
            launch: runs a command.
            inner_steps: of a further test; 0 for none.
            way: of a further test; 0 for none.
            at_once: how many runs to make at a time.
            further: flags of `mamlpp_jax.main` for every training.
        """
        self.workdirs, self.results, self.tasks, self.launch = workdirs, results, tasks, launch
        self.inner_steps, self.way = inner_steps, way
        self.at_once, self.further = at_once, further
        self._stopped = False

    def is_done(self, run: Run) -> bool:
        """Whether the run is kept with all its tests, or diverged."""
        kept = self.results / run.name
        return (kept / FAILURE_FILE).exists() or (_is_finished(kept) and not self._untested(kept))

    def _untested(self, folder: pathlib.Path) -> list[list[str]]:
        """The flags of each additional test that the results of a finished run lack."""
        results = read_json(folder / "results.json")
        config = results["config"]
        task, norm = config["task"], config["norm"]
        tasks = self.tasks or config["evaluation"]["tasks"]
        steps, way = config["train"]["inner_steps"], task["way"]
        wanted = dict.fromkeys(
            [
                (tasks, steps, way),
                (tasks, self.inner_steps or steps, way),
                (tasks, steps, self.way or way),
            ]
        )
        done = {
            (row["tasks"], row["inner_steps"], row["way"], row["eval_statistics"])
            for row in results["test"]
            if not row.get("data") and (row["shot"], row["query"]) == (task["shot"], task["query"])
        }
        # Running statistics are near chance where they are not trained with, and these tests are long.
        modes = [
            mode
            for mode in parse_list(norm["eval_statistics"])
            if mode != "running" or mode == norm["train_statistics"]
        ]
        return [
            [
                f"--tasks={tasks}",
                f"--inner_steps={steps}",
                f"--way={way}",
                f"--statistics={','.join(modes)}",
            ]
            for tasks, steps, way in wanted
            if any((tasks, steps, way, mode) not in done for mode in modes)
        ]

    def train_command(self, run: Run) -> list[str]:
        """The command that makes a run, or continues it."""
        command = [*_main_command(self.workdirs / run.name), *run.flags]
        images = pathlib.Path(os.environ.get("MAMLPP_DATA_DIR", "")) / run.data
        if os.environ.get("MAMLPP_DATA_DIR") and images.is_dir():
            command.append(f"--config.data.manual_dir={images}")
        return [*command, *self.further]

    def __call__(self, runs: Sequence[Run]) -> int:
        """Makes what is missing; returns the exit code."""
        with ThreadPoolExecutor(self.at_once) as pool:
            codes = list(pool.map(self._make, runs, range(1, len(runs) + 1)))
        if STOPPED_EXIT_CODE in codes:
            logging.info("stopped; the same command goes on")
            return STOPPED_EXIT_CODE
        return FAILED_EXIT_CODE if any(codes) else 0

    def _make(self, run: Run, number: int) -> int:
        """Makes one run where it is missing; returns the exit code. None begins after a stop or an error of ours."""
        if self._stopped:
            return STOPPED_EXIT_CODE
        try:
            code = self._make_missing(run, number)
        except BaseException:
            self._stopped = True
            raise
        self._stopped |= code == STOPPED_EXIT_CODE
        return code

    def _make_missing(self, run: Run, number: int) -> int:
        if self.is_done(run):
            return 0
        kept, workdir, log = self.results / run.name, self.workdirs / run.name, self._log(run)
        if _is_finished(kept) and not workdir.is_dir():
            logging.error(
                "%s is kept without a test that is wanted, and there is no %s to test: remove %s to have the run "
                "made again",
                *(run.name, workdir, kept),
            )
            return FAILED_EXIT_CODE
        logging.info("run %d: %s, its log in %s", number, run.name, log)
        code = self._perform(run)
        if code not in (0, STOPPED_EXIT_CODE):
            logging.error("%s ended with exit code %d; see %s", run.name, code, log)
        return code

    def _perform(self, run: Run) -> int:
        with wrap_os_errors(self.workdirs, "make"):
            self.workdirs.mkdir(parents=True, exist_ok=True)
        workdir, log = self.workdirs / run.name, self._log(run)
        code = self.launch(self.train_command(run), log)
        for conditions in self._untested(workdir) if code == 0 else []:
            test = ["--mode=evaluate", *conditions]
            code = code or self.launch([*_main_command(workdir), *test], log)
        diverged = _divergence(log) if code == 2 else ""
        if code == 0 or diverged:
            keep = [sys.executable, "-m", "experiments.paper.keep", str(workdir)]
            code = self.launch([*keep, str(self.results / run.name), diverged], log)
        return code

    def _log(self, run: Run) -> pathlib.Path:
        return self.workdirs / f"{run.name}.log"


def _is_finished(folder: pathlib.Path) -> bool:
    path = folder / "results.json"
    return path.exists() and bool(read_json(path)["finished"])


def _main_command(workdir: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "mamlpp_jax.main", f"--workdir={workdir}"]


def _divergence(log: pathlib.Path) -> str:
    """The error at the end of a log, where it says at which outer step numbers went bad."""
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    found = _DIVERGED.fullmatch(last)
    return found[1] if found else ""


def _main(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    further = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if stray := argv[1 : len(argv) - len(further)]:
        fail(f"{stray[0]!r} is not a flag; flags start with --.")
    try:
        if not all(seed.isdigit() for seed in _SEEDS.value):
            raise ConfigError(
                f"--seeds is {','.join(_SEEDS.value)}; give whole numbers, such as 0,1."
            )
        runs = load_runs(_LIST.value, _PROTOCOL.value, [int(seed) for seed in _SEEDS.value])
        launcher = Launcher()
        folders = pathlib.Path(_WORKDIRS.value), pathlib.Path(_RESULTS.value)
        sweep = Sweep(
            *folders,
            _TASKS.value,
            launcher,
            _INNER_STEPS.value,
            _WAY.value,
            at_once=_AT_ONCE.value,
            further=further,
        )
        if _PRINT.value:
            for run in runs:
                if not sweep.is_done(run):
                    print(shlex.join(sweep.train_command(run)))
            return
        launcher.listen()
        sys.exit(sweep(runs))
    except MamlppError as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(_main)
