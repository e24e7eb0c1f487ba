"""The pages that are made from the package and the archived runs when the site is built, as Markdown."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import mamlpp_jax
from experiments import methods as family
from experiments.benchmark_report import schedule_costs
from experiments.benchmark_rows import Row
from experiments.gpu.aot import table as aot_table
from experiments.paper.tables import all_tables
from mamlpp_jax import errors
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.config.methods import COMPONENTS, METHODS
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.statistics import STATISTICS, Statistics

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
# The benchmark's folders, with the machine.
MACHINES = {
    "benchmark_cpu": "AMD EPYC (Zen 5), 2 cores",
    "benchmark_xeon": "Intel Xeon with AVX-512, 2 cores",
    "benchmark_epyc": "AMD EPYC of the fourth generation, 2 cores",
}
_CASES = {
    "omniglot_5w1s": "Omniglot 5-way 1-shot",
    "omniglot_20w1s": "Omniglot 20-way 1-shot",
    "mini_imagenet_5w1s": "mini-ImageNet 5-way 1-shot, 15 queries",
}
_FIGURES = {
    "learning_curves.png": "Loss and accuracy over the outer steps",
    "accuracy_per_inner_step.png": "Test accuracy after each number of inner steps",
    "inner_rates.png": "Learned inner rates, per tensor and step",
    "episode.png": "One test task: support set, queries, predictions",
}


def readme(part: str) -> str:
    """README's introduction or its sections, with its links to files as links to pages of the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n")[2]
    introduction, heading, sections = text.partition("\n## ")
    # Apart, because the parser puts sections before text that stands above them.
    text = introduction if part == "introduction" else heading + sections
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(
        r"\]\((CONTRIBUTING|CHANGELOG)\.md", lambda m: f"](reference/{m[1].lower()}.md", text
    )
    text = re.sub(r"\]\(experiments/", "](../experiments/", text)
    return re.sub(r"\[(`CITATION.cff`)\]\(CITATION.cff\)", r"\1", text)


def root_page(name: str) -> str:
    """A page of the repository's root without its title, with its links as links to pages of the site."""
    text = (ROOT / name).read_text(encoding="utf-8").partition("\n")[2]
    return re.sub(r"\]\(docs/", "](../", text)


def methods() -> str:
    """Every method that has a name of its own."""
    rows = []
    for name, parts in METHODS.items():
        components = [part for part in COMPONENTS if part in parts]
        rows.append({"method": f"`{name}`", "components": ", ".join(components) or "none"})
    return markdown_table(rows)


def components() -> str:
    """A section per component: description, field, exclusions, source."""
    return "\n\n".join(_component(name) for name in COMPONENTS)


def _component(name: str) -> str:
    part = COMPONENTS[name]
    on = "a number of epochs" if part.on is None else f"`{part.on}`"
    sets = [f"`{part.field}` to {on} (`{part.off}` without it)"]
    sets += [f"`{field}` to `{value}`" for field, value in part.also.items()]
    lines = [f"### `{name}`", f"{_sentence(part.text)}\n", f"- Sets {', and '.join(sets)}."]
    excluded = _exclusions(name)
    lines += [f"- Excludes {'; '.join(excluded)}."] if excluded else []
    lines += [f"- {part.cite}."]
    return "\n".join([lines[0], "", *lines[1:]])


def _exclusions(name: str) -> list[str]:
    """What a component cannot stand beside, in either's words, names of one reason together."""
    reasons: dict[str, list[str]] = {}
    for other, part in COMPONENTS.items():
        if other == name:
            continue
        own = COMPONENTS[name].excludes.get(other) or part.excludes.get(name)
        if part.field == COMPONENTS[name].field:
            own = own or "they set the same field"
        if own:
            reasons.setdefault(own, []).append(f"`{other}`")
    return [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]


