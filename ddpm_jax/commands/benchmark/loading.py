"""Reading the weights of Stable Diffusion 1's U-Net: seconds, and memory beside the parameters."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import python

DTYPES = ("float32", "bfloat16")
# Both in a process of its own: one needs the whole file in memory, the other is measured.
WRITE = """
import json, sys
from ddpm_jax.commands.benchmark import latent_unet
from ddpm_jax.interop.unet_condition import unet_condition_to_diffusers

unet = latent_unet.network_of(json.loads(sys.argv[2]))
unet_condition_to_diffusers(unet, latent_unet.random_params(unet), sys.argv[1])
"""
READ = """
import json, re, sys, time
import jax, jax.numpy as jnp
from ddpm_jax.interop.unet_condition import unet_condition_from_diffusers

def peak():
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])

jnp.zeros(1).block_until_ready()
before, began = peak(), time.perf_counter()
unet, params = unet_condition_from_diffusers(sys.argv[1], sys.argv[2])
jax.block_until_ready(params)
seconds = time.perf_counter() - began
leaves = jax.tree.leaves(params)
print(json.dumps({
    "tensors": len(leaves),
    "seconds": seconds,
    "parameter_bytes": sum(leaf.nbytes for leaf in leaves),
    "peak_growth_bytes": peak() - before,
}))
"""


def section(options: Options) -> dict[str, Any]:
    """`loading` of 859,520,964 random numbers, 3.4 GB in float32."""
    return loading()


def loading(**fields: Any) -> dict[str, Any]:
    """Read one file of float32 into parameters of each precision; on Linux.

    Args:
      **fields: of the network, instead of its own.

    Returns:
      {precision: {"tensors", "seconds", of the whole call, "parameter_bytes", "peak_growth_bytes"
      of the process's largest size during it, "growth_over_parameters": their ratio}}.
    """
    rows = {}
    with tempfile.TemporaryDirectory() as parent:
        folder = str(Path(parent) / "unet")
        python("-c", WRITE, folder, json.dumps(fields))
        for dtype in DTYPES:
            row = json.loads(python("-c", READ, folder, dtype, JAX_PLATFORMS="cpu").stdout)
            ratio = row["peak_growth_bytes"] / row["parameter_bytes"]
            rows[dtype] = {**row, "growth_over_parameters": ratio}
    return rows
