"""Noise schedules: one Gaussian path x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1]."""

from ddpm_jax.diffusion.schedules.base import (
    HALVINGS,
    Schedule,
    expand,
    from_gamma,
    pinned,
    time_of_log_snr,
)
from ddpm_jax.diffusion.schedules.continuous import (
    cosine_continuous,
    edm,
    flow,
    linear_gamma,
    scaled_linear_continuous,
    sigmoid_continuous,
    sub_vp,
    ve,
    vp_continuous,
)
from ddpm_jax.diffusion.schedules.discrete import (
    cosine,
    from_betas,
    linear,
    scaled_linear,
    sigmoid,
    zero_terminal_snr,
)

__all__ = [
    "HALVINGS",
    "Schedule",
    "cosine",
    "cosine_continuous",
    "edm",
    "expand",
    "flow",
    "from_betas",
    "from_gamma",
    "linear",
    "linear_gamma",
    "pinned",
    "scaled_linear",
    "scaled_linear_continuous",
    "sigmoid",
    "sigmoid_continuous",
    "sub_vp",
    "time_of_log_snr",
    "ve",
    "vp_continuous",
    "zero_terminal_snr",
]
