"""config.sample: the sampler and its grid."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import samplers
from ddpm_jax.config import earlier
from ddpm_jax.config.choose import choose, defaults_of, keywords
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import guidance
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError, suggest
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
    "pndm": samplers.pndm,
    "langevin": samplers.langevin,
    "predictor_corrector": samplers.predictor_corrector,
    "probability_flow": samplers.probability_flow,
    "repaint": samplers.repaint,
}
GRIDS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": samplers.grids.uniform,
    "leading": samplers.grids.leading,
    "linspace": samplers.grids.linspace,
    "quadratic": samplers.grids.quadratic,
    "karras": samplers.grids.karras,
    "log_snr_uniform": samplers.grids.log_snr_uniform,
}
# What samplers and grids are called with, by position, whoever wrote them.
POSITIONAL = ("denoise", "schedule", "times", "key", "x")
GRID_POSITIONAL = ("schedule", "num_steps")
# What the program passes by keyword to those that take it.
BY_PROGRAM = (
    "project",
    "return_trajectory",
    "mean_gradient",
    "known",
    "mask",
    # The denoiser is bounded before a sampler sees it.
    "clip_x0",
    "threshold",
)

# The reverse variance of a kind of run that has no such choice.
FIXED = "fixed_large"


def sampler(c: ConfigDict, own: Own = NONE) -> functools.partial[Any]:
    """The sampler of config.sample with its options: (denoise, schedule, times, key, x) -> x_0.

    One of the user's own has the signature of those in `samplers`, `(denoise, schedule, times, key,
    x, **options) -> x_0`; it may take `project` and `return_trajectory` too.

    Raises:
      UserError: for an unknown name, or an option that the sampler does not have.
    """
    s = c.sample
    factory = choose("sample.sampler", s.sampler, SAMPLERS, own)
    options = keywords(
        "sample.options",
        s.options,
        factory,
        name=f"sampler {s.sampler}",
        positional=POSITIONAL,
        provided={"variance": c.diffusion.get("variance", FIXED)},
        hidden=BY_PROGRAM,
        choices=SAMPLERS,
    )
    return functools.partial(factory, **options)


def bounded(c: ConfigDict, denoise: Denoiser, schedule: Schedule) -> Denoiser:
    """The denoiser with x_0 bounded as config.sample.clip_x0 and threshold say.

    Raises:
      ValueError: for a threshold out of range, or beside clip_x0.
    """
    return guidance.bounded_x0(
        denoise, schedule, clip=c.sample.clip_x0, threshold=c.sample.threshold
    )


def times(c: ConfigDict, schedule: Schedule, own: Own = NONE) -> np.ndarray:
    """The grid of config.sample on a schedule.

    Raises:
      UserError: for an unknown name, or an option that the grid does not have.
      ValueError: for a number of steps, or an option's value, that does not fit the schedule.
    """
    s = c.sample
    factory = choose("sample.grid", s.grid, GRIDS, own)
    options = keywords(
        "sample.grid_options",
        s.grid_options,
        factory,
        name=f"grid {s.grid}",
        positional=GRID_POSITIONAL,
        choices=GRIDS,
    )
    return factory(schedule, s.num_steps, **options)


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
      ValueError: as the sampler and `bounded` do, or for one that does not return x_0 alone.
    """

    def denoise(xt: jax.Array, t: jax.Array) -> Denoised:
        return Denoised(xt, xt, xt)

    if "mask" in inspect.signature(run).parameters:
        run = functools.partial(run, known=jnp.zeros((1, 1)), mask=jnp.ones((1, 1)))
    drawn = jax.eval_shape(
        lambda key, x: run(bounded(c, denoise, schedule), schedule, grid, key, x),
        jax.eval_shape(jax.random.key, 0),
        jax.ShapeDtypeStruct((1, 1), np.float32),
    )
    if getattr(drawn, "shape", None) != (1, 1):
        raise ValueError(f"the sampler must return x_0 of x's shape, (1, 1), it returned {drawn}")


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


def flat(c: ConfigDict) -> dict[str, Any]:
    """All that is set in config.sample by name: fields, options, and grid_ before the grid's own.

    So results state them, and those of earlier versions, where options were fields, compare.
    """
    fields = {name: value for name, value in c.sample.to_dict().items() if value is not None}
    options, of_grid = fields.pop("options", {}), fields.pop("grid_options", {})
    return fields | options | {f"grid_{name}": value for name, value in of_grid.items()}


def changed(changes: Mapping[str, Any], c: ConfigDict, own: Own = NONE) -> dict[str, Any]:
    """Changes of config.sample as its fields, from fields and options of sampler or grid by name.

    Another sampler or grid does not inherit the first one's options.

    Args:
      changes: fields of config.sample, and options of the sampler: eta=0.5.
      c: the config that is changed.
      own: the user's own parts.

    Raises:
      UserError: for a name that is neither a field nor an option of the sampler.
    """
    if set(earlier.JUMPS) & set(changes) and changes.get("sampler") == "ancestral":
        changes = {**changes, "sampler": "repaint"}  # as it was named in earlier versions
    fields = {name: value for name, value in changes.items() if name in c.sample}
    named = {name: value for name, value in changes.items() if name not in c.sample}
    for name, options in (("sampler", "options"), ("grid", "grid_options")):
        same = fields.get(name, c.sample[name]) == c.sample[name]
        if name == "sampler" and not same:
            fields.setdefault("threshold", None)  # it was set to suit the first one
        before = c.sample[options].to_dict() if same else {}
        fields[options] = before | dict(fields.get(options, {}))
    sampler_name = fields.get("sampler", c.sample.sampler)
    takes = defaults_of(choose("sample.sampler", sampler_name, SAMPLERS, own))
    for name, value in named.items():
        place = earlier.place(f"sample.{name}")
        if place is None and name not in takes:
            names = [*c.sample, *(option for option in takes if option not in BY_PROGRAM)]
            hint = suggest(f"sample.{name}", [f"sample.{one}" for one in names])
            raise UserError(f"no such config field sample.{name}{hint}")
        moved = place or f"sample.options.{name}"
        _, group, key = moved.split(".")
        fields[group] |= {key: value}
    if fields.get("threshold") is not None:
        # The config's default; asked for beside it, it is refused.
        fields = {"clip_x0": False, **fields}
    return fields
