"""The mathematics of diffusion: pure functions that know of no network, device or config."""
