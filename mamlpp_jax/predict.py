"""``python -m mamlpp_jax.predict``: see `mamlpp_jax.cli.predict`."""

from mamlpp_jax.cli.predict import main

if __name__ == "__main__":
    main()
