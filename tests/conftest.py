"""Four fake CPU devices for every test; set before JAX's first use."""

import jax

jax.config.update("jax_num_cpu_devices", 4)
