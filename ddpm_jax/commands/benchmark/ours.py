"""This package's side of a comparison, in a process of its own: a training step, or sampling."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import config_words, samplers
from ddpm_jax.commands.benchmark import clip_ours, latent_unet
from ddpm_jax.commands.benchmark.work_facts import copy, facts, training
from ddpm_jax.commands.benchmark.worker import Work
from ddpm_jax.config import config_files
from ddpm_jax.diffusion import prediction
from ddpm_jax.experiment import Experiment, build
from ddpm_jax.interop.diffusers import unet_to_diffusers
from ddpm_jax.interop.dit import dit_from_diffusers
from ddpm_jax.runtime import compiling, digests, sharding
from ddpm_jax.training.checkpoints import Checkpoints

# Of the weights: those of a fresh network are zero in places, and a network that returns zeros
# agrees with any other one.
SPREAD = 0.02
WEIGHTS = "weights"  # their place where the sides exchange them


def start(spec: Mapping[str, Any]) -> Work:
    """Set up the work of a spec, compiled and done once.

    Args:
      spec: {"what": a key of WORK; "config_file"; "changes": {group: {field: value}}; "exchange":
        where weights and arrays lie for the other sides, or None; of sampling, "batch" and
        "steps"}; or that of `latent_unet.spec`, of a network without a run.
    """
    if spec["what"] == latent_unet.WHAT:
        return latent_unet.forward(spec)
    config = config_words.load_config_file(spec["config_file"])
    experiment = build(config_files.override(config, _as_fields(spec["changes"])))
    return WORK[spec["what"]](experiment, spec)


def train_step(experiment: Experiment, spec: Mapping[str, Any]) -> Work:
    """The whole step of a run: draws, loss, gradient, clipping, guard, Adam, average."""
    state = experiment.init_state()
    params = _weights(experiment, state.params, spec["exchange"])
    state = state._replace(params=params, ema={name: copy(params) for name in state.ema})
    batch = sharding.put_batch(_batch(experiment), sharding.batch_sharding(experiment.mesh))
    if spec["exchange"]:
        _write_train_arrays(experiment, params, batch, Path(spec["exchange"]))
    return training(experiment, state, batch, dropout=experiment.config.model.dropout)


def sampling(experiment: Experiment, spec: Mapping[str, Any]) -> Work:
    """DDIM in one program, from noise on the host to images on the host."""
    params = _weights(experiment, experiment.init_state().params, spec["exchange"])
    schedule = experiment.schedule_of(params)
    times = samplers.grids.uniform(schedule, spec["steps"])
    apply = experiment.model.apply

    @compiling.jit
    def draw(params: Any, x: jax.Array) -> jax.Array:
        denoise = prediction.denoiser(apply, params, schedule)
        return samplers.ddim(denoise, schedule, times, jax.random.key(0), x)

    shape = (spec["batch"], *experiment.image_shape)
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    images = np.asarray(draw(params, x))
    if spec["exchange"]:
        np.savez(Path(spec["exchange"]) / "arrays.npz", x=x, images=images)

    def run(repeats: int) -> None:
        for _ in range(repeats):
            np.asarray(draw(params, x))

    return Work(facts(experiment, params), run)


def resume(experiment: Experiment, spec: Mapping[str, Any]) -> Work:
    """Three steps in a row against one, a checkpoint, and two more: are the bits the same?"""
    step = experiment.train_step()
    batch = sharding.put_batch(_batch(experiment), sharding.batch_sharding(experiment.mesh))

    def after(state: Any, steps: int) -> Any:
        for _ in range(steps):
            state, _ = step(state, batch)
        return state

    straight = digests.of_leaves(digests.on_host(after(experiment.init_state(), 3)))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        checkpoints.save(1, after(experiment.init_state(), 1))
        checkpoints.wait()
        restored = checkpoints.restore(1, experiment.state_shapes())
    resumed = digests.of_leaves(digests.on_host(after(restored, 2)))
    return Work({"resumed_bit_for_bit": straight == resumed}, lambda repeats: None)


WORK: dict[str, Callable[[Experiment, Mapping[str, Any]], Work]] = {
    "train_step": train_step,
    "clip_step": clip_ours.train_step,
    "sampling": sampling,
    "resume": resume,
}


def _weights(experiment: Experiment, fresh: Any, folder: str | None) -> Any:
    """Fresh parameters, moved a little; in the folder, as the other sides read them.

    What lies there already is a transformer's, written by diffusers, since none is written here.
    """
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + SPREAD * rng.standard_normal(leaf.shape, np.float32), fresh
    )
    if folder and (Path(folder) / WEIGHTS).exists():
        _, params = dit_from_diffusers(Path(folder) / WEIGHTS)
    elif folder:
        unet: Any = experiment.model
        unet_to_diffusers(unet, params, Path(folder) / WEIGHTS)
    return jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, fresh))


def _batch(experiment: Experiment) -> dict[str, np.ndarray]:
    rng, shapes = np.random.default_rng(2), experiment.batch_shapes()
    classes = max(experiment.config.model.num_classes, 1)
    return {
        "x0": rng.uniform(-1, 1, shapes["x0"].shape).astype(np.float32),
        "label": rng.integers(0, classes, shapes["label"].shape, np.int32),
    }


def _write_train_arrays(
    experiment: Experiment, params: Any, batch: dict[str, Any], folder: Path
) -> None:
    """What the objective drew for a batch and said of it, without dropout."""
    objective, schedule = experiment.objective, experiment.schedule_of(params)
    key, extra = jax.random.key(0), objective.init_extra(params)
    assert objective.draws
    drawn = objective.draws(params, batch, key, False, extra)
    loss = jax.jit(lambda p, b: objective(p, b, key, False, extra).loss.mean())(params, batch)
    np.savez(
        folder / "arrays.npz",
        x0=np.asarray(batch["x0"]),
        label=np.asarray(batch["label"]),
        time=np.asarray(schedule.network_time(drawn["t"])),
        eps=np.asarray(drawn["eps"]),
        loss=np.asarray(loss),
    )


def _as_fields(changes: Any) -> Any:
    """Lists, which is what JSON has, as the tuples that fields are."""
    if isinstance(changes, Mapping):
        return {name: _as_fields(value) for name, value in changes.items()}
    return tuple(map(_as_fields, changes)) if isinstance(changes, list) else changes
