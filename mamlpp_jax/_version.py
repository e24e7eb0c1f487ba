"""The version, in the one place that the library and `setup.py` read."""

__version__ = "0.1.0"
