"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that takes its place only when the block ends without an error.

    Args:
        path: the file; its folder must exist. An existing file is replaced.

    Yields:
        A binary file under a temporary name.

    Raises:
        OSError: the folder cannot be written.
    """
    # In the same folder, because os.replace is atomic within one file system only. The name is
    # unique, because several processes may fill a shared cache at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
