"""``python -m mamlpp_jax.data``: see `mamlpp_jax.cli.data`."""

from mamlpp_jax.cli.data import main

if __name__ == "__main__":
    main()
