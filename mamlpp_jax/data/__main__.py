"""``python -m mamlpp_jax.data``: see `mamlpp_jax.cli.data`."""

from mamlpp_jax.main import run


def main() -> None:
    """Entry point of `mamlpp-data`."""
    run("data")


if __name__ == "__main__":
    main()
