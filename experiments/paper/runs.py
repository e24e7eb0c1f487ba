"""The paper's experiments as data.

A run is a ready configuration with an argument, and perhaps further fields. Lists of runs go by name (`LISTS`) or
come from a file with a run a line:

    # configuration with its argument [name of the variant] [field=value ...]
    omniglot:way=5,shot=1,method=maml,protocol=short,seed=0
    omniglot:way=5,shot=1,method=maml,protocol=short,seed=0 strided model.max_pool=False
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.command_line import parse_value
from mamlpp_jax.config import check_field, parse_argument
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.config.methods import COMPONENTS
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.utils.files import wrap_os_errors

# The rows of Table 1: MAML, each component alone, all of them.
METHODS = ("maml", "maml+msl", "maml+da", "maml+bnrs+bnwb", "maml+lslr", "maml+ca", "maml++")
SEEDS = (0, 1, 2)
# What is archived of a run beside its results: a line per epoch, and why it ended without results.
EPOCHS_FILE, FAILURE_FILE = "epochs.jsonl", "failure.txt"

# The arguments of the ready configurations, with their defaults.
_ARGUMENTS = {"way": 5, "shot": 1, "method": "maml++", "protocol": "paper", "seed": 0}
_ARGUMENTS_BY_DATA: dict[str, dict[str, Any]] = {
    "mini_imagenet": {**_ARGUMENTS, "steps": 5},
    "quickstart": {"method": "maml++", "seed": 0},
    "pretrain": {"seed": 0},
}
# The data of a configuration that is not called by their name.
_DATA = {"pretrain": "mini_imagenet"}


class Run(NamedTuple):
    """One training with its test."""

    data: str  # the ready configuration, such as "omniglot" or "mini_imagenet"
    way: int  # classes of a task
    shot: int  # support images per class
    method: str  # name as in the configurations
    protocol: str  # name as in the configurations
    seed: int = 0  # of the initial weights and the training tasks
    steps: int = 5  # inner steps; other than 5 for mini-ImageNet only
    variant: str = ""  # a name for what `fields` changes; "" without them
    fields: Mapping[str, Any] = {}  # further configuration fields with their values
    folder: str = ""  # a name in the place of the one made of all these; "" for that

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        steps = "" if self.steps == 5 else f"{self.steps}steps"
        task = (self.data, f"{self.way}way", f"{self.shot}shot", steps)
        words = (*task, self.variant, self.method, self.protocol, f"seed{self.seed}")
        return self.folder or "-".join(filter(None, words))

    @property
    def argument(self) -> str:
        """The argument of the configuration file."""
        keys = _ARGUMENTS_BY_DATA.get(self.data, _ARGUMENTS)
        return ",".join(f"{key}={getattr(self, key)}" for key in keys)

    @property
    def flags(self) -> list[str]:
        """The flags of `mamlpp_jax.main` that describe the run."""
        fields = [f"--config.{field}={value}" for field, value in self.fields.items()]
        return [f"--config=configs/{self.data}.py:{self.argument}", *fields]

    def command(self, workdir: pathlib.Path, further: Sequence[str] = ()) -> list[str]:
        """Returns the command that makes the run, or continues it, with further flags, the last of which win."""
        folder = os.environ.get("MAMLPP_DATA_DIR", "")
        images = pathlib.Path(folder) / _DATA.get(self.data, self.data)
        data = [f"--config.data.manual_dir={images}"] if folder and images.is_dir() else []
        return [*main_command(workdir), *self.flags, *data, *further]


def main_command(workdir: pathlib.Path) -> list[str]:
    """Returns the command that every use of a workdir begins with."""
    return [sys.executable, "-m", "mamlpp_jax.main", f"--workdir={workdir}"]


def methods(protocol: str) -> tuple[str, ...]:
    """Returns the rows of Table 1 that a protocol can have: what it turns off, or gives to all, is none to add."""
    fields = PROTOCOLS[protocol].fields
    fixed = {name for name, part in COMPONENTS.items() if fields.get(part.field) == part.off}
    fixed |= PROTOCOLS[protocol].always
    return tuple(method for method in METHODS if fixed.isdisjoint(method.split("+")))


def _omniglot(way: int, shots: Sequence[int], names: Sequence[str], protocol: str) -> list[Run]:
    """A run per shot, method and seed."""
    return [
        Run("omniglot", way, shot, method, protocol, seed)
        for shot, method, seed in itertools.product(shots, names, SEEDS)
    ]


def table_1(protocol: str) -> list[Run]:
    """Omniglot 20-way, every method."""
    return _omniglot(20, (1, 5), methods(protocol), protocol)


def table_2(protocol: str) -> list[Run]:
    """mini-ImageNet 5-way: MAML++ with one to five inner steps, and MAML with five."""
    return [
        Run("mini_imagenet", 5, shot, method, protocol, seed, steps)
        for shot, steps, seed in itertools.product((1, 5), range(1, 6), SEEDS)
        for method in (("maml", "maml++") if steps == 5 else ("maml++",))
    ]


def table_4(protocol: str) -> list[Run]:
    """Omniglot 5-way, MAML and MAML++."""
    return _omniglot(5, (1, 5), ("maml", "maml++"), protocol)


def components(protocol: str) -> list[Run]:
    """The methods of Table 1 on Omniglot 5-way 1-shot, which costs a quarter of its 20-way runs."""
    return _omniglot(5, (1,), methods(protocol), protocol)


def figure_1(protocol: str = "short") -> list[Run]:
    """Strided MAML against strided MAML++: 3,000 outer steps, validated every 100, the annealing shortened alike."""
    length = {"model.max_pool": False, "train.epochs": 30, "train.steps_per_epoch": 100}
    annealing = {
        "maml": {},
        "maml++": {"train.first_order_epochs": 10, "train.multi_step_epochs": 2},
    }
    return [
        Run("omniglot", 5, 1, method, protocol, seed, variant="strided", fields=length | fields)
        for seed, (method, fields) in itertools.product(SEEDS, annealing.items())
    ]


LISTS: dict[str, Callable[[str], list[Run]]] = {
    "table1": table_1,
    "table2": table_2,
    "table4": table_4,
    "components": components,
    "figure1": figure_1,
}


def load_runs(name: str, protocol: str, seeds: Sequence[int] = ()) -> list[Run]:
    """Returns the runs of a list in `LISTS`, by a protocol or by its usual one, or of a file; of some seeds or of all.

    A name that is no list, a protocol that does not exist, and a line that is no run are a `ConfigError`.
    """
    path = pathlib.Path(name)
    if protocol and protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}.")
    if name in LISTS:
        usual = "paper" if name.startswith("table") else "short"
        runs = LISTS[name](protocol or usual)
    elif path.is_file():
        with wrap_os_errors(path, "read"):
            lines = path.read_text().splitlines()
        words = [line.partition("#")[0].split() for line in lines]
        runs = [_parse(line) for line in words if line]
    else:
        raise ConfigError(f"--list is {name!r}; it must be a file, or one of {', '.join(LISTS)}.")
    by_name: dict[str, Run] = {}
    for run in runs:
        if by_name.setdefault(run.name, run) != run:
            raise ConfigError(f"--list: two runs are called {run.name}; give them other variants.")
    return [run for run in by_name.values() if not seeds or run.seed in seeds]


def _parse(words: list[str]) -> Run:
    data, _, argument = words[0].partition(":")
    variant, fields = "", words[1:]
    if fields and "=" not in fields[0]:
        variant, *fields = fields
    if (fields and not variant) or not all(re.fullmatch(r"[\w.]+=.+", word) for word in fields):
        raise ConfigError(
            f"--list: {' '.join(words)!r} is not a configuration with its argument, or that, a name for the variant, "
            "and field=value ..."
        )
    given: Any = parse_argument(argument, dict(_ARGUMENTS_BY_DATA.get(data, _ARGUMENTS)))
    chosen = {**_ARGUMENTS, "protocol": "none", **given}
    values = {}
    for field, text in (word.split("=", 1) for word in fields):
        check_field(field)
        values[field] = parse_value(text, field, FIELDS[field].default)
    return Run(data, **chosen, variant=variant, fields=values)
