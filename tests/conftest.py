"""Four fake CPU devices for every test, set before JAX's first use, and quick compilation."""

import os

import jax

jax.config.update("jax_num_cpu_devices", 4)
# Compiling is most of the tests' time. `make test-all` compiles as a real run does.
if not os.environ.get("MAMLPP_TEST_OPTIMIZED"):
    jax.config.update("jax_disable_most_optimizations", True)
