"""Diffusion transformers from diffusers' `DiTTransformer2DModel`: config.json and safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import safetensor_files
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.models import DiT
from ddpm_jax.models.dit import FREQUENCIES
from ddpm_jax.runtime.weight_files import StoredTensor

CLASS = "DiTTransformer2DModel"
# What a field of config.json means that is left out, and those of one possible value.
DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "dropout": 0.0,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
FIXED: dict[str, Any] = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
# What says nothing about the function: hints, and precision.
IGNORED = {"sample_size", "norm_num_groups", "upcast_attention", "norm_eps"}
# Every block of theirs has its own embedding of time and class; in published weights all are one.
_EMBEDDING = "transformer_blocks.{}.norm1.emb."
_OF_EMBEDDING = {
    "time_dense_0": "timestep_embedder.linear_1",
    "time_dense_1": "timestep_embedder.linear_2",
}
_OF_BLOCK = {
    "modulation": "norm1.linear",
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "attention_out": "attn1.to_out.0",
    "mlp_0": "ff.net.0.proj",
    "mlp_1": "ff.net.2",
}


def dit_from_diffusers(directory: str | os.PathLike[str]) -> tuple[DiT, dict[str, Any]]:
    """What `DiTTransformer2DModel.save_pretrained(directory)` wrote, as (dit, params).

    `dit.apply({"params": params}, xt, time, label)` is then what theirs computes, xt [B, H, W, C].
    Every LayerNorm here adds the paper's 1e-6; theirs adds norm_eps in front of the MLP, which at
    its default of 1e-5 moves a norm's output by 5e-6 of itself.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards). Nothing
        in it is imported or executed, and nothing is downloaded.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this network does
        not have, blocks that embed time or class differently, and tensors that are missing, left
        over or of the wrong shape.
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "transformer")
    config = _config(read_json(directory / CONFIG))
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dit = DiT(
        patch_size=config["patch_size"],
        width=width,
        depth=config["num_layers"],
        num_heads=config["num_attention_heads"],
        out_channels=config["out_channels"] or config["in_channels"],
        num_classes=config["num_embeds_ada_norm"],
        dropout=float(config["dropout"]),
        freq_shift=1.0,
    )
    weights = _Weights(safetensor_files.read(directory), directory)
    params: dict[str, Any] = {}
    patch = weights.take(
        "pos_embed.proj.weight", (width, config["in_channels"], dit.patch_size, dit.patch_size)
    )
    params["patch_embedding"] = {
        "kernel": jnp.asarray(patch.transpose(2, 3, 1, 0).reshape(-1, width), jnp.float32),
        "bias": weights.plain("pos_embed.proj.bias", (width,)),
    }
    weights.drop("pos_embed.pos_embed")  # fixed
    waves = (FREQUENCIES, width)
    for name, theirs in _OF_EMBEDDING.items():
        params[name] = weights.dense(
            [_EMBEDDING.format(k) + theirs for k in range(dit.depth)], *waves
        )
        waves = (width, width)
    tables = [
        weights.plain(
            _EMBEDDING.format(k) + "class_embedder.embedding_table.weight",
            (dit.num_classes + 1, width),
        )
        for k in range(dit.depth)
    ]
    params["label_embedding"] = {"embedding": _one(tables, "class_embedder")}
    sizes = {
        "modulation": (width, 6 * width),
        "mlp_0": (width, 4 * width),
        "mlp_1": (4 * width, width),
    }
    for k in range(dit.depth):
        params[f"block_{k}"] = {
            ours: weights.dense(
                [f"transformer_blocks.{k}.{theirs}"], *sizes.get(ours, (width, width))
            )
            for ours, theirs in _OF_BLOCK.items()
        }
    params["modulation_out"] = weights.dense(["proj_out_1"], width, 2 * width)
    params["out"] = weights.dense(["proj_out_2"], width, dit.patch_size**2 * dit.out_channels)
    weights.check_empty()
    return dit, params


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that describe the network, checked."""
    if fields.get("_class_name") != CLASS:
        raise ValueError(
            f'config.json: _class_name is {fields.get("_class_name")!r}; need "{CLASS}"'
        )
    for name, value in fields.items():
        if name.startswith("_") or name in IGNORED:
            continue
        if name in FIXED:
            if value != FIXED[name]:
                raise ValueError(f"config.json: {name} is {value!r}; supported: {FIXED[name]!r}")
        elif name not in DEFAULTS:
            raise ValueError(f"config.json: {name} is {value!r}; {CLASS} has no such field here")
    config = {name: fields.get(name, default) for name, default in DEFAULTS.items()}
    for name, value in config.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if name == "dropout":
            whole = isinstance(value, int | float) and 0 <= value < 1
        if not whole and not (name == "out_channels" and value is None):
            raise ValueError(f"config.json: {name} is {value!r}; need a whole number from 1")
    return config


class _Weights:
    """Tensors by name, each taken once."""

    def __init__(self, tensors: dict[str, StoredTensor], directory: Path):
        self._tensors = tensors
        self._directory = directory

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self._tensors:
            raise ValueError(f"{self._directory}: tensor {name} is missing; need one of {shape}")
        tensor = self._tensors.pop(name)
        if tensor.shape != shape:
            raise ValueError(
                f"{self._directory}: tensor {name} has shape {tensor.shape}; config.json needs "
                f"{shape}"
            )
        return np.asarray(tensor)

    def drop(self, name: str) -> None:
        self._tensors.pop(name, None)

    def plain(self, name: str, shape: tuple[int, ...]) -> Any:
        return jnp.asarray(self.take(name, shape), jnp.float32)

    def dense(self, names: list[str], inputs: int, outputs: int) -> dict[str, Any]:
        """The one dense layer that all of these names hold."""
        kernels = [self.plain(f"{name}.weight", (outputs, inputs)).T for name in names]
        biases = [self.plain(f"{name}.bias", (outputs,)) for name in names]
        return {"kernel": _one(kernels, names[0]), "bias": _one(biases, names[0])}

    def check_empty(self) -> None:
        if self._tensors:
            raise ValueError(
                f"{self._directory}: the network of config.json has no tensor {min(self._tensors)} "
                f"({len(self._tensors)} left over)"
            )


def _one(copies: list[Any], name: str) -> Any:
    if any(not np.array_equal(copy, copies[0]) for copy in copies[1:]):
        raise ValueError(f"{name}: every block has its own; this network has one for all of them")
    return copies[0]
