"""config.sample: the sampler and its grid."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import samplers
from ddpm_jax.config.choose import choose, keywords
from ddpm_jax.diffusion import guidance
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.samplers import base

SAMPLERS: dict[str, Callable[..., Any]] = {
    "ancestral": samplers.ancestral,
    "ddim": samplers.ddim,
    "euler": samplers.euler,
    "euler_ancestral": samplers.euler_ancestral,
    "heun": samplers.heun,
    "edm_stochastic": samplers.edm_stochastic,
    "dpm_solver_pp": samplers.dpm_solver_pp,
    "unipc": samplers.unipc,
    "langevin": samplers.langevin,
    "predictor_corrector": samplers.predictor_corrector,
    "probability_flow": samplers.probability_flow,
}
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": samplers.grids.uniform,
    "leading": samplers.grids.leading,
    "linspace": samplers.grids.linspace,
    "quadratic": samplers.grids.quadratic,
    "karras": samplers.grids.karras,
    "log_snr_uniform": samplers.grids.log_snr_uniform,
}
# Options that only some samplers take, each a field of config.sample and a keyword of theirs.
SAMPLER_OPTIONS = (
    "eta",
    "order",
    "method",
    "form",
    "variant",
    "corrector",
    "sde",
    "lower_order_final",
    "S_churn",
    "S_min",
    "S_max",
    "S_noise",
    "steps_per_level",
    "step_size",
    "predictor",
    "num_corrections",
    "snr",
    "final_denoise",
    "rtol",
    "atol",
    "t_min",
    "max_steps",
    "solver",
)
JUMPS = ("num_resamples", "jump_length")
GRID_OPTIONS = {
    "grid_rho": "rho",
    "grid_sigma_min": "sigma_min",
    "grid_sigma_max": "sigma_max",
    "grid_log_snr_min": "log_snr_min",
    "grid_log_snr_max": "log_snr_max",
    "grid_steps_offset": "steps_offset",
}


def sampler(c: ConfigDict) -> functools.partial[Any]:
    """The sampler of config.sample with its options: (denoise, schedule, times, key, x) -> x_0.

    Raises:
      UserError: for an unknown name, or an option that the sampler does not have.
    """
    chosen = choose("sample.sampler", c.sample.sampler, SAMPLERS)
    jumps = {name: c.sample[name] for name in JUMPS if c.sample[name] is not None}
    if jumps and c.sample.sampler != "ancestral":
        name = next(iter(jumps))
        raise UserError(
            f"config.sample.{name}={jumps[name]}: RePaint jumps along ancestral sampling; set "
            f"sampler=ancestral (it is {c.sample.sampler}), or leave it at None"
        )
    fields = {name: name for name in SAMPLER_OPTIONS}
    options = keywords("sample", c.sample, fields, chosen, SAMPLERS, "sampler")
    if c.sample.sampler == "ancestral":
        options["variance"] = c.diffusion.variance
    if jumps:
        chosen = functools.partial(samplers.repaint, **jumps)
    return functools.partial(chosen, **options)


def bounded(c: ConfigDict, denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser with x_0 bounded as config.sample.clip_x0 and threshold say.

    Raises:
      UserError: for a threshold that is no number.
      ValueError: for one out of range, or beside clip_x0.
    """
    threshold = c.sample.threshold
    if threshold is not None and type(threshold) not in (int, float):
        raise UserError(f"config.sample.threshold={threshold!r}: need float or int")
    return guidance.bounded_x0(denoise, schedule, clip=c.sample.clip_x0, threshold=threshold)


def times(c: ConfigDict, schedule: Schedule) -> np.ndarray:
    """The grid of config.sample on a schedule.

    Raises:
      UserError: for an unknown name, or an option that the grid does not have.
      ValueError: for a number of steps, or an option's value, that does not fit the schedule.
    """
    chosen = choose("sample.grid", c.sample.grid, GRIDS)
    options = keywords("sample", c.sample, GRID_OPTIONS, chosen, GRIDS, "grid")
    return chosen(schedule, c.sample.num_steps, **options)


def check_noise(c: ConfigDict, schedule: Schedule, grid: np.ndarray) -> None:
    """Refuse a grid that begins where an image is still there, for what begins with noise alone.

    Raises:
      UserError: as `samplers.base.check_noise`, with the grid's name and number of steps.
    """
    try:
        base.check_noise(schedule, grid)
    except ValueError as error:
        message = f"config.sample.grid={c.sample.grid} with num_steps={c.sample.num_steps}: {error}"
        raise UserError(message) from error


def check(c: ConfigDict, run: Callable[..., Any], schedule: Schedule, grid: np.ndarray) -> None:
    """Trace the sampler once around a bounded denoiser of no cost: it refuses its options now.

    Raises:
      UserError, ValueError: as the sampler and `bounded` do.
    """

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        return Denoised(xt, xt, xt)

    if "mask" in inspect.signature(run).parameters:
        run = functools.partial(run, known=jnp.zeros((1, 1)), mask=jnp.ones((1, 1)))
    jax.eval_shape(
        lambda key, x: run(bounded(c, denoise, schedule), schedule, grid, key, x),
        jax.eval_shape(jax.random.key, 0),
        jax.ShapeDtypeStruct((1, 1), np.float32),
    )


def nfe(run: Callable[..., Any], schedule: Schedule, grid: np.ndarray) -> int | None:
    """The network evaluations of a sampler on a grid, counted on one pixel.

    None for the adaptive ODE, which takes as many as each image needs. Guidance makes each
    evaluation larger, not more of them.
    """
    if getattr(run, "func", run) is samplers.probability_flow:
        return None
    calls = []

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        jax.debug.callback(lambda: calls.append(1))
        return Denoised(xt, xt, xt)

    if "mask" in inspect.signature(run).parameters:
        run = functools.partial(run, known=jnp.zeros((1, 1)), mask=jnp.ones((1, 1)))
    x = jnp.ones((1, 1))
    jax.block_until_ready(run(denoise, schedule, grid, jax.random.key(0), x))
    jax.effects_barrier()
    return len(calls)


def own_options(changes: dict[str, Any], c: ConfigDict) -> dict[str, Any]:
    """Changes of config.sample: another sampler or grid does not inherit the first's options."""
    cleared: dict[str, Any] = {}
    if changes.get("sampler", c.sample.sampler) != c.sample.sampler:
        # A threshold goes too: it was set to suit the first sampler.
        cleared |= dict.fromkeys((*SAMPLER_OPTIONS, *JUMPS, "threshold"))
    if changes.get("threshold") is not None:
        cleared["clip_x0"] = False  # the config's default; asked for beside it, it is refused
    if changes.get("grid", c.sample.grid) != c.sample.grid:
        cleared |= dict.fromkeys(GRID_OPTIONS)
    return cleared | changes
