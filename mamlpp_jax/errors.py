"""The errors this project raises for bad input.

Every message is one paragraph that names the field or file, says what was wrong with it and what is
allowed. The command line prints the message alone; a traceback means a bug in the project.
"""

from __future__ import annotations

from collections.abc import Iterable


class MamlppError(ValueError):
    """Base of every error caused by what the user asked for or supplied."""

    def __init__(self, message: str = "") -> None:
        """Puts the message on one line, whatever a file's contents or a library's error in it has."""
        super().__init__(" ".join(message.splitlines()))


class ConfigError(MamlppError):
    """A configuration field, flag or combination of them is not usable."""


class DataError(MamlppError):
    """A data set, archive, cache file or image is missing, broken or too small."""


class WorkdirError(MamlppError):
    """A working directory belongs to another run, or cannot be read or written."""


class ModelError(MamlppError):
    """A trained model cannot be found, or its files are damaged, foreign or of a newer version."""


class NotFittedError(MamlppError, AttributeError):
    """A classifier was used before it had learned any classes."""


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names joined by commas; of many, the first."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
