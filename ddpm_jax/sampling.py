"""From a network and a sampler to images: compiled batches, one key an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import samplers
from ddpm_jax.diffusion import conditions as named
from ddpm_jax.diffusion import guidance, prediction
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.training import sharding

Conditions = Mapping[str, Any]
SampleFn = Callable[[Any, jax.Array, Conditions], jax.Array]


class Codec(NamedTuple):
    """Between images in [-1, 1] and the space that the diffusion runs in."""

    encode: Callable[[jax.Array], jax.Array]
    decode: Callable[[jax.Array], jax.Array]


PIXELS = Codec(encode=lambda x: x, decode=lambda x: x)


def make_sample_fn(
    apply_fn: Callable[..., Any],
    schedule: Schedule,
    sampler: Callable[..., jax.Array],
    *,
    times: np.ndarray,
    prediction_name: str | prediction.Parameterisation,
    learned_variance: bool,
    image_shape: tuple[int, int, int],
    conditional: bool,
    guidance_scale: float,
    mesh: Mesh,
) -> SampleFn:
    """One compiled program (params, keys [B], conditions [B, ...]) -> x_0 [B, H, W, C].

    Args:
      apply_fn: the network's.
      schedule: the path that it was trained on.
      sampler: (denoise, schedule, times, key, x) -> x_0.
      times: the sampler's grid.
      prediction_name, learned_variance: what the network predicts, as in `prediction.denoiser`.
      image_shape: (H, W, C).
      conditional: give the network the conditions.
      guidance_scale: w of classifier-free guidance; 1 is unguided.
      mesh: the batch is split over its devices.
    """

    def sample(params: Any, keys: jax.Array, conditions: Conditions) -> jax.Array:
        if conditional:
            denoise = guidance.classifier_free_network(
                apply_fn,
                params,
                schedule,
                conditions,
                named.null(conditions),
                guidance_scale,
                prediction_name=prediction_name,
                learned_variance=learned_variance,
            )
        else:
            denoise = prediction.denoiser(
                apply_fn,
                params,
                schedule,
                prediction=prediction_name,
                learned_variance=learned_variance,
            )
        keys_start, keys_steps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x = samplers.initial_noise(keys_start, schedule, times, (len(keys), *image_shape))
        return sampler(denoise, schedule, times, keys_steps, x)

    batch = sharding.batch_sharding(mesh)
    return jax.jit(sample, in_shardings=(None, batch, batch), out_shardings=batch)


def draw_images(
    sample_fn: SampleFn,
    params: Any,
    num: int,
    conditions: Conditions,
    *,
    seed: int,
    batch_size: int,
    codec: Codec = PIXELS,
) -> Iterator[np.ndarray]:
    """Images in batches of uint8 [b, H, W, C]; image k is of (seed, k) and its conditions alone.

    Every batch runs the same program: the last one is padded, and the padding dropped.

    Args:
      sample_fn: from `make_sample_fn`.
      params: the network's.
      num: how many.
      conditions: named arrays [num, ...].
      seed: of the sample set.
      batch_size: a multiple of the devices.
      codec: its `decode` turns x_0 into images.

    Raises:
      UserError: for samples that are not a number, as an adaptive sampler gives that gave up.
    """
    key = jax.random.key(seed)
    for start in range(0, num, batch_size):
        count = min(batch_size, num - start)
        # The padding repeats the last image, for which any condition will do.
        places = np.minimum(start + np.arange(batch_size), num - 1)
        chosen = {
            name: jnp.asarray(np.asarray(value)[places]) for name, value in conditions.items()
        }
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(batch_size))
        images = np.asarray(codec.decode(sample_fn(params, keys, chosen)))
        if lost := np.isnan(images[:count]).any(axis=(1, 2, 3)).sum():
            raise UserError(
                f"{lost} of {count} samples are not a number: an adaptive sampler ran out of "
                "steps (raise sample.max_steps, sample.rtol or sample.atol), or the model diverged"
            )
        yield to_uint8(images)[:count]


def to_uint8(x: jax.Array | np.ndarray) -> np.ndarray:
    """[-1, 1] to 0..255, rounded; what lies outside is clipped."""
    return np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def default_labels(num: int, num_classes: int, given: Sequence[int] = ()) -> np.ndarray:
    """int32 [num]: the given labels cycled, else k mod classes, or -1 where there are none."""
    if given:
        return np.resize(np.asarray(given, np.int32), num)
    if num_classes:
        return np.arange(num, dtype=np.int32) % num_classes
    return np.full(num, named.NULL_VALUE, np.int32)
