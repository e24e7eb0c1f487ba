"""MAML and MAML++ as pure functions on JAX, Flax and Optax.

The names below are the public API. Importing the package is cheap: a name's module, and JAX with
it, is imported when the name is first used.

Configuration: `default_config`, `apply_method`.
Data: `load_dataset`, `Episode`, `fixed_tasks`.
Backbone: `Conv4`, or any Flax module, with `Conv` and `PerStepBatchNorm`; `init_model`, `make_forward`.
Inner loop: `Learner`, `adapt`, `lay_out`, and the inner optimizers `lslr`, `sgd`, `InnerOptimizer`, `restricted`.
Outer loop: `MetaParams`, `MetaState`, `StepPlan`, `init_state`, `meta_loss`, `make_train_step`, `scan_steps`.
Losses and scores: `cross_entropy`, `accuracy`, `score`, `ensemble`.
Trained runs: `load_run`, `TrainedRun`, `with_ways`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mamlpp_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from mamlpp_jax.algorithms.inner_loop import adapt as adapt
    from mamlpp_jax.algorithms.inner_optimizers import InnerOptimizer as InnerOptimizer
    from mamlpp_jax.algorithms.inner_optimizers import lslr as lslr
    from mamlpp_jax.algorithms.inner_optimizers import restricted as restricted
    from mamlpp_jax.algorithms.inner_optimizers import sgd as sgd
    from mamlpp_jax.algorithms.learner import Learner as Learner
    from mamlpp_jax.algorithms.meta_loss import meta_loss as meta_loss
    from mamlpp_jax.algorithms.metrics import accuracy as accuracy
    from mamlpp_jax.algorithms.metrics import cross_entropy as cross_entropy
    from mamlpp_jax.algorithms.metrics import ensemble as ensemble
    from mamlpp_jax.algorithms.metrics import score as score
    from mamlpp_jax.algorithms.outer_loop import fixed_tasks as fixed_tasks
    from mamlpp_jax.algorithms.outer_loop import init_state as init_state
    from mamlpp_jax.algorithms.outer_loop import make_train_step as make_train_step
    from mamlpp_jax.algorithms.outer_loop import scan_steps as scan_steps
    from mamlpp_jax.algorithms.per_step import lay_out as lay_out
    from mamlpp_jax.config import apply_method as apply_method
    from mamlpp_jax.config import default_config as default_config
    from mamlpp_jax.data.sources.registry import load_dataset as load_dataset
    from mamlpp_jax.inference.trained_run import TrainedRun as TrainedRun
    from mamlpp_jax.inference.trained_run import load_run as load_run
    from mamlpp_jax.models.conv4 import Conv4 as Conv4
    from mamlpp_jax.models.forward import init_model as init_model
    from mamlpp_jax.models.forward import make_forward as make_forward
    from mamlpp_jax.models.head import with_ways as with_ways
    from mamlpp_jax.models.layers import Conv as Conv
    from mamlpp_jax.models.layers import PerStepBatchNorm as PerStepBatchNorm
    from mamlpp_jax.types import Episode as Episode
    from mamlpp_jax.types import MetaParams as MetaParams
    from mamlpp_jax.types import MetaState as MetaState
    from mamlpp_jax.types import StepPlan as StepPlan

# Public name -> its module. The imports above tell type checkers the same.
_EXPORTS = {
    "Conv": "mamlpp_jax.models.layers",
    "Conv4": "mamlpp_jax.models.conv4",
    "Episode": "mamlpp_jax.types",
    "InnerOptimizer": "mamlpp_jax.algorithms.inner_optimizers",
    "Learner": "mamlpp_jax.algorithms.learner",
    "MetaParams": "mamlpp_jax.types",
    "MetaState": "mamlpp_jax.types",
    "PerStepBatchNorm": "mamlpp_jax.models.layers",
    "StepPlan": "mamlpp_jax.types",
    "TrainedRun": "mamlpp_jax.inference.trained_run",
    "accuracy": "mamlpp_jax.algorithms.metrics",
    "adapt": "mamlpp_jax.algorithms.inner_loop",
    "apply_method": "mamlpp_jax.config",
    "cross_entropy": "mamlpp_jax.algorithms.metrics",
    "default_config": "mamlpp_jax.config",
    "ensemble": "mamlpp_jax.algorithms.metrics",
    "fixed_tasks": "mamlpp_jax.algorithms.outer_loop",
    "init_model": "mamlpp_jax.models.forward",
    "init_state": "mamlpp_jax.algorithms.outer_loop",
    "lay_out": "mamlpp_jax.algorithms.per_step",
    "load_dataset": "mamlpp_jax.data.sources.registry",
    "load_run": "mamlpp_jax.inference.trained_run",
    "lslr": "mamlpp_jax.algorithms.inner_optimizers",
    "make_forward": "mamlpp_jax.models.forward",
    "make_train_step": "mamlpp_jax.algorithms.outer_loop",
    "meta_loss": "mamlpp_jax.algorithms.meta_loss",
    "restricted": "mamlpp_jax.algorithms.inner_optimizers",
    "scan_steps": "mamlpp_jax.algorithms.outer_loop",
    "score": "mamlpp_jax.algorithms.metrics",
    "sgd": "mamlpp_jax.algorithms.inner_optimizers",
    "with_ways": "mamlpp_jax.models.head",
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
