"""Functions compiled in a thread before their first call."""

import jax
import jax.numpy as jnp
import pytest

from mamlpp_jax.training.compile_ahead import CompileAhead
from mamlpp_jax.training.learner import epoch_plan, plan_name
from mamlpp_jax.training.memory_checkpoints import MemoryCheckpoints
from mamlpp_jax.training.trainer import train
from tests.helpers.small_runs import small_experiment


@pytest.fixture
def compilations():
    """Names of the events of compiling so far."""
    events = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def test_the_first_call_compiles_nothing(compilations):
    traced = []

    @jax.jit
    def function(x, key):
        traced.append(x.shape)
        return x * jax.random.normal(key, x.shape)

    x, key = jnp.arange(3.0), jax.random.key(0)
    expected = x * jax.random.normal(key, x.shape)
    with CompileAhead() as ahead:
        ahead.add("function", function, x, key)
        ahead.wait("function")
        before = len(compilations)
        result = function(x, key)
    assert (len(traced), len(compilations)) == (1, before)
    assert result.tolist() == expected.tolist()


def test_an_error_is_that_of_the_call():
    @jax.jit
    def function(x):
        raise ValueError(x.shape)

    with CompileAhead() as ahead:
        ahead.add("function", function, jnp.zeros(3))
        ahead.wait("function")
        ahead.wait("another")
        with pytest.raises(ValueError, match="3"):
            function(jnp.zeros(3))


@pytest.mark.slow
def test_a_run_compiles_the_outer_steps_of_later_epochs_once(monkeypatch):
    added, fields = [], {"train.epochs": 4, "train.first_order_epochs": 1}
    experiment = small_experiment(**fields, **{"train.multi_step_epochs": 2})
    add = CompileAhead.add
    monkeypatch.setattr(
        CompileAhead, "add", lambda self, *given: (added.append(given[:2]), add(self, *given))
    )
    train(experiment, None, MemoryCheckpoints(1))
    plans = [plan_name(epoch_plan(experiment.config, epoch)) for epoch in range(4)]
    assert [name for name, _ in added] == list(dict.fromkeys(plans))[1:]
    (function,) = {function for _, function in added}
    assert function._cache_size() == len(set(plans))