def protocols() -> str:
    """The protocols, with the values in which they differ from the defaults."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        by_data = [
            f"{data}: {_values(values)}" for data, values in protocol.by_data.items() if values
        ]
        changed = filter(None, [_values(protocol.fields), *by_data])
        rows.append({"protocol": f"`{name}`", "differs from the defaults in": "; ".join(changed)})
    return markdown_table(rows)


def _values(values: object) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in dict(values).items())  # type: ignore[call-overload]


def configuration() -> str:
    """A table per section of fields: name, default, meaning, allowed values."""
    sections: dict[str, list[dict[str, str]]] = {}
    for name, field in FIELDS.items():
        section = name.partition(".")[0] if "." in name else "general"
        allowed = re.sub(r"^(it must be|choose) ", "", field.rule.text)
        row = {
            "field": f"`{name}`" + (" ¹" if field.resumable else ""),
            "default": f"`{field.default}`" if field.default != "" else "empty",
            "meaning": _cell(field.text),
            "allowed": _cell(allowed) or type(field.default).__name__,
        }
        sections.setdefault(section, []).append(row)
    parts = [f"## {section}\n\n{markdown_table(rows)}" for section, rows in sections.items()]
    return "\n\n".join(parts)


def statistics() -> str:
    """A section per mode of batch-norm statistics, from its record."""
    return "\n\n".join(_mode(mode) for mode in STATISTICS.values())


def _mode(mode: Statistics) -> str:
    facts = [
        "each query is predicted alone" if mode.alone else "a prediction depends on other queries",
        "reads running statistics" if mode.reads_running else "needs no running statistics",
        "only for models trained with it" if mode.needs_training else "for any trained model",
    ]
    return f"## `{mode.name}`\n\n{_sentence(mode.text)}\n\n- " + "\n- ".join(facts)


@functools.cache
def _tables() -> dict[str, str]:
    return all_tables(RESULTS)


def report(name: str) -> str:
    """A table of the report from the archived runs."""
    return f":::{{container}} wide\n{_tables()[name]}\n:::"


def family_table() -> str:
    """The table of `experiments.methods`."""
    return family.table(family.RESULTS)


def speed() -> str:
    """Ours beside PyTorch on every machine of the benchmark, from its rows."""
    return "\n\n".join(_machine(folder, machine) for folder, machine in MACHINES.items())


def _machine(folder: str, machine: str) -> str:
    rows = benchmark_rows(folder)
    times = {
        (row["case"], row["implementation"], row["order"]): row["ms_median"]
        for row in rows
        if row["section"] == "implementations" and row["method"] == "maml++"
    }
    lines = []
    for case, title in _CASES.items():
        row = {"task": title}
        for order, label in ((2, "second order"), (1, "first order")):
            ours, other = (times.get((case, name, order)) for name in ("ours", "pytorch"))
            if ours and other:
                row[label] = f"{ours:,.0f} ms"
                row[f"PyTorch, {label}"] = f"{other:,.0f} ms ({other / ours:.1f} times)"
        lines += [row] if len(row) > 1 else []
    return f"### {machine}\n\n{markdown_table(lines)}\n\n{_provenance(folder)}"


def benchmark_rows(folder: str) -> list[dict[str, Any]]:
    """The rows of an archived benchmark."""
    return json.loads((RESULTS / folder / "benchmark.json").read_text(encoding="utf-8"))


def _provenance(folder: str) -> str:
    """Where the numbers of a benchmark's folder are from."""
    page = (RESULTS / folder / "benchmark.md").read_text(encoding="utf-8")
    commit, jax = re.search(r"commit (\w+)", page), re.search(r"jax ([\w.]+)", page)
    made = f", JAX {jax[1]}" * bool(jax) + f", commit {commit[1][:12]}" * bool(commit)
    return f"From `experiments/results/{folder}`{made}."


def table3() -> str:
    """Milliseconds of an outer step by inner steps, of every machine on which they were measured."""
    parts = []
    for folder, machine in MACHINES.items():
        rows = [
            {
                "inner steps": steps,
                "MAML": f"{maml:.0f} ms",
                "MAML++, mean over its schedule": f"{annealed:.0f} ms",
                "of MAML's": f"{annealed / maml:.2f}",
            }
            for steps, (annealed, maml) in schedule_costs(
                [Row(**row) for row in benchmark_rows(folder)]
            ).items()
        ]
        if rows:
            parts += [markdown_table(rows), f"{machine}. {_provenance(folder)}"]
    return "\n\n".join(parts)


def gpu() -> str:
    """The rows of the benchmark that were measured on a GPU."""
    page = json.loads((RESULTS / "benchmark_h200" / "benchmark.json").read_text(encoding="utf-8"))
    rows = [
        {
            "task": _CASES[row["case"]],
            "tasks": row["tasks"],
            "order": row["order"],
            "computed by": row["implementation"].replace("ours", f"`model.conv={row['conv']}`"),
            "ms, median (fastest)": f"{row['ms_median']:.1f} ({row['ms_min']:.1f})",
            "MiB": f"{row['device_mib']:,.0f}" if row["device_mib"] else "",
        }
        for row in page["rows"]
    ]
    made = f"{page['device']}, driver {page['driver']}, JAX {page['jax']}, commit {page['commit']}"
    return f"{markdown_table(rows)}\n\n{made}. MAML++, multi-step loss, five inner steps."


def aot() -> str:
    """What outer steps compiled for a GPU would do there, from the archived rows of `experiments.gpu.aot`."""
    page = json.loads((RESULTS / "aot" / "aot.json").read_text(encoding="utf-8"))
    made = f"JAX {page['hardware']['jax']}, commit {page['commit'][:12]}"
    return f"{aot_table(page['rows'])}\n\nFrom `experiments/results/aot`, {made}."


