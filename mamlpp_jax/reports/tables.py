"""Tables for the terminal and for Markdown: words to the left, numbers to the right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

Rows = Sequence[Mapping[str, Any]]  # cells by column; a column is missing where a row lacks it

_NUMBER = re.compile(r"|(nan|[\d.,]+)( ± .*)?")


def text_table(rows: Rows) -> str:
    """Aligned columns for the terminal; a header of two words stands on two lines."""
    wrapped = [{name.replace(" ", "\n"): cell for name, cell in row.items()} for row in rows]
    return _table(wrapped, "simple")


def markdown_table(rows: Rows) -> str:
    """A Markdown table, aligned also as text."""
    escaped = [
        {name: str(cell).replace("|", "\\|").replace("\n", " ") for name, cell in row.items()}
        for row in rows
    ]
    return _table(escaped, "pipe")


def _table(rows: Rows, tablefmt: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    align = [
        "right" if all(map(_NUMBER.fullmatch, column)) else "left"
        for column in zip(*cells, strict=True)
    ]
    return tabulate(cells, names, tablefmt, disable_numparse=True, colalign=align)
