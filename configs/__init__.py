"""Ready configurations, one file per experiment; an installed package has them as `mamlpp_jax.configs`."""
