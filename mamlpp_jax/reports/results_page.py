"""The tables and the page that show a run's `results.json`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mamlpp_jax import config as config_lib
from mamlpp_jax.reports.tables import Rows, markdown_table, text_table
from mamlpp_jax.statistics import STATISTICS

# Figures the results page shows when they lie in the working directory: name pattern, caption.
FIGURES = (
    ("learning_curves*.png", "Loss and accuracy during training"),
    ("accuracy_per_inner_step*.png", "Test accuracy after each inner step"),
    ("inner_rates*.png", "Learned inner rates"),
    ("episode*.png", "A test episode and its predictions"),
)


def results_table(results: Mapping[str, Any]) -> str:
    """The tests of `results.json` as text: accuracies with 95 % intervals, and those per inner step."""
    test = results.get("test") or []
    if not test:
        return "No test results."
    parts = [
        f"Test accuracy (%, ± 95 % confidence interval over tasks)\n{text_table(_summary(test))}",
        f"Accuracy (%) after each number of inner steps\n{text_table(_per_inner_step(test))}",
    ]
    return "\n\n".join(parts + _extrapolations(results))


def results_page(results: Mapping[str, Any], workdir: pathlib.Path | None = None) -> str:
    """The content of `results.json` as a Markdown page: the run, both tables, how to read them, and the figures.

    The figures (`FIGURES`) are those that lie in `workdir`, the future folder of the page.
    """
    title = " ".join(str(results[key]) for key in ("experiment", "method") if results.get(key))
    parts = [f"# {title or 'Results'}", markdown_table(_run(results))]
    test = results.get("test") or []
    if test:
        modes = {str(row["eval_statistics"]): None for row in test}
        parts += [
            "## Test accuracy",
            "In percent, ± half the width of the 95 % confidence interval over tasks.",
            markdown_table(_summary(test)),
            "\n".join(
                f"- `{mode}`: {STATISTICS[mode].text}." for mode in modes if mode in STATISTICS
            ),
            "## Accuracy after each number of inner steps",
            markdown_table(_per_inner_step(test)),
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
    shared = config.get("model", {}).get("shared_head", False)
    notes = {
        f"Trained on {_data(results)}: tested also on the test classes of other data, "
        "with the normalisation of training.": any("data" in row for row in test),
        f"Trained for {way} ways: more ways give each extra output the mean of the trained "
        "ones.": not shared and any(row["way"] > way for row in test),
        f"Trained for {way} ways: fewer ways use the first outputs.": not shared
        and any(row["way"] < way for row in test),
        f"Trained for {way} ways, with one head for all classes: it serves any number of them.": shared
        and any(row["way"] != way for row in test),
        f"Trained for {steps} inner steps: further steps repeat the last one's rates and "
        "normalisation.": any(row["inner_steps"] > steps for row in test),
    }
    return other + [note for note, applies in notes.items() if applies]


def _summary(test: Rows) -> Rows:
    return [
        {
            **conditions,
            "query": row["query"],
            "inner steps": row["inner_steps"],
            "tasks": row["tasks"],
            "accuracy": f"{100 * row['accuracy']:.2f} ± {100 * row['ci95']:.2f}",
        }
        for row, conditions in zip(test, _conditions(test), strict=True)
    ]


def _per_inner_step(test: Rows) -> Rows:
    return [
        conditions
        | {str(step): f"{100 * value:.2f}" for step, value in enumerate(row["accuracy_per_step"])}
        for row, conditions in zip(test, _conditions(test), strict=True)
    ]


def _conditions(test: Rows) -> list[dict[str, Any]]:
    """The first columns of both tables; "data" only when a test is of other data than the run's."""
    other_data = any("data" in row for row in test)
    return [
        {
            **({"data": row.get("data", "the run's")} if other_data else {}),
            "model": row["model"],
            "statistics (train/eval)": f"{row['train_statistics']}/{row['eval_statistics']}",
            "way": row["way"],
            "shot": row["shot"],
        }
        for row in test
    ]


def _run(results: Mapping[str, Any]) -> Rows:
    steps = results.get("steps")
    if isinstance(steps, int):
        steps = f"{steps:,}" + ("" if results.get("finished", True) else " (not finished)")
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
