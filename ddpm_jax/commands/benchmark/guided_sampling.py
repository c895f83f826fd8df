"""The sampler of an experiment's config, as scripts/sample.py runs it."""

import time

from ddpm_jax.build import conditioning
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.experiment import Experiment, build, padded_batch
from ddpm_jax.trained import drawing, program


def section(options: Options) -> dict[str, float]:
    """`samples_per_second` of the experiment that was named."""
    return samples_per_second(build(options.config))


def samples_per_second(experiment: Experiment, num: int = 500) -> dict[str, float]:
    """Images a second of config.sample, compilation left out."""
    params = experiment.init_state().params
    sample_fn = program.sample_fn(experiment)
    config = experiment.config
    labels = drawing.default_labels(num, config.model.num_classes)
    conditions = conditioning.arrays(config, experiment.own, num, labels, {})
    size = padded_batch(experiment, num)

    def draw(count: int) -> None:
        drawn = drawing.draw_images(
            sample_fn,
            params,
            count,
            conditions,
            seed=0,
            batch_size=size,
            decode=experiment.codec.decode,
        )
        list(drawn)

    draw(size)
    began = time.perf_counter()
    draw(num)
    return {"samples_per_second": num / (time.perf_counter() - began)}
