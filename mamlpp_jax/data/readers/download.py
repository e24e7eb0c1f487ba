"""Downloading of a file that is known by its checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.request
from pathlib import Path
from typing import BinaryIO

from absl import logging

from mamlpp_jax.errors import DataError
from mamlpp_jax.utils.files import replacing

_TIMEOUT_SECONDS = 30.0  # without an answer; a slow download may take longer


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, path: Path, sha256: str, otherwise: str) -> None:
    """Downloads a file, unless it is already there with the right contents.

    Args:
        url: where from.
        path: where to; missing folders are made. It appears complete and verified, or not at all.
        sha256: the expected SHA-256, hexadecimal.
        otherwise: one sentence for the error message: what to do without a download.

    Raises:
        DataError: the download failed or its contents are not the expected ones.
    """
    if path.is_file() and sha256_of(path) == sha256:
        return
    logging.info("Downloading %s to %s.", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            _copy(url, file, sha256)
    except _Mismatch as error:
        raise DataError(f"Download of {url} {error}. {otherwise}") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"Cannot download {url} to {path}: {error}. {otherwise}") from error


class _Mismatch(Exception):
    """The contents differ from the expected ones."""


def _copy(url: str, file: BinaryIO, sha256: str) -> None:
    """Writes what a URL answers to an open file and compares the checksum."""
    digest = hashlib.sha256()
    with contextlib.closing(urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)) as response:
        while block := response.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        raise _Mismatch(
            f"has the SHA-256 {digest.hexdigest()} instead of {sha256}: the file on the server "
            "changed, or was damaged or cut short on the way"
        )
