"""The table and the page that show a run's `results.json`."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Pictures the results page shows when they lie in the working directory: name pattern, caption.
PICTURES = (
    ("learning_curves*.png", "Loss and accuracy during training"),
    ("accuracy_per_inner_step*.png", "Test accuracy after each inner step"),
    ("inner_rates*.png", "Learned inner rates"),
    ("episode*.png", "A test episode and its predictions"),
)

_STATISTICS = {
    "batch": "`batch`: a query image is normalised together with the other query images of its "
    "task, so its answer depends on them (transductive).",
    "running": "`running`: query images are normalised by statistics accumulated in training.",
    "support": "`support`: query images are normalised by the statistics of the support set, each "
    "answered alone (inductive).",
}

Cells = list[list[str]]


def results_table(results: Mapping[str, Any]) -> str:
    """The test results as a plain-text table for the terminal.

    Args:
        results: the content of `results.json`.

    Returns:
        Two blocks of aligned columns: one line per test (accuracy and half-width of its 95 %
        confidence interval in percent), and the accuracy after 0..S inner steps.
    """
    test = results.get("test") or []
    if not test:
        return "No test results."
    blocks = (
        ("Test accuracy (%, ± 95 % confidence interval over tasks)", _summary_cells(test)),
        ("Accuracy (%) after each number of inner steps", _per_step_cells(test)),
    )
    tables = [f"{title}\n{_aligned(*cells)}" for title, cells in blocks]
    return "\n\n".join([*tables, *_extrapolations(results)])


def results_page(results: Mapping[str, Any], workdir: pathlib.Path | None = None) -> str:
    """The results as a Markdown page.

    Args:
        results: the content of `results.json`; keys it lacks are left out.
        workdir: where the page will lie; pictures found there (`PICTURES`) are shown.

    Returns:
        Markdown with what was run, both tables, how to read them, and the pictures.
    """
    title = " ".join(str(results[key]) for key in ("experiment", "method") if results.get(key))
    parts = [f"# {title or 'Results'}", _markdown_table(["", ""], _run_cells(results))]
    test = results.get("test") or []
    if test:
        modes = {str(row["eval_statistics"]): None for row in test}
        parts += [
            "## Test accuracy",
            "In percent, ± half the width of the 95 % confidence interval over tasks.",
            _markdown_table(*_summary_cells(test)),
            "\n".join(f"- {_STATISTICS[mode]}" for mode in modes if mode in _STATISTICS),
            "## Accuracy after each number of inner steps",
            _markdown_table(*_per_step_cells(test)),
            *_extrapolations(results),
        ]
    else:
        parts.append("No test results.")
    parts += _picture_links(workdir)
    return "\n\n".join(part for part in parts if part) + "\n"


def _extrapolations(results: Mapping[str, Any]) -> list[str]:
    """Sentences on rows that ask for more than was trained."""
    config = results.get("config")
    if not config:
        return []
    way, steps = config["task"]["way"], config["train"]["inner_steps"]
    notes = []
    if any("data" in row for row in results["test"]):
        notes.append(
            f"Trained on {config['data']['name']}: tested also on the test classes of other data, "
            "with the normalisation of training."
        )
    if any(row["way"] > way for row in results["test"]):
        notes.append(
            f"Trained for {way} ways: more ways give each extra output the mean of the trained ones."
        )
    if any(row["way"] < way for row in results["test"]):
        notes.append(f"Trained for {way} ways: fewer ways use the first outputs.")
    if any(row["inner_steps"] > steps for row in results["test"]):
        notes.append(
            f"Trained for {steps} inner steps: further steps repeat the last one's rates and "
            "normalisation."
        )
    return notes


def _summary_cells(test: Sequence[Mapping[str, Any]]) -> tuple[list[str], Cells]:
    names, data = _data_columns(test)
    header = [
        *names,
        "model",
        "statistics (train/eval)",
        "way",
        "shot",
        "query",
        "inner steps",
        "tasks",
        "accuracy",
    ]
    body = [
        [
            *data(row),
            str(row["model"]),
            _statistics(row),
            *(str(row[key]) for key in ("way", "shot", "query", "inner_steps", "tasks")),
            f"{100 * row['accuracy']:.2f} ± {100 * row['ci95']:.2f}",
        ]
        for row in test
    ]
    return header, body


def _per_step_cells(test: Sequence[Mapping[str, Any]]) -> tuple[list[str], Cells]:
    width = max(len(row["accuracy_per_step"]) for row in test)
    names, data = _data_columns(test)
    header = [*names, "model", "statistics (train/eval)", "way", "shot", *map(str, range(width))]
    body = []
    for row in test:
        values = [f"{100 * value:.2f}" for value in row["accuracy_per_step"]]
        start = [
            *data(row),
            str(row["model"]),
            _statistics(row),
            str(row["way"]),
            str(row["shot"]),
        ]
        body.append(start + values + [""] * (width - len(values)))
    return header, body


def _data_columns(
    test: Sequence[Mapping[str, Any]],
) -> tuple[list[str], Callable[[Mapping[str, Any]], list[str]]]:
    """A column that names the data, where a row is of other data than the run's."""
    if not any("data" in row for row in test):
        return [], lambda row: []
    return ["data"], lambda row: [str(row.get("data", "the run's"))]


def _statistics(row: Mapping[str, Any]) -> str:
    return f"{row['train_statistics']}/{row['eval_statistics']}"


def _run_cells(results: Mapping[str, Any]) -> Cells:
    steps = results.get("steps")
    if isinstance(steps, int):
        steps = f"{steps:,}" + ("" if results.get("finished", True) else " (not finished)")
    fields = {
        "experiment": results.get("experiment"),
        "method": results.get("method"),
        "protocol": results.get("protocol"),
        "seed": results.get("seed"),
        "outer steps": steps,
        "epochs of the ensemble": results.get("best_epochs") or None,
        "hardware": results.get("hardware"),
        "commit": results.get("commit"),
    }
    return [[name, _text(value)] for name, value in fields.items() if value is not None]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _aligned(header: list[str], body: Cells) -> str:
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    # Words to the left, numbers to the right.
    pads = [
        str.rjust if all(_is_numeric(row[i]) for row in body) else str.ljust
        for i in range(len(header))
    ]

    def line(cells: Iterable[str]) -> str:
        padded = (pad(cell, width) for pad, cell, width in zip(pads, cells, widths, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line("-" * width for width in widths), *map(line, body)])


def _is_numeric(cell: str) -> bool:
    return cell == "" or cell[0].isdigit() or cell.startswith("nan")


def _markdown_table(header: list[str], body: Cells) -> str:
    rows = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _picture_links(workdir: pathlib.Path | None) -> list[str]:
    if workdir is None:
        return []
    links = [
        f"![{caption}]({path.name})\n\n*{caption}.*"
        for pattern, caption in PICTURES
        for path in sorted(pathlib.Path(workdir).glob(pattern))
    ]
    return ["## Pictures", *links] if links else []
