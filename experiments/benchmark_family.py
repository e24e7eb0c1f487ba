"""Rows beyond the paper: ANIL beside MAML, and ResNet-12."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmark_rows import (
    CASES,
    Case,
    Compiled,
    Row,
    compiled_row,
    ours,
    set_times,
    time_call,
)

_TURNS = 10


def anil(cases: list[Case], machine: Any) -> Iterator[Row]:
    """The outer steps of MAML and ANIL, in turns."""
    del machine
    for case in cases[:1]:
        yield from _in_turns([compiled_row("anil", case, name, 2) for name in ("maml", "anil")])


def _in_turns(prepared: list[tuple[Row, Compiled]]) -> list[Row]:
    """Times several programs in turns, so that their ratios hold on a machine that others use too."""
    times: list[list[float]] = [[] for _ in prepared]
    for turn in range(_TURNS + 1):
        for found, (_, step) in zip(times, prepared, strict=True):
            elapsed = time_call(step.call)
            if turn:  # the first warms up
                found.append(elapsed)
    for found, (row, _) in zip(times, prepared, strict=True):
        set_times(row, found)
    return [row for row, _ in prepared]


def resnet12(cases: list[Case], machine: Any) -> Iterator[Row]:
    """Its narrow and its customary form, first order, on a task of images of 84 pixels with 5 queries per class."""
    del cases, machine
    case = dataclasses.replace(
        CASES["mini_imagenet_5w1s"], name="mini_imagenet_5w1s5q", query=5, tasks=1
    )
    for filters in (16, 64):
        this = dataclasses.replace(case, filters=filters)
        note = f"resnet12, {filters} filters in the first block"
        yield ours("resnet12", this, method="maml", order=1, note=note, model__name="resnet12")
