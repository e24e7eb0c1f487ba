"""The schedules as functions of the epoch and the outer step."""

import numpy as np
import pytest

from mamlpp_jax.algorithms import schedules


def test_multi_step_weights_start_equal_and_anneal_linearly_to_the_last_step():
    np.testing.assert_allclose(schedules.multi_step_weights(0, 5, 10), np.full(5, 0.2))
    np.testing.assert_allclose(schedules.multi_step_weights(5, 5, 10), [0.1, 0.1, 0.1, 0.1, 0.6])
    for epoch in range(10):
        assert schedules.multi_step_weights(epoch, 5, 10).sum() == pytest.approx(1.0)


def test_multi_step_weights_of_earlier_steps_never_fall_below_three_percent_of_a_share():
    weights = schedules.multi_step_weights(99, 5, 100)
    np.testing.assert_allclose(weights, [0.006, 0.006, 0.006, 0.006, 0.976])


def test_one_inner_step_keeps_all_the_weight():
    np.testing.assert_allclose(schedules.multi_step_weights(7, 1, 10), [1.0])


def test_the_hand_over_takes_its_epochs_and_zero_begins_at_the_end():
    assert [schedules.anneal(e, 2.5) for e in range(5)] == pytest.approx([0, 0.4, 0.8, 1, 1])
    assert schedules.anneal(0, 0) == 1.0


def test_cosine_goes_from_the_first_rate_to_the_last_per_outer_step():
    rate = schedules.outer_learning_rate(1e-3, 1e-5, 1000, cosine=True)
    for step in (0, 250, 500, 1000):
        expected = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + np.cos(np.pi * step / 1000))
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5)


def test_a_cosine_per_epoch_holds_its_rate_during_an_epoch():
    epochs, steps = 10, 7
    rate = schedules.outer_learning_rate(1e-3, 1e-5, epochs * steps, cosine=True, held_steps=steps)
    rates = np.asarray(rate(np.arange(epochs * steps))).reshape(epochs, steps)
    for epoch in range(epochs):
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * epoch / epochs)) / 2
        np.testing.assert_allclose(rates[epoch], expected, rtol=1e-5)


def test_without_annealing_the_rate_is_constant():
    rate = schedules.outer_learning_rate(1e-3, 1e-5, 1000, cosine=False)
    assert float(rate(0)) == float(rate(1000)) == pytest.approx(1e-3)
