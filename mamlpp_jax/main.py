"""``python -m mamlpp_jax.main``: trains, tests and describes runs; see `mamlpp_jax.cli.program`."""

import atexit
import contextlib
import importlib
import sys

from mamlpp_jax.training.preemption import leaving_at_once


def run(command: str) -> None:
    """Runs a command, a module of `mamlpp_jax.cli`; Ctrl-C ends it with one line and exit code 130.

    It is announced on a terminal that JAX is imported, which takes seconds.
    """
    stack = contextlib.ExitStack()
    atexit.register(stack.close)  # registered first, so the last of the exit handlers
    stack.enter_context(leaving_at_once())
    # Imported now that Ctrl-C is handled.
    from absl import logging

    from mamlpp_jax.utils.terminal import phase

    verbosity = logging.get_verbosity()
    if sys.stderr.isatty():
        logging.set_verbosity(logging.INFO)
    with phase("loading JAX and the program"):
        module = importlib.import_module(f"mamlpp_jax.cli.{command}")
    logging.set_verbosity(verbosity)
    module.main()


def main() -> None:
    """Entry point of `mamlpp`."""
    run("program")


if __name__ == "__main__":
    main()
