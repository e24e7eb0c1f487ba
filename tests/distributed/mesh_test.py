"""The devices of a run: how many of each process, and which."""

import jax
import pytest

from mamlpp_jax.distributed import mesh
from mamlpp_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("tasks", "devices", "count", "cores", "expected"),
    [(8, 0, 1, 6, 4), (8, 0, 2, 6, 4), (8, 0, 2, 3, 2), (6, 0, 2, 2, 1), (8, 4, 2, 1, 2)],
)
def test_devices_of_each_process(tasks, devices, count, cores, expected):
    assert mesh.cpu_devices(tasks, devices, count, cores) == expected


@pytest.mark.parametrize(
    ("tasks", "devices", "said"),
    [
        (8, 0, "train.tasks_per_step is 8, .* over 3 processes"),
        (6, 2, "compute.devices is 2, .* multiple of 3"),
    ],
)
def test_what_does_not_divide_over_processes_is_refused(tasks, devices, said):
    with pytest.raises(ConfigError, match=said):
        mesh.cpu_devices(tasks, devices, 3, cores=4)


class _Device:
    def __init__(self, number, process_index):
        self.id, self.process_index, self.platform = number, process_index, "fake"


@pytest.mark.parametrize(
    ("owners", "tasks", "devices", "chosen"),
    [
        ([0, 0, 1, 1], 8, 0, [0, 1, 2, 3]),
        ([0, 1, 0, 1], 8, 0, [0, 2, 1, 3]),
        ([0, 0, 1, 1], 6, 0, [0, 2]),
        ([0, 0, 1, 1], 8, 2, [0, 2]),
        ([0, 0, 0, 1, 1], 8, 0, [0, 1, 3, 4]),
    ],
)
def test_a_mesh_has_equally_many_devices_of_every_process(
    monkeypatch, owners, tasks, devices, chosen
):
    available = [_Device(i, owner) for i, owner in enumerate(owners)]
    monkeypatch.setattr(jax, "devices", lambda: available)
    monkeypatch.setattr(mesh, "Mesh", lambda devices, axes: devices)
    assert [device.id for device in mesh.make_mesh(tasks, devices)] == chosen


def test_a_mesh_that_one_process_has_too_few_devices_for_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [_Device(i, int(i > 2)) for i in range(4)])
    with pytest.raises(ConfigError, match=r"config.compute.devices is 4.*use at most 2"):
        mesh.make_mesh(8, 4)
