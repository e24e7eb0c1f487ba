"""``python -m mamlpp_jax.main``: trains, tests and describes runs; see `mamlpp_jax.cli.program`."""

import sys

from absl import logging

from mamlpp_jax.utils.terminal import phase


def main() -> None:
    """Entry point of `mamlpp`: announces on a terminal what takes seconds, importing JAX, before it begins."""
    if sys.stderr.isatty():
        logging.set_verbosity(logging.INFO)
    with phase("loading JAX and the program"):
        from mamlpp_jax.cli import program
    program.main()


if __name__ == "__main__":
    main()
