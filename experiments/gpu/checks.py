"""What must be right before anything is timed: parity with the authors in float64, and every convolution.

The checks are those of the tests, on the device that JAX prefers; what convolutions are compared with is computed
on the CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.gpu.jobs import Job

_ROOT = Path(__file__).resolve().parents[2]
# With a kernel per task `direct` is `patches`.
_KINDS = ("patches", "grouped", "xla")
# These two have every shape of layer: pooled and strided.
_EVERY_KIND = ("mamlpp_second_order", "strided_no_pool")
# size, kernel, stride, padding, channels, filters of the paper's layers
_LAYERS = (
    ((28, 28), (3, 3), 1, 1, 1, 64),
    ((14, 14), (3, 3), 1, 1, 64, 64),
    ((7, 7), (3, 3), 1, 1, 64, 64),
    ((42, 42), (3, 3), 1, 1, 48, 48),
)
_TOLERANCE = 1e-10  # float64, relative to the largest element
_TASKS = 3
_PRECISIONS = (
    ("float64", "float64", "highest"),
    ("float32, default", "float32", "default"),
    ("float32, highest", "float32", "highest"),
)


def parity_jobs(tiny: bool) -> list[Job]:
    """Every reference file with the default convolution, then two of them with every other one."""
    files = sorted(path.stem for path in (_ROOT / "tests" / "reference").glob("*.npz"))
    runs: list[tuple[str, str, int | None]] = [(file, "auto", None) for file in files]
    runs += [(file, kind, None) for kind in _KINDS for file in _EVERY_KIND]
    runs += [("mamlpp_second_order", "auto", 1)]
    if tiny:
        runs = [("shared_bn_one_step", "auto", None)]
    return [
        Job(
            f"parity/{file}/{conv}" + ("" if chunk is None else f"/chunk {chunk}"),
            "experiments.gpu.checks:parity",
            {"file": file, "conv": conv, "chunk": chunk},
            limit=240,
        )
        for file, conv, chunk in runs
    ]


def parity(file: str, conv: str, chunk: int | None) -> dict[str, Any]:
    """Compares loss, logits, meta-gradient and three updates with the authors' implementation, in float64.

    Raises:
        AssertionError: they differ by more than the tests allow.
    """
    import jax

    tests: Any = importlib.import_module("tests.parity_test")
    with jax.enable_x64(True):
        arrays = tests.load(_ROOT / "tests" / "reference" / f"{file}.npz")
        tests.check_against(arrays, conv=conv, chunk=chunk)
    return {"device": jax.devices()[0].device_kind}


def conv_jobs(tiny: bool) -> list[Job]:
    """The convolution grid, and the layers of the paper's networks, for every way of computing."""
    shapes = [*importlib.import_module("tests.ops.conv_test").CASES, *_LAYERS]
    if tiny:
        shapes = [shape for shape in shapes if shape[-2] == 16][:1]
    return [
        Job(
            f"conv/{kind}/{shape}",
            "experiments.gpu.checks:conv",
            {"kind": kind, "shape": shape},
        )
        for kind in _KINDS
        for shape in shapes
    ]


def conv(kind: str, shape: Sequence[Any]) -> dict[str, Any]:
    """Compares the second derivatives of a convolution, a kernel per task, with those of `lax.conv` on the CPU.

    Args:
        kind: of convolution.
        shape: ((H, W), (kh, kw), stride, padding, C, F).

    Returns:
        The device and the largest error relative to the largest element: in float64, and in float32 by the
        default precision of products (TF32 on GPUs that have it) and by the highest.

    Raises:
        AssertionError: float64 is off by more than 1e-10, a number is not finite, or a precision does not run.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mamlpp_jax.ops.conv import conv2d

    tests: Any = importlib.import_module("tests.ops.conv_test")
    helper: Any = importlib.import_module("tests.helpers.derivatives")

    def derivatives(x: Any, w: Any, kind: str) -> Any:
        layer = partial(conv2d, impl=kind, **made[0][2])
        return jax.tree.map(np.asarray, jax.vmap(partial(helper.second_derivatives, layer))(x, w))

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        made = [tests.make(shape, seed) for seed in range(_TASKS)]
        x, w = (np.stack([each[i] for each in made]) for i in (0, 1))
        exact = derivatives(jnp.asarray(x), jnp.asarray(w), "xla")
    errors, problems = {}, []
    for label, dtype, precision in _PRECISIONS:
        try:
            with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision(precision):
                found = derivatives(x.astype(dtype), w.astype(dtype), kind)
        except Exception as error:  # A GPU may lack one precision; the others still count.
            problems.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")
            continue
        errors[label] = _error(found, exact)
    if problems or not all(np.isfinite(list(errors.values()))) or errors["float64"] > _TOLERANCE:
        raise AssertionError(f"{errors}; {problems}")
    return {"device": jax.devices()[0].device_kind, "errors": errors}


def _error(found: Any, exact: Any) -> float:
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs)
