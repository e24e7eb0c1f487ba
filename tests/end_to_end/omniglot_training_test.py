"""The main job on real Omniglot, shortened; needs the data."""

import os
import pathlib

import pytest

from configs import omniglot
from mamlpp_jax.artifacts.metric_writer import read_metrics
from mamlpp_jax.artifacts.workdir import Workdir
from mamlpp_jax.cli import commands


@pytest.mark.slow
def test_a_hundred_outer_steps_on_omniglot_reach_eighty_percent(tmp_path):
    data_dir = os.environ.get("MAMLPP_DATA_DIR")
    if not data_dir:
        pytest.skip("set MAMLPP_DATA_DIR to a folder with tfds/omniglot")
    config = omniglot.get_config("way=5,shot=1,method=maml++")
    config.data.tfds_dir = str(pathlib.Path(data_dir) / "tfds")
    config.data.cache_dir = str(tmp_path / "cache")
    config.train.epochs, config.train.steps_per_epoch = 1, 100
    config.train.first_order_epochs = 0
    config.evaluation.tasks = 100
    config.compute.devices = 2
    workdir = Workdir(tmp_path / "run")
    commands.train(config, workdir)
    losses = [row["loss"] for row in read_metrics(workdir.path) if "loss" in row]
    assert len(losses) == 100
    results = workdir.results()
    by_mode = {test.eval_statistics: test.accuracy for test in results["test"]}
    assert by_mode["batch"] > 0.8
    assert by_mode["support"] > 0.75
    assert results["finished"]
