"""What a sample costs, and of how many numbers it is made, for `evaluate`."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from ddpm_jax.build import latents
from ddpm_jax.evaluation import intervals
from ddpm_jax.measures import results
from ddpm_jax.measures.results import Figure
from ddpm_jax.runtime import environment
from ddpm_jax.trained import program
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task

ROUNDS = 5  # of a batch each, after one that compiles


class Drawn(NamedTuple):
    """What is drawn.

    Attributes:
      loaded: the model.
      task: for which.
      options: of config.sample, such as the scale of guidance.
      seed: of the samples.
    """

    loaded: Loaded
    task: Task
    options: Mapping[str, Any]
    seed: int


def cost(of: Drawn) -> tuple[Figure | None, Figure]:
    """Passes of the model's networks for a sample, and the milliseconds that it takes.

    An evaluation that is guided is two passes of the network, and what decodes latents is one more.
    A solver that takes as many as each image needs has no number of them. The time is that of whole
    batches, from noise to 8-bit images; its interval is of equal rounds on this machine.
    """
    loaded = of.loaded.sampling_with(**of.options)
    sample = loaded.experiment.config.sample
    evaluations = program.passes(loaded.experiment, loaded.params)
    guided = sample.guidance_scale not in (0.0, 1.0)
    decodes = loaded.experiment.latents is not None
    passes = None
    if evaluations is not None:
        passes = Figure(float(evaluations * (1 + guided) + decodes))
    seconds = [_seconds(loaded, of.task, of.seed + k) for k in range(1 + ROUNDS)][1:]
    each = [1000 * one / sample.batch_size for one in seconds]
    return passes, results.of_interval(intervals.student(each))


def sizes(of: Drawn) -> tuple[Figure, Figure]:
    """Numbers of noise that a sample is made of, and parameters of all that was trained for it.

    Of a run of latents the autoencoder's are among them.
    """
    built = of.loaded.experiment
    trees = [of.loaded.params]
    if built.latents is not None:
        trees.append(built.latents.tree[latents.PARAMS])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trees))
    return Figure(float(program.noise_size(built))), Figure(float(parameters))


def protocol(loaded: Loaded) -> dict[str, Any]:
    """What times depend on beside how samples are drawn."""
    about = environment.describe()
    return {
        "batch_size": loaded.experiment.config.sample.batch_size,
        "rounds": ROUNDS,
        "devices": about["devices"],
        "machine": {name: about["machine"][name] for name in ("cpu", "threads")},
    }


def _seconds(loaded: Loaded, task: Task, seed: int) -> float:
    """How long a batch takes."""
    num = loaded.experiment.config.sample.batch_size
    drawing = loaded.drawing(num, task=task, seed=seed)
    began = time.perf_counter()
    for _ in drawing.batches(range(num)):
        pass
    return time.perf_counter() - began
