"""What a report draws with a run's network: the way from noise to image, and the loss by t."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import conditioning
from ddpm_jax.build.kinds import Kind
from ddpm_jax.commands.loading import load
from ddpm_jax.data import evaluation_batches
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import loss_by_time
from ddpm_jax.experiment import Loaded
from ddpm_jax.measures import real_data
from ddpm_jax.reporting.report.runs import Drawn, LossByTime, ScheduleCurve
from ddpm_jax.runtime import compiling, sharding
from ddpm_jax.training.gradients import trees_of
from ddpm_jax.training.state import FIRST

FRAMES = 11
ROWS = 6  # of the film
LARGE = 64  # pixels a side, from which on half as many rows are drawn
EXAMPLES = 256  # held-out images
ROUNDS = 4  # draws of t and noise for each
INTERVALS = 20
TIMES = 201  # at which a schedule is shown

# What an image that does not fit, a file that is not there or a device without memory raises.
FAILURES = (UserError, OSError, RuntimeError, MemoryError)


def drawn(workdir: Path, data_dir: str | None = None, code: Sequence[str] = ()) -> Drawn | str:
    """What the newest checkpoint of a run draws, or why it draws nothing.

    Args:
      workdir: of the run.
      data_dir: where its data lie now; None for where they lay.
      code: modules that hold its own parts, "package.module".
    """
    try:
        loaded = load(workdir, code, data_dir=data_dir)
    except FAILURES as error:
        return f"There is no checkpoint that can be read: {_line(error)}."
    film, caption = _film(loaded)
    return Drawn(
        step=loaded.step,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(loaded.params)),
        curve=_curve(loaded),
        film=film,
        film_caption=caption,
        losses=_losses(loaded),
    )


def _curve(loaded: Loaded) -> ScheduleCurve | str:
    if not has_schedule(loaded.experiment.config):
        return no_schedule(loaded.experiment.kind)
    return schedule_curve(loaded.experiment.schedule_of(loaded.params))


def has_schedule(config: ConfigDict) -> bool:
    """Whether a run of this config noises what it models."""
    return "diffusion" in config


def no_schedule(kind: Kind) -> str:
    """What is said in place of the schedule of a kind that has none."""
    return f"{_at_first(kind.one)} noises nothing, so it has no schedule."


def _film(loaded: Loaded) -> tuple[np.ndarray | str, str]:
    """The way of a few samples, drawn as the run's own config says."""
    config = loaded.experiment.config
    if loaded.experiment.kind.why_no_images(config):
        return f"This run is {loaded.experiment.kind.one}, which draws no images.", ""
    if loaded.experiment.kind.from_noise is not None:
        one = _at_first(loaded.experiment.kind.one)
        return f"{one} makes an image of noise in one pass: there is no way to show.", ""
    rows = ROWS if max(loaded.experiment.image_shape[:2]) <= LARGE else ROWS // 2
    try:
        film = loaded.sample(rows, task=experiment.Task(frames=FRAMES))
    except FAILURES as error:
        return f"No film strip was drawn: {_line(error)}.", ""
    caption = (
        f"{config.sample.sampler}, {config.sample.num_steps} steps, guidance_scale "
        f"{config.sample.guidance_scale:g}, seed 0; moving average of step {loaded.step:,}. "
        f"{film.shape[1]} of the images on the way, evenly spaced in steps."
    )
    return film, caption


def schedule_curve(schedule: Schedule) -> ScheduleCurve:
    """alpha and sigma at `TIMES` times from 0 to 1."""
    t = np.linspace(0.0, 1.0, TIMES)
    return ScheduleCurve(t, *schedule.values(t))


def _losses(loaded: Loaded) -> LossByTime | str:
    """The loss of the moving average on held-out images, with the run's own draws of times."""
    built, config = loaded.experiment, loaded.experiment.config
    if not has_schedule(config):
        return f"{_at_first(built.kind.one)} noises nothing, so its loss has no t."
    place = sharding.batch_sharding(built.mesh)

    @compiling.jit
    def outcome(params: Any, batch: Any, key: jax.Array, frozen: Any) -> tuple[jax.Array, ...]:
        trees = trees_of(built.objective, {FIRST: params}, frozen)
        return built.objective(params, batch, key, False, {}, **trees)[:3]

    key = jax.random.key(config.seed)
    losses = []
    try:
        source = real_data.source(loaded, "validation")
        if source is None:
            return "The loss by t was not measured: this run's data has no held-out images."
        batches = evaluation_batches(
            source,
            config.data.batch_size,
            EXAMPLES,
            encode=built.batch_codec.encode_batch,
            conditions=conditioning.of_data(config),
            encode_texts=built.encode_texts,
        )
        for number, batch in enumerate(batches):
            placed = sharding.put_batch(batch, place)
            for draw in range(ROUNDS):
                own = jax.random.fold_in(key, number * ROUNDS + draw)
                loss, t, weight = jax.device_get(outcome(loaded.params, placed, own, built.frozen))
                losses.append((loss, t, weight * batch["mask"]))
    except FAILURES as error:
        return f"The loss by t was not measured: {_line(error)}."
    loss, t, weight = (np.concatenate(parts) for parts in zip(*losses, strict=True))
    curve = loss_by_time.by_time(loss, t, weight, INTERVALS)
    return LossByTime(curve.t, curve.mean, curve.standard_error, int(curve.num.sum()))


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:300]


def _at_first(words: str) -> str:
    """Words as a sentence begins: nothing but the first letter becomes a capital."""
    return words[0].upper() + words[1:]
