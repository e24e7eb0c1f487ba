"""``python -m mamlpp_jax.main``: trains, tests and describes runs; see `mamlpp_jax.cli.program`."""

import atexit
import contextlib
import sys

from mamlpp_jax.training.preemption import leaving_at_once


def main() -> None:
    """Entry point of `mamlpp`: announces on a terminal that JAX is imported, which takes seconds."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)  # registered first, so the last of the exit handlers
    stack.enter_context(leaving_at_once())
    # Imported now that Ctrl-C is handled.
    from absl import logging

    from mamlpp_jax.utils.terminal import phase

    if sys.stderr.isatty():
        logging.set_verbosity(logging.INFO)
    with phase("loading JAX and the program"):
        from mamlpp_jax.cli import program
    program.main()


if __name__ == "__main__":
    main()
