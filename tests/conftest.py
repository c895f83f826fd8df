"""Strict settings: 8 virtual devices, no silent broadcasting, one compile cache."""

import os
import tempfile

# Before jax is imported: the number of CPU devices and the cache are read once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ddpm_jax_tests_xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
