"""MAML and MAML++ as pure functions on JAX, Flax and Optax.

The names below are the public API. Importing the package is cheap: a name's module, and JAX with
it, is imported when the name is first used.

Configuration: `default_config`, `apply_method`.
Data: `load_dataset`, `Batch`, `Episode`, `fixed_tasks`.
Backbone: `Conv4`, `ResNet12`, or any Flax module, with `Conv` and `PerStepBatchNorm`; `init_model`, `make_forward`,
`make_body_and_head`; a `Forward` of one's own, with `ModelVariables`.
Inner loop: `Learner`, `adapt`, `make_task`, `adapt_to`, `PerStep`, `per_step_values`, `at_step`; `Statistics`,
`STATISTICS`; inner optimizers: `InnerOptimizer`, `sgd`, `lslr`, `metasgd`, `alfa`, `masked`, `away_from_zero`; inner
losses: `InnerLoss`.
Outer loop: `MetaParams`, `MetaState`, `StepPlan`, `init_state`, `meta_loss`, `make_train_step`, `scan_steps`,
`reptile_gradient`.
Losses and scores: `cross_entropy`, `accuracy`, `score`, `ensemble`.
Trained models: `FewShotClassifier`, `export_adaptation`; trained runs: `load_run`, `TrainedRun`, `with_ways`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mamlpp_jax._version import __version__ as __version__

if TYPE_CHECKING:
    from mamlpp_jax.algorithms.inner_loop import Trace as Trace, adapt as adapt
    from mamlpp_jax.algorithms.inner_optimizers import (
        InnerOptimizer as InnerOptimizer,
        alfa as alfa,
        away_from_zero as away_from_zero,
        lslr as lslr,
        masked as masked,
        metasgd as metasgd,
        sgd as sgd,
    )
    from mamlpp_jax.algorithms.learner import Learner as Learner
    from mamlpp_jax.algorithms.losses import (
        CrossEntropy as CrossEntropy,
        InnerLoss as InnerLoss,
        accuracy as accuracy,
        cross_entropy as cross_entropy,
    )
    from mamlpp_jax.algorithms.meta_loss import meta_loss as meta_loss
    from mamlpp_jax.algorithms.metrics import ensemble as ensemble, score as score
    from mamlpp_jax.algorithms.outer_loop import (
        fixed_tasks as fixed_tasks,
        init_state as init_state,
        make_train_step as make_train_step,
        scan_steps as scan_steps,
    )
    from mamlpp_jax.algorithms.reptile import reptile_gradient as reptile_gradient
    from mamlpp_jax.algorithms.task import (
        PerStep as PerStep,
        Task as Task,
        adapt_to as adapt_to,
        at_step as at_step,
        make_task as make_task,
        per_step_values as per_step_values,
    )
    from mamlpp_jax.config import apply_method as apply_method, default_config as default_config
    from mamlpp_jax.data.sources.registry import load_dataset as load_dataset
    from mamlpp_jax.inference.classifier import FewShotClassifier as FewShotClassifier
    from mamlpp_jax.inference.export import export_adaptation as export_adaptation
    from mamlpp_jax.inference.trained_run import TrainedRun as TrainedRun, load_run as load_run
    from mamlpp_jax.models.conv4 import Conv4 as Conv4
    from mamlpp_jax.models.forward import (
        init_model as init_model,
        make_body_and_head as make_body_and_head,
        make_forward as make_forward,
    )
    from mamlpp_jax.models.head import with_ways as with_ways
    from mamlpp_jax.models.layers import Conv as Conv, PerStepBatchNorm as PerStepBatchNorm
    from mamlpp_jax.models.resnet12 import ResNet12 as ResNet12
    from mamlpp_jax.statistics import STATISTICS as STATISTICS, Statistics as Statistics
    from mamlpp_jax.types import (
        Batch as Batch,
        BodyAndHead as BodyAndHead,
        Episode as Episode,
        MetaParams as MetaParams,
        MetaState as MetaState,
        ModelVariables as ModelVariables,
        StepPlan as StepPlan,
    )

# Module below this package -> its public names. The imports above tell type checkers the same.
_EXPORTS = {
    "algorithms.inner_loop": ("Trace", "adapt"),
    "algorithms.inner_optimizers": (
        *("InnerOptimizer", "alfa", "away_from_zero", "lslr"),
        *("masked", "metasgd", "sgd"),
    ),
    "algorithms.learner": ("Learner",),
    "algorithms.losses": ("CrossEntropy", "InnerLoss", "accuracy", "cross_entropy"),
    "algorithms.meta_loss": ("meta_loss",),
    "algorithms.metrics": ("ensemble", "score"),
    "algorithms.outer_loop": ("fixed_tasks", "init_state", "make_train_step", "scan_steps"),
    "algorithms.reptile": ("reptile_gradient",),
    "algorithms.task": (
        *("PerStep", "Task", "adapt_to"),
        *("at_step", "make_task", "per_step_values"),
    ),
    "config": ("apply_method", "default_config"),
    "data.sources.registry": ("load_dataset",),
    "inference.classifier": ("FewShotClassifier",),
    "inference.export": ("export_adaptation",),
    "inference.trained_run": ("TrainedRun", "load_run"),
    "models.conv4": ("Conv4",),
    "models.forward": ("init_model", "make_body_and_head", "make_forward"),
    "models.head": ("with_ways",),
    "models.layers": ("Conv", "PerStepBatchNorm"),
    "models.resnet12": ("ResNet12",),
    "statistics": ("STATISTICS", "Statistics"),
    "types": (
        *("Batch", "BodyAndHead", "Episode", "MetaParams"),
        *("MetaState", "ModelVariables", "StepPlan"),
    ),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, imported or not."""
    return sorted({*globals(), *_MODULES})
