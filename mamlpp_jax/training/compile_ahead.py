"""Compiling functions before they are needed, while others compile or run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from types import TracebackType
from typing import Any

import jax

from mamlpp_jax.utils.terminal import phase


class CompileAhead:
    """Compiles jitted functions in a thread, one after the other, so that their first calls find them compiled.

    XLA compiles a function on about one core, so a second one of a CPU would wait. Elsewhere nothing is done: to
    compile for a GPU is to time kernels on it, which other work would disturb. An error is left to the call itself.

    Leaving the context waits for the compilation that is going on and drops the others.
    """

    def __init__(self) -> None:
        idle = jax.default_backend() == "cpu" and (os.cpu_count() or 1) > 1
        # Several processes must compile in the same order.
        self._threads = (
            concurrent.futures.ThreadPoolExecutor(1, "compile ahead")
            if idle and jax.process_count() == 1
            else None
        )
        self._compilations: dict[str, concurrent.futures.Future[Any]] = {}

    def __enter__(self) -> CompileAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        if self._threads is None:
            return
        waits = any(one.running() for one in self._compilations.values())
        with phase("waiting for a compilation") if waits else contextlib.nullcontext():
            self._threads.shutdown(wait=True, cancel_futures=True)

    def add(self, name: str, function: Any, *arguments: Any) -> None:
        """Begins to compile a jitted function for arguments of these shapes; arrays are not kept."""
        if self._threads is not None:
            shapes = jax.tree.map(_shape, arguments)
            self._compilations[name] = self._threads.submit(_compile, function, shapes)

    def wait(self, name: str) -> None:
        """Returns when a function is compiled; at once for a name that was not added."""
        if name in self._compilations:
            concurrent.futures.wait([self._compilations[name]])


def _shape(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    weak = getattr(leaf, "weak_type", False)  # arrays of keys have none
    # Where JAX has chosen the device, the call may choose it, too.
    sharding = leaf.sharding if leaf.committed else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


def _compile(function: Any, shapes: tuple[Any, ...]) -> None:
    function.lower(*shapes).compile()
