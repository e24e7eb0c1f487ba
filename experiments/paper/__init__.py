"""The paper's tables and figures: the runs as data, a sweep that makes them, a report that draws them."""
