"""The documentation's generated pages leave nothing out, and its hand-written ones hold together."""

import pathlib
import re
import sys

import pytest

import mamlpp_jax
from mamlpp_jax.config.fields import FIELDS
from mamlpp_jax.config.methods import COMPONENTS, METHODS
from mamlpp_jax.config.protocols import PROTOCOLS
from mamlpp_jax.statistics import STATISTICS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
sys.path.append(str(DOCS))
import site_pages  # noqa: E402


def test_every_public_name_is_in_the_reference():
    names = [name for group in site_pages.public_names().values() for name in group]
    assert sorted(names) == sorted(set(mamlpp_jax.__all__) - {"__version__"})


def test_every_field_is_described():
    page = site_pages.configuration()
    for name in FIELDS:
        (row,) = re.findall(rf"^\| `{re.escape(name)}`.*$", page, re.MULTILINE)
        assert len(row.split("|")[3].strip()) > 3, name


def test_methods_components_protocols_and_statistics_are_all_there():
    for name in METHODS:
        assert f"`{name}`" in site_pages.methods()
    for name, part in COMPONENTS.items():
        assert f"### `{name}`" in site_pages.components()
        assert part.cite in site_pages.components()
    for name in PROTOCOLS:
        assert f"`{name}`" in site_pages.protocols()
    for name in STATISTICS:
        assert f"## `{name}`" in site_pages.statistics()


def test_an_exclusion_is_named_on_both_sides():
    sections = site_pages.components().split("### ")
    boil, shared = (
        next(text for text in sections if text.startswith(f"`{name}`"))
        for name in ("boil", "sharedhead")
    )
    assert "`sharedhead` (BOIL never changes the head" in boil
    assert "`boil` (BOIL never changes the head" in shared


def test_pages_that_are_asked_for_exist():
    asked = set()
    for page in PAGES:
        for name, argument in re.findall(
            r"```\{generated\} (\w+) ?(\S*)", page.read_text(encoding="utf-8")
        ):
            assert name in site_pages.PAGES
            asked.add(name)
            if name != "report":
                continue
            assert argument in site_pages.all_tables(site_pages.RESULTS)
    assert asked == set(site_pages.PAGES)


def test_speed_has_every_machine():
    page = site_pages.speed()
    for machine in site_pages.MACHINES.values():
        assert f"### {machine}" in page
    assert "times)" in page


def _times(case, implementation):
    """Median milliseconds of an outer step of MAML++ in second order, of every machine."""
    wanted = {"section": "implementations", "method": "maml++", "order": 2}
    wanted |= {"case": case, "implementation": implementation}
    rows = [row for folder in site_pages.MACHINES for row in site_pages.benchmark_rows(folder)]
    return [row["ms_median"] for row in rows if wanted.items() <= row.items()]


def test_speed_in_readme_is_that_of_the_benchmark():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split("## Speed")[1].split())
    told = [float(number) for number in re.findall(r"(\d[\d.]*) (?=to|ms|times)", text)][:6]
    ours = _times("omniglot_5w1s", "ours")
    expected = [round(min(ours)), round(max(ours))]
    for case in ("omniglot_5w1s", "omniglot_20w1s"):
        ours, others = (_times(case, name) for name in ("ours", "pytorch"))
        ratios = [other / own for own, other in zip(ours, others, strict=True)]
        expected += [round(min(ratios), 1), round(max(ratios), 1)]
    assert told == expected


# A number with a unit that only measuring gives, in prose.
MEASURED = re.compile(r"±|\d ?%|\d ?(?:ms|s|min|GiB|MiB|GB|MB|GFLOP\S*|points?)\b")
# Parts of pages that say nothing measured by us, or that another test compares.
ALLOWED = {
    "README.md": [
        r"<!-- report:.*?<!-- /report -->",  # made by the report, and compared
        r"## Speed\n.*?(?=\n## )",  # compared with the benchmark above
    ],
    "docs/guide/runs.md": [r"\| [^|\n]*--max_minutes[^\n]*"],
}
# The changelog is history; examples print what they computed.
HAND_WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in PAGES if "tutorials" not in page.parts),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_measured_numbers_stand_on_generated_pages_alone(page):
    text = page.read_text(encoding="utf-8")
    for part in ALLOWED.get(page.relative_to(ROOT).as_posix(), []):
        assert re.search(part, text, re.DOTALL), part
        text = re.sub(part, "", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert [m[0] for m in MEASURED.finditer(prose)] == []


def test_table_3_has_five_numbers_of_inner_steps():
    costs = re.findall(r"^ *\|? *(\d)\b.*?(0\.\d\d)", site_pages.table3(), re.MULTILINE)
    assert [int(steps) for steps, _ in costs] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_and_figures_of_a_page_hold(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    links += re.findall(r"```\{(?:figure|literalinclude)\} (\S+)", text)
    for link in links:
        assert (page.parent / link).exists(), link


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for body in re.findall(
            r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            for line in body.splitlines():
                if line and not line.startswith(":"):
                    listed |= set(page.parent.glob(f"{line}.md"))
    assert listed == set(PAGES)


def test_the_file_map_names_every_package_and_nothing_else():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Layout")[1]
    table = section.split("|---|---|")[1].split("\n\n")[0]
    table = table.split("\n`configs/`")[0]
    named = re.findall(
        r"`([\w.]+)/?`", "\n".join(row.split("|")[1] for row in table.splitlines() if row)
    )
    found = {
        path.name
        for path in (ROOT / "mamlpp_jax").iterdir()
        if path.name not in ("__init__.py", "_version.py", "py.typed")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert len(named) == len(set(named))
    assert set(named) == found
