"""Downloads of files with a known checksum."""

from __future__ import annotations

from pathlib import Path

from mamlpp_jax.errors import DataError

_TIMEOUT_SECONDS = 30  # without data from the server; a whole download may take longer


def download(url: str, path: Path, sha256: str, advice: str) -> None:
    """Downloads a file, unless it is there already with the right contents, and makes missing folders.

    The file appears complete and verified, or a `DataError` ends with `advice`, a sentence on getting it otherwise.
    """
    try:
        import pooch

        downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS, chunk_size=1 << 20)
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=downloader)
    except (ImportError, OSError, ValueError) as error:  # ValueError: another checksum
        reason = str(error).rstrip(".")
        raise DataError(f"Cannot download {url} to {path}: {reason}. {advice}") from error
