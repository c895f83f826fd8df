"""A forward pass of Stable Diffusion 1's U-Net beside diffusers', on the same random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.commands.benchmark import turns
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Failed
from ddpm_jax.commands.benchmark.worker import Work
from ddpm_jax.interop.latent_trunk import shapes_of
from ddpm_jax.interop.unet_condition import unet_condition_to_diffusers
from ddpm_jax.models.attention import CUDNN
from ddpm_jax.models.unet_condition import UNet2DCondition
from ddpm_jax.runtime import compiling

WHAT = "latent_unet"
PEER = "diffusers"
TOKENS = 77
# (precision, pixels of the latents along either axis, batch): a guided image is two rows.
ON_A_CPU = (("float32", 32, 2),)
ON_AN_ACCELERATOR = (("bfloat16", 64, 2), ("bfloat16", 64, 16))


def section(options: Options) -> dict[str, Any]:
    """One call of the network, its weights held in the precision of the computation.

    Returns:
      {"32x32 batch 2 float32": as `turns.compared`, with "output_difference" of the other side, the
      largest over the deviation; or {"failed": reason}}.
    """
    rows: dict[str, Any] = {}
    for dtype, size, batch in ON_A_CPU if options.platform == "cpu" else ON_AN_ACCELERATOR:
        name = f"{size}x{size} batch {batch} {dtype}"
        try:
            asked = spec(dtype, size, batch)
            rows[name] = turns.compared(asked, options.beside(PEER), rounds=options.rounds)
        except Failed as error:
            rows[name] = {"failed": str(error)}
    return rows


def spec(dtype: str, size: int, batch: int, **fields: Any) -> dict[str, Any]:
    """What `turns.compared` takes; `fields` change the network's."""
    return {"what": WHAT, "dtype": dtype, "size": size, "batch": batch, "fields": fields}


def forward(spec: Mapping[str, Any]) -> Work:
    """Our side: compiled and done once; weights, arrays and the output in the exchange's folder."""
    dtype = jnp.dtype(spec["dtype"])
    unet = network_of(spec["fields"])
    params = random_params(unet)
    rng = np.random.default_rng(1)
    xt = rng.standard_normal((spec["batch"], spec["size"], spec["size"], 4), np.float32)
    tokens = rng.standard_normal((spec["batch"], TOKENS, unet.tokens_channels), np.float32)
    time = np.linspace(981, 1, spec["batch"]).round()
    if spec["exchange"]:
        unet_condition_to_diffusers(unet, params, Path(spec["exchange"]) / "weights")
    held = jax.device_put(jax.tree.map(lambda leaf: leaf.astype(dtype), params))
    del params
    network = unet.clone(dtype=dtype)
    if jax.default_backend() == "gpu":
        network = network.with_attention(CUDNN)

    @compiling.jit
    def call(params: Any, xt: jax.Array, time: jax.Array, tokens: jax.Array) -> Any:
        return network.apply({"params": params}, xt, time, {"tokens": tokens})

    output = np.asarray(call(held, xt, time, tokens))
    if spec["exchange"]:
        path = Path(spec["exchange"]) / "arrays.npz"
        np.savez(path, xt=xt, time=time, tokens=tokens, output=output)

    def run(repeats: int) -> None:
        for _ in range(repeats):
            call(held, xt, time, tokens).block_until_ready()

    count = sum(leaf.size for leaf in jax.tree.leaves(held))
    return Work({"parameters": count, "batch": spec["batch"]}, run)


def network_of(fields: Mapping[str, Any]) -> UNet2DCondition:
    """Stable Diffusion 1's, with other fields; lists, which is what JSON has, are tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return UNet2DCondition(**{name: tuples(value) for name, value in fields.items()})


def random_params(unet: UNet2DCondition) -> dict[str, Any]:
    """Parameters of a spread at which values neither vanish nor grow, biases too."""
    rng = np.random.default_rng(0)
    tree: dict[str, Any] = {}
    for path, shape in shapes_of(unet).items():
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        spread = 0.1 if len(shape) == 1 else np.prod(shape[:-1]) ** -0.5
        value = np.float32(spread) * rng.standard_normal(shape, np.float32)
        place[path[-1]] = value + 1 if path[-1] == "scale" else value
    return tree
