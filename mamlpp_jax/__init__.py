"""MAML and MAML++ as pure functions on JAX, Flax and Optax.

The names below are the public API. Importing the package is cheap: a name's module, and JAX with
it, is imported when the name is first used.

Configuration: `default_config`, `apply_method`.
Data: `load_dataset`.
Backbone: `Conv4`.
Inner loop: `adapt`, and the inner optimizers `lslr` and `sgd`.
Outer loop: `Learner`, `init_state`, `meta_loss`, `make_train_step`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mamlpp_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from mamlpp_jax.algorithms.inner_loop import adapt as adapt
    from mamlpp_jax.algorithms.inner_optimizers import lslr as lslr
    from mamlpp_jax.algorithms.inner_optimizers import sgd as sgd
    from mamlpp_jax.algorithms.outer_loop import Learner as Learner
    from mamlpp_jax.algorithms.outer_loop import init_state as init_state
    from mamlpp_jax.algorithms.outer_loop import make_train_step as make_train_step
    from mamlpp_jax.algorithms.outer_loop import meta_loss as meta_loss
    from mamlpp_jax.config import apply_method as apply_method
    from mamlpp_jax.config import default_config as default_config
    from mamlpp_jax.data.sources.registry import load_dataset as load_dataset
    from mamlpp_jax.models.conv4 import Conv4 as Conv4

# Public name -> its module. The imports above tell type checkers the same.
_EXPORTS = {
    "Conv4": "mamlpp_jax.models.conv4",
    "Learner": "mamlpp_jax.algorithms.outer_loop",
    "adapt": "mamlpp_jax.algorithms.inner_loop",
    "apply_method": "mamlpp_jax.config",
    "default_config": "mamlpp_jax.config",
    "init_state": "mamlpp_jax.algorithms.outer_loop",
    "load_dataset": "mamlpp_jax.data.sources.registry",
    "lslr": "mamlpp_jax.algorithms.inner_optimizers",
    "make_train_step": "mamlpp_jax.algorithms.outer_loop",
    "meta_loss": "mamlpp_jax.algorithms.outer_loop",
    "sgd": "mamlpp_jax.algorithms.inner_optimizers",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, imported or not."""
    return sorted({*globals(), *_EXPORTS})
