"""Draws the paper's tables and figures from what is kept of the runs.

    python -m experiments.paper.report [--results=experiments/results] [--output=runs/report]
    python -m experiments.paper.report --fill=README.md

Writes `report.md` with all tables, and the figures as PNG and SVG, to --output; prints the page. Equal results give
equal bytes. A cell without a run says so, and a shortened run is marked.

A page may hold tables of the report between two comments; a test compares those of README.md with the report. --fill
replaces what stands between them:

    <!-- report:table1 -->
    <!-- /report -->
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from absl import app, flags

from experiments.paper.comparisons import comparisons
from experiments.paper.figures import all_figures, save
from experiments.paper.tables import all_tables
from mamlpp_jax.cli.flags import fail
from mamlpp_jax.errors import MamlppError, WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors, write_atomically

# Table or figure by its name, in the order of the page.
_TITLES = {
    "table1": "Table 1: Omniglot 20-way",
    "table2": "Table 2: mini-ImageNet 5-way, by inner steps",
    "table3": "Table 3: time per outer step, mini-ImageNet 5-way 1-shot",
    "table4": "Table 4: Omniglot 5-way",
    "components": "The methods of Table 1 on Omniglot 5-way 1-shot",
    "methods": "The methods of Table 1 beside MAML on Omniglot 1-shot, by the short protocol",
    "figure1": "Figure 1: strided MAML against strided MAML++",
    "stability": "Stability: meta-gradient norm and diverged runs",
    "cost": "Cost to reach an accuracy",
    "options": "Options for more accuracy, MAML++ on Omniglot 1-shot by the short protocol",
    "brief": "Brief runs: statistics, a shared head, ResNet-12",
    "running": "Brief runs: normalising by running statistics",
    "rates": "Brief runs: the inner rate that mini-ImageNet begins with",
    "other": "Other runs",
}
_MARKED = re.compile(r"<!-- report:(\w+) -->\n((?:(?!<!-- report:).)*?)<!-- /report -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:report:.*?|/report) -->")


def write_report(results: pathlib.Path, output: pathlib.Path) -> str:
    """Writes the page and the figures, and returns the page.

    Args:
        results: the folder with a folder per run.
        output: made if need be.

    Raises:
        WorkdirError: a file cannot be read or written.
    """
    check_results(results)
    tables, figures = all_tables(results), all_figures(comparisons(results))
    with wrap_os_errors(output, "make"):
        output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        save(figure, output, name)
    parts = ["# The paper's tables and figures"]
    for name, title in _TITLES.items():
        parts += [f"## {title}"]
        parts += [f"![{title}]({name}.png)"] if name in figures else []
        parts += [tables[name]] if name in tables else []
    page = "\n\n".join(parts) + "\n"
    write_atomically(output / "report.md", page.encode())
    return page


def check_results(results: pathlib.Path) -> None:
    """Refuses a folder that is not there: its report would say that nothing has been run.

    Raises:
        WorkdirError: it is no folder.
    """
    if not results.is_dir():
        raise WorkdirError(f"--results is {results}, which is no folder; it must hold one per run.")


def fill(text: str, tables: Mapping[str, str]) -> str:
    """A page with the tables of the report between its markers; all else stays as it is.

    Args:
        text: the page.
        tables: see `all_tables`.

    Raises:
        WorkdirError: a marker names no table, or has no partner.
    """
    found = [name for name, _ in _MARKED.findall(text)]
    if unknown := [name for name in found if name not in tables]:
        raise WorkdirError(
            f"the marker report:{unknown[0]} names no table; there are {', '.join(tables)}."
        )
    if len(_MARKER.findall(text)) != 2 * len(found):
        raise WorkdirError(
            "a marker of the page has no partner: a line <!-- report:NAME --> and, below the table, a line "
            "<!-- /report --> belong together."
        )
    return _MARKED.sub(
        lambda m: f"<!-- report:{m[1]} -->\n\n{tables[m[1]]}\n\n<!-- /report -->", text
    )


def _define_flags() -> None:
    flags.DEFINE_string("results", "experiments/results", "Folder of what is kept of the runs.")
    flags.DEFINE_string("output", "runs/report", "Folder of the page and the figures.")
    flags.DEFINE_string("fill", "", "A page in which the tables between markers are replaced.")


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}.")
    try:
        results = pathlib.Path(flags.FLAGS.results)
        if not flags.FLAGS.fill:
            print(write_report(results, pathlib.Path(flags.FLAGS.output)), end="")
            return
        check_results(results)
        page = pathlib.Path(flags.FLAGS.fill)
        with wrap_os_errors(page, "read"):
            text = page.read_text(encoding="utf-8")
        write_atomically(page, fill(text, all_tables(results)).encode())
    except MamlppError as error:
        fail(str(error))


if __name__ == "__main__":
    _define_flags()
    app.run(_main)