def outliers() -> str:
    """How well the shipped models tell strangers: areas under the ROC curve, from the archived measurement."""
    rows = []
    for path in sorted((RESULTS / "outliers").glob("*.json")):
        model, text = path.stem, path.read_text(encoding="utf-8")
        rows += [
            {
                "model": f"`{model}`",
                "ways, shots": f"{row['way']}, {row['shot']}",
                "left-out classes": f"{row['familiarity, left-out classes']:.2f}",
                "noise": f"{row['familiarity, noise']:.2f}",
                "left-out classes, by probability": f"{row['probability, left-out classes']:.2f}",
                "noise, by probability": f"{row['probability, noise']:.2f}",
            }
            for row in json.loads(text)["auroc"]
        ]
    return f"{markdown_table(rows)}\n\nArea under the ROC curve; the score was chosen on tasks of `omniglot`."


def own_images() -> str:
    """What training on small folders gave, from the archived draws of `experiments.own_images`."""
    page = json.loads((RESULTS / "own_images" / "own_images.json").read_text(encoding="utf-8"))
    rows = [
        {
            "draw": str(row["draw"]),
            "`photos`": f"{100 * row['photos']:.0f} %",
            "trained on the folder": f"{100 * row['trained']:.0f} %",
            "training and test": f"{row['seconds'] / 60:.1f} minutes",
        }
        for row in page["rows"]
    ]
    means = [
        100 * sum(row[name] for row in page["rows"]) / len(rows) for name in ("photos", "trained")
    ]
    hardware = page["rows"][0]["hardware"]
    return (
        f"{markdown_table(rows)}\n\nMeans {means[0]:.1f} and {means[1]:.1f} %; two cores of an "
        f"{hardware['processor']}, JAX {hardware['jax']}, `{page['command']}`."
    )


def gallery() -> str:
    """Figures of the archived runs that have learned rates, the longest run first."""
    names = [
        "omniglot-5way-1shot-maml++-released-seed0",
        "omniglot-20way-1shot-smoothing-maml++-short-seed0",
        "mini_imagenet-5way-1shot-rate_0.01-maml++-short-seed0",
    ]
    return "\n\n".join(f"## {name}\n\n{_figures(name)}" for name in names)


def _figures(name: str) -> str:
    there = [(file, text) for file, text in _FIGURES.items() if (RESULTS / name / file).exists()]
    return "\n\n".join(
        f"```{{figure}} ../../experiments/results/{name}/{file}\n{text}.\n```"
        for file, text in there
    )


def recipes() -> str:
    """Every program in `experiments/examples`: its first sentence and its text."""
    paths = sorted((ROOT / "experiments" / "examples").glob("[a-z]*.py"))
    return "\n\n".join(_recipe(path) for path in paths)


def _recipe(path: pathlib.Path) -> str:
    title = path.stem.replace("_", " ").capitalize()
    text = path.read_text(encoding="utf-8").rstrip()
    return f"## {title}\n\n`experiments/examples/{path.name}`\n\n````python\n{text}\n````"


def api() -> str:
    """The public names by the groups of the package's docstring."""
    sections = {
        group: [_directive("mamlpp_jax", name) for name in names]
        for group, names in public_names().items()
    }
    raised = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    sections["Errors"] = [_directive("mamlpp_jax.errors", name) for name in raised]
    return "\n\n".join(
        "\n".join([f"## {title}", "", "```{eval-rst}", *directives, "```"])
        for title, directives in sections.items()
    )


def public_names() -> dict[str, list[str]]:
    """The public names of every group in the package's docstring."""
    groups: dict[str, list[str]] = {}
    for group, text in _groups():
        known = [name for name in re.findall(r"`(\w+)", text) if name in mamlpp_jax.__all__]
        groups.setdefault(group, []).extend(known)
    return {group: names for group, names in groups.items() if names}


def _groups() -> Iterator[tuple[str, str]]:
    listed = (mamlpp_jax.__doc__ or "").split("\n\n")[-1]
    for paragraph in re.split(r"\n(?=[A-Z][\w ]+: )", listed):
        group, _, text = paragraph.partition(": ")
        yield group.strip(), text


def _directive(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value):
        return f".. autoclass:: {module}.{name}\n   :members:\n"
    if callable(value):
        return f".. autofunction:: {module}.{name}\n"
    listed = ", ".join(f"``{key}``" for key in value)
    return f".. py:data:: {module}.{name}\n\n   A dictionary by name: {listed}.\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip()


PAGES: dict[str, Callable[..., str]] = {
    "readme": readme,
    "root": root_page,
    "methods": methods,
    "components": components,
    "protocols": protocols,
    "configuration": configuration,
    "statistics": statistics,
    "report": report,
    "family": family_table,
    "speed": speed,
    "table3": table3,
    "gpu": gpu,
    "aot": aot,
    "outliers": outliers,
    "own_images": own_images,
    "gallery": gallery,
    "recipes": recipes,
    "api": api,
}
