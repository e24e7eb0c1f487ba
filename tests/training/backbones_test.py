"""A backbone of one's own: a row of the table, and a configuration that names it."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import BACKBONES, Backbone
from mamlpp_jax.errors import DataError
from mamlpp_jax.models import Conv4, ResNet12
from mamlpp_jax.training.jitted import jitted_evaluator, jitted_train_steps
from mamlpp_jax.training.learner import epoch_plan
from tests.helpers.small_runs import small_config, small_experiment


class TwoLayers(nn.Module):
    """Dense layers with dropout between them, where it is called with a key of the stream `dropout`."""

    ways: int
    width: int

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        x = nn.Dropout(0.5, deterministic=not self.has_rng("dropout"))(x)
        return nn.Dense(self.ways, name="linear")(x)


def first_loss(**fields):
    """The loss of the first outer step, and the logits of an evaluation before it."""
    config = small_config("fomaml", **fields)
    config_lib.validate(config)
    experiment = small_experiment("fomaml", **fields)
    state = experiment.init_run_state()
    evaluate = jitted_evaluator(experiment, "val", ["batch"], every_step=False)
    logits = evaluate(state.meta, state.batch_stats, experiment.tasks["val"])["batch"].logits
    source = experiment.tasks["train"].window(range(1), range(2))
    step = jitted_train_steps(experiment, 1)
    state, metrics = step(state, source, epoch_plan(config, 0))
    assert int(state.step) == 1
    assert bool(metrics.finite[0])
    return float(metrics.loss[0]), logits, state.meta.params


def test_a_backbone_from_elsewhere_is_trained_by_a_configuration(monkeypatch):
    options = {"model.filters": "width"}
    losses, logits = {}, {}
    for is_random in (False, True):
        row = Backbone(TwoLayers, options, is_random=is_random)
        monkeypatch.setitem(BACKBONES, "mine", row)
        fields = {"model.name": "mine", "model.filters": 7, "data.image_size": 16}
        losses[is_random], logits[is_random], params = first_loss(**fields)
        assert params["Dense_0"]["kernel"].shape[-1] == 7
    # Random numbers are drawn in training alone, by backbones that say so.
    assert losses[False] != losses[True]
    np.testing.assert_array_equal(logits[False], logits[True])


@pytest.mark.parametrize(
    ("module", "smallest"),
    [(Conv4(5, 2), 16), (Conv4(5, 2, max_pool=False), 1), (ResNet12(5, 2), 16)],
)
def test_images_that_are_too_small_are_refused_in_one_sentence(module, smallest):
    def outputs(high, wide):
        images = jax.ShapeDtypeStruct((2, high, wide, 1), np.float32)
        return jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], images)

    assert outputs(smallest, smallest).shape == (2, 5)
    if smallest > 1:
        for size in ((smallest - 1, 40), (40, smallest - 1)):
            with pytest.raises(DataError, match=rf"{size[0]} x {size[1]} pixels; .* at least 16"):
                outputs(*size)
