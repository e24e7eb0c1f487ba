# The public names: `__init__.py` reads here what to import on first use, and type checkers what there is.
from ._version import __version__ as __version__
from .algorithms.inner_loop import Trace as Trace, adapt as adapt
from .algorithms.inner_optimizers import (
    InnerOptimizer as InnerOptimizer,
    alfa as alfa,
    away_from_zero as away_from_zero,
    lslr as lslr,
    masked as masked,
    metasgd as metasgd,
    sgd as sgd,
)
from .algorithms.learner import Learner as Learner
from .algorithms.losses import (
    CrossEntropy as CrossEntropy,
    InnerLoss as InnerLoss,
    accuracy as accuracy,
    cross_entropy as cross_entropy,
)
from .algorithms.meta_loss import meta_loss as meta_loss
from .algorithms.metacurvature import metacurvature as metacurvature
from .algorithms.metal import metal as metal, metal_inductive as metal_inductive
from .algorithms.metrics import Predictions as Predictions, ensemble as ensemble, score as score
from .algorithms.outer_loop import (
    fixed_tasks as fixed_tasks,
    init_state as init_state,
    make_train_step as make_train_step,
    scan_steps as scan_steps,
)
from .algorithms.protomaml import prototypes as prototypes
from .algorithms.reptile import reptile_gradient as reptile_gradient
from .algorithms.task import (
    PerStep as PerStep,
    Task as Task,
    adapt_to as adapt_to,
    at_step as at_step,
    make_task as make_task,
    per_step_values as per_step_values,
    query_pass as query_pass,
)
from .cli.in_process import (
    Outcome as Outcome,
    adapt_and_predict as adapt_and_predict,
    evaluate as evaluate,
    train as train,
)
from .config import apply_method as apply_method, default_config as default_config
from .data.episodes import normalize as normalize
from .data.sampled_episodes import EpisodeSource as EpisodeSource
from .data.sources.registry import load_dataset as load_dataset
from .distributed.mesh import make_mesh as make_mesh
from .inference.classifier import FewShotClassifier as FewShotClassifier
from .inference.export import export_adaptation as export_adaptation
from .inference.trained_run import TrainedRun as TrainedRun, load_run as load_run
from .models.conv4 import Conv4 as Conv4
from .models.film import FilmConv4 as FilmConv4
from .models.forward import (
    init_model as init_model,
    make_body_and_head as make_body_and_head,
    make_forward as make_forward,
)
from .models.head import with_ways as with_ways
from .models.layers import Conv as Conv, PerStepBatchNorm as PerStepBatchNorm
from .models.resnet12 import ResNet12 as ResNet12
from .statistics import STATISTICS as STATISTICS, Statistics as Statistics
from .training.callbacks import Callback as Callback
from .training.experiment import make_sampler as make_sampler
from .types import (
    Batch as Batch,
    BodyAndHead as BodyAndHead,
    Episode as Episode,
    MetaParams as MetaParams,
    MetaState as MetaState,
    ModelVariables as ModelVariables,
    StepPlan as StepPlan,
)
