"""``python -m mamlpp_jax.main``: trains, tests and describes runs; see `mamlpp_jax.cli.program`."""

from mamlpp_jax.cli.program import main

if __name__ == "__main__":
    main()
