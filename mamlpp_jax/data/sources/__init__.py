"""Where data sets come from: one module per source."""
