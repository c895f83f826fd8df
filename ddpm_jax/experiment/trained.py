"""From a workdir to a trained model."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import config as configs
from ddpm_jax import sampling
from ddpm_jax.diffusion.conditions import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.experiment.built import NO_TASK, Experiment, build
from ddpm_jax.parts import cascade, networks, tasks
from ddpm_jax.parts import conditions as told
from ddpm_jax.parts import sampling as sample_parts
from ddpm_jax.parts.tasks import Task
from ddpm_jax.training import checkpoints


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A trained model, ready to use in a notebook: `load(workdir).sample(16)`.

    Attributes:
      experiment: what its config describes.
      params: the parameters, the moving average unless raw ones were asked for.
      step: of the checkpoint.
    """

    experiment: Experiment
    params: Any
    step: int

    @property
    def model(self) -> networks.Network:
        """The network: model.apply({"params": params}, xt, time, labels)."""
        return self.experiment.model

    def sample(
        self,
        num: int,
        *,
        labels: Sequence[int] = (),
        conditions: Mapping[str, told.Given] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """`num` images, uint8 [num, H, W, C]; [num, frames, H, W, C] if the task keeps frames.

        Args:
          num: how many.
          labels: classes, cycled; without them, image k is of class k mod num_classes.
          conditions: what config.model.conditions names: a value by its name or number, or one for
            each image, cycled; an image [H, W, C] for all, or [num, H, W, C]. What is not given is
            absent. "low_resolution" is the smaller image of a model that enlarges.
          task: what guides besides, and an image to begin with or to keep.
          seed: image k depends on (seed, k) alone.
          **options: fields of config.sample that differ: sampler, num_steps, guidance_scale, ...

        Raises:
          UserError: for labels or conditions out of range, or a task or options that do not fit.
        """
        batches = list(
            self.sample_batches(
                num, labels=labels, conditions=conditions, task=task, seed=seed, **options
            )
        )
        return np.concatenate(batches)

    def sample_batches(
        self,
        num: int,
        *,
        labels: Sequence[int] = (),
        conditions: Mapping[str, told.Given] | None = None,
        task: Task = NO_TASK,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """As `sample`, batch by batch."""
        experiment = self.experiment
        if task.composed and "guidance_scale" in options:
            raise UserError(
                f"guidance_scale={options['guidance_scale']}: the weights of what is composed take "
                "its place; leave it out"
            )
        if options:
            options = sample_parts.own_options(options, experiment.config)
            experiment = build(configs.override(experiment.config, {"sample": options}), task)
        config = experiment.config
        chosen = self.labels(num, labels, task)
        told.check_enlarges(config, conditions or {})
        given = told.arrays(config, num, chosen, conditions or {})
        return sampling.draw_images(
            experiment.sample_fn(task),
            self.params,
            num,
            {**given, sampling.TASK: tasks.arrays(config, num, chosen, conditions or {}, task)},
            seed=seed,
            batch_size=padded_batch(experiment, num),
            one_noise=task.interpolates,
        )

    def enlarge(
        self,
        images: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        conditions: Mapping[str, told.Given] | None = None,
        seed: int = 0,
        one_noise: bool = False,
    ) -> Iterator[np.ndarray]:
        """Images uint8 [num, h, w, C], enlarged by a model that does so: [b, H, W, C] by batches.

        As `sample` with the condition "low_resolution", but for the labels.

        Args:
          images: of the size that the model enlarges.
          labels: int [num], -1 for none; None for no labels at all.
          conditions: the others.
          seed: image k depends on (seed, k) and images[k] alone.
          one_noise: give every image the noise of image 0.

        Raises:
          UserError: for images of another size, a model that enlarges nothing, or conditions that
            do not fit.
        """
        experiment, num = self.experiment, len(images)
        if labels is None:
            labels = np.full(num, NULL_VALUE, np.int32)
        given: dict[str, told.Given] = {**(conditions or {}), cascade.NAME: images}
        return sampling.draw_images(
            experiment.sample_fn(),
            self.params,
            num,
            told.arrays(experiment.config, num, labels, given),
            seed=seed,
            batch_size=padded_batch(experiment, num),
            one_noise=one_noise,
        )

    def labels(self, num: int, given: Sequence[int] = (), task: Task = NO_TASK) -> np.ndarray:
        """The labels that `sample` gives `num` images, int32 [num]; -1 without classes."""
        num_classes = tasks.num_classes(self.experiment.config, task)
        given = [int(label) for label in given]  # an array has no truth value
        if num < 1:
            raise UserError(f"the number of samples must be at least 1, got {num}")
        if given and not num_classes:
            raise UserError(
                f"labels={','.join(map(str, given))}, but this model is unconditional: leave them "
                "out, or train with config.model.num_classes set"
            )
        if bad := [label for label in given if not 0 <= label < num_classes]:
            raise UserError(f"label {bad[0]} is outside 0..{num_classes - 1}")
        return sampling.default_labels(num, num_classes, given)


def load(workdir: str | Path, *, step: int | None = None, raw_params: bool = False) -> Loaded:
    """The model that was trained in `workdir`; nothing found there is executed.

    Args:
      workdir: of a run of scripts/train.py.
      step: of the checkpoint; None for the latest.
      raw_params: take the parameters themselves instead of their moving average.

    Raises:
      UserError: if there is no such run or checkpoint.
    """
    config = configs.read(workdir)
    if config is None:
        raise UserError(
            f"no checkpoint in {workdir}: it has no config.json; train one there with "
            "scripts/train.py, or name another --workdir"
        )
    # The devices of this machine, whatever trained it, as many as the batch divides by.
    try:
        devices = math.gcd(jax.device_count(), config.data.batch_size)
        experiment = build(configs.override(config, {"mesh": {"data": devices, "fsdp": 1}}))
        shapes = experiment.state_shapes()
    except (AttributeError, KeyError) as error:
        reason = str(error).strip("\"'").splitlines()[0]
        raise UserError(
            f"{workdir}/config.json has no field {reason}: another version wrote it"
        ) from error
    except UserError:
        raise
    except Exception as error:  # fields of another type fail wherever they are first used
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"{workdir}/config.json describes nothing that can be built ({reason}): another "
            "version wrote it, or it is damaged; name another --workdir"
        ) from error
    with checkpoints.Checkpoints(workdir, read_only=True) as saved:
        step = saved.newest_whole(_say) if step is None else saved.check(step)
        params = saved.restore_params(step, "raw" if raw_params else "default", shapes.params)
    return Loaded(experiment, params, step)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def padded_batch(experiment: Experiment, num: int) -> int:
    """config.sample.batch_size, no more than `num` needs, rounded up to the devices."""
    devices = experiment.mesh.size
    return -(-min(experiment.config.sample.batch_size, num) // devices) * devices
