"""The default experiment; ddpm_jax/config/defaults.py lists every field, with a comment."""

from ddpm_jax.config.defaults import get_config

__all__ = ["get_config"]
