"""A trained model's bits per pixel on held-out images, for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import coding, conditioning, objectives, paths
from ddpm_jax.data import fingerprint
from ddpm_jax.diffusion import likelihood, prediction
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import likelihood_pass
from ddpm_jax.measures import real_data, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.measures.results import Figure
from ddpm_jax.samplers import ode
from ddpm_jax.trained.loaded import Loaded

# Of the ODE, as in Song et al. 2021. At 1e-4 the digits' mean differs by 0.003 bits, one image's by
# up to 0.03, at 1e-3 by 0.2.
TOLERANCE = 1e-5
NUM_DRAWS = 128
NUM_PROBES = 1

TOTALS = ("discrete_vlb", "continuous_vlb", "ode")
ROWS = {
    "discrete_vlb": "discrete VLB",
    "discrete_prior": "  prior",
    "discrete_denoising": "  denoising",
    "discrete_decoder": "  decoder",
    "continuous_vlb": "continuous VLB",
    "continuous_prior": "  prior",
    "continuous_denoising": "  denoising",
    "continuous_decoder": "  decoder",
    "ode": "probability-flow ODE",
}


def check(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Whether `bits_per_pixel` can measure this model, before anything costly.

    Args:
      metric: the name of what is to be measured, for messages.
      loaded: the model.
      flags: of the command; num_terms is read.

    Raises:
      UserError: for a model that has no p(x), one that always saw its label; a chain of too few
        steps, or a number of terms that does not fit it.
    """
    c = loaded.experiment.config
    if coding.has_latents(c):
        raise UserError(
            f"--metrics={metric} measures p(x) of pixels, and this model has latents, whose law "
            "says nothing of pixels without a bound on their decoder; leave it out"
        )
    always = [name for name, rate in conditioning.dropout(c).items() if not rate]
    if always and not c.diffusion.joint_dropout:
        raise UserError(
            f"--metrics={metric} measures p(x), and this model was never trained without "
            f"{always[0]}: train with config.diffusion.joint_dropout, or label_dropout and each of "
            "condition_dropout, above 0, or without label and conditions"
        )
    try:
        score = _score(
            loaded, objectives.pixel_levels(c, loaded.experiment.own), flags["num_terms"]
        )
        x0 = jax.ShapeDtypeStruct((1, *loaded.experiment.image_shape), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        jax.eval_shape(score, loaded.params, x0, keys)
    except ValueError as error:
        raise UserError(f"--metrics={metric}: {error}") from error


def measure(of: OfModel) -> Details:
    """The bits per pixel of held-out images, in all and term by term, and how they were measured.

    Raises:
      ValueError: as `bits_per_pixel`.
    """
    images, _ = real_data.arrays(of.source, of.loaded.experiment.codec)
    levels = of.source.info.levels
    report = bits_per_pixel(of.loaded, images, levels, seed=of.seed, num_terms=of.num_terms)
    return Details(report, totals(report), protocol_of(report, fingerprint(of.source)))


def bits_per_pixel(
    loaded: Loaded, images: np.ndarray, levels: int, *, seed: int, num_terms: int | None
) -> dict[str, Any]:
    """The likelihood of images under a trained model, with how it was measured.

    Args:
      loaded: the model; its own "no class" where it has classes.
      images: [N, H, W, C] in [-1, 1].
      levels: the number of values that a pixel takes.
      seed: of all draws.
      num_terms: as in `likelihood.discrete_vlb`.

    Raises:
      ValueError: for a chain that does not fit, fewer than 2 images, or figures that are no number.
    """
    c = loaded.experiment.config
    figures = likelihood_pass.full_pass(
        _score(loaded, levels, num_terms),
        loaded.params,
        images,
        seed=seed,
        batch_size=c.sample.batch_size,
    )
    if lost := [name for name, figure in figures.items() if not math.isfinite(figure.mean)]:
        raise ValueError(
            f"{', '.join(lost)} came out as no number: the model diverged, or its ODE is too stiff "
            "to solve; train for longer"
        )
    report: dict[str, Any] = {
        "unit": "bits per pixel",
        "model_of": "density" if c.data.dequantise else "lattice",
        "levels": levels,
        "num_examples": len(images),
        "chain": {
            "num_steps": c.diffusion.num_steps,
            "variance": c.diffusion.variance,
            "num_terms": num_terms,
        },
        "figures": {name: figure._asdict() for name, figure in figures.items()},
    }
    if c.data.dequantise:
        schedule = loaded.experiment.schedule_of(loaded.params)
        report["first_time"] = likelihood.first_time(schedule)
        report["continuous"] = {"num_draws": NUM_DRAWS}
        report["ode"] = {"tolerance": TOLERANCE, "num_probes": NUM_PROBES}
    return report


def protocol_of(report: dict[str, Any], held_out: str) -> dict[str, Any]:
    """How `bits_per_pixel` measured, without what is the model's own: its chain, its first time.

    Args:
      report: what it returned.
      held_out: the fingerprint of the images.
    """
    names = ("model_of", "levels", "num_examples", "continuous", "ode")
    settings = {name: report[name] for name in names if name in report}
    return settings | {"num_terms": report["chain"]["num_terms"], "fingerprint": held_out}


def totals(report: dict[str, Any]) -> dict[str, Figure]:
    """The bits per pixel of `bits_per_pixel` in all, without terms: {"ode": ...}."""
    return {
        name: results.normal(one["mean"], one["standard_error"])
        for name, one in report["figures"].items()
        if name in TOTALS
    }


def _score(loaded: Loaded, levels: int, num_terms: int | None) -> likelihood_pass.Score:
    """The measure that fits the model's config. Raises ValueError for a chain that does not."""
    experiment = loaded.experiment
    c = experiment.config
    schedule = experiment.schedule_of(loaded.params)

    def denoiser(params: Any) -> prediction.Denoiser:
        return prediction.denoiser(
            experiment.model.apply,
            params,
            schedule,
            prediction=paths.parameterisation(c),
            learned_variance=c.diffusion.variance == "learned_range",
        )

    return likelihood_pass.make_score(
        denoiser,
        schedule,
        levels=levels,
        dequantised=c.data.dequantise,
        integrate=ode.integrator(TOLERANCE, TOLERANCE),
        times=likelihood_pass.chain_times(schedule, c.diffusion.num_steps),
        variance=c.diffusion.variance,
        num_terms=num_terms,
        num_draws=NUM_DRAWS,
        num_probes=NUM_PROBES,
    )


def table(report: dict[str, Any]) -> str:
    """The figures of `bits_per_pixel` as lines of a Markdown table, and a line that says which."""
    lines = [f"| {report['unit']} | held-out data | standard error |", "| --- | --- | --- |"]
    figures = report["figures"]
    lines += [
        f"| {title} | {figures[name]['mean']:.3f} | {figures[name]['standard_error']:.3f} |"
        for name, title in ROWS.items()
        if name in figures
    ]
    levels, count = report["levels"], report["num_examples"]
    kind = {
        "density": f"a density of pixels spread over their cells, {levels} of width 1",
        "lattice": f"probabilities of pixels of {levels} values; a lattice has no density to score",
    }[report["model_of"]]
    return "\n".join([*lines, "", f"{count} images: {kind}."])
