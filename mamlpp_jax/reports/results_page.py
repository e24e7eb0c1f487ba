"""The tables and the page that show a run's `results.json`."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import INNER_LOSSES
from mamlpp_jax.reports.tables import Rows, markdown_table, text_table
from mamlpp_jax.statistics import STATISTICS

# Figures the results page shows when they lie in the working directory: name pattern, caption.
FIGURES = (
    ("learning_curves*.png", "Loss and accuracy during training"),
    ("accuracy_per_inner_step*.png", "Test accuracy after each inner step"),
    ("inner_rates*.png", "Learned inner rates"),
    ("episode*.png", "A test episode and its predictions"),
)

_NUMBERS = ("way", "shot", "query", "inner_steps", "tasks")
_COLUMNS = 7  # of accuracies, on a terminal
_FEW_CLASSES = 50


def results_table(results: Mapping[str, Any]) -> str:
    """The tests of `results.json` as text: accuracies with 95 % intervals, and those per inner step, at most seven.

    Conditions that all tests share stand above.
    """
    test = _distinct(results.get("test") or [])
    if not test:
        return "No test results."
    shared, rows = _split_off_shared(_conditions(test))
    accuracies = [{**row, "accuracy": _accuracy(of)} for row, of in zip(rows, test, strict=True)]
    parts = [
        f"Test accuracy (%, ± 95 % confidence interval over tasks){shared}\n{text_table(accuracies)}",
        "Accuracy (%) after each number of inner steps (0: before adaptation)\n"
        + text_table(_per_inner_step(test, rows, _COLUMNS)),
    ]
    legend = "\n".join(textwrap.fill(line, 79, subsequent_indent="  ") for line in _legend(test))
    return "\n\n".join([*parts, legend, *_sampled(test), *_extrapolations(results)])


def results_page(results: Mapping[str, Any], workdir: pathlib.Path | None = None) -> str:
    """The content of `results.json` as a Markdown page: the run, both tables, how to read them, and the figures.

    The figures (`FIGURES`) are those that lie in `workdir`, the future folder of the page.
    """
    title = " ".join(str(results[key]) for key in ("experiment", "method") if results.get(key))
    parts = [f"# {title or 'Results'}", markdown_table(_run(results))]
    test = _distinct(results.get("test") or [])
    if test:
        parts += [
            "## Test accuracy",
            "In percent, ± half the width of the 95 % confidence interval over tasks.",
            markdown_table(
                [
                    {**row, "accuracy": _accuracy(of)}
                    for row, of in zip(_conditions(test), test, strict=True)
                ]
            ),
            *_sampled(test),
            "\n".join(_legend(test)),
            "## Accuracy after each number of inner steps",
            markdown_table(_per_inner_step(test, _conditions(test, _NUMBERS[:2]))),
            *_extrapolations(results),
        ]
    else:
        parts.append("No test results.")
    links = [
        f"![{caption}]({path.name})\n\n*{caption}.*"
        for pattern, caption in FIGURES
        for path in (sorted(workdir.glob(pattern)) if workdir else [])
    ]
    parts += ["## Figures", *links] if links else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _legend(test: Rows) -> list[str]:
    """Items on what the rows of a table are."""
    models = {
        "best": "the epoch of the highest validation accuracy, which predictions are made with",
        "ensemble": "the mean probabilities of the epochs of the highest validation accuracies",
    }
    texts = models | {mode: of.text for mode, of in STATISTICS.items()}
    names = [str(row[key]) for key in ("model", "eval_statistics") for row in test]
    return [f"- `{name}`: {texts[name]}." for name in dict.fromkeys(names) if name in texts]


def _extrapolations(results: Mapping[str, Any]) -> list[str]:
    """Sentences on tests of other epochs than the best, on other data, or of other tasks than those trained on."""
    config, test = results.get("config"), results["test"]
    if not config:
        return []
    best = results.get("best_epochs") or []
    other = [
        f"The {row['model']} under `{row['eval_statistics']}`, {row['way']}-way {row['shot']}-shot, is of epoch(s) "
        f"{_text(row['epochs'])}: others of the best epochs were damaged when it was tested."
        for row in test
        if row.get("epochs") and row["epochs"] != (best if row["model"] == "ensemble" else best[:1])
    ]
    way, steps = config["task"]["way"], config["train"]["inner_steps"]
    any_way = config_lib.serves_any_way(config)
    inner_loss = config.get("inner", {}).get("loss", "cross_entropy")
    notes = {
        "The inner loop reads the queries of a task without their labels, so a prediction depends on the others "
        "(transductive) under every statistics mode.": INNER_LOSSES[inner_loss].transductive,
        f"Trained on {_data(results)}: tested also on the test classes of other data, "
        "with the normalisation of training.": any("data" in row for row in test),
        f"Trained for {way} ways: more ways give each extra output the mean of the trained "
        "ones.": not any_way and any(row["way"] > way for row in test),
        f"Trained for {way} ways: fewer ways use the first outputs.": not any_way
        and any(row["way"] < way for row in test),
        f"Trained for {way} ways: no output belongs to a class, so it serves any number of them.": any_way
        and any(row["way"] != way for row in test),
        f"Trained for {steps} inner steps: further steps repeat the last one's rates and "
        "normalisation.": any(row["inner_steps"] > steps for row in test),
    }
    return other + [note for note, applies in notes.items() if applies] + _more_steps(results)


def _more_steps(results: Mapping[str, Any]) -> list[str]:
    """A sentence on more inner steps than trained with, where validation says that they help."""
    tried, steps = (
        results.get("validation_per_inner_step"),
        results["config"]["train"]["inner_steps"],
    )
    if not tried:
        return []
    best = max(range(steps, len(tried)), key=tried.__getitem__)
    enough = next(k for k in range(steps, len(tried)) if tried[k] >= tried[best] - 0.005)
    said = f"On the validation tasks {steps} inner steps reach {100 * tried[steps]:.1f} %"
    if tried[enough] < tried[steps] + 0.01:
        return [f"{said}, and more of them, up to {len(tried) - 1}, are no better."]
    return [
        f"{said}, {enough} reach {100 * tried[enough]:.1f} %: give --inner_steps={enough} to --mode=evaluate and to "
        "mamlpp_jax.predict."
    ]


def _distinct(test: Rows) -> Rows:
    """The tests without ensembles of one epoch, which are that epoch's."""
    alone = [row for row in test if row["model"] == "ensemble" and len(row.get("epochs", ())) == 1]
    return [row for row in test if row not in alone]


