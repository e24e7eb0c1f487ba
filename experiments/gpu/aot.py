"""Compiles outer steps for a GPU that is not there, and counts what it would have to do.

    python -m experiments.gpu.aot --output=FOLDER \
        --cases=omniglot_20w1s_16_tasks --forms=grouped,xla --orders=2

A row per case, form of the convolution and order of the derivatives: kernels launched in an outer step, loops
multiplied out, and the small ones, of which launching takes longest; bytes and FLOP from the optimised HLO;
temporaries; CPU seconds of the compilation. The estimate sums over kernels the longest of FLOP / rate, bytes /
bandwidth and 3 us of launching. Nothing is tuned and nothing is run, so it compares forms of one program, and promises
no time: a convolution with a group per task is counted as a product, which real libraries make slower.

It needs Python 3.12, `pip install '.[gpu]'` and no GPU. A row that is in FOLDER is not made again.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import resource
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmark_cases import CASES, Case, count_gflop
from experiments.benchmark_rows import make_config, random_images
from experiments.command_line import run_main
from experiments.gpu.hlo import Kernel, parse
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.distributed.mesh import AXIS
from mamlpp_jax.errors import ConfigError
from mamlpp_jax.ops.conv import IMPL_NAMES
from mamlpp_jax.reports.tables import markdown_table
from mamlpp_jax.training.experiment import build_experiment
from mamlpp_jax.training.jitted import jitted_train_steps
from mamlpp_jax.training.learner import state_shapes
from mamlpp_jax.types import StepPlan
from mamlpp_jax.utils.files import exists, read_json, write_json

ROWS_FILE = "aot.json"
_GIGA, _MIB = 1e9, 2**20
# An H100 of the SXM form, as its data sheet and CUDA's occupancy tables describe it.
_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
_BANDWIDTH, _RATE, _LAUNCH_S = 3.35e12, 200e12, 3e-6  # bytes/s; TF32 FLOP/s that products reach; s


@dataclasses.dataclass
class Row:
    """One compiled outer step, as the file of rows lists it."""

    case: str  # of the benchmark
    form: str  # config.model.conv
    order: int  # of the derivatives
    unroll: int  # inner steps per iteration of the compiled loop
    tasks: int  # the meta-batch
    multi_step: bool  # whether every step's query loss counts
    kernels: int  # launched
    small_kernels: int  # of which launching takes longest
    gigabytes: float  # read and written
    gflop: float  # of products, in the HLO
    gflop_needed: float  # as the benchmark counts them
    estimate_ms: float  # summed over kernels
    bytes_ms: float  # by bandwidth alone
    launch_ms: float  # by launches alone
    temporaries_mib: float  # by the compiler's analysis
    compile_s: float  # of CPU


def estimate(kernel: Kernel) -> float:
    """Seconds of one run of a kernel: the longest of computing, moving and launching."""
    return max(kernel.flop / _RATE, kernel.bytes / _BANDWIDTH, _LAUNCH_S)


def make_row(case: Case, form: str, order: int, unroll: int, multi_step: bool) -> tuple[Row, str]:
    """Compiles one outer step; returns its row and its optimised HLO."""
    lowered = _lowered(case, form, order, unroll, multi_step)
    before = _cpu_seconds()
    compiled = lowered.compile()
    seconds = _cpu_seconds() - before
    text = compiled.as_text()
    kernels = parse(text).kernels()
    moved, launches = (sum(k.times * k.bytes for k in kernels), sum(k.times for k in kernels))
    row = Row(
        case=case.name,
        form=form,
        order=order,
        unroll=unroll,
        tasks=case.tasks,
        multi_step=multi_step,
        kernels=launches,
        small_kernels=sum(k.times for k in kernels if estimate(k) == _LAUNCH_S),
        gigabytes=round(moved / _GIGA, 2),
        gflop=round(sum(k.times * k.flop for k in kernels) / _GIGA, 1),
        gflop_needed=round(count_gflop(case, order, multi_step), 1),
        estimate_ms=round(1e3 * sum(k.times * estimate(k) for k in kernels), 2),
        bytes_ms=round(1e3 * moved / _BANDWIDTH, 2),
        launch_ms=round(1e3 * launches * _LAUNCH_S, 2),
        temporaries_mib=round(compiled.memory_analysis().temp_size_in_bytes / _MIB),
        compile_s=round(seconds, 1),
    )
    return row, text


def _lowered(case: Case, form: str, order: int, unroll: int, multi_step: bool) -> Any:
    """One outer step of all tasks at once, lowered for the GPU, of shapes alone."""
    fields = {"model.conv": form, "compute.devices": 1, "compute.tasks_per_chunk": case.tasks}
    config = make_config(case, fields=fields)
    mesh = _gpu_mesh()
    on_gpu = NamedSharding(mesh, PartitionSpec())
    here = build_experiment(config, random_images(case), ["train"])
    learner = dataclasses.replace(here.learner, unroll=unroll)
    experiment = dataclasses.replace(here, mesh=mesh, learner=learner)

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_gpu)

    state = state_shapes(config, experiment.example_inputs, on_gpu)
    source = here.tasks["train"].window(range(1), range(case.tasks))
    weights = jnp.full(case.steps, 1 / case.steps, jnp.float32)
    given = jax.tree.map(shape_of, (source, StepPlan(weights, order, multi_step)))
    train_step: Any = jitted_train_steps(experiment, 1)
    return train_step.trace(state, *given).lower(lowering_platforms=("cuda",))


@functools.lru_cache
def _gpu_mesh() -> Mesh:
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=_TARGET, topology="1x1x1"
    )
    return Mesh(np.array(topology.devices), (AXIS,))


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Returns a Markdown table of rows."""
    return markdown_table(
        [
            {
                "case": row["case"],
                "convolution": row["form"],
                "order": row["order"],
                "loop": "rolled" if row["unroll"] == 1 else "unrolled",
                "kernels": f"{row['kernels']:,}",
                "of them small": f"{row['small_kernels']:,}",
                "GB": row["gigabytes"],
                "GFLOP": row["gflop"],
                "estimate, ms": row["estimate_ms"],
                "by bytes, ms": row["bytes_ms"],
                "by launches, ms": row["launch_ms"],
                "temporaries, MiB": f"{row['temporaries_mib']:,.0f}",
                "compile, CPU s": row["compile_s"],
            }
            for row in rows
        ]
    )


