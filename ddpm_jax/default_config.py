"""The default config under its public name; the fields stand in `ddpm_jax.config.defaults`."""

from ddpm_jax.config.defaults import get_config

__all__ = ["get_config"]
