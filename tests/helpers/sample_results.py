"""A row of `results.json` of the small run, and what it is read as."""

from mamlpp_jax.artifacts.results import Evaluation

ROW = {
    "model": "best",
    "train_statistics": "batch",
    "eval_statistics": "batch",
    "way": 3,
    "shot": 1,
    "query": 1,
    "inner_steps": 2,
    "tasks": 4,
    "accuracy": 0.5,
    "ci95": 0.1,
    "loss": 1.5,
    "accuracy_per_step": [0.2, 0.3, 0.5],
}
RESULT = Evaluation(**ROW)
