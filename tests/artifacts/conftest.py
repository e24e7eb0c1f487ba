"""What the tests of a run's reports share."""

import logging

import pytest
from absl import logging as absl_logging


@pytest.fixture
def log_lines(caplog):
    """Gives the messages logged so far."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    logger = absl_logging.get_absl_logger()
    propagate, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO, logger="absl"):
        yield lambda: caplog.messages
    logger.propagate = propagate
    absl_logging.set_verbosity(before)
