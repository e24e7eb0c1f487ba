"""Compiling for a GPU that is not there, and a day on one that is."""
