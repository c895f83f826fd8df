"""The default config under its public name; the fields stand in `ddpm_jax.config.defaults`."""

from ddpm_jax.config.defaults import as_kind, get_config

__all__ = ["as_kind", "get_config"]
