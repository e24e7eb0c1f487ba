import pytest

from mamlpp_jax.reports.tables import markdown_table, text_table

ROWS = [
    {"model": "ensemble", "inner steps": 5, "accuracy": "97.20 ± 0.31"},
    {"model": "best", "inner steps": 10, "accuracy": "5.00 ± 10.31", "loss": "nan"},
]


def test_words_are_left_and_numbers_right_in_text():
    lines = text_table(ROWS).splitlines()
    rows = [line.rstrip() for line in lines[-2:]]
    assert rows[1].startswith("best ")
    assert rows[0].index("97.20 ± 0.31") == rows[1].index("5.00 ± 10.31")
    assert rows[0].index(" 5 ") == rows[1].index("10 ")  # the last digits are in line
    assert rows[1].endswith("nan")


def test_a_header_of_two_words_stands_on_two_lines():
    first, second, *_ = text_table(ROWS).splitlines()
    assert "inner" in first
    assert second.strip() == "steps"


def test_markdown_has_a_line_per_row_and_its_bars_are_in_line():
    lines = markdown_table(ROWS).splitlines()
    assert len(lines) == 4
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["ensemble", "5", "97.20 ± 0.31", ""]
    alignment = [cell.strip() for cell in lines[1].strip("|").split("|")]
    assert [cell.endswith(":") for cell in alignment] == [False, True, True, True]


@pytest.mark.parametrize(
    ("cell", "written"), [("some|name", "some\\|name"), ("some\nname", "some name")]
)
def test_a_cell_cannot_break_the_markdown(cell, written):
    assert f"| {written} |" in markdown_table([{"name": cell}])
