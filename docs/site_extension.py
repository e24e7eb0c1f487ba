"""Sphinx parts of the site: Markdown that is made at build time, and formulas as MathML.

    ```{generated} configuration
    ```

puts the Markdown of `site_pages.PAGES["configuration"]` in its place.
"""

from __future__ import annotations

from typing import Any

import site_pages
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# Names in signatures that have no page: modules of ours, type variables, and names that only type checkers import.
PRIVATE = (
    r"mamlpp_jax\.(?!\w+$).*|Any|Array|Callable.*|ConfigDict|Forward|Image|Labels?|Logits|Mapping|Module|"
    r"Moments|Mesh|Metric|NDArray|Params|PyTree|RunningStats|Sampler|Sequence|Shape.*|T|optional"
)


class Generated(SphinxDirective):
    """Replaces itself by Markdown that a function makes."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = False

    def run(self) -> list[nodes.Node]:
        """Returns the nodes of the Markdown."""
        self.env.note_reread()  # Sphinx does not see what the page is made of
        page, *arguments = self.arguments
        return self.parse_text_to_nodes(
            site_pages.PAGES[page](*arguments), allow_section_headings=True
        )


def _visit_math(self: Any, node: nodes.math) -> None:
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _visit_equation(self: Any, node: nodes.math_block) -> None:
    self.body.append(f"<p>{convert(node.astext(), display='block')}</p>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive and the renderer of formulas."""
    app.add_directive("generated", Generated)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_equation, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
