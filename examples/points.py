"""Four Gaussians at (+-1, +-1): an own network and an own loop from pure functions, no config."""

import jax
import jax.numpy as jnp
import optax

from ddpm_jax.diffusion import losses, prediction, schedules
from ddpm_jax.samplers import ddim, grids
from ddpm_jax.training.objectives.denoise import denoising
from ddpm_jax.training.state import init_state
from ddpm_jax.training.step import make_train_step


def init_params(key):
    shapes = zip(jax.random.split(key, 3), ((10, 128), (128, 128), (128, 2)), strict=True)
    return [jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in shapes]


def network(variables, x, time, conditions=None, train=False, rngs=None):
    angles = time[:, None] / 1000 * jnp.exp2(jnp.arange(4.0))[None]
    x = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=1)
    for weights in variables["params"][:-1]:
        x = jax.nn.silu(x @ weights)
    return x @ variables["params"][-1]


schedule, form, key = schedules.cosine(1000), prediction.parameterisation("v"), jax.random.key(1)
optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 1000))
state = init_state(init_params, optimizer, seed=0)
objective = denoising(network, schedule, loss=lambda *a: losses.simple(*a, prediction=form))
train_step = jax.jit(make_train_step(objective, optimizer, ema_decay=0.99))
for k in range(1000):
    signs, noise = jax.random.normal(jax.random.fold_in(key, k), (2, 256, 2))
    state, metrics = train_step(state, {"x0": jnp.sign(signs) + 0.25 * noise})
model = prediction.denoiser(network, state.ema["default"], schedule, prediction=form)
x = ddim(model, schedule, grids.uniform(schedule, 50), key, jax.random.normal(key, (2000, 2)))
moments = jnp.stack([x.mean(axis=0), (x**2).mean(axis=0), (abs(x) - 1).std(axis=0)])
print("mean, mean square and width of x and y:", moments)
assert jnp.allclose(moments, jnp.array([[0], [1 + 0.25**2], [0.25]]), atol=0.1), "of the data"
