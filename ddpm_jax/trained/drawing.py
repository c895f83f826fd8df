"""From a network and a sampler to images: compiled batches, one key an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.trained.judges import Steered

ArraysByName = Mapping[str, Any]
SampleFn = Callable[[Any, jax.Array, ArraysByName], jax.Array]
Prepared = tuple[jax.Array, ArraysByName, ArraysByName]
Prepare = Callable[[jax.Array, ArraysByName, ArraysByName, Any], Prepared]
# (params, helpers, numbers, keys [B], given [B, ...]) -> x_0 [B, ...]
Program = Callable[[Any, Any, ArraysByName, jax.Array, ArraysByName], jax.Array]
TASK = "task"


class Drawing(NamedTuple):
    """A set of samples that is drawn part by part: image k depends on the description and k alone.

    Attributes:
      num: of all images.
      batch_size: of one call; parts that begin at its multiples are drawn alike to the bit.
      description: as JSON, all that the images depend on.
      labels: int32 [num], the class that each image is of; -1 for an image of none, as at
        guidance_scale=0.
      batches: rows -> those images, uint8 [b, H, W, C] by batches; [b, frames, H, W, C] if the task
        keeps frames.
      part: of so many images at least what is drawn is kept at once.
    """

    num: int
    batch_size: int
    description: dict[str, Any]
    labels: np.ndarray
    batches: Callable[[range], Iterator[np.ndarray]]
    part: int = 256


def make_program(
    denoiser: Callable[[Any, Any, ArraysByName, ArraysByName, ArraysByName], Steered],
    start: Callable[[jax.Array, ArraysByName], jax.Array],
    run: Callable[[Steered, jax.Array, jax.Array, ArraysByName], jax.Array],
    *,
    prepare: Prepare,
    mesh: Mesh,
) -> Program:
    """One compiled program (params, helpers, numbers, keys [B], given [B, ...]) -> x_0 [B, ...].

    helpers: the parameters of other networks, those that guide. numbers: scales by name. given: the
    conditions by name, and under "task" the arrays of what else is asked of the samples.

    Args:
      denoiser: (params, helpers, numbers, conditions, task) -> what is sampled.
      start: (keys [B], task) -> x at the first time.
      run: (that, keys [B], x, task) -> x_0, or as many images of each as are kept.
      prepare: (keys [B], conditions, task, level of noise) -> the first three as the others take
        them; the level is the number "augmentation".
      mesh: the batch is split over its devices.
    """

    def sample(
        params: Any, helpers: Any, numbers: Any, keys: jax.Array, conditions: Any, task: Any
    ) -> jax.Array:
        keys, conditions, task = prepare(keys, conditions, task, numbers.get("augmentation"))
        steered = denoiser(params, helpers, numbers, conditions, task)
        keys_start, keys_steps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        return run(steered, keys_steps, start(keys_start, task), task)

    batch = sharding.batch_sharding(mesh)
    compiled = compiling.jit(
        sample, in_shardings=(None, None, None, batch, batch, batch), out_shardings=batch
    )

    def program(
        params: Any, helpers: Any, numbers: ArraysByName, keys: jax.Array, inputs: ArraysByName
    ) -> jax.Array:
        conditions = {name: value for name, value in inputs.items() if name != TASK}
        arguments = keys, conditions, inputs.get(TASK, {})
        if jax.process_count() > 1:  # each process has them whole
            arguments = jax.tree.map(lambda x: processes.placed(x, batch), arguments)
        return compiled(params, helpers, dict(numbers), *arguments)

    return program


def draw_images(
    sample_fn: SampleFn,
    params: Any,
    num: int,
    conditions: ArraysByName,
    *,
    seed: int,
    batch_size: int,
    decode: Callable[[np.ndarray], np.ndarray],
    first: int = 0,
    one_noise: bool = False,
) -> Iterator[np.ndarray]:
    """Images in batches of uint8 [b, H, W, C]; image k is of (seed, k) and its conditions alone.

    [b, frames, H, W, C] where the sample_fn keeps frames of the way.

    Every batch runs the same program: the last one is padded, and the padding dropped.

    Args:
      sample_fn: from `program.sample_fn`.
      params: the network's.
      num: how many.
      conditions: named arrays [num, ...], and under "task" a dict of such.
      seed: of the sample set.
      batch_size: a multiple of the devices.
      decode: a codec's, from x_0 to images.
      first: the number k of the first one, of a set that is drawn in parts.
      one_noise: give every image the noise of image 0, so that they differ by their conditions
        alone.

    Raises:
      UserError: for samples that are not a number, as an adaptive sampler gives that gave up.
    """
    key = jax.random.key(seed)
    for start in range(0, num, batch_size):
        count = min(batch_size, num - start)
        # The padding repeats the last image, for which any condition will do.
        places = np.minimum(start + np.arange(batch_size), num - 1)
        batch = {name: _rows_of(value, places) for name, value in conditions.items()}
        numbers = first + start + jnp.arange(batch_size)
        numbers = jnp.zeros_like(numbers) if one_noise else numbers
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        x0 = processes.whole(sample_fn(params, keys, batch))
        if lost := np.isnan(x0[:count]).reshape(count, -1).any(axis=1).sum():
            raise UserError(
                f"{lost} of {count} samples are not a number: an adaptive sampler ran out of "
                "steps (raise sample.max_steps, sample.rtol or sample.atol), or the model diverged"
            )
        yield decode(x0)[:count]


def _rows_of(value: Any, places: np.ndarray) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows_of(one, places) for name, one in value.items()}
    return jnp.asarray(np.asarray(value)[places])


def default_labels(num: int, num_classes: int, labels: Sequence[int] = ()) -> np.ndarray:
    """int32 [num]: the given labels cycled, else k mod classes, or -1 where there are none."""
    if labels:
        return np.resize(np.asarray(labels, np.int32), num)
    if num_classes:
        return np.arange(num, dtype=np.int32) % num_classes
    return np.full(num, NULL_VALUE, np.int32)


def padded_batch(experiment: Experiment, num: int) -> int:
    """config.sample.batch_size, no more than `num` needs, rounded up to the devices."""
    devices = experiment.mesh.size
    return -(-min(experiment.config.sample.batch_size, num) // devices) * devices
