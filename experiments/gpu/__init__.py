"""The GPU report: checks, benchmark and the paper's experiment, in pieces of a few minutes that resume."""