def _main() -> None:
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    jax.config.update("jax_platforms", "cuda,cpu")
    given = flags.FLAGS
    folder = pathlib.Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ROWS_FILE
    content = read_json(path) if exists(path) else {"rows": [], **provenance(1)}
    if unknown := [name for name in given.cases if name not in CASES]:
        raise ConfigError(f"--cases has {unknown[0]!r}; choose from {', '.join(CASES)}.")
    if unknown := [form for form in given.forms if form not in IMPL_NAMES or form == "auto"]:
        raise ConfigError(f"--forms has {unknown[0]!r}; choose from {', '.join(IMPL_NAMES[1:])}.")
    for name in given.cases:
        for form in given.forms:
            for order in map(int, given.orders):
                case = CASES[name]
                unroll = 1 if given.rolled else case.steps
                key = {"case": name, "form": form, "order": order, "unroll": unroll}
                key["multi_step"] = given.multi_step
                if any(row | key == row for row in content["rows"]):
                    continue
                row, text = make_row(case, form, order, unroll, given.multi_step)
                content["rows"].append(dataclasses.asdict(row))
                write_json(path, content)
                logging.info("%s", row)
                if given.hlo:
                    words = (name, form, f"order{order}", f"unroll{unroll}")
                    (folder / f"{'-'.join(words)}.hlo").write_text(text)
    print(table(content["rows"]))


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Folder of the rows.", required=True)
    flags.DEFINE_list("cases", ["omniglot_20w1s_16_tasks"], "Cases of the benchmark.")
    flags.DEFINE_list("forms", ["grouped", "xla", "patches"], "Convolutions.")
    flags.DEFINE_list("orders", ["2"], "Orders of the derivatives.")
    flags.DEFINE_bool("rolled", False, "Compile the inner loop as a loop.")
    flags.DEFINE_bool("multi_step", False, "Let every step's query loss count.")
    flags.DEFINE_bool("hlo", False, "Write the optimised HLO beside the rows.")
    run_main(_main)
