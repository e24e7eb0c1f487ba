"""The files of a run: written into its working directory, and read back from it."""
