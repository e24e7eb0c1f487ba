"""Lines of CSV files; one that is missing or no CSV file is reported as a `DataError`."""

from __future__ import annotations

import csv
from pathlib import Path

from mamlpp_jax.errors import DataError


def read_csv(path: Path, prefix: str = "") -> list[list[str]]:
    """The cells of each line that is not empty; the message of an error begins with `prefix`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{prefix}{path} cannot be read as a CSV file ({error}).") from error
