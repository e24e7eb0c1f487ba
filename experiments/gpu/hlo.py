"""Counts what a compiled program does on a GPU, from its optimised HLO: kernels, bytes and FLOP.

The text is parsed by its grammar alone: a computation is a list of instructions, one a line. An instruction of the
entry computation is a kernel, unless it moves nothing. Loops count as often as they run, and of a buffer that a kernel
only slices or updates in place the slice counts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Bits of an element; other types do not occur here.
_BITS = {"pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
_BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64}
# They name, order or reinterpret values, and launch nothing.
_FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|branch_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)")
_CONVOLUTIONS = {"Forward": (0, 1, None), "Input": (None, 1, 0), "Filter": (0, None, 1)}


class Kernel(NamedTuple):
    """One launch of a kernel.

    Attributes:
        name: of its instruction.
        op: its operation: fusion, custom-call, copy ...
        times: how often it runs.
        bytes: read and written by one run.
        flop: multiplications and additions of products in one run.
    """

    name: str
    op: str
    times: int
    bytes: float
    flop: float


class _Instruction(NamedTuple):
    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes behind the operands
    root: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A parsed module."""

    computations: dict[str, dict[str, _Instruction]]
    entry: str

    def kernels(self) -> list[Kernel]:
        """Every kernel that the entry computation launches, in loops and branches too."""
        return list(self._kernels(self.entry, 1))

    def _kernels(self, computation: str, times: int) -> Iterator[Kernel]:
        for one in self.computations[computation].values():
            if one.op in _FREE or one.op.endswith("-done"):
                continue
            if one.op == "while":
                body = re.search(r"body=(%[\w.\-]+)", one.rest)
                count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.rest)
                if body is None or count is None:
                    raise ValueError(f"{one.name} is a loop of unknown length.")
                yield from self._kernels(body[1], times * int(count[1]))
            elif one.op in ("call", "conditional"):
                for called in self._called(one):
                    yield from self._kernels(called, times)
            else:
                flop = self._flop(computation, one)
                yield Kernel(one.name, one.op, times, self._bytes(computation, one), flop)

    def _called(self, one: _Instruction) -> list[str]:
        return [name for group in _CALLED.findall(one.rest) for name in re.split(", ?", group)]

    def _bytes(self, computation: str, one: _Instruction) -> float:
        if one.op.startswith("fusion"):
            (called,) = self._called(one)
            return self._bytes_of_fusion(called)
        own = self.computations[computation]
        read = sum(size(own[name].shape) for name in one.operands)
        # What starts an asynchronous copy returns its operand too.
        return 2 * read if one.op.endswith("-start") else read + size(one.shape)

    @functools.lru_cache  # noqa: B019
    def _bytes_of_fusion(self, name: str) -> float:
        """Bytes of parameters, or of the slices of them that are read, and of results, or of what is updated."""
        body = self.computations[name]
        users: dict[str, list[_Instruction]] = {}
        for one in body.values():
            for operand in one.operands:
                users.setdefault(operand, []).append(one)
        total = 0.0
        for one in body.values():
            if one.op != "parameter":
                continue
            of = users.get(one.name, [])
            if of and all(
                user.op == "dynamic-slice" and user.operands[0] == one.name for user in of
            ):
                total += sum(size(user.shape) for user in of)
            elif not all(_updates(user, one.name) for user in of):
                total += size(one.shape)
        (root,) = (one for one in body.values() if one.root)
        results = [body[name] for name in root.operands] if root.op == "tuple" else [root]
        for one in results:
            while one.op == "bitcast":
                one = body[one.operands[0]]
            updated = one.op == "dynamic-update-slice"
            total += size(body[one.operands[1]].shape if updated else one.shape)
        return total

    def _flop(self, computation: str, one: _Instruction) -> float:
        own = self.computations[computation]
        shapes = [own[name].shape for name in one.operands if name in own]
        if one.op.startswith("fusion"):
            (called,) = self._called(one)
            body = self.computations[called].values()
            return sum(self._flop(called, inner) for inner in body)
        if one.op == "dot":
            contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
            return _product_flop(one.shape, shapes[0], contracting[1] if contracting else "")
        if re.search(r'custom_call_target="__cublas\$\w*', one.rest):
            contracting = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.rest)
            return _product_flop(one.shape, shapes[0], contracting[1] if contracting else "")
        if kind := re.search(
            r"__cudnn\$conv(?:BiasActivation|Backward)?(Forward|Input|Filter)", one.rest
        ):
            result = _arrays(one.shape)[0]
            three = (*(_arrays(shape)[0] for shape in shapes[:2]), result)
            return _convolution_flop(kind[1], three, one.rest)
        if one.op == "convolution":
            three = (_arrays(shapes[0])[0], _arrays(shapes[1])[0], _arrays(one.shape)[0])
            return _convolution_flop("Forward", three, one.rest)
        return 0.0


def _updates(user: _Instruction, name: str) -> bool:
    return user.op == "dynamic-update-slice" and user.operands[0] == name


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _ARRAY.findall(shape)
    ]


def size(shape: str) -> float:
    """Bytes of a shape such as "f32[2,3]{1,0}" or "(f32[2], s32[])"."""
    return sum(math.prod(dims) * _BITS.get(dtype, 0) / 8 for dtype, dims in _arrays(shape))


def _product_flop(result: str, left: str, contracting: str) -> float:
    (_, dims), (_, out) = _arrays(left)[0], _arrays(result)[0]
    over = [dims[int(axis.strip('"'))] for axis in contracting.split(",") if axis]
    return 2.0 * math.prod(out) * math.prod(over)


def _convolution_flop(
    kind: str, arrays: tuple[tuple[str, tuple[int, ...]], ...], attributes: str
) -> float:
    """Of a convolution or one of its gradients, whose result has the place of the missing operand."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0.0
    _, kernel_at, output_at = _CONVOLUTIONS[kind]
    kernel = arrays[2 if kernel_at is None else kernel_at][1]
    output = arrays[2 if output_at is None else output_at][1]
    outputs = kernel[labels[2].index("o")]
    return 2.0 * math.prod(output) * math.prod(kernel) / outputs


def parse(text: str) -> Module:
    """Parses the text of an optimised HLO module."""
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?(%[\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif found := re.match(r"\s+(ROOT )?(%[\w.\-]+) = (.*)$", line):
            one = _instruction(found[2], found[3], bool(found[1]))
            current[one.name] = one
    return Module(computations, entry)


def _instruction(name: str, text: str, root: bool) -> _Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    close = _closing(text, start)
    operands = tuple(re.findall(r"%[\w.\-]+", text[start:close]))
    return _Instruction(name, shape, text[:start], operands, text[close + 1 :], root)


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing parenthesis in {text[:60]!r}")
