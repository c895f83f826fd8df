"""What a training step keeps in memory, by the choices that a config has."""

from typing import Any

import jax
from jax.sharding import AbstractMesh
from ml_collections import ConfigDict

from ddpm_jax.commands.benchmark import train_steps
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Worker
from ddpm_jax.commands.benchmark.turns import OURS
from ddpm_jax.commands.train import dry_run
from ddpm_jax.config import config_files
from ddpm_jax.experiment import build
from ddpm_jax.models.remat import RECOMPUTED
from ddpm_jax.runtime import sharding

DTYPES = ("float32", "bfloat16")
DEVICES = (2, 4, 8)
DIT_B2: dict[str, dict[str, Any]] = train_steps.NETWORKS["dit_b2"].changes


def section(options: Options) -> dict[str, Any]:
    """`memory` of the experiment that was named, and what accelerators have really held.

    Returns:
      As `memory`, and of accelerators "measured": {remat: the peak bytes of a device in a step of
      DiT-B/2}.
    """
    traced = memory(options.config)
    if options.platform == "cpu":
        return traced
    return {**traced, "measured": {mode: _measured(mode, options) for mode in RECOMPUTED}}


def _measured(remat: str, options: Options) -> int | None:
    asked = train_steps.spec(train_steps.NETWORKS["dit_b2"], options.dtypes[-1], options)
    asked["changes"]["model"]["remat"] = remat
    with Worker({**asked, "side": OURS, "exchange": None}) as worker:
        return worker.facts["peak_device_bytes"]


def memory(config: ConfigDict) -> dict[str, Any]:
    """Bytes kept of a forward pass and of a state: of a config's network, and of DiT-B/2; traced.

    Returns:
      {"network": ..., "dit_b2": ...}, each {"parameters": a number; "float32", "bfloat16": {remat:
      {"image": residual bytes of an image, "fixed": those of any batch, such as weights in another
      precision}}; "state": {"bytes": of parameters, moments and averages; "share": {devices: what
      one of so many holds of them}}}.
    """
    return {"network": _of(config), "dit_b2": _of(config_files.override(config, DIT_B2))}


def _of(config: ConfigDict) -> dict[str, Any]:
    def residuals(mode: str, dtype: str, size: int) -> int:
        changes: dict[str, dict[str, Any]] = {
            "data": {"batch_size": size},
            "model": {"remat": mode, "dtype": dtype},
            "mesh": {"data": 1, "fsdp": 1},
        }
        return dry_run.residual_bytes(build(config_files.override(config, changes)), 1)

    def line(mode: str, dtype: str) -> dict[str, int]:
        one, two = (residuals(mode, dtype, size) for size in (1, 2))
        return {"image": two - one, "fixed": 2 * one - two}

    alone: dict[str, dict[str, Any]] = {"data": {"batch_size": 1}, "mesh": {"data": 1, "fsdp": 1}}
    shapes = build(config_files.override(config, alone)).state_shapes()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        **{dtype: {mode: line(mode, dtype) for mode in RECOMPUTED} for dtype in DTYPES},
        "state": {
            "bytes": _on_device(shapes, 1),
            "share": {num: _on_device(shapes, num) / _on_device(shapes, 1) for num in DEVICES},
        },
    }


def _on_device(shapes: Any, devices: int) -> int:
    """Bytes of a state on one of so many devices that split it; there need not be any."""
    mesh: Any = AbstractMesh((1, devices), ("data", "fsdp"))
    places = sharding.state_sharding(mesh, shapes)
    return sharding.bytes_on_device(
        jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            places,
        )
    )
