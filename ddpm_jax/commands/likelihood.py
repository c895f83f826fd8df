"""A trained model's bits per pixel on held-out images, for `evaluate`."""

from typing import Any

import numpy as np

from ddpm_jax.diffusion import likelihood, prediction
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import likelihood as protocol
from ddpm_jax.experiment import Loaded
from ddpm_jax.parts import processes
from ddpm_jax.samplers import ode

# Of the ODE, as in Song et al. 2021. At 1e-4 the digits' mean differs by 0.003 bits, one image's by
# up to 0.03, at 1e-3 by 0.2.
TOLERANCE = 1e-5
NUM_DRAWS = 128
NUM_PROBES = 1

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


def check(loaded: Loaded) -> None:
    """Raises UserError for a model that has no p(x): one that always saw its label."""
    c = loaded.experiment.config
    if c.model.num_classes and not c.diffusion.label_dropout:
        raise UserError(
            "--metrics=bpd is of p(x), and this model was never trained without its label: train "
            "with config.diffusion.label_dropout above 0, or config.model.num_classes=0"
        )


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
      UserError: for a number of terms that does not fit, or fewer than 2 images.
    """
    experiment = loaded.experiment
    c = experiment.config
    schedule = experiment.schedule_of(loaded.params)
    times = protocol.chain_times(schedule, c.diffusion.num_steps)

    def denoiser(params: Any) -> prediction.Denoiser:
        return prediction.denoiser(
            experiment.model.apply,
            params,
            schedule,
            prediction=processes.parameterisation(c),
            learned_variance=c.diffusion.variance == "learned_range",
        )

    score = protocol.make_score(
        denoiser,
        schedule,
        levels=levels,
        dequantised=c.data.dequantise,
        integrate=ode.integrator(TOLERANCE, TOLERANCE),
        times=times,
        variance=c.diffusion.variance,
        num_terms=num_terms,
        num_draws=NUM_DRAWS,
        num_probes=NUM_PROBES,
    )
    try:
        figures = protocol.full_pass(
            score, loaded.params, images, seed=seed, batch_size=c.sample.batch_size
        )
    except ValueError as error:
        raise UserError(f"--metrics=bpd: {error}") from error
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
        report["first_time"] = likelihood.first_time(schedule)
        report["continuous"] = {"num_draws": NUM_DRAWS}
        report["ode"] = {"tolerance": TOLERANCE, "num_probes": NUM_PROBES}
    return report


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
