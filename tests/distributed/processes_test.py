"""Joining, agreeing and leaving: one process alone, and two on loopback."""

import sys

import pytest

from mamlpp_jax.distributed import processes
from mamlpp_jax.distributed.processes import Group
from mamlpp_jax.errors import ConfigError
from tests.helpers.process_groups import codes, free_port, logs, started


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (Group(num_processes=2, process_id=0), "--coordinator_address missing"),
        (Group(coordinator_address="a:1"), "--num_processes, --process_id missing"),
        (Group(False, "node1", 2, 0), "--coordinator_address is 'node1'"),
        (Group(False, "a:b:1", 2, 0), "must be HOST:PORT"),
        (Group(False, "node1:12345", 0, 0), "--num_processes is 0"),
        (Group(False, "node1:12345", 2, 2), r"--process_id is 2; .* less 1 \(1\)"),
        (Group(False, "node1:12345", 2, -1), "--process_id is -1"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(group, said):
    with pytest.raises(ConfigError, match=said):
        processes.check_group(group)


@pytest.mark.parametrize(
    "group",
    [
        Group(),
        Group(detect=True),
        Group(True, "node1:12345"),
        Group(False, "[::1]:12345", 4, 3),
        Group(False, "node-1.cluster:1", 1, 0),
    ],
)
def test_flags_that_fit_together(group):
    processes.check_group(group)


def test_one_process_agrees_with_itself():
    assert processes.join(Group()) == 1
    assert not processes.joined()
    assert processes.is_first()
    assert processes.process_prefix() == ""
    assert processes.any_process(True)
    assert not processes.any_process(False)
    processes.check_same("anything", [b"x"], "hint")
    with processes.first_then_others("here"):
        processes.leave()


@pytest.mark.parametrize(
    ("address", "sharing"),
    [("127.0.0.1:9", 4), ("localhost:9", 4), ("[::1]:9", 4), ("10.0.0.1:9", 1), (None, 1)],
)
def test_only_processes_on_a_loopback_address_are_known_to_share_a_host(address, sharing):
    assert processes.sharing_host(Group(coordinator_address=address), 4) == sharing


HELPERS = """
import sys
import jax
import numpy as np
from mamlpp_jax.distributed import mesh as mesh_lib
from mamlpp_jax.distributed import processes
from mamlpp_jax.errors import ConfigError

rank, folder = int(sys.argv[2]), sys.argv[3]
assert processes.join(processes.Group(False, sys.argv[1], 2, rank)) == 2
jax.config.update("jax_num_cpu_devices", mesh_lib.cpu_devices(8, 4, 2, 1))
assert processes.is_first() == (rank == 0)
assert processes.process_prefix() == f"process {rank} of 2: "
private, sys.modules["jax._src.distributed"] = sys.modules["jax._src.distributed"], None
assert processes.process_prefix() == f"process {rank} of 2: "  # by public names alone
sys.modules["jax._src.distributed"] = private

with processes.first_then_others("file"):
    with open(folder + "/order", "a") as file:
        file.write(f"{rank} ")

assert processes.any_process(rank == 1)
assert not processes.any_process(False)
processes.check_same("the same", [b"abc"], "")
try:
    processes.check_same("the key", [b"%d" % rank], "Look at it.")
except ConfigError as error:
    assert "the key of process(es) 1 differs" in str(error), error
else:
    raise AssertionError

mesh = mesh_lib.make_mesh(8)
assert [d.process_index for d in mesh.devices] == [0, 0, 1, 1]
values = np.arange(24).reshape(8, 3)
sharded = mesh_lib.shard_tasks({"a": values}, mesh)
assert not sharded["a"].is_fully_addressable
np.testing.assert_array_equal(mesh_lib.gather_to_host(sharded)["a"], values)
key = jax.random.key(3, impl="threefry2x32")
everywhere = mesh_lib.replicate({"a": values, "key": key}, mesh)
assert mesh_lib.replicate(everywhere, mesh)["a"] is everywhere["a"]
np.testing.assert_array_equal(mesh_lib.gather_to_host(everywhere["a"]), values)
assert (jax.random.bits(everywhere["key"].addressable_data(0)) == jax.random.bits(key)).all()
processes.leave()
assert not processes.joined()
"""


def test_two_processes_agree_place_and_fetch(tmp_path):
    script = tmp_path / "helpers.py"
    script.write_text(HELPERS)
    address = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, script, address, rank, tmp_path] for rank in range(2)]
    with started(commands, tmp_path) as running:
        assert codes(running, 120) == [0, 0], logs(tmp_path)
    assert (tmp_path / "order").read_text() == "0 1 "
