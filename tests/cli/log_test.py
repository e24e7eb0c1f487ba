"""What reaches the log of a command."""

import logging as std_logging
import re

import pytest
from absl import logging

from mamlpp_jax.cli.log import set_up_log


@pytest.fixture
def set_up():
    """The log of a command, as it was before afterwards."""
    logger, verbosity = logging.get_absl_logger(), logging.get_verbosity()
    names = ("jax._src.xla_bridge", "matplotlib")
    handler = logging.get_absl_handler()
    formatter = handler.python_handler.formatter
    before, levels = list(logger.filters), [std_logging.getLogger(name).level for name in names]
    set_up_log()
    yield
    logger.filters[:] = before
    handler.setFormatter(formatter)
    logging.set_verbosity(verbosity)
    for name, level in zip(names, levels, strict=True):
        std_logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("set_up")
def test_a_warning_appears_once_and_information_each_time(caplog):
    for _ in range(2):
        logging.warning("%d entries are not used", 3)
        logging.info("step %d", 3)
    logging.warning("%d entries are not used", 4)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("3 entries are not used") == 1
    assert messages.count("4 entries are not used") == 1
    assert messages.count("step 3") == 2


@pytest.mark.usefixtures("set_up")
def test_other_libraries_tell_no_information(caplog):
    std_logging.getLogger("jax._src.xla_bridge").info("no TPU here")
    std_logging.getLogger("matplotlib.font_manager").info("generated new fontManager")
    assert not caplog.records


@pytest.mark.usefixtures("set_up")
def test_a_line_has_its_time_and_warnings_say_so():
    formatter = logging.get_absl_handler().python_handler.formatter
    for level, expected in ((std_logging.INFO, "a 1 %"), (std_logging.WARNING, "warning: a 1 %")):
        record = std_logging.LogRecord("absl", level, "file.py", 1, "a %d %%", (1,), None)
        assert re.fullmatch(rf"\d\d:\d\d:\d\d {expected}", formatter.format(record))
