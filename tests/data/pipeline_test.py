"""A stream gives the same tasks whether its images lie on the devices or on the host."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.data.dataset import Dataset
from mamlpp_jax.data.pipeline import Window
from mamlpp_jax.training.checkpoints import Checkpoints
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.jitted import jitted_evaluator, steps_per_dispatch
from mamlpp_jax.training.trainer import train
from tests.helpers.small_runs import patterns, small_config


def uneven(channels=3):
    """Classes of 5 to 9 noisy images."""
    rng = np.random.default_rng(0)
    sizes = np.array([5, 9, 7, 6, 8, 5, 9, 7, 6, 8, 5, 5], np.int32)
    images = rng.integers(0, 256, size=(sizes.sum(), 16, 16, channels), dtype=np.uint8)
    names = tuple(f"class{i:02d}" for i in range(len(sizes)))
    splits = tuple(("train", "train", "val", "test")[i % 4] for i in range(len(sizes)))
    return Dataset("glyphs", images, names, sizes, splits)


def experiments(dataset=None, **fields):
    """The same experiment with its data on the device and on the host."""
    dataset = uneven() if dataset is None else dataset
    counts = {f"data.{split}_classes": 0 for split in ("train", "val", "test")}
    pair = [
        build_experiment(
            small_config(**{**counts, **fields, "data.device_limit_mib": limit}), dataset
        )
        for limit in (100, 0)
    ]
    assert [e.tasks["train"].device_images is None for e in pair] == [False, True]
    return pair


def with_batch_bytes(experiment, split, limit):
    """The experiment with a stream that sends so many bytes at a time."""
    stream = dataclasses.replace(experiment.tasks[split], batch_bytes=limit)
    return dataclasses.replace(experiment, tasks={**experiment.tasks, split: stream})


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
    device, host = (experiment.tasks["train"] for experiment in experiments(**fields))
    sample = jax.jit(device.sample_tasks)
    windows = [Window(range(first, first + 2), range(2)) for first in (2, 4)]
    with (
        contextlib.closing(device.windows(windows)) as from_device,
        contextlib.closing(host.windows(windows)) as from_host,
    ):
        pairs = list(zip(from_device, from_host, strict=True))
    assert len(pairs) == 2
    episodes = []
    for window, (a, b) in zip(windows, pairs, strict=True):
        for step in window.steps:
            indices = jnp.arange(2, dtype=jnp.int32)
            episodes.append(sample(a, jnp.int32(step), indices))
            equal(episodes[-1], sample(b, jnp.int32(step), indices))
    images = np.stack([e.support.inputs for e in episodes])
    assert len(np.unique(images[:, :, 0, 0, 0], axis=0)) == 4  # other tasks in every step


def test_fixed_episodes_are_those_of_the_windows_and_carry_their_class_names():
    device, host = experiments(**{"task.way": 2, "task.shot": 2, "task.query": 3})
    for split in ("val", "test"):
        stream = device.tasks[split]
        episodes = stream.episodes(3)
        assert episodes.query.inputs.shape == (3, 6, 16, 16, 3)
        equal(episodes, host.tasks[split].episodes(3))
        source = stream.window(range(1), range(3))
        equal(episodes, stream.sample_tasks(source, jnp.int32(0), jnp.arange(3)))
        names = stream.task_class_names(2)
        assert names == host.tasks[split].task_class_names(2)
        assert set(names) <= set(stream.class_names)


def test_class_names_are_those_of_the_images_and_tell_their_rotation():
    (device, _) = experiments(**{"data.rotations": True})
    stream, dataset = device.tasks["train"], uneven()
    names = [stream.task_class_names(task) for task in range(6)]
    assert any("rotated" in name for task in names for name in task)
    assert stream.num_classes == 4 * len(stream.class_names)
    ends = np.cumsum(dataset.class_sizes)
    for task, classes in enumerate(names):
        support = stream.episodes(6).support.inputs[task]
        for label, name in enumerate(classes):
            base, _, rotation = name.partition(", rotated ")
            quarters = int(rotation.rstrip("°") or 0) // 90
            index = dataset.class_names.index(base)
            images = dataset.images[ends[index] - dataset.class_sizes[index] : ends[index]]
            shown = np.rot90(support[label], -quarters) * 255
            assert any(np.allclose(shown, image, atol=0.01) for image in images)


def test_only_images_of_the_tasks_leave_the_host():
    _, host = experiments()
    stream = host.tasks["train"]
    batch = stream.window(range(3, 5), range(1, 2))
    assert batch.images.shape == (2, 1, 3, 2, 16, 16, 3)
    assert batch.images.dtype == np.uint8
    assert (int(batch.first_step), int(batch.first_task)) == (3, 1)
    assert batch.images[0, 0].nbytes == stream.host.task_bytes


def test_an_evaluation_in_blocks_gives_the_same_predictions():
    device, host = experiments(
        **{"compute.devices": 2, "train.inner_steps": 1, "evaluation.tasks": 5}
    )
    # So small that a block holds one task of each device.
    host = with_batch_bytes(host, "test", 1)
    predictions = []
    for experiment in (device, host):
        evaluate = jitted_evaluator(experiment, "test", ["batch"], every_step=True)
        state = experiment.init_run_state()
        found = evaluate(state.meta, state.batch_stats, experiment.tasks["test"])
        predictions.append(found["batch"])
    equal(predictions[0].labels, predictions[1].labels)
    np.testing.assert_allclose(predictions[0].logits, predictions[1].logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_on_host_data_is_that_on_device_data(tmp_path):
    records = []
    for limit in (100, 0):
        fields = {"data.device_limit_mib": limit, "train.epochs": 1, "train.inner_steps": 1}
        experiment = build_experiment(small_config("maml", **fields), patterns())
        workdir = Workdir(tmp_path / str(limit))
        workdir.claim(experiment.config)
        with Checkpoints(workdir.path, 1) as checkpoints:
            train(experiment, workdir, checkpoints)
        records.append(read_metrics(workdir.path))
    assert len(records[0]) == 3
    for a, b in zip(*records, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_a_dispatch_of_host_data_is_limited_in_bytes():
    device, host = experiments(**{"train.steps_per_epoch": 8})
    assert host.tasks["train"].tasks_per_window > 1000  # of these small tasks
    assert device.tasks["train"].tasks_per_window is None
    step = 2 * host.tasks["train"].host.task_bytes
    for limit, steps in ((3 * step, 2), (step, 1), (1, 1)):
        assert steps_per_dispatch(with_batch_bytes(host, "train", limit), 0) == steps
        assert steps_per_dispatch(device, 0) == 4


def test_the_limit_decides_where_data_live():
    dataset = uneven()  # less than a MiB
    for limit, on_host in ((0, True), (1, False)):
        fields = {f"data.{split}_classes": 0 for split in ("train", "val", "test")}
        config = small_config(**fields, **{"data.device_limit_mib": limit})
        stream = build_experiment(config, dataset).tasks["train"]
        assert (stream.device_images is None) is on_host
