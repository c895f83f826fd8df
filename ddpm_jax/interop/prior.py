"""Priors of unCLIP from diffusers' `PriorTransformer`, of Karlo and Kandinsky 2."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import safetensor_files, tensor_rows
from ddpm_jax.interop.tensor_rows import Row, layer
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.models.prior import OTHERS, TEXT_EMBEDDING, TOKENS, PriorTransformer
from ddpm_jax.runtime.weight_files import StoredTensor

CLASS = "PriorTransformer"
# What a field of config.json means that is left out.
SIZES: dict[str, int] = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
}
# None for another field's value.
OPTIONAL_SIZES = ("time_embed_dim", "embedding_proj_dim", "clip_embed_dim")
# Those of a few values; the first is the default.
CHOICES: dict[str, tuple[Any, ...]] = {
    "additional_embeddings": (OTHERS,),
    "time_embed_act_fn": ("silu",),
    "norm_in_type": (None, "layer"),
    "embedding_proj_norm_type": (None, "layer"),
    "encoder_hid_proj_type": ("linear",),
    "added_emb_type": ("prd",),
}
_OF_BLOCK = (
    ("norm_0", "norm1", "norm"),
    ("query", "attn1.to_q", "dense"),
    ("key", "attn1.to_k", "dense"),
    ("value", "attn1.to_v", "dense"),
    ("out", "attn1.to_out.0", "dense"),
    ("norm_1", "norm3", "norm"),
    ("mlp_0", "ff.net.0.proj", "dense"),
    ("mlp_1", "ff.net.2", "dense"),
)


class ImportedPrior(NamedTuple):
    """A prior of diffusers.

    Attributes:
      prior: `prior.apply({"params": params}, xt, time, conditions)` is what theirs computes.
      params: its parameters.
      mean, std: [D] each; an image's embedding is what was drawn times std plus mean.
    """

    prior: PriorTransformer
    params: dict[str, Any]
    mean: np.ndarray
    std: np.ndarray


def prior_from_diffusers(directory: str | os.PathLike[str]) -> ImportedPrior:
    """What `PriorTransformer.save_pretrained(directory)` wrote.

    Theirs is causal only where it is given a mask of the text's tokens, and so is this one: the
    condition "text_embedding" is their proj_embedding, "tokens" their encoder_hidden_states, and
    "tokens_mask" their attention_mask.

    Args:
      directory: holds config.json and diffusion_pytorch_model.safetensors (or its shards). Nothing
        in it is imported or executed, and nothing is downloaded.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that this network does
        not have, and tensors that are missing, left over or of the wrong shape.
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "prior")
    config = _config(read_json(directory / CONFIG))
    theirs = config["embedding_dim"]
    answered = config["clip_embed_dim"] or theirs
    if answered != theirs:
        raise ValueError(
            f"config.json: clip_embed_dim is {answered}; supported: embedding_dim, {theirs}"
        )
    prior = PriorTransformer(
        embed_dim=theirs,
        context=config["num_embeddings"],
        width=config["num_attention_heads"] * config["attention_head_dim"],
        depth=config["num_layers"],
        num_heads=config["num_attention_heads"],
        time_width=config["time_embed_dim"],
        norm_in=config["norm_in_type"] is not None,
        norm_embedding=config["embedding_proj_norm_type"] is not None,
        dropout=config["dropout"],
    )
    weights = safetensor_files.read(directory)
    mean, std = (_statistics(weights, name, theirs, directory) for name in ("mean", "std"))
    conditions = {
        TEXT_EMBEDDING: jnp.zeros((1, config["embedding_proj_dim"] or theirs)),
        TOKENS: jnp.zeros((1, prior.context, theirs)),
    }
    shapes = tensor_rows.shapes_of(prior, jnp.zeros((1, theirs)), jnp.zeros(1), conditions)
    params = tensor_rows.params_of(_rows(prior), shapes, weights, directory)
    return ImportedPrior(prior, params, mean, std)


def _rows(prior: Any) -> Iterator[Row]:
    yield from layer(("time_dense_0",), "time_embedding.linear_1", "dense")
    yield from layer(("time_dense_1",), "time_embedding.linear_2", "dense")
    yield from layer(("proj_in",), "proj_in", "dense")
    yield from layer(("text_projection",), "embedding_proj", "dense")
    yield from layer(("tokens_projection",), "encoder_hidden_states_proj", "dense")
    yield from layer(("out",), "proj_to_clip_embeddings", "dense")
    yield from layer(("norm_out",), "norm_out", "norm")
    if prior.norm_in:
        yield from layer(("norm_in",), "norm_in", "norm")
    if prior.norm_embedding:
        yield from layer(("norm_embedding",), "embedding_proj_norm", "norm")
    yield Row(("places",), "positional_embedding", _UNDER_ONE)
    yield Row(("query",), "prd_embedding", _UNDER_ONE)
    for k in range(prior.depth):
        for name, theirs, kind in _OF_BLOCK:
            path = ("encoder", f"block_{k}", name)
            yield from layer(path, f"transformer_blocks.{k}.{theirs}", kind)


# Theirs has a leading axis of 1.
_UNDER_ONE = tensor_rows.Layout(lambda value: value[None], lambda value: value[0])


def _statistics(weights: dict[str, StoredTensor], name: str, size: int, source: Path) -> np.ndarray:
    """clip_mean or clip_std, taken out of the weights."""
    tensor = weights.pop(f"clip_{name}", None)
    if tensor is None or tensor.shape != (1, size):
        have = None if tensor is None else tensor.shape
        raise ValueError(f"{source}: tensor clip_{name} is {have}; need {(1, size)}")
    return np.asarray(tensor, np.float32)[0]


def _config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every field that describes the network: the file's value, checked, or diffusers' default."""
    if fields.get("_class_name") != CLASS:
        raise ValueError(
            f'config.json: _class_name is {fields.get("_class_name")!r}; need "{CLASS}"'
        )
    config: dict[str, Any] = {**SIZES, **dict.fromkeys(OPTIONAL_SIZES), "dropout": 0.0}
    config |= {name: values[0] for name, values in CHOICES.items()}
    for name, value in fields.items():
        if name.startswith("_"):
            continue
        if name not in config:
            raise ValueError(f"config.json: {name} is {value!r}; {CLASS} has no such field here")
        config[name] = value
    for name, values in CHOICES.items():
        if not any(type(config[name]) is type(one) and config[name] == one for one in values):
            supported = " or ".join(map(repr, values))
            raise ValueError(f"config.json: {name} is {config[name]!r}; supported: {supported}")
    for name in (*SIZES, *OPTIONAL_SIZES):
        value, unset = config[name], name in OPTIONAL_SIZES and config[name] is None
        if not unset and not (type(value) is int and value >= 1):
            raise ValueError(f"config.json: {name} is {value!r}; need a whole number from 1")
    rate = config["dropout"]
    if type(rate) not in (int, float) or not 0 <= rate < 1:
        raise ValueError(f"config.json: dropout is {rate!r}; need at least 0, below 1")
    return config
