"""The default experiment; ddpm_jax/default_config.py lists every field, with a comment."""

from ddpm_jax.default_config import get_config

__all__ = ["get_config"]
