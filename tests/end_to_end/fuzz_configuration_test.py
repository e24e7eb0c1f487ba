"""Whatever configuration is given, it is taken or refused in one paragraph; see `helpers/fuzzing`."""

import copy
import importlib
import json
import pathlib

from hypothesis import strategies as st

from mamlpp_jax import config as config_lib
from mamlpp_jax.artifacts.workdir import Workdir
from tests.helpers.fuzzing import JSON, TEXTS, cases, damaged, fuzz, sandbox

__all__ = ["sandbox"]  # a fixture

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
FIELDS = dict(config_lib.flatten(config_lib.default_config()))


def use(config):
    """What is done first with a configuration that was found valid."""
    config_lib.validate(config)
    config_lib.config_hash(config)
    config_lib.data_label(config)
    Workdir.default(config)
    json.dumps(config.to_dict())
    assert {type(value) for _, value in config_lib.flatten(config)} <= {bool, int, float, str}


@cases()
def test_arguments_of_configuration_files(count, sandbox):
    names = st.sampled_from(["way", "shot", "query", "steps", "method", "seed", "sede", ""])
    pairs = st.lists(st.tuples(names, TEXTS).map("=".join), max_size=4).map(",".join)
    files = st.sampled_from(sorted(path.stem for path in CONFIGS.glob("[a-z]*.py")))

    def check(case):
        name, argument = case
        with sandbox.reads():
            use(importlib.import_module(f"configs.{name}").get_config(argument))

    fuzz(sandbox, count, st.tuples(files, st.one_of(st.none(), TEXTS, pairs)), check)


def with_changes(changes):
    """The default configuration with some values replaced, some fields removed, some put in."""
    stored = config_lib.default_config().to_dict()
    for action, name, value in changes:
        *parents, last = name.split(".")
        place = stored
        for parent in parents:
            place = place.get(parent)
            if not isinstance(place, dict):
                break
        else:
            if action == "remove":
                place.pop(last, None)
            else:
                place[last] = value
    return stored


STORED = st.one_of(
    JSON,
    st.lists(
        st.tuples(
            st.sampled_from(["set", "set", "set", "remove"]),
            st.one_of(
                st.sampled_from(sorted(FIELDS)),
                st.sampled_from(
                    ["data", "train", "items", "data.values", "_fields", "is_locked", "x"]
                ),
                TEXTS,
            ),
            JSON,
        ),
        max_size=3,
    ).map(with_changes),
)


@cases()
def test_stored_configurations(count, sandbox):
    workdir = Workdir(sandbox.inside)
    path = workdir.config_file
    ours = config_lib.default_config()

    def check(stored):
        path.write_text(json.dumps(stored))
        with sandbox.reads(path):
            use(workdir.config())
        with sandbox.reads(sandbox.inside):
            workdir.check_owner(ours)
        if isinstance(stored, dict):
            before = copy.deepcopy(stored)
            with sandbox.reads():
                use(config_lib.from_dict(stored))
            assert repr(stored) == repr(before)

    fuzz(sandbox, count, STORED, check)


@cases()
def test_files_of_stored_configurations(count, sandbox):
    workdir = Workdir(sandbox.inside)
    path = workdir.config_file
    sound = json.dumps(config_lib.default_config().to_dict(), indent=2).encode()
    deep = [b"[" * 10_000, *(b'{"a":' * n + b"1" + b"}" * n for n in (4000, 900))]
    contents = st.one_of(
        damaged([sound]), damaged([sound]), st.binary(max_size=40), st.sampled_from(deep)
    )

    def check(content):
        path.write_bytes(content)
        with sandbox.reads(path):
            use(workdir.config())
        with sandbox.reads(sandbox.inside):
            workdir.check_owner(config_lib.default_config())

    fuzz(sandbox, count, contents, check)
