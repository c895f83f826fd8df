"""Speed beside diffusers, in one run on one machine; the only module that imports it."""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import samplers
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.interop.diffusers import unet_to_diffusers
from ddpm_jax.models import UNet

STEPS, ROUNDS = 50, 5
# Before each measurement, for both: a library's threads spin on for a while after their work, and
# would take a core from the other's.
REST = 0.5  # seconds
# Image sizes with the batches drawn at each.
SIZES = {8: (1, 16), 32: (1, 16)}


def ddim_speed() -> dict[str, Any]:
    """50 steps of DDIM by diffusers' loop over ours, one U-Net of a million parameters in both.

    Both run on the same weights and start, with all threads, compiled and warmed up, turn by turn;
    the ratio is that of the medians. Without the extra [parity], a note that says so.

    Returns:
      {"parameters": ..., "8x8, batch 1": {"ours": seconds, "diffusers": seconds, "ratio": ...,
      "difference": largest difference of the images}, ...}.
    """
    try:
        import diffusers
    except ImportError:
        return {"skipped": "needs diffusers and torch: pip install '.[parity]'"}
    unet = UNet(
        block_channels=(32, 64), num_blocks=2, attention_levels=(), out_channels=3, num_groups=8
    )
    shape = jnp.zeros((1, 8, 8, 3))
    params = jax.jit(unet.init)(jax.random.key(0), shape, jnp.zeros(1))["params"]
    with tempfile.TemporaryDirectory() as folder:
        unet_to_diffusers(unet, params, folder)
        peer = diffusers.UNet2DModel.from_pretrained(folder).eval()
    speeds: dict[str, Any] = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    for size, batches in SIZES.items():
        for batch in batches:
            x = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
            speeds[f"{size}x{size}, batch {batch}"] = _compare(
                _ours(unet, params), _theirs(peer), x
            )
    return speeds


def _ours(unet: UNet, params: Any) -> Callable[[jax.Array], np.ndarray]:
    schedule = schedules.linear()
    times = samplers.grids.uniform(schedule, STEPS)

    @jax.jit
    def run(params: Any, x: jax.Array) -> jax.Array:
        denoise = prediction.denoiser(unet.apply, params, schedule)
        return samplers.ddim(denoise, schedule, times, jax.random.key(0), x)

    return lambda x: np.asarray(run(params, x))


def _theirs(peer: Any) -> Callable[[jax.Array], np.ndarray]:
    import diffusers
    import torch

    scheduler: Any = diffusers.DDIMScheduler(1000, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(STEPS)

    def run(x: jax.Array) -> np.ndarray:
        sample = torch.tensor(np.array(x)).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            for timestep in scheduler.timesteps:
                output = peer(sample, timestep).sample
                sample = scheduler.step(output, timestep, sample).prev_sample
        return sample.permute(0, 2, 3, 1).numpy()

    return run


def _compare(
    ours: Callable[[jax.Array], np.ndarray], theirs: Callable[[jax.Array], np.ndarray], x: jax.Array
) -> dict[str, float]:
    difference = float(np.abs(ours(x) - theirs(x)).max())  # and warms both up
    seconds: dict[str, list[float]] = {"ours": [], "diffusers": []}
    for _ in range(ROUNDS):
        for name, run in (("ours", ours), ("diffusers", theirs)):
            time.sleep(REST)
            began = time.perf_counter()
            run(x)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians | {"ratio": medians["diffusers"] / medians["ours"], "difference": difference}
