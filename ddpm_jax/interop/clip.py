"""CLIP, and text encoders made of it, to and from transformers' folders: nothing executed.

Neither torch nor transformers is needed: the files are JSON and raw arrays. What open_clip wrote is
read and written by `interop.open_clip`.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ddpm_jax.interop import clip_config, lora, safetensor_files, tensor_rows
from ddpm_jax.interop.lora_files import Adapter
from ddpm_jax.interop.open_clip import clip_from_open_clip, clip_to_open_clip, examples
from ddpm_jax.interop.safetensor_files import MODEL_WEIGHTS
from ddpm_jax.interop.tensor_rows import FIRST, FIRST_TWO, PLAIN, Row, Weights, layer
from ddpm_jax.interop.tensor_rows import Path as Place
from ddpm_jax.interop.unet2d_config import CONFIG, read_json
from ddpm_jax.models import Clip
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.runtime import files

__all__ = [
    "clip_from_open_clip",
    "clip_from_transformers",
    "clip_to_open_clip",
    "clip_to_transformers",
    "text_encoder_from_transformers",
    "text_encoder_to_transformers",
]

_PREFIX = "text_model."
_PROJECTION = "text_projection.weight"


def clip_from_transformers(directory: str | os.PathLike[str]) -> tuple[Clip, dict[str, Any]]:
    """What transformers' `CLIPModel.save_pretrained(directory)` wrote, as (clip, params).

    `clip.apply({"params": params}, images, tokens)` is then (image_embeds, text_embeds,
    logit_scale): embeddings of unit length, and the number that their dot products are multiplied
    by in `logits_per_image`. Images are [B, H, W, C], with their channels' mean and deviation taken
    out. Weights of any float type become float32.

    Args:
      directory: holds config.json and model.safetensors (or its shards), of any release. Nothing
        in it is imported or executed, and nothing is downloaded.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that is not supported,
        and tensors that are missing, left over or of the wrong shape.

    Example:
      clip, params = clip_from_transformers("clip-vit-base-patch32")
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "text_encoder")
    clip, channels = clip_config.clip_of(read_json(directory / CONFIG))
    weights = safetensor_files.read(directory, MODEL_WEIGHTS, _no_weight)
    shapes = tensor_rows.shapes_of(clip, *examples(clip, channels))
    return clip, tensor_rows.params_of(_clip_rows(clip), shapes, weights, directory)


def clip_to_transformers(
    clip: Clip, params: Mapping[str, Any], directory: str | os.PathLike[str]
) -> None:
    """Writes what transformers' `CLIPModel.from_pretrained(directory)` reads.

    Args:
      clip: the network: a transformer of patches, and a causal one of text.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist. An export that it already holds is replaced; any other
        config.json there is left alone and refused.

    Raises:
      ValueError: for parameters that do not fit the network, a network that transformers cannot
        express, or a directory that holds something else. Nothing is written then.
    """
    directory = Path(directory)
    _check_target(directory, clip_config.CLIP_TYPE)
    config = clip_config.of_clip(clip)
    channels = _channels_of(clip, params)
    config["vision_config"]["num_channels"] = channels
    shapes = tensor_rows.shapes_of(clip, *examples(clip, channels))
    _write(directory, config, tensor_rows.tensors_of(_clip_rows(clip), shapes, params))


def text_encoder_from_transformers(
    directory: str | os.PathLike[str], weights: Weights | None = None
) -> tuple[TextTransformer, dict[str, Any]]:
    """What `CLIPTextModel.save_pretrained(directory)` wrote, as (text, params).

    A `CLIPTextModelWithProjection` too: the projection is there if the file has one. So
    Stable Diffusion's text encoders are read: `text.apply({"params": params}, tokens)` has the
    hidden states of every layer, `last` (`last_hidden_state`), `pooled` (`pooler_output`) and
    `embedding` (`text_embeds`).

    Args:
      directory: as of `clip_from_transformers`.
      weights: tensors by the names of such files, in the place of the folder's own.

    Raises:
      ValueError: as `clip_from_transformers`.
    """
    directory = Path(directory)
    safetensor_files.check_directory(directory, "text_encoder")
    config = read_json(directory / CONFIG)
    clip_config.check_text(config)
    if weights is None:
        weights = safetensor_files.read(directory, MODEL_WEIGHTS, _no_weight)
    # transformers 5 writes those of a text encoder without a projection bare.
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in weights) else ""
    with_projection = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    projected = with_projection or _PROJECTION in weights
    text = clip_config.text_of(config, clip_config.projection_dim(config) if projected else None)
    shapes = tensor_rows.shapes_of(text, jnp.zeros((1, 1), jnp.int32))
    return text, tensor_rows.params_of(_text_rows(text, prefix), shapes, weights, directory)


def text_encoder_depth(directory: str | os.PathLike[str]) -> int:
    """The blocks of the text encoder that a folder describes. Raises ValueError as its reader."""
    config = read_json(Path(directory) / CONFIG)
    clip_config.check_text(config)
    return clip_config.text_of(config, None).depth


