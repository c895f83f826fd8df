"""The default experiment; ddpm_jax/config/defaults.py lists every field, with a comment."""

from ddpm_jax.config.defaults import as_kind, get_config

__all__ = ["as_kind", "get_config"]
