"""A network small enough to compile in no time, and the state that trains it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax.training import ema, state, step
from ddpm_jax.training.objectives import denoise

SHAPE = (2, 4, 1)
CLASSES = 3


def apply(variables, xt, time, conditions=None, *, train=False, rngs=None):
    """scale[i] x_t + bias[i] + table[label], i the index of the time; the last row is no class."""
    params = variables["params"]
    index = jnp.round(time).astype(jnp.int32)
    out = params["scale"][index][:, None, None, None] * xt
    out = out + params["bias"][index][:, None, None, None]
    if conditions is None:
        return out
    label = conditions["label"]
    return out + params["table"][jnp.where(label < 0, CLASSES, label)].reshape(xt.shape)


def init_params(key, num_steps):
    """Parameters of `apply` for a schedule of so many steps; the table is drawn from the key."""
    table = 0.1 * jax.random.normal(key, (CLASSES + 1, int(np.prod(SHAPE))))
    return {"scale": jnp.zeros(num_steps), "bias": jnp.zeros(num_steps), "table": table}


def setup(
    schedule,
    *,
    learning_rate=1e-2,
    ema_decay=0.9,
    ema_warmup=False,
    averages=ema.NO_SHARES,
    optimizer=None,
    spike=None,
    around=lambda objective: objective,
    **kind,
):
    """The state at step 0 and the pure train step of `apply` on a schedule."""
    kind = {"dropout": {"label": 0.2}} | kind
    objective = around(denoise.denoising(apply, schedule, **kind))
    rate = optax.constant_schedule(learning_rate)
    optimizer = optimizer or optax.adam(rate)
    init = functools.partial(init_params, num_steps=schedule.num_steps)
    train_step = step.make_train_step(
        objective,
        optimizer,
        rate,
        ema_decay=ema_decay,
        ema_warmup=ema_warmup,
        averages=averages,
        spike=spike,
    )
    start = state.init_state(
        init, optimizer, 0, objective.init_extra, spike=spike, averages=[*averages]
    )
    return start, train_step


def batch(size, seed=0):
    """Images in [-1, 1] and labels."""
    rng = np.random.default_rng(seed)
    return {
        "x0": rng.uniform(-1, 1, (size, *SHAPE)).astype(np.float32),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
    }
