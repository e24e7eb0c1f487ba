"""How much memory there is, and how it is written."""

import os

import pytest

from mamlpp_jax.utils import memory
from mamlpp_jax.utils.memory import host_memory, memory_text


def test_the_machine_has_some():
    assert 2**28 < host_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("memory.max", "1000\n", 1000), ("memory/memory.limit_in_bytes", "900", 900)],
)
def test_a_container_may_have_less(tmp_path, monkeypatch, name, content, expected):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert host_memory() == expected


@pytest.mark.parametrize("content", ["max\n", "9223372036854771712\n", "", "?"])
def test_a_container_without_a_limit(tmp_path, monkeypatch, content):
    (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    assert host_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1536, "1.5 KiB"), (23 * 2**30, "23.0 GiB"), (2**70, "1,048,576.0 PiB")],
)
def test_sizes_are_written_for_people(count, text):
    assert memory_text(count) == text
