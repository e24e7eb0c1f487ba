"""Sphinx configuration: `make docs`. Nothing is downloaded; tables come from the package and the archived runs."""

from __future__ import annotations

import os
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1])]

import site_extension  # noqa: E402

from mamlpp_jax import __version__  # noqa: E402

project = "mamlpp_jax"
author = "The mamlpp_jax developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "site_extension",
]
exclude_patterns = ["_build", "jupyter"]
html_theme = "furo"
html_title = f"mamlpp_jax {release}"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"  # the browser's own, without a script

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"

# Notebooks run once per change of their code. Compiling is most of their time.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# The kernel of this environment, whatever kernels the user has; without its note on encryption.
os.environ["JUPYTER_PATH"] = str(pathlib.Path(__file__).parent / "jupyter")
nb_execution_mode = "cache"
nb_execution_cache_path = str(pathlib.Path(__file__).parent / "_build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables

default_role = "literal"  # `name` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True

# Types of other libraries, and names of ours that are no public API.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(jax|jaxlib|flax|optax|numpy|np|ml_collections|collections|os|typing|pathlib|PIL)\..*",
    ),
    ("py:.*", site_extension.PRIVATE),
]