def _accuracy(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f} ± {100 * row['ci95']:.2f}"


def _sampled(test: Rows) -> list[str]:
    """Sentences on how many classes and images the tasks come from."""
    notes: dict[str, Mapping[str, Any]] = {}
    for row in test:
        classes, images = row.get("classes", 0), row.get("images", 0)
        if classes:
            source = (
                f"{row.get('data', 'the run')}: " if any("data" in other for other in test) else ""
            )
            notes.setdefault(
                f"{source}the tasks are sampled from {classes} classes of {images:,} images in all",
                row,
            )
    return [
        f"{note[:1].upper()}{note[1:]}."
        + (
            f" The interval says nothing of other classes: for these it is about "
            f"± {100 * row['ci95_by_class']:.1f} ({row['model']}, {row['eval_statistics']}), and less with more "
            "test classes."
            if row["classes"] <= _FEW_CLASSES and row.get("ci95_by_class")
            else ""
        )
        for note, row in notes.items()
    ]


def _per_inner_step(test: Rows, conditions: Rows, most: int | None = None) -> Rows:
    """The accuracies behind the conditions; of at most so many numbers of steps, first and last among them."""
    count = max(len(row["accuracy_per_step"]) for row in test)
    shown = list(range(count))
    if most and count > most:
        shown = sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
    return [
        {**named}
        | {
            str(step): f"{100 * row['accuracy_per_step'][step]:.2f}"
            for step in shown
            if step < len(row["accuracy_per_step"])
        }
        for row, named in zip(test, conditions, strict=True)
    ]


def _conditions(test: Rows, numbers: Sequence[str] = _NUMBERS) -> list[dict[str, Any]]:
    """The first columns of the tables; "data" and "rotated classes" only where a test differs from the run's."""
    extra = {"data": "data", "rotated": "rotated classes"}
    named = {key: column for key, column in extra.items() if any(key in row for row in test)}
    return [
        {
            **{column: row.get(key, "the run's") for key, column in named.items()},
            "model": row["model"],
            "statistics (train/eval)": f"{row['train_statistics']}/{row['eval_statistics']}",
            **{name.replace("_", " "): row[name] for name in numbers},
        }
        for row in test
    ]


def _split_off_shared(rows: Rows) -> tuple[str, list[dict[str, Any]]]:
    """A text with the numbers that are the same in all rows, and the rows without them."""
    names = [name.replace("_", " ") for name in _NUMBERS]
    shared = [name for name in names if len({row[name] for row in rows}) == 1]
    text = ", ".join(f"{name} {rows[0][name]}" for name in shared)
    return (f"\n{text}" if text else ""), [
        {name: cell for name, cell in row.items() if name not in shared} for row in rows
    ]


def _run(results: Mapping[str, Any]) -> Rows:
    steps = results.get("steps")
    if isinstance(steps, int):
        steps = f"{steps:,}" + ("" if results.get("finished", True) else " (not finished)")
        whole = _published_steps(results)
        if whole > results["steps"]:
            steps += f", shortened from {whole:,}"
    fields = {
        "experiment": results.get("experiment"),
        "data": _data(results),
        "method": results.get("method"),
        "protocol": results.get("protocol"),
        "seed": results.get("seed"),
        "outer steps": steps,
        "epochs of the ensemble": results.get("best_epochs") or None,
        "hardware": results.get("hardware"),
        "commit": results.get("commit"),
    }
    return [{"": name, " ": _text(value)} for name, value in fields.items() if value is not None]


def _published_steps(results: Mapping[str, Any]) -> int:
    """Outer steps of the run's protocol, of the paper's where that one is shorter; 0 for data of no protocol."""
    config = results.get("config") or {}
    data, protocol = config.get("data", {}).get("name"), str(results.get("protocol"))
    if data not in ("omniglot", "mini_imagenet"):
        return 0
    whole = config_lib.default_config()
    config_lib.apply_protocol(whole, "released" if protocol == "released" else "paper")
    return config_lib.total_steps(whole)


def _data(results: Mapping[str, Any]) -> str | None:
    """The data the run was trained on, with the name of the folder of one's own images."""
    config = results.get("config") or {}
    return config_lib.data_label(ConfigDict(config)) if "data" in config else None


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)
