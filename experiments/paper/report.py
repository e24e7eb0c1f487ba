"""Draws the paper's tables and Figure 1 from the archived runs.

    python -m experiments.paper.report [--results=experiments/results] [--output=runs/report]
    python -m experiments.paper.report --fill=README.md     # and results.csv beside the archived runs

Writes `report.md` with all tables, `results.csv` with a row per evaluation, and the figure as PNG and SVG, to --output;
prints the page. Equal results give equal bytes. A cell without a run says so, and a shortened run is marked.

A page may hold tables of the report between two comments; a test compares those of README.md with the report. --fill
replaces what stands between them:

    <!-- report:table1 -->
    <!-- /report -->
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from absl import flags

from experiments.command_line import run_main
from experiments.paper.csv_rows import results_csv
from experiments.paper.figures import figure_1, save
from experiments.paper.tables import all_tables
from mamlpp_jax.errors import WorkdirError
from mamlpp_jax.utils.files import wrap_os_errors, write_atomically

# Titles of the tables, in the order of the page.
_TITLES = {
    "summary": "Published and measured",
    "table1": "Table 1: Omniglot 20-way",
    "table2": "Table 2: mini-ImageNet 5-way, by inner steps",
    "per_step": "mini-ImageNet: one model after each number of inner steps",
    "table4": "Table 4: Omniglot 5-way",
    "components": "The methods of Table 1 on Omniglot 5-way 1-shot",
    "methods": "The methods of Table 1 beside MAML on Omniglot 1-shot, by the short protocol",
    "options": "Options beyond the paper beside MAML++ on Omniglot 1-shot, by the short protocol",
    "figure1": "Figure 1: strided MAML against strided MAML++",
    "statistics": "Statistics in training and test",
    "other": "Other runs",
}
_MARKED = re.compile(r"<!-- report:(\w+) -->\n((?:(?!<!-- report:).)*?)<!-- /report -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:report:.*?|/report) -->")


def write_report(results: pathlib.Path, output: pathlib.Path) -> str:
    """Writes the page, the rows and the figure into a folder, made if need be, and returns the page."""
    tables, figure = all_tables(results), figure_1(results)
    with wrap_os_errors(output, "make"):
        output.mkdir(parents=True, exist_ok=True)
    save(figure, output, "figure1")
    parts = ["# The paper's tables and Figure 1"]
    for name, title in _TITLES.items():
        figures = [f"![{title}](figure1.png)"] if name == "figure1" else []
        parts += [f"## {title}", *figures, tables[name]]
    page = "\n\n".join(parts) + "\n"
    write_atomically(output / "report.md", page.encode())
    write_atomically(output / "results.csv", results_csv(results).encode())
    return page


def fill(text: str, tables: Mapping[str, str]) -> str:
    """Returns a page with the tables of the report between its markers; all else stays as it is.

    Raises:
        WorkdirError: a marker names no table, or has no partner.
    """
    names = [name for name, _ in _MARKED.findall(text)]
    if unknown := [name for name in names if name not in tables]:
        raise WorkdirError(
            f"the marker report:{unknown[0]} names no table; there are {', '.join(tables)}."
        )
    if len(_MARKER.findall(text)) != 2 * len(names):
        raise WorkdirError(
            "a marker of the page has no partner: a line <!-- report:NAME --> and, below the table, a line "
            "<!-- /report --> belong together."
        )
    return _MARKED.sub(
        lambda m: f"<!-- report:{m[1]} -->\n\n{tables[m[1]]}\n\n<!-- /report -->", text
    )


def _define_flags() -> None:
    flags.DEFINE_string("results", "experiments/results", "Folder of the archived runs.")
    flags.DEFINE_string("output", "runs/report", "Folder of the page and the figure.")
    flags.DEFINE_string("fill", "", "A page in which the tables between markers are replaced.")


def _main() -> None:
    results = pathlib.Path(flags.FLAGS.results)
    if not flags.FLAGS.fill:
        print(write_report(results, pathlib.Path(flags.FLAGS.output)), end="")
        return
    page = pathlib.Path(flags.FLAGS.fill)
    with wrap_os_errors(page, "read"):
        text = page.read_text(encoding="utf-8")
    write_atomically(page, fill(text, all_tables(results)).encode())
    write_atomically(results / "results.csv", results_csv(results).encode())


if __name__ == "__main__":
    _define_flags()
    run_main(_main)
