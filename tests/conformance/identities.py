"""Round trips of what networks predict, and the identities between losses, measured."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from scipy import special

from ddpm_jax.diffusion import losses, prediction, process, schedules, weightings
from ddpm_jax.diffusion.prediction import Denoised

# Every form that needs no neighbouring step; the posterior mean needs a discrete schedule.
CONTINUOUS = tuple(name for name in prediction.PARAMETERISATIONS if name != "posterior_mean")
# Log-SNR from 20 to -20 on each.
PATHS = {
    "vp": schedules.from_gamma(lambda t: 40 * t - 20),
    "ve": schedules.ve(np.exp(-10.0), np.exp(10.0)),
    "flow": schedules.flow(),
}
# Of float32's rounding, in a way there and back through two forms.
ROUNDING = 64 * float(np.finfo(np.float32).eps)


class RoundTrip(NamedTuple):
    """The largest errors of (x_0, eps), numbers up to 3, there and back.

    Attributes:
      x0: of x_0 where log-SNR >= 0.
      eps: of eps where log-SNR <= 0.
      both: of alpha x_0 and sigma eps over the larger of alpha and sigma, everywhere.
      finite: nothing overflowed anywhere.
    """

    x0: float
    eps: float
    both: float
    finite: bool


def round_trip(form: str) -> RoundTrip:
    """Through `form` and then every other one, on every path at log-SNRs in [-20, 20], float32."""
    found = [
        _there_and_back(PATHS[path], form, other)
        for path, other in itertools.product(PATHS, CONTINUOUS)
    ]
    x0, eps, both, finite = zip(*found, strict=True)
    return RoundTrip(max(x0), max(eps), max(both), all(finite))


def _there_and_back(schedule: schedules.Schedule, form: str, other: str) -> RoundTrip:
    log_snr = jnp.linspace(-20, 20, 401, dtype=jnp.float32)
    t = schedules.time_of_log_snr(schedule, log_snr)
    truth = Denoised(*_uniform(len(t)))
    alpha, sigma = (
        np.asarray(level(t), np.float64)[:, None] for level in (schedule.alpha, schedule.sigma)
    )
    x0, eps = (np.abs(out) for out in _errors(schedule, t, truth, form, other))
    both = np.maximum(alpha * x0, sigma * eps) / np.maximum(alpha, sigma)
    snr = np.asarray(log_snr)
    finite = bool(np.isfinite(both).all())
    return RoundTrip(
        float(x0[snr >= 0].max()), float(eps[snr <= 0].max()), float(both.max()), finite
    )


def _uniform(batch: int, dtype: Any = np.float32) -> tuple[jax.Array, jax.Array]:
    x0, eps = np.random.default_rng(0).uniform(-3, 3, (2, batch, 16))
    return jnp.asarray(x0, dtype), jnp.asarray(eps, dtype)


def _errors(
    schedule: schedules.Schedule, t: jax.Array, truth: Denoised, form: str, other: str
) -> tuple[np.ndarray, ...]:
    xt = process.add_noise(schedule, truth.x0, t, truth.eps)
    out = truth
    for name in (form, other):
        output = prediction.encode(name, schedule, xt, t, out)
        out = prediction.decode(name, schedule, xt, t, output)
    return tuple(
        np.asarray(a, np.float64) - np.asarray(b, np.float64)
        for a, b in zip(out[:2], truth[:2], strict=True)
    )


def posterior_mean_round_trip() -> RoundTrip:
    """Through the posterior mean and every other form, at every step of linear, T = 1000, float64.

    It tells x_0 by a weight of 1e-4 and more, which float32 would lose 4 digits by.
    """
    schedule, t = LINEAR, np.arange(1, STEPS + 1) / STEPS
    with jax.enable_x64(True):
        truth = Denoised(*_uniform(STEPS, np.float64))
        found = [
            np.abs(_errors(schedule, jnp.asarray(t), truth, "posterior_mean", other))
            for other in prediction.PARAMETERISATIONS
        ]
    x0, eps = (float(error) for error in np.max(found, axis=(0, 2, 3)))
    return RoundTrip(x0, eps, max(x0, eps), bool(np.isfinite(x0 + eps)))


STEPS = 1000
LINEAR = schedules.linear(STEPS)
DATA = oracles.Gaussian(0.3, 0.5)
BARS = oracles.exact_alphas_cumprod(LINEAR.betas).astype(np.float64)
SNR = BARS[1:] / (1 - BARS[1:])


def _posterior_weight() -> np.ndarray:
    """Of x_0 in the posterior's mean: Ho et al. 2020, equation 7."""
    return np.sqrt(BARS[:-1]) * LINEAR.betas / (1 - BARS[1:])


