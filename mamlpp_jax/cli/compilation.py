"""How the command lines compile."""

from __future__ import annotations

import os

import jax

from mamlpp_jax.data.cache import cache_folder


def set_up_compilation(cache_dir: str = "") -> None:
    """Keeps what is compiled for later processes, unless JAX_COMPILATION_CACHE_DIR says where.

    Args:
        cache_dir: as in `data.cache_dir`; "" for the user's cache folder.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        compiled = cache_folder(cache_dir) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(compiled))
