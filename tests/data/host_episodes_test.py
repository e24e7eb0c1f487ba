"""The host draws the tasks the device draws, ahead of time, and nothing else changes."""

import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.algorithms.evaluation import make_evaluator
from mamlpp_jax.artifacts import workdir as workdir_lib
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.host_episodes import HostSource, prefetched
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import build
from mamlpp_jax.training.trainer import steps_per_dispatch, train
from tests.helpers.small_runs import patterns, small_config


def uneven(channels=3):
    """Classes of 5 to 9 noisy pictures."""
    rng = np.random.default_rng(0)
    sizes = np.array([5, 9, 7, 6, 8, 5, 9, 7, 6, 8, 5, 5], np.int32)
    images = rng.integers(0, 256, size=(sizes.sum(), 16, 16, channels), dtype=np.uint8)
    names = tuple(f"class{i:02d}" for i in range(len(sizes)))
    splits = tuple(("train", "train", "val", "test")[i % 4] for i in range(len(sizes)))
    return Dataset("glyphs", images, names, sizes, splits)


def programs(dataset=None, **fields):
    """The same program with its data on the device and on the host."""
    dataset = uneven() if dataset is None else dataset
    counts = {f"data.{split}_classes": 0 for split in ("train", "val", "test")}
    pair = []
    for limit in (100, 0):
        config = small_config(**{**counts, **fields, "data.device_limit_mib": limit})
        pair.append(build(config, dataset))
    assert [program.on_host for program in pair] == [False, True]
    return pair


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "fields",
    [
        {"data.normalize": "imagenet", "task.query": 2},
        {"data.rotations": True, "task.shot": 3},
        {"compute.devices": 2},
    ],
)
def test_the_same_episodes_come_from_host_and_device(fields):
    device, host = programs(**fields)
    draw = jax.jit(device.draw)
    indices = jnp.arange(2, dtype=jnp.int32)
    with (
        contextlib.closing(device.feed(2, 2)) as from_device,
        contextlib.closing(host.feed(2, 2)) as from_host,
    ):
        pairs = list(zip(from_device, from_host, strict=True))
    assert len(pairs) == 2  # steps 2 and 3, then 4 and 5
    episodes = []
    for dispatch, (a, b) in enumerate(pairs):
        for step in (2 + 2 * dispatch, 3 + 2 * dispatch):
            episodes.append(draw(a, jnp.int32(step), indices))
            equal(episodes[-1], draw(b, jnp.int32(step), indices))
    images = np.stack([e.support_images for e in episodes])
    assert len(np.unique(images[:, :, 0, 0, 0], axis=0)) == 4  # other tasks in every step


def test_fixed_tasks_and_their_class_names_are_the_same():
    device, host = programs()
    for split in ("val", "test"):
        equal(device.episodes(split, 3), host.episodes(split, 3))
        assert device.drawn_classes(split, 2) == host.drawn_classes(split, 2)


def test_tasks_of_another_shape_are_the_same_too():
    device, host = programs(**{"task.way": 2, "task.shot": 2, "task.query": 3})
    assert host.episodes("test", 2).query_images.shape == (2, 6, 16, 16, 3)
    equal(device.episodes("test", 2), host.episodes("test", 2))


def test_only_pictures_of_the_tasks_leave_the_host():
    _, host = programs()
    batch = host.sources["train"].batch(range(3, 5), range(1, 2))
    assert batch.images.shape == (2, 1, 3, 2, 16, 16, 3)
    assert batch.images.dtype == np.uint8
    assert (batch.first_step, batch.first_task) == (3, 1)
    assert batch.images[0, 0].nbytes == host.sources["train"].task_bytes


def test_an_evaluation_in_blocks_gives_the_same_answers(monkeypatch):
    device, host = programs(**{"compute.devices": 2, "train.inner_steps": 1})
    # So small that a block holds one task of each device.
    monkeypatch.setattr("mamlpp_jax.algorithms.evaluation.BATCH_BYTES", 1)
    answers = []
    for program in (device, host):
        evaluate = make_evaluator(
            program.learner,
            program.draw,
            statistics="batch",
            inner_steps=1,
            tasks=5,
            tasks_per_chunk=1,
            mesh=program.mesh,
        )
        state = program.init_state()
        answers.append(evaluate(state.meta, state.batch_stats, program.sources["test"]))
    equal(answers[0].labels, answers[1].labels)
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_on_host_data_is_that_on_device_data(tmp_path):
    rows = []
    for limit in (100, 0):
        fields = {"data.device_limit_mib": limit, "train.epochs": 1, "train.inner_steps": 1}
        program = build(small_config("maml", **fields), patterns())
        workdir = tmp_path / str(limit)
        workdir_lib.claim(workdir, program.config)
        with Checkpoints(workdir, 1) as checkpoints:
            train(program, workdir, checkpoints)
        rows.append(read_metrics(workdir))
    assert len(rows[0]) == 3
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_what_is_prefetched_comes_in_order_and_ahead():
    made, enough = [], threading.Event()

    def make(number):
        made.append(number)
        if len(made) == 3:
            enough.set()
        return 2 * number

    with contextlib.closing(prefetched(make, range(10))) as numbers:
        assert next(numbers) == 0
        assert enough.wait(60)  # 1 and 2 without being asked for
        time.sleep(0.05)
        assert len(made) == 3
        assert list(numbers) == list(range(2, 20, 2))


def test_an_error_of_the_thread_reaches_the_consumer_and_leaving_early_ends_it():
    def make(number):
        if number == 1:
            raise OSError("the disk is gone")
        return number

    numbers = prefetched(make, range(5))
    assert next(numbers) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(numbers)
    numbers = prefetched(lambda number: number, range(1000))
    assert next(numbers) == 0
    numbers.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_a_dispatch_of_host_data_is_limited_in_bytes(monkeypatch):
    device, host = programs(**{"train.steps_per_epoch": 8})
    assert host.most_steps_ready > 1000  # of these small tasks
    step = 2 * host.sources["train"].task_bytes
    for limit, steps in ((3 * step, 2), (step, 1), (1, 1)):
        monkeypatch.setattr("mamlpp_jax.training.experiment.BATCH_BYTES", limit)
        assert steps_per_dispatch(host.config, 0, host.most_steps_ready) == steps
        assert steps_per_dispatch(device.config, 0, device.most_steps_ready) == 4


def test_the_limit_decides_where_data_live():
    dataset = uneven()  # less than a MiB
    for limit, on_host in ((0, True), (1, False)):
        fields = {f"data.{split}_classes": 0 for split in ("train", "val", "test")}
        program = build(small_config(**fields, **{"data.device_limit_mib": limit}), dataset)
        assert isinstance(program.sources["train"], HostSource) is on_host
