"""How well a classifier reads held-out images under noise, for `evaluate`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import process
from ddpm_jax.measures import real_data
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.runtime import compiling
from ddpm_jax.trained.loaded import Loaded

TIMES = (0.0, 0.1, 0.25, 0.5, 0.75)
BATCH_SIZE = 256


def measure(of: OfModel) -> Details:
    """The share of held-out images that a classifier reads right, by t."""
    images, labels = real_data.arrays(of.source, of.loaded.experiment.codec)
    return Details(accuracy(of.loaded, images, labels, of.seed), {}, {})


def accuracy(
    loaded: Loaded, images: np.ndarray, labels: np.ndarray, seed: int
) -> list[dict[str, float]]:
    """The share of images that it reads right at each of TIMES, t = 0 being the first step.

    Args:
      loaded: a classifier.
      images, labels: float [N, H, W, C] in [-1, 1] and int [N].
      seed: of the noise.
    """
    schedule = loaded.experiment.schedule_of(loaded.params)

    @compiling.jit
    def read(x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
        xt = process.add_noise(schedule, x0, t, eps)
        logits: Any = loaded.model.apply({"params": loaded.params}, xt, schedule.network_time(t))
        return logits.argmax(axis=-1)

    rows = []
    for number, t in enumerate(TIMES):
        key = jax.random.fold_in(jax.random.key(seed), number)
        predicted = []
        for start in range(0, len(images), BATCH_SIZE):
            x0 = jnp.asarray(images[start : start + BATCH_SIZE])
            eps = jax.random.normal(jax.random.fold_in(key, start), x0.shape)
            predicted.append(read(x0, eps if t else jnp.zeros_like(eps), jnp.full(len(x0), t)))
        right = np.concatenate(predicted) == labels
        rows.append({"t": t, "accuracy": float(right.mean())})
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """The shares as a Markdown table."""
    lines = ["| t of held-out images | accuracy |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {row['t']:g} | {row['accuracy']:.3f} |" for row in rows)])
