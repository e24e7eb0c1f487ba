"""What a run was tested under and how well it did: the rows of `results.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# What a test found, and of which epochs, which change when a checkpoint is lost; all else are its conditions.
_MEASURED = ("accuracy", "ci95", "loss", "accuracy_per_step", "epochs")
_OPTIONAL: dict[str, Any] = {"data": "", "epochs": []}


@dataclasses.dataclass(frozen=True)
class TestResult:
    """One test of one model under one choice of statistics.

    Attributes:
        model: "ensemble" or "best".
        train_statistics: which statistics normalised in training.
        eval_statistics: which normalised in the test.
        way: classes of a task.
        shot: support images per class.
        query: query images per class.
        inner_steps: S.
        tasks: how many were tested.
        accuracy: after the last inner step, mean over tasks, a fraction.
        ci95: half-width of its 95 % interval over tasks.
        loss: mean cross-entropy after the last inner step; one that is not finite is null in the file, and NaN
            when it is read.
        accuracy_per_step: [S + 1], after 0..S inner steps.
        data: the other data set that was tested on; "" for the run's own.
        epochs: that were tested, from 0, best first; [] in results of versions that did not write it.
    """

    __test__ = False  # for pytest: no test case, whatever its name begins with

    model: str
    train_statistics: str
    eval_statistics: str
    way: int
    shot: int
    query: int
    inner_steps: int
    tasks: int
    accuracy: float
    ci95: float
    loss: float
    accuracy_per_step: list[float]
    data: str = ""
    epochs: list[int] = dataclasses.field(default_factory=list)

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything but what was measured; two results of the same conditions are the same test."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _MEASURED}

    @property
    def key(self) -> str:
        """The conditions as a text that names the test among those of its run."""
        return ",".join(f"{name}={value}" for name, value in self.conditions.items())

    def to_row(self) -> dict[str, Any]:
        """The row of `results.json`; "data" is there for other data only."""
        row = dataclasses.asdict(self)
        return {k: v for k, v in row.items() if v or k not in _OPTIONAL}

    @classmethod
    def from_row(cls, row: Any) -> TestResult:
        """Reads a row of `results.json`.

        Raises:
            ValueError: it is not what `to_row` writes; says which value is wrong.
        """
        if not isinstance(row, dict):
            raise ValueError('"test" is not a list of objects')
        values = {**_OPTIONAL, **row}
        if values.get("loss", 0) is None:
            values["loss"] = math.nan
        kinds: dict[str, Any] = {
            "str": str,
            "int": int,
            "float": (int, float),
            "list[float]": list,
            "list[int]": list,
        }
        for field in dataclasses.fields(cls):
            value, kind = values.get(field.name), kinds[str(field.type)]
            if not isinstance(value, kind):
                raise ValueError(f'a row of "test" has {field.name}={value!r}')
        for name, kind in (("accuracy_per_step", (int, float)), ("epochs", int)):
            if not all(isinstance(value, kind) for value in values[name]):
                raise ValueError(f'a row of "test" has {name}={values[name]!r}')
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def to_json(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `results.json` with its tests as rows."""
    return {**results, "test": [test.to_row() for test in results["test"]]}
