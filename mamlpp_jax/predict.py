"""``python -m mamlpp_jax.predict``: see `mamlpp_jax.cli.predict`."""

import gc

from mamlpp_jax.main import run


def main() -> None:
    """Entry point of `mamlpp-predict`."""
    gc.disable()  # It would take a tenth of a process that ends in seconds.
    run("predict")


if __name__ == "__main__":
    main()
