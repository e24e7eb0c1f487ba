"""The paper's experiments as data.

A run is a ready configuration with an argument, and perhaps further fields. Lists of runs go by name (`LISTS`) or
come from a file with a run a line:

    # configuration with its argument [name of the variant] [field=value ...]
    omniglot:way=5,shot=1,method=maml,protocol=short,seed=0
    omniglot:way=5,shot=1,method=maml,protocol=short,seed=0 strided model.max_pool=False
"""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mamlpp_jax.config import parse_argument
from mamlpp_jax.config.methods import COMPONENTS
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.utils.files import wrap_os_errors

# The rows of Table 1: MAML, each component alone, all of them.
METHODS = ("maml", "maml+msl", "maml+da", "maml+bnrs+bnwb", "maml+lslr", "maml+ca", "maml++")
SEEDS = (0, 1, 2)
# What is kept of a run beside its results: a line per epoch, and why it ended without results.
EPOCHS_FILE, FAILURE_FILE = "epochs.jsonl", "failure.txt"


class Run(NamedTuple):
    """One training with its test.

    Attributes:
        data: the ready configuration, "omniglot" or "mini_imagenet".
        way: classes of a task.
        shot: support images per class.
        method: as in the configurations.
        protocol: the same.
        seed: the same.
        steps: inner steps; other than 5 for mini-ImageNet only.
        variant: a name for what `fields` changes; "" without them.
        fields: further configuration fields with their values.
    """

    data: str
    way: int
    shot: int
    method: str
    protocol: str
    seed: int = 0
    steps: int = 5
    variant: str = ""
    fields: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The folder of the run."""
        steps = "" if self.steps == 5 else f"{self.steps}steps"
        task = (self.data, f"{self.way}way", f"{self.shot}shot", steps)
        return "-".join(
            filter(None, (*task, self.variant, self.method, self.protocol, f"seed{self.seed}"))
        )

    @property
    def argument(self) -> str:
        """The argument of the configuration file."""
        keys = ["way", "shot", "method", "protocol", "seed"]
        keys += ["steps"] if self.data == "mini_imagenet" else []
        return ",".join(f"{key}={getattr(self, key)}" for key in keys)

    @property
    def flags(self) -> list[str]:
        """The flags of `mamlpp_jax.main` that describe the run."""
        fields = [f"--config.{field}={value}" for field, value in self.fields.items()]
        return [f"--config=configs/{self.data}.py:{self.argument}", *fields]


def methods(protocol: str) -> tuple[str, ...]:
    """The rows of Table 1 that a protocol can have: what it turns off, or gives to all, is none to add."""
    fields = PROTOCOLS[protocol].fields
    fixed = {name for name, part in COMPONENTS.items() if fields.get(part.field) == part.off}
    fixed |= PROTOCOLS[protocol].always
    return tuple(method for method in METHODS if fixed.isdisjoint(method.split("+")))


def table_1(protocol: str) -> list[Run]:
    """Omniglot 20-way, every method."""
    return [
        Run("omniglot", 20, shot, method, protocol, seed)
        for shot, method, seed in itertools.product((1, 5), methods(protocol), SEEDS)
    ]


def table_2(protocol: str) -> list[Run]:
    """mini-ImageNet 5-way: MAML++ with one to five inner steps, and MAML with five."""
    return [
        Run("mini_imagenet", 5, shot, method, protocol, seed, steps)
        for shot, steps, seed in itertools.product((1, 5), range(1, 6), SEEDS)
        for method in (("maml", "maml++") if steps == 5 else ("maml++",))
    ]


def table_3(protocol: str) -> list[Run]:
    """Milliseconds per outer step with one to five inner steps: mini-ImageNet 5-way 1-shot."""
    return [
        Run("mini_imagenet", 5, 1, method, protocol, steps=steps)
        for steps, method in itertools.product(range(1, 6), ("maml", "maml++"))
    ]


def table_4(protocol: str) -> list[Run]:
    """Omniglot 5-way, MAML and MAML++."""
    return [
        Run("omniglot", 5, shot, method, protocol, seed)
        for shot, method, seed in itertools.product((1, 5), ("maml", "maml++"), SEEDS)
    ]


def components(protocol: str) -> list[Run]:
    """The methods of Table 1 on Omniglot 5-way 1-shot, which costs a quarter of its 20-way runs."""
    return [
        Run("omniglot", 5, 1, method, protocol, seed)
        for method, seed in itertools.product(methods(protocol), SEEDS)
    ]


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


# What may raise accuracy in the same protocol and backbone, each alone: a variant's name and its fields.
OPTIONS: dict[str, dict[str, Any]] = {
    "average": {"train.average_decay": 0.999},
    "smoothing": {"train.label_smoothing": 0.1},
    "long_multi_step": {"train.multi_step_epochs": 5},
    "rate_decay": {
        "inner.rate_decay": 1.0
    },  # a removed field: commit 28e0004 can make this run again
}


def options(protocol: str = "short") -> list[Run]:
    """MAML++ on Omniglot 5- and 20-way 1-shot, as it is and with each option."""
    return [
        Run("omniglot", way, 1, "maml++", protocol, variant=variant, fields=fields)
        for way in (5, 20)
        for variant, fields in {"": {}, **OPTIONS}.items()
    ]


def _brief(method: str, protocol: str, statistics: str) -> Run:
    """Omniglot 5-way 1-shot, 1,000 outer steps of 8 tasks, with the same statistics in training and test."""
    length = {"train.epochs": 2, "train.steps_per_epoch": 500, "evaluation.ensemble": 1}
    modes = {"norm.train_statistics": statistics, "norm.eval_statistics": statistics}
    return Run("omniglot", 5, 1, method, protocol, variant=statistics, fields=length | modes)


def task_norm(protocol: str = "short") -> list[Run]:
    """Each kind of statistics, first order as in the published comparison (Bronskill et al., ICML 2020, table 1)."""
    methods = {"tasknorm": "fomaml+tasknorm", "batch": "fomaml", "support": "fomaml"}
    return [_brief(method, protocol, statistics) for statistics, method in methods.items()]


def shared_head(protocol: str = "short") -> list[Run]:
    """One head vector for all classes against a vector for each, to be tested with more ways than in training."""
    return [_brief(method, protocol, "batch") for method in ("fomaml+sharedhead", "fomaml")]


def running_statistics(protocol: str = "short") -> list[Run]:
    """What it takes to normalise by running statistics: MAML++ on Omniglot 5-way 1-shot, 1,000 first-order steps."""
    trained: dict[str, dict[str, Any]] = {
        "batch_trained": {"norm.train_statistics": "batch"},
        "running_trained": {"norm.train_statistics": "running"},
        "renorm_at_once": {"norm.train_statistics": "renorm", "norm.hand_over": 0.0},
        "renorm_trained": {"norm.train_statistics": "renorm"},
    }
    common = {"train.epochs": 10, "train.steps_per_epoch": 100, "train.first_order_epochs": 10}
    runs = []
    for variant, fields in trained.items():
        own = fields["norm.train_statistics"]  # it selects the epoch
        others = [mode for mode in ("batch", "support", "running", "renorm") if mode != own]
        tests = {"norm.eval_statistics": ",".join([own, *others]), "evaluation.ensemble": 1}
        run = Run("omniglot", 5, 1, "maml++", protocol, variant=variant)
        runs.append(run._replace(fields=common | fields | tests))
    return runs


def resnet_12(protocol: str = "short") -> list[Run]:
    """The narrow ResNet-12 on mini-ImageNet 5-way 1-shot: 200 first-order steps of one task, to see its loss fall."""
    fields = {
        "model.name": "resnet12",
        "model.filters": 16,
        "task.query": 5,
        "train.tasks_per_step": 1,
        "train.epochs": 2,
        "train.steps_per_epoch": 100,
        "evaluation.tasks": 100,
        "evaluation.ensemble": 1,
    }
    return [
        Run("mini_imagenet", 5, 1, "fomaml", protocol, variant="narrow_resnet12", fields=fields)
    ]


def inner_rates(protocol: str = "short") -> list[Run]:
    """The inner rate that mini-ImageNet begins with, the paper's and the released code's, in 1,000 outer steps."""
    common = {
        "train.epochs": 5,
        "train.steps_per_epoch": 200,
        "train.first_order_epochs": 0,
        "train.multi_step_epochs": 1,
        "train.cosine_annealing": False,
        "evaluation.tasks": 200,
        "evaluation.ensemble": 1,
    }
    return [
        Run(
            "mini_imagenet",
            5,
            1,
            "maml++",
            protocol,
            variant=f"rate_{rate}",
            fields=common | {"inner.learning_rate": rate},
        )
        for rate in (0.01, 0.1)
    ]


def first(protocol: str = "short") -> list[Run]:
    """What can be run on two CPU cores, the most telling first."""
    _, *singly, _ = methods(protocol)
    return [
        Run("omniglot", 5, 1, "maml++", "released"),
        *(Run("omniglot", 5, 1, method, protocol) for method in ("maml++", "maml", *singly)),
        *figure_1(protocol),
        *(Run("omniglot", 20, 1, method, protocol) for method in ("maml++", "maml")),
        *(Run("omniglot", 5, 1, m, protocol, seed) for seed in (1, 2) for m in ("maml++", "maml")),
        Run("mini_imagenet", 5, 1, "maml++", protocol),
        *(Run("omniglot", 5, 5, method, protocol) for method in ("maml++", "maml")),
        Run("omniglot", 20, 1, "maml++", "released"),
    ]


LISTS: dict[str, Callable[[str], list[Run]]] = {
    "first": first,
    "table1": table_1,
    "table2": table_2,
    "table3": table_3,
    "table4": table_4,
    "components": components,
    "figure1": figure_1,
    "options": options,
    "tasknorm": task_norm,
    "sharedhead": shared_head,
    "resnet12": resnet_12,
    "running": running_statistics,
    "rates": inner_rates,
}


def load_runs(name: str, protocol: str, seeds: Sequence[int] = ()) -> list[Run]:
    """The runs of a list.

    Args:
        name: of `LISTS`, or a file.
        protocol: of the runs of `LISTS`; "" for the list's usual one.
        seeds: those to take; () for all.

    Raises:
        ConfigError: there is no such list or protocol, or a line of the file is no run.
        WorkdirError: the file cannot be read.
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
    defaults = {"way": 5, "shot": 1, "method": "maml++", "protocol": "paper", "seed": 0}
    if data == "mini_imagenet":
        defaults["steps"] = 5
    chosen: Any = parse_argument(argument, defaults)
    pairs = (word.split("=", 1) for word in fields)
    return Run(data, **chosen, variant=variant, fields=dict(pairs))
