"""Sampling one small network at several batches, beside diffusers' loop."""

from typing import Any

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options, config_file
from ddpm_jax.commands.benchmark.train_steps import PEER, PLAIN

STEPS = 50
# Image sizes with the batches drawn at each.
SIZES = {8: (1, 16, 128), 32: (1, 16)}
# 0.9 million parameters.
NETWORK = {"num_classes": 0}


def sampling(options: Options) -> dict[str, Any]:
    """50 steps of DDIM by one U-Net of 0.9 million parameters.

    Ours is one program. diffusers' is DDIMScheduler's loop. Both begin with noise on the host and
    end with images there, the same but for rounding.

    Returns:
      {"8x8 batch 1 float32": as `turns.compared`, with images_per_second}.
    """
    rows = {}
    for dtype in options.dtypes:
        for size, batches in SIZES.items():
            for batch in batches:
                asked = spec(size, batch, dtype)
                row = turns.compared(asked, options.beside(PEER), rounds=options.rounds)
                rate = batch / row[turns.OURS]["seconds"]
                rows[f"{size}x{size} batch {batch} {dtype}"] = {**row, "images_per_second": rate}
    return rows


def spec(size: int, batch: int, dtype: str = "float32") -> dict[str, Any]:
    """What `turns.compared` takes of a batch of images of so many pixels squared."""
    changes = {
        **PLAIN,
        "data": {"name": "cifar10", "image_size": (size, size), "channels": 3, "batch_size": batch},
        "model": {**NETWORK, "dtype": dtype},
        "sample": {"guidance_scale": 1.0},
    }
    what = {"what": "sampling", "batch": batch, "steps": STEPS, "dtype": dtype}
    return {**what, **config_file("digits.py"), "changes": changes}
