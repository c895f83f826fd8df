"""Whole trajectories beside diffusers' schedulers, with equal networks and equal noise.

diffusers keeps alpha_bar and 1 - alpha_bar in float32, which moves its trajectories by 3e-5
(linear) to 1.5e-4 (cosine) of their size. So its formulas are run in float64 on exact tables.
One test takes diffusers as it is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax import samplers
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.samplers import base

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SIZE = 1000
SCHEDULES = {"linear": schedules.linear(SIZE), "cosine": schedules.cosine(SIZE)}
PEER_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
# Some data lie outside [-1, 1], so that clipping acts.
DATA = oracles.Mixture([0.5, 0.5], [[-1.5, 0.5, 0.0], [1.0, 0.0, -0.5]], [0.2, 0.05])
# Their indices i - 1; uneven strides; the last is 0, where their DDPM step adds no noise.
UNEVEN = (999, 998, 700, 650, 300, 100, 21, 20, 3, 0)
# The cosine schedule ends at alpha = 5e-5, where eps in float32 tells x_0 to 1e-3.
TOLERANCES = {
    (np.float32, "linear"): 1e-5,
    (np.float32, "cosine"): 3e-4,
    (np.float64, "linear"): 1e-11,
    (np.float64, "cosine"): 1e-11,
}


@functools.cache
def network(name):
    """A network that predicts eps, compiled once."""
    denoise = DATA.denoiser(SCHEDULES[name])

    @jax.jit
    def apply(variables, xt, time, conditions):
        return denoise(xt, (time + 1) / SIZE).eps

    return apply


KEY = jax.random.key(1)


def ours(sampler, name, timesteps, dtype=np.float32, **options):
    """Our trajectory over these timesteps, and the noise of its steps."""
    times = np.append(np.asarray(timesteps) + 1, 0) / SIZE
    denoise = prediction.denoiser(network(name), None, SCHEDULES[name])

    def draw(x, s, t, key):
        return base.normal(key, x)

    @jax.jit
    def run(x):
        _, path = sampler(
            denoise, SCHEDULES[name], times, KEY, x, return_trajectory=True, **options
        )
        _, noise = base.scan_steps(draw, times, KEY, x, return_trajectory=True)
        return path, noise[1:]

    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.array, run(jax.random.normal(jax.random.key(0), (4, 3), dtype)))


def exact(peer, name):
    """The scheduler, its tables replaced by exact ones."""
    alphas_cumprod = oracles.exact_alphas_cumprod(SCHEDULES[name].betas)[1:]
    peer.alphas_cumprod = torch.tensor(alphas_cumprod.astype(np.float64))
    peer.one = peer.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return peer


def theirs(name, timesteps, x, step, dtype=np.float64):
    """The trajectory of step(eps, timestep, x) from x, their own x shown to the network."""
    with jax.enable_x64(dtype == np.float64):
        model, path = network(name), [x.astype(dtype)]
        for index in timesteps:
            eps = model(None, jnp.asarray(path[-1]), jnp.full(4, index, dtype), None)
            moved = step(torch.tensor(np.array(eps)), int(index), torch.tensor(path[-1]))
            path.append(moved.prev_sample.numpy())
        return np.stack(path)


def assert_close(first, second, tolerance):
    assert first.shape == second.shape
    assert np.abs(first - second).max() < tolerance * np.abs(second).max()


def lend(monkeypatch, noise):
    """Let diffusers' DDPM draw the given noise."""
    noise = iter(noise)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, dtype, **__: torch.tensor(next(noise), dtype=dtype),
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ancestral_sampling(name, variance, clip, dtype, monkeypatch):
    peer = diffusers.DDPMScheduler(
        SIZE, beta_schedule=PEER_NAMES[name], variance_type=variance, clip_sample=clip
    )
    peer.set_timesteps(timesteps=list(UNEVEN))
    path, noise = ours(samplers.ancestral, name, UNEVEN, dtype, variance=variance, clip_x0=clip)
    lend(monkeypatch, noise)
    assert_close(
        path, theirs(name, UNEVEN, path[0], exact(peer, name).step), TOLERANCES[dtype, name]
    )
    assert not clip or np.abs(path[-1]).max() <= 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ddim(name, eta, clip, dtype):
    peer = diffusers.DDIMScheduler(
        SIZE, beta_schedule=PEER_NAMES[name], clip_sample=clip, timestep_spacing="trailing"
    )
    peer.set_timesteps(20)
    timesteps = peer.timesteps.numpy()
    path, noise = ours(samplers.ddim, name, timesteps, dtype, eta=eta, clip_x0=clip)
    noise = iter(noise)
    exact(peer, name)

    def step(eps, index, x):
        return peer.step(
            eps,
            index,
            x,
            eta=eta,
            use_clipped_model_output=clip,  # eps follows the clipped x_0
            variance_noise=torch.tensor(next(noise)).double() if eta else None,
        )

    assert_close(path, theirs(name, timesteps, path[0], step), TOLERANCES[dtype, name])
    assert not clip or np.abs(path[-1]).max() <= 1


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_whole_chain_of_ho_et_al(variance, monkeypatch):
    timesteps = range(SIZE - 1, -1, -1)
    peer = diffusers.DDPMScheduler(SIZE, variance_type=variance)
    path, noise = ours(samplers.ancestral, "linear", timesteps, variance=variance, clip_x0=True)
    lend(monkeypatch, noise)
    as_it_is = theirs("linear", timesteps, path[0], peer.step, np.float32)
    assert_close(path, as_it_is, 3e-4)
    lend(monkeypatch, noise)
    assert_close(path, theirs("linear", timesteps, path[0], exact(peer, "linear").step), 2e-5)
