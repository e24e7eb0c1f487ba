"""The paper's tables and figures as runnable scripts, and the benchmark."""
