"""Tasks on which methods are compared over training: in the stability and cost tables and in the figures."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from experiments.paper.kept_runs import KeptRun, load_all
from experiments.paper.runs import METHODS, SEEDS, Run, figure_1, methods


class Comparison(NamedTuple):
    """Methods on one task by one protocol.

    Attributes:
        title: of the task.
        protocol: of the runs.
        kept: by method, what there is of its runs.
        planned: by method, how many runs there could be.
    """

    title: str
    protocol: str
    kept: dict[str, list[KeptRun]]
    planned: dict[str, int]

    @property
    def methods(self) -> list[str]:
        """In the order of Table 1."""
        return list(self.planned)


def comparisons(results: pathlib.Path) -> list[Comparison]:
    """Omniglot 1-shot: the strided network of Figure 1, 5-way and 20-way.

    The short protocol is always listed, others where there are runs.

    Raises:
        WorkdirError: a file of a run cannot be read or is not what `keep` writes.
    """
    found = [_compare("Figure 1: 5-way 1-shot, strided", "short", figure_1(), results)]
    for way in (5, 20):
        for protocol in ("short", "released", "paper"):
            runs = [
                Run("omniglot", way, 1, m, protocol, seed)
                for m in methods(protocol)
                for seed in SEEDS
            ]
            compared = _compare(f"Omniglot {way}-way 1-shot", protocol, runs, results)
            found += [compared] if any(compared.kept.values()) or protocol == "short" else []
    return found


def _compare(title: str, protocol: str, runs: list[Run], results: pathlib.Path) -> Comparison:
    found = [method for method in METHODS if any(run.method == method for run in runs)]
    planned = {method: [run for run in runs if run.method == method] for method in found}
    return Comparison(
        title,
        protocol,
        {method: load_all(results, same) for method, same in planned.items()},
        {method: len(same) for method, same in planned.items()},
    )
