"""Four fake CPU devices for every test, set before JAX's first use, and quick compilation."""

import os
import shutil
import tempfile

# Whole runs compile the same functions in many tests. The folder lasts for one call of pytest; its worker
# processes inherit the variable.
_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mamlpp-tests-")
# Compiling is most of the tests' time. `make test-all` compiles as a real run does. The variable reaches the
# commands that tests start. Inner loops are rolled then; meta_loss_test.py compares with the unrolled one.
_QUICKLY = not os.environ.get("MAMLPP_TEST_OPTIMIZED")
if _QUICKLY:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax  # noqa: E402  (it reads the variables)

jax.config.update("jax_num_cpu_devices", 4)
if _QUICKLY and jax.__version_info__ < (0, 11):
    # Compiles in two thirds of the time. Later versions do not know the flag, and end where they read it.
    quick = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"


def pytest_unconfigure():
    """Removes the folder in the process that made it."""
    if _CACHE is not None:
        shutil.rmtree(_CACHE, ignore_errors=True)
