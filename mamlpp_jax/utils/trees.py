"""Pytrees: their leaves by name, and one entry of each leaf."""

from __future__ import annotations

from typing import Any

import jax


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, such as "conv0/kernel", in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def entry(tree: Any, index: Any) -> Any:
    """The leaves at an index, or at several, of their leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
