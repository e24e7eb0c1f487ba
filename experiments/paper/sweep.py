"""Runs what is missing of a list of runs and archives what is to be committed.

    nice -n 19 python -m experiments.paper.sweep --list=table4
    python -m experiments.paper.sweep --list=table1 --protocol=short --seeds=0 --print_commands
    python -m experiments.paper.sweep --list=FILE --test_tasks=6000
    python -m experiments.paper.sweep --list=FILE --test_tasks=6000 --test_inner_steps=10 --test_way=20
    python -m experiments.paper.sweep --list=FILE --test_tasks=6000 --test_query=10 --test_rotations
    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m experiments.paper.sweep --list=FILE --at_once=6 -- FLAG ...

Lists: see `experiments.paper.runs`. It can be stopped at any time with SIGTERM or SIGINT: the run saves, and the same
command goes on. Runs that are archived in --results are skipped; remove a folder there to have its run made again. An
archived run that lacks a wanted test is tested where its workdir is still there, else counted as failed.
Words after ` -- ` are flags for every training. With --at_once several runs share a device that one leaves idle; the
seconds they record are then those of a shared device.
Images are taken from MAMLPP_DATA_DIR/omniglot and MAMLPP_DATA_DIR/mini_imagenet where that variable is set. Exit
codes: 0 everything is there; 1 a run failed; 2 bad input; 75 stopped.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from absl import flags, logging

from experiments.command_line import run_main
from experiments.launcher import Launch, Launcher
from experiments.paper.runs import FAILURE_FILE, LISTS, Run, load_runs, main_command
from mamlpp_jax.config.rules import parse_list
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.training.preemption import STOPPED_EXIT_CODE
from mamlpp_jax.utils.files import read_json, wrap_os_errors

FAILED_EXIT_CODE = 1
# As a condition: rotations of test classes are classes where the run's own tests have none, and the other way round.
OTHER = "other"
_DIVERGED = re.compile(r"error: (.* at outer step \d+ \(epoch \d+\).*)")


@dataclasses.dataclass
class Sweep:
    """Makes the runs of a list that are missing, and archives them."""

    workdirs: pathlib.Path  # folder of the workdir and the log of each run
    results: pathlib.Path  # folder of the archived runs
    launch: Launch  # runner of commands
    # Tests that every run must have, each by where it differs from the run's own: tasks, inner_steps, way, query,
    # and rotated, which is OTHER
    tests: Sequence[Mapping[str, int | str]] = ({},)
    at_once: int = 1  # how many runs to make at a time
    further: Sequence[str] = ()  # flags of `mamlpp_jax.main` for every training
    _stopped: bool = dataclasses.field(default=False, init=False)

    def __call__(self, runs: Sequence[Run]) -> int:
        """Makes what is missing; returns the exit code."""
        with wrap_os_errors(self.workdirs, "make"):
            self.workdirs.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self.at_once) as pool:
            codes = list(pool.map(self._make, runs, range(1, len(runs) + 1)))
        if STOPPED_EXIT_CODE in codes:
            logging.info("stopped; the same command goes on")
            return STOPPED_EXIT_CODE
        return FAILED_EXIT_CODE if any(codes) else 0

    def is_done(self, run: Run) -> bool:
        """Whether the run is archived with all its tests, or diverged."""
        folder = self.results / run.name
        return (folder / FAILURE_FILE).exists() or (
            _is_finished(folder) and not self._missing_tests(folder)
        )

    def train_command(self, run: Run) -> list[str]:
        """Returns the command that makes a run, or continues it."""
        return run.command(self.workdirs / run.name, self.further)

    def archive(self, run: Run, failure: str, log: pathlib.Path) -> int:
        """Archives a run that is finished, or that diverged; returns the exit code."""
        command = [sys.executable, "-m", "experiments.paper.keep", str(self.workdirs / run.name)]
        return self.launch([*command, str(self.results / run.name), failure], log)

    def _make(self, run: Run, number: int) -> int:
        """Makes one run where it is missing; returns the exit code. None begins after a stop or an error of ours."""
        if self._stopped:
            return STOPPED_EXIT_CODE
        try:
            code = 0 if self.is_done(run) else self._make_missing(run, number)
        except BaseException:
            self._stopped = True
            raise
        self._stopped |= code == STOPPED_EXIT_CODE
        return code

    def _make_missing(self, run: Run, number: int) -> int:
        folder, workdir = self.results / run.name, self.workdirs / run.name
        log = self.workdirs / f"{run.name}.log"
        if _is_finished(folder) and not workdir.is_dir():
            logging.error(
                "%s is archived without a test that is wanted, and there is no %s to test: remove %s to have the run "
                "made again",
                *(run.name, workdir, folder),
            )
            return FAILED_EXIT_CODE
        logging.info("run %d: %s, its log in %s", number, run.name, log)
        code = self.launch(self.train_command(run), log)
        for conditions in self._missing_tests(workdir) if code == 0 else []:
            test = [*main_command(workdir), "--mode=evaluate", *conditions]
            code = code or self.launch(test, log)
        failure = _divergence(log) if code == 2 else ""
        if code == 0 or failure:
            code = self.archive(run, failure, log)
        if code not in (0, STOPPED_EXIT_CODE):
            logging.error("%s ended with exit code %d; see %s", run.name, code, log)
        return code

    def _missing_tests(self, folder: pathlib.Path) -> list[list[str]]:
        """The flags of each wanted test that the results of a finished run lack."""
        results = read_json(folder / "results.json")
        config = results["config"]
        task, norm = config["task"], config["norm"]
        usual: dict[str, int | str] = {"tasks": config["evaluation"]["tasks"], "way": task["way"]}
        usual |= {"inner_steps": config["train"]["inner_steps"], "rotated": ""}
        usual["query"] = task["query"]
        tested = [
            {"rotated": "", **row}
            for row in results["test"]
            if not row.get("data") and row["shot"] == task["shot"]
        ]
        # Running statistics are near chance where they are not trained with, and these tests are long.
        modes = [
            mode
            for mode in parse_list(norm["eval_statistics"])
            if mode != "running" or mode == norm["train_statistics"]
        ]
        missing: list[list[str]] = []
        for test in self.tests:
            wanted = {**usual, **test}
            if wanted["rotated"] == OTHER:
                data = config["data"]
                if not data["rotations"]:
                    continue
                wanted["rotated"] = "no" if data["rotate_evaluation"] else "yes"
            done = {row["eval_statistics"] for row in tested if wanted.items() <= row.items()}
            wanted["rotated"] = {"yes": "true", "no": "false"}.get(str(wanted["rotated"]), "")
            conditions = [f"--{name}={value}" for name, value in wanted.items() if value != ""]
            conditions.append(f"--statistics={','.join(modes)}")
            if not done.issuperset(modes) and conditions not in missing:
                missing.append(conditions)
        return missing


def _is_finished(folder: pathlib.Path) -> bool:
    path = folder / "results.json"
    return path.exists() and bool(read_json(path)["finished"])


def _divergence(log: pathlib.Path) -> str:
    """The error at the end of a log, where it says at which outer step numbers went bad."""
    lines = log.read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    match = _DIVERGED.fullmatch(last)
    return match[1] if match else ""


def _define_flags() -> None:
    flags.DEFINE_string("list", "", f"{', '.join(LISTS)}, or a file.")
    flags.DEFINE_string(
        "protocol", "", "Of the list's runs; default: paper for tables, else short."
    )
    flags.DEFINE_list("seeds", [], "Only runs with these seeds.")
    flags.DEFINE_bool("print_commands", False, "Print the commands of missing runs, and stop.")
    workdirs = os.environ.get("MAMLPP_WORKDIRS", "runs/paper")
    flags.DEFINE_string("workdirs", workdirs, "Folder of the runs' workdirs and logs.")
    flags.DEFINE_string("results", "experiments/results", "Folder of the archived runs.")
    for name, words in (
        ("tasks", "on"),
        ("inner_steps", "with"),
        ("way", "with"),
        ("query", "with"),
    ):
        text = f"Test {words} so many {name} too; 0 = as configured only."
        flags.DEFINE_integer(f"test_{name}", 0, text, lower_bound=0)
    text = "Test with rotated classes too where the run's own test has none, and without them where it has."
    flags.DEFINE_bool("test_rotations", False, text)
    flags.DEFINE_integer("at_once", 1, "Runs at a time.", lower_bound=1)


def _wanted_tests(tasks: int, others: Mapping[str, int | str]) -> list[dict[str, int | str]]:
    """The run's own conditions, and each other condition alone that is not 0 or empty; all on so many tasks."""
    on_tasks: dict[str, int | str] = {"tasks": tasks} if tasks else {}
    return [on_tasks, *({**on_tasks, name: value} for name, value in others.items() if value)]


def _main(words: list[str]) -> int:
    given, launcher = flags.FLAGS, Launcher()
    further = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    if stray := words[: len(words) - len(further)]:
        raise ConfigError(f"{stray[0]!r} is not a flag; flags start with --.")
    if not all(seed.isdigit() for seed in given.seeds):
        raise ConfigError(f"--seeds is {','.join(given.seeds)}; give whole numbers, such as 0,1.")
    runs = load_runs(given.list, given.protocol, [int(seed) for seed in given.seeds])
    others: dict[str, int | str] = {"rotated": OTHER if given.test_rotations else ""}
    for name in ("inner_steps", "way", "query"):
        others[name] = given[f"test_{name}"].value
    sweep = Sweep(
        *(pathlib.Path(given.workdirs), pathlib.Path(given.results), launcher),
        tests=_wanted_tests(given.test_tasks, others),
        at_once=given.at_once,
        further=further,
    )
    if given.print_commands:
        for run in runs:
            if not sweep.is_done(run):
                print(shlex.join(sweep.train_command(run)))
        return 0
    with launcher.listening():
        return sweep(runs)


if __name__ == "__main__":
    _define_flags()
    run_main(_main, rest=True)
