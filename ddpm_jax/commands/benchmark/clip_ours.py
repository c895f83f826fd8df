"""This package's side of a CLIP's training step, in a process of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.commands.benchmark.work_facts import copy, training
from ddpm_jax.commands.benchmark.worker import Work
from ddpm_jax.data.captions import TEXT
from ddpm_jax.experiment import Experiment
from ddpm_jax.interop.clip import clip_to_transformers
from ddpm_jax.models import Clip
from ddpm_jax.models.clip import normalised
from ddpm_jax.runtime import sharding

SPREAD = 0.02  # of what is added to fresh weights, of which some are zero


def train_step(experiment: Experiment, spec: Mapping[str, Any]) -> Work:
    """The whole step of a run, done once; its weights, batch and loss in the exchange's folder."""
    rng = np.random.default_rng(0)
    state, model = experiment.init_state(), experiment.model
    assert isinstance(model, Clip)
    fresh = jax.device_get(state.params)
    moved = jax.tree.map(
        lambda leaf: leaf + SPREAD * rng.standard_normal(leaf.shape, np.float32), fresh
    )
    moved["log_scale"] = fresh["log_scale"]
    params = jax.device_put(moved, jax.tree.map(lambda leaf: leaf.sharding, state.params))
    state = state._replace(params=params, ema={name: copy(params) for name in state.ema})
    host = _batch(experiment)
    batch = sharding.put_batch(host, sharding.batch_sharding(experiment.mesh))
    if spec["exchange"]:
        folder = Path(spec["exchange"])
        clip_to_transformers(model, moved, folder / "weights")
        loss = jax.jit(
            lambda p, b: experiment.objective(p, b, jax.random.key(0), False, {}).loss.mean()
        )(params, batch)
        pixels = np.asarray(normalised(jnp.asarray(host["x0"]), model.mean, model.std))
        np.savez(folder / "arrays.npz", pixels=pixels, tokens=host[TEXT], loss=np.asarray(loss))
    optim = experiment.config.optim
    options = {name: optim.options[name] for name in ("beta2", "epsilon")}
    return training(experiment, state, batch, weight_decay=optim.weight_decay, **options)


def _batch(experiment: Experiment) -> dict[str, np.ndarray]:
    """Noise, and rows of words that end somewhere; what is behind the end is seen by none."""
    rng, shapes = np.random.default_rng(2), experiment.batch_shapes()
    size, last = shapes[TEXT].shape, experiment.config.data.vocabulary - 1
    tokens = rng.integers(0, last, size, np.int32)
    tokens[np.arange(size[0]), rng.integers(1, size[1], size[0])] = last
    return {
        "x0": rng.uniform(-1, 1, shapes["x0"].shape).astype(np.float32),
        "label": np.zeros(shapes["label"].shape, np.int32),
        TEXT: tokens,
    }
