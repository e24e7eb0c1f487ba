"""The log of the commands, and where they store what they compile."""

from __future__ import annotations

import importlib.util
import logging as std_logging
import os

import jax
from absl import logging

from mamlpp_jax.data.cache import cache_folder
from mamlpp_jax.utils.terminal import log_above_displays

_AT_LENGTH = ("jax._src.xla_bridge", "matplotlib")  # of a missing TPU, of fonts


def set_up_log() -> None:
    """Shows information, above any live display, and every warning once; of other libraries no more than warnings."""
    logging.set_verbosity(logging.INFO)
    log_above_displays()
    logging.get_absl_handler().setFormatter(_Formatter())
    logging.get_absl_logger().addFilter(_Once())
    quiet_libraries()


def quiet_libraries() -> None:
    """Leaves the long messages of other libraries out of the log."""
    for name in _AT_LENGTH:
        std_logging.getLogger(name).setLevel(std_logging.WARNING)


def set_up_compilation(cache_dir: str = "") -> None:
    """Stores compiled functions for later processes in the cache folder or in JAX_COMPILATION_CACHE_DIR."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        compiled = cache_folder(cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled))


def compile_quickly() -> None:
    """Compiles for a CPU without optimisations, in half the time; to be called before JAX looks for devices."""
    if importlib.util.find_spec("jax_plugins") is None:  # No accelerator is installed.
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {given}".rstrip()


class _Formatter(std_logging.Formatter):
    """Writes the time and the message, and of a warning that it is one."""

    def __init__(self) -> None:
        super().__init__(datefmt="%H:%M:%S")

    def formatMessage(self, record: std_logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= std_logging.WARNING else ""
        return f"{self.formatTime(record, self.datefmt)} {level}{record.message}"


class _Once(std_logging.Filter):
    """Leaves out warnings that were logged before: a folder is looked through, a checkpoint checked, more than once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: std_logging.LogRecord) -> bool:
        if record.levelno != std_logging.WARNING:
            return True
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new
