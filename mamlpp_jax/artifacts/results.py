"""The rows of `results.json`: the conditions and the outcome of each test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# The outcome of a test, and its epochs, which change when a checkpoint is lost; all else are its conditions.
_MEASURED = (
    *("accuracy", "ci95", "loss", "accuracy_per_step"),
    *("epochs", "classes", "images", "ci95_by_class"),
)
_OPTIONAL: dict[str, Any] = {
    "data": "",
    "rotated": "",
    "epochs": [],
    "classes": 0,
    "images": 0,
    "ci95_by_class": 0.0,
}
_OF_TASKS = ("data", "rotated", "way", "shot", "query", "tasks")
_TYPES: dict[str, Any] = {"str": str, "int": int, "float": (int, float)}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One test of one model under one choice of statistics."""

    model: str  # "ensemble" or "best"
    train_statistics: str  # statistics that normalised in training
    eval_statistics: str  # statistics that normalised in the test
    way: int  # classes of a task
    shot: int  # support images per class
    query: int  # query images per class
    inner_steps: int  # S
    tasks: int  # number of tested tasks
    accuracy: float  # value after the last inner step, mean over tasks, a fraction
    ci95: float  # half-width of its 95 % interval over tasks
    loss: float  # mean cross-entropy after the last inner step; null in the file where it is NaN
    accuracy_per_step: list[float]  # [S + 1], after 0..S inner steps
    data: str = ""  # name of another data set that was tested on; "" for the run's own
    # "yes" or "no", whether rotations of test classes were classes; "" where it is as in the run's configuration.
    rotated: str = ""
    # Tested epochs, from 0, best first; [] in results of versions that did not write it.
    epochs: list[int] = dataclasses.field(default_factory=list)
    classes: int = 0
    images: int = 0
    ci95_by_class: float = 0.0

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything but the outcome; two results of the same conditions are the same test."""
        values = dataclasses.asdict(self)
        if not self.rotated:
            del values["rotated"]
        return {k: v for k, v in values.items() if k not in _MEASURED}

    @property
    def key(self) -> str:
        """The conditions as a text that names the test among those of its run."""
        return ",".join(f"{name}={value}" for name, value in self.conditions.items())

    @property
    def task_key(self) -> str:
        """The conditions that choose the tasks."""
        values = self.conditions
        return ",".join(f"{name}={values[name]}" for name in _OF_TASKS if name in values)

    def to_row(self) -> dict[str, Any]:
        """The row of `results.json`; "data" is there for other data only."""
        row = dataclasses.asdict(self)
        return {k: v for k, v in row.items() if v or k not in _OPTIONAL}

    @classmethod
    def from_row(cls, row: Any) -> Evaluation:
        """Reads a row of `results.json`; a ValueError says which value is not one that `to_row` writes."""
        if not isinstance(row, dict):
            raise ValueError('"test" is not a list of objects')
        values = {**_OPTIONAL, **row}
        if values.get("loss", 0) is None:
            values["loss"] = math.nan
        types = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        for name, annotation in types.items():
            if not _fits(values.get(name), annotation):
                raise ValueError(f'a row of "test" has {name}={values.get(name)!r}')
        return cls(**{name: values[name] for name in types})


def _fits(value: Any, annotation: str) -> bool:
    if annotation.startswith("list["):
        entry = annotation[len("list[") : -1]
        return isinstance(value, list) and all(_fits(member, entry) for member in value)
    return isinstance(value, _TYPES[annotation])


def to_json(results: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `results.json` with its tests as rows."""
    return {**results, "test": [test.to_row() for test in results["test"]]}
