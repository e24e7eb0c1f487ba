"""How the command lines compile."""

from __future__ import annotations

import os

import jax

from mamlpp_jax.data.cache import cache_folder


def set_up_compilation(cache_dir: str = "") -> None:
    """Stores compiled functions for later processes in the cache folder or in JAX_COMPILATION_CACHE_DIR."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        compiled = cache_folder(cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled))
