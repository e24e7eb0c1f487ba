"""MAML and MAML++ as pure functions on JAX, Flax and Optax.

The names below are the public API. Importing the package is cheap: a name's module, and JAX with
it, is imported when the name is first used.

Configuration: `default_config`, `apply_method`.
In process: `train`, `evaluate` (each gives an `Outcome`), `Callback`, `adapt_and_predict`.
Data: `load_dataset`, `make_sampler`, `normalize`, `Batch`, `Episode`, `fixed_tasks`; samplers of one's own:
`EpisodeSource`.
Backbone: `Conv4`, `FilmConv4`, `ResNet12`, or any Flax module, with `Conv` and `PerStepBatchNorm`; `init_model`,
`make_forward`, `make_body_and_head` (a `BodyAndHead`); a `Forward` of one's own, with `ModelVariables`.
Inner loop: `Learner`, `adapt` (with a `Trace`), `make_task` (a `Task`), `adapt_to`, `PerStep`, `per_step_values`,
`at_step`, `query_pass`; `Statistics`, `STATISTICS`; inner optimizers: `InnerOptimizer`, `sgd`, `lslr`, `metasgd`,
`alfa`, `metacurvature`, `masked`, `away_from_zero`; inner losses: `InnerLoss`, `metal`, `metal_inductive`; where it
starts: `prototypes`.
Outer loop: `MetaParams`, `MetaState`, `StepPlan`, `init_state`, `meta_loss`, `make_train_step`, `scan_steps`,
`reptile_gradient`, `make_mesh`.
Losses and scores: `cross_entropy`, `CrossEntropy`, `accuracy`, `score`, `ensemble`, `Predictions`.
Trained models: `FewShotClassifier`, `export_adaptation`; trained runs: `load_run`, `TrainedRun`, `with_ways`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