# What the error of x_0 is multiplied with in the error of each form, step by step.
OF_X0 = {
    "eps": ("SNR", SNR),
    "v": ("SNR + 1", SNR + 1),
    "score": ("SNR / sigma²", SNR / (1 - BARS[1:])),
    "flow": ("(1 + SNR^(1/2))²", (1 + np.sqrt(SNR)) ** 2),
    "edm": ("1 / c_out²", (1 / SNR + 0.25) / (0.25 / SNR)),
    "posterior_mean": ("the posterior's weight²", _posterior_weight() ** 2),
}
# What each paper multiplies the error of x_0 with.
WEIGHTS = {
    "constant": (weightings.constant(), "SNR: Ho et al. 2020", SNR),
    "snr": (weightings.snr(), "SNR²", SNR**2),
    "min_snr": (weightings.min_snr(), "min(SNR, 5): Hang et al. 2023", np.minimum(SNR, 5)),
    "p2": (weightings.p2(), "SNR / (1 + SNR): Choi et al. 2022", SNR / (1 + SNR)),
    "sigmoid": (
        weightings.sigmoid(-2.0),
        "e^b sigmoid(log-SNR - b): SiD2",
        np.exp(-2) * special.expit(np.log(SNR) + 2),
    ),
    "edm": (
        weightings.edm(),
        "(rho² + s²) / (rho s)²: Karras et al. 2022",
        (1 / SNR + 0.25) / (0.25 / SNR),
    ),
    "truncated_snr": (
        weightings.truncated_snr(),
        "max(SNR, 1): Salimans & Ho 2022",
        np.maximum(SNR, 1),
    ),
    "likelihood": (
        weightings.likelihood(),
        "T/2 (SNR of i - 1, less that of i): Kingma et al. 2021",
        # SNR_0 is infinite: step 1 takes, of the error of eps, the weight of step 2.
        np.append(0.5 * STEPS * (SNR[0] / SNR[1] - 1) * SNR[0], 0.5 * STEPS * (SNR[:-1] - SNR[1:])),
    ),
}


def loss_identity(form: str) -> float:
    """The largest relative difference of the form's loss from its weight times the loss of x_0."""
    _, weight = OF_X0[form]
    with jax.enable_x64(True):
        loss = _loss(losses.simple, form)
        return float(np.abs(loss / (weight * _loss(losses.simple, "x0")) - 1).max())


def weighting_identity(name: str) -> float:
    """The same of a weighted loss against the paper's weight on x_0: the worst of all forms."""
    weighting, _, weight = WEIGHTS[name]
    with jax.enable_x64(True):
        expected = weight * _loss(losses.simple, "x0")
        weighted = functools.partial(losses.weighted, weighting=weighting)
        found = [_loss(weighted, form) for form in prediction.PARAMETERISATIONS]
        return float(max(np.abs(loss / expected - 1).max() for loss in found))


def _loss(loss: Callable[..., jax.Array], form: str) -> np.ndarray:
    """Of a network that is the exact denoiser, at every step, [T]."""
    t = jnp.asarray(np.arange(1, STEPS + 1) / STEPS)
    x0, eps = _uniform(STEPS, np.float64)
    denoise, parameterisation = DATA.denoiser(LINEAR), prediction.parameterisation(form)

    def network(shown: jax.Array, time: jax.Array) -> jax.Array:
        xt = shown / parameterisation.scale_input(LINEAR, jnp.ones_like(shown), t)
        return prediction.encode(form, LINEAR, xt, t, denoise(xt, t))

    return np.asarray(loss(network, LINEAR, x0, t, eps, prediction=form))
