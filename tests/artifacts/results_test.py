"""The rows of `results.json`."""

import dataclasses
import math

import pytest

from mamlpp_jax.artifacts.results import Evaluation, to_json
from tests.helpers.sample_results import RESULT, ROW


def test_a_result_is_one_row_with_these_keys():
    assert RESULT.to_row() == ROW
    assert list(RESULT.to_row()) == list(ROW)
    assert Evaluation.from_row(ROW) == RESULT


def test_only_a_test_on_other_data_names_them():
    elsewhere = dataclasses.replace(RESULT, data="birds 1234")
    assert elsewhere.to_row() == {**ROW, "data": "birds 1234"}
    assert Evaluation.from_row(elsewhere.to_row()) == elsewhere


def test_tests_are_the_same_when_their_conditions_are():
    found = {"accuracy": 0.6, "ci95": 0.2, "loss": 0.1, "accuracy_per_step": [1.0], "epochs": [1]}
    again = dataclasses.replace(RESULT, **found)
    assert again.conditions == RESULT.conditions
    for change in (
        {"model": "ensemble"},
        {"eval_statistics": "support"},
        {"way": 5},
        {"data": "x"},
    ):
        assert dataclasses.replace(RESULT, **change).conditions != RESULT.conditions


def test_the_tested_epochs_are_recorded_and_missing_in_older_results():
    tested = dataclasses.replace(RESULT, epochs=[2, 0])
    assert tested.to_row() == {**ROW, "epochs": [2, 0]}
    assert Evaluation.from_row(tested.to_row()) == tested
    assert Evaluation.from_row(ROW).epochs == []


def test_a_loss_that_is_null_is_read_as_no_number():
    assert math.isnan(Evaluation.from_row({**ROW, "loss": None}).loss)


@pytest.mark.parametrize("field", ROW)
@pytest.mark.parametrize("value", [b"", {}])
def test_a_value_of_another_kind_is_named(field, value):
    with pytest.raises(ValueError, match=f'a row of "test" has {field}='):
        Evaluation.from_row({**ROW, field: value})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (5, "is not a list of objects"),
        ({**ROW, "accuracy_per_step": ["a"]}, r"has accuracy_per_step=\['a'\]"),
        ({**ROW, "data": 3}, "has data=3"),
        ({**ROW, "epochs": 3}, "has epochs=3"),
        ({**ROW, "epochs": [0.5]}, r"has epochs=\[0\.5\]"),
        ({key: value for key, value in ROW.items() if key != "loss"}, "has loss=None"),
    ],
)
def test_what_is_no_row_is_refused(row, said):
    with pytest.raises(ValueError, match=said):
        Evaluation.from_row(row)


def test_whole_accuracies_are_numbers_too():
    assert Evaluation.from_row({**ROW, "accuracy": 1, "accuracy_per_step": [0, 1]}).accuracy == 1


def test_results_become_json_with_their_tests_as_rows():
    assert to_json({"seed": 3, "test": [RESULT]}) == {"seed": 3, "test": [ROW]}
