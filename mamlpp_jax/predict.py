"""``python -m mamlpp_jax.predict``: see `mamlpp_jax.cli.predict`."""

from mamlpp_jax.main import run


def main() -> None:
    """Entry point of `mamlpp-predict`."""
    run("predict")


if __name__ == "__main__":
    main()
