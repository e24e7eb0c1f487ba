"""The command lines, run in this process up to the point where a run would begin to compile."""

import contextlib
import dataclasses
import importlib
import io
import sys
import warnings

import pytest
from absl import app, flags
from absl.testing import flagsaver

from mamlpp_jax import FewShotClassifier
from mamlpp_jax.cli import commands
from mamlpp_jax.distributed import processes
from mamlpp_jax.training import final_evaluation


def _import_command(name):
    """The module of a command, and its flags, which are taken away: another command has some of the same names."""
    module = importlib.import_module(f"mamlpp_jax.cli.{name}")
    own = {flag.name: flag for flag in flags.FLAGS.flags_by_module_dict().get(module.__name__, ())}
    flags.FLAGS.remove_flag_values(own)
    return module, own


program, _PROGRAM_FLAGS = _import_command("program")
data, _DATA_FLAGS = _import_command("data")
predict, _PREDICT_FLAGS = _import_command("predict")
_COMMANDS = {
    "main": (program, _PROGRAM_FLAGS),
    "data": (data, _DATA_FLAGS),
    "predict": (predict, _PREDICT_FLAGS),
}


# The first call of each command that compiles.
_FIRST_COMPILED = (
    (commands, "train_loop"),
    (commands, "describe"),
    (final_evaluation, "run_test"),
    (data, "draw_contact_sheet"),
    (FewShotClassifier, "predict_proba"),
)


class _CompilesError(BaseException):
    """The command line is valid: it would compile now. Not an Exception, which a command might report."""


@dataclasses.dataclass(frozen=True)
class Done:
    """The outcome of a command.

    Attributes:
        code: its exit code; None where it went on to compile.
        out: its standard output.
        err: its standard error, the log aside.
    """

    code: int | None
    out: str
    err: str

    @property
    def paragraph(self):
        """The error, which is the last line and nothing after it; "" where there is none."""
        *_, last = self.err.splitlines() or [""]
        return last.removeprefix("error: ") if last.startswith("error: ") else ""


def _compiles(*_, **__):
    raise _CompilesError


def _leave(code):
    raise SystemExit(code)


@contextlib.contextmanager
def _with_flags(own):
    """The flags of one command are defined inside, in the place of others of the same names, and unset again."""
    others = {name: flags.FLAGS[name] for name in own if name in flags.FLAGS}
    flags.FLAGS.remove_flag_values(others)
    for name, flag in own.items():
        flags.FLAGS[name] = flag
    try:
        with flagsaver.flagsaver():
            yield
    finally:
        flags.FLAGS.remove_flag_values(own)
        for name, flag in others.items():
            flags.FLAGS[name] = flag


@contextlib.contextmanager
def _in_process(argv, dataset):
    """Spares this process: no device is set up, nothing compiled, nothing ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        patch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(argv)))
        patch.setattr(processes, "hard_exit", _leave)
        patch.setattr(program, "_set_up_jax", lambda *_: None)
        patch.setattr(predict, "set_up_compilation", lambda *_: None)
        patch.setattr(predict, "quiet_libraries", lambda: None)
        for module in (program, data):
            patch.setattr(module, "set_up_log", lambda: None)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        for owner, name in _FIRST_COMPILED:
            patch.setattr(owner, name, _compiles)
        for owner in () if dataset is None else (commands, data):
            patch.setattr(owner, "load_dataset", lambda _: dataset)
        yield


def run(command, *arguments, dataset=None):
    """Runs a command up to the point where it would begin to compile.

    Args:
        command: "main", "data" or "predict".
        *arguments: its command line.
        dataset: what is found in the place of any data set; None for the configured one.
    """
    module, own_flags = _COMMANDS[command]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        _with_flags(own_flags),
        _in_process([command, *map(str, arguments)], dataset),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            module.main()
        except SystemExit as left:
            code = left.code or 0
        except _CompilesError:
            code = None
    return Done(code, out.getvalue(), err.getvalue())