def text_encoder_tensors(text: TextTransformer, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Its tensors by the names that `text_encoder_to_transformers` writes; errors as there."""
    shapes = tensor_rows.shapes_of(text, jnp.zeros((1, 1), jnp.int32))
    return tensor_rows.tensors_of(_text_rows(text, _PREFIX), shapes, params)


def text_adapters(text: TextTransformer, own: Mapping[str, Adapter], source: Any) -> dict[str, Any]:
    """Adapters of a text encoder; arguments and errors as of `lora.of_network`."""
    rows = [*_text_rows(text, _PREFIX)]
    layers = [row.name.removesuffix(".weight") for row in rows]
    # transformers 5 has no prefix.
    aliases = {name.removeprefix(_PREFIX): name for name in layers}
    shapes = tensor_rows.shapes_of(text, jnp.zeros((1, 1), jnp.int32))
    return lora.of_network(own, rows, shapes, source, aliases)


def text_encoder_to_transformers(
    text: TextTransformer, params: Mapping[str, Any], directory: str | os.PathLike[str]
) -> None:
    """Writes what `CLIPTextModel.from_pretrained(directory)` reads, of any release.

    With a projection it is `CLIPTextModelWithProjection`'s. The names have the prefix that all
    releases read.

    Args:
      text: the network, causal.
      params, directory: as of `clip_to_transformers`.

    Raises:
      ValueError: as `clip_to_transformers`.
    """
    directory = Path(directory)
    _check_target(directory, clip_config.TEXT_TYPE)
    config = clip_config.of_text(text)
    config = {name: value for name, value in config.items() if value is not None}
    _write(directory, config, text_encoder_tensors(text, params))


def _channels_of(clip: Any, params: Mapping[str, Any]) -> int:
    """Of the images that a CLIP with a transformer of patches takes, by its parameters."""
    kernel = tensor_rows.flatten(params).get(("image", "patch_embedding", "kernel"))
    patch = getattr(clip.image, "patch_size", 0) ** 2
    if not patch or kernel is None or np.ndim(kernel) != 2 or np.shape(kernel)[0] % patch:
        raise ValueError(
            "params has no image/patch_embedding/kernel of whole patches, which transformers' "
            f"CLIPModel needs; its keys are {sorted(params)[:4]}"
        )
    return int(np.shape(kernel)[0]) // patch


# The table: our parameters and transformers' tensors.

_BLOCK = (
    ("norm_0", "layer_norm1", "norm"),
    ("query", "self_attn.q_proj", "dense"),
    ("key", "self_attn.k_proj", "dense"),
    ("value", "self_attn.v_proj", "dense"),
    ("out", "self_attn.out_proj", "dense"),
    ("norm_1", "layer_norm2", "norm"),
    ("mlp_0", "mlp.fc1", "dense"),
    ("mlp_1", "mlp.fc2", "dense"),
)


def _clip_rows(clip: Any) -> Iterator[Row]:
    yield Row(("log_scale",), "logit_scale", PLAIN)
    yield from _text_rows(clip.text, _PREFIX, ("text",))
    ours, theirs = ("image",), "vision_model."
    yield Row((*ours, "class_token"), f"{theirs}embeddings.class_embedding", FIRST_TWO)
    yield Row((*ours, "places"), f"{theirs}embeddings.position_embedding.weight", FIRST)
    yield Row(
        (*ours, "patch_embedding", "kernel"),
        f"{theirs}embeddings.patch_embedding.weight",
        tensor_rows.patches(clip.image.patch_size),
    )
    yield from layer((*ours, "norm_in"), f"{theirs}pre_layrnorm", "norm")  # their spelling
    yield from _block_rows((*ours, "encoder"), theirs, clip.image.depth)
    yield from layer((*ours, "norm_out"), f"{theirs}post_layernorm", "norm")
    yield from layer((*ours, "projection"), "visual_projection", "dense_alone")


def _text_rows(text: Any, theirs: str, ours: Place = ()) -> Iterator[Row]:
    yield from layer((*ours, "token_embedding"), f"{theirs}embeddings.token_embedding", "embed")
    yield Row((*ours, "places"), f"{theirs}embeddings.position_embedding.weight", PLAIN)
    yield from _block_rows((*ours, "encoder"), theirs, text.depth)
    yield from layer((*ours, "norm_out"), f"{theirs}final_layer_norm", "norm")
    if text.embed_dim is not None:
        yield from layer((*ours, "projection"), "text_projection", "dense_alone")


def _block_rows(ours: Place, theirs: str, depth: int) -> Iterator[Row]:
    for k in range(depth):
        for name, torch_name, kind in _BLOCK:
            path = (*ours, f"block_{k}", name)
            yield from layer(path, f"{theirs}encoder.layers.{k}.{torch_name}", kind)


def _no_weight(name: str) -> bool:
    """Counts from 0, which transformers 4 kept beside the weights."""
    return name.endswith("embeddings.position_ids")


# The files.


def _write(directory: Path, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / MODEL_WEIGHTS) as partial:
        safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, config)


def _check_target(directory: Path, model_type: str) -> None:
    """Refuses a directory whose files an export would destroy or be hidden by."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    config, index = directory / CONFIG, directory / f"{MODEL_WEIGHTS}.index.json"
    if config.exists() and read_json(config).get("model_type") != model_type:
        raise ValueError(
            f"{config} is not of a {model_type} of transformers; give another directory"
        )
    if index.exists():
        raise ValueError(f"{index} would hide the new weights; give another directory")
