"""CLIP to and from open_clip's safetensors: transformers of patches, and residual networks."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ddpm_jax.interop import open_clip_config, tensor_rows
from ddpm_jax.interop.tensor_rows import FIRST, FIRST_TWO, PLAIN, Row, layer
from ddpm_jax.interop.tensor_rows import Path as Place
from ddpm_jax.interop.unet2d_config import read_json
from ddpm_jax.models import Clip
from ddpm_jax.models.vision import ModifiedResNet
from ddpm_jax.runtime import files
from ddpm_jax.runtime.weight_files import PICKLES, pickle_error, read_tensors

CONFIG, MODEL, WEIGHTS = "open_clip_config.json", "model_cfg", "open_clip_model.safetensors"
SAVE_AGAIN = "safetensors.torch.save_file(model.state_dict(), 'clip.safetensors')"
_FIRST = "visual.conv1.weight"  # which both image towers have
_PARTS = ("query", "key", "value")


def clip_from_open_clip(
    file: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
    *,
    quick_gelu: bool = False,
) -> tuple[Clip, dict[str, Any]]:
    """The `CLIP` of open_clip's whose state_dict a safetensors file holds, as (clip, params).

    `clip.apply({"params": params}, images, tokens)` as of `clip_from_transformers`. The running
    statistics of batch norms are parameters.

    Args:
      file: the weights; those of a `CustomTextCLIP`, whose text tower is named `text`, too.
      config: as one of open_clip's model_configs has it. None for `open_clip_config.json` beside
        the file; without such a file, what the shapes say, heads as wide as open_clip has them at
        that width (64 nearly everywhere), and the activation of `quick_gelu`.
      quick_gelu: without any config, whether the activation is OpenAI's or the exact GELU, which is
        open_clip's default; no shape says which.

    Raises:
      ValueError: for a missing or broken file, a pickle, a field or value that is not supported,
        and tensors that are missing, left over or of the wrong shape.

    Example:
      clip, params = clip_from_open_clip("open_clip_model.safetensors")
    """
    file = Path(file)
    if file.suffix in PICKLES:
        raise pickle_error(file, SAVE_AGAIN)
    if not file.is_file():
        raise ValueError(f"no file {file} of open_clip's weights; nothing is downloaded")
    weights = _split(dict(read_tensors(file, SAVE_AGAIN, _no_weight)), file)
    beside = file.parent / CONFIG
    if config is None and beside.is_file():
        config = read_json(beside).get(MODEL)
        if not isinstance(config, Mapping):
            raise ValueError(f"{beside} has no object {MODEL}")
    clip = open_clip_config.clip_of(
        open_clip_config.of_shapes(weights, file, quick_gelu) if config is None else config
    )
    shapes = tensor_rows.shapes_of(clip, *examples(clip, _channels(weights)))
    return clip, tensor_rows.params_of(_rows(clip), shapes, weights, file)


def wrote(file: Path) -> bool:
    """Whether a safetensors file has the names that open_clip gives its tensors.

    Raises:
      ValueError, OSError: for a file that cannot be read, or is no such file.
    """
    names = (name for name, _ in read_tensors(file, SAVE_AGAIN, _no_weight))
    return file.suffix == ".safetensors" and any(name == _FIRST for name in names)


def clip_to_open_clip(
    clip: Clip, params: Mapping[str, Any], directory: str | os.PathLike[str]
) -> None:
    """Writes open_clip_model.safetensors and open_clip_config.json, as open_clip's hub has them.

    `open_clip.create_model("local-dir:DIRECTORY")` reads them.

    Args:
      clip: the network: either image tower, the residual one with batch norms, and a transformer
        of text.
      params: its parameters, without the "params" key around them.
      directory: made if it does not exist; an export that it already holds is replaced.

    Raises:
      ValueError: for parameters that do not fit the network, or a network that open_clip cannot
        express. Nothing is written then.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a directory")
    config = open_clip_config.config_of(clip)
    kernel = tensor_rows.flatten(params).get(("image", "patch_embedding", "kernel"))
    patch = getattr(clip.image, "patch_size", 0) ** 2
    channels = 3 if kernel is None or not patch else int(np.shape(kernel)[0]) // patch
    shapes = tensor_rows.shapes_of(clip, *examples(clip, channels))
    weights = _fused(tensor_rows.tensors_of(_rows(clip), shapes, params))
    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / WEIGHTS) as partial:
        safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, {MODEL: config, "preprocess_cfg": {}})


# The table: our parameters and open_clip's tensors.

_BLOCK = (
    ("norm_0", "ln_1", "norm"),
    ("query", "attn.query", "dense"),  # fused in the file: see _split
    ("key", "attn.key", "dense"),
    ("value", "attn.value", "dense"),
    ("out", "attn.out_proj", "dense"),
    ("norm_1", "ln_2", "norm"),
    ("mlp_0", "mlp.c_fc", "dense"),
    ("mlp_1", "mlp.c_proj", "dense"),
)
_POOL = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "c_proj"))


def _rows(clip: Any) -> Iterator[Row]:
    yield Row(("log_scale",), "logit_scale", PLAIN)
    yield from layer(("text", "token_embedding"), "token_embedding", "embed")
    yield Row(("text", "places"), "positional_embedding", PLAIN)
    yield from _block_rows(("text", "encoder"), "transformer", clip.text.depth)
    yield from layer(("text", "norm_out"), "ln_final", "norm")
    yield Row(("text", "projection", "kernel"), "text_projection", PLAIN)
    if isinstance(clip.image, ModifiedResNet):
        yield from _resnet_rows(clip.image)
        return
    yield Row(("image", "class_token"), "visual.class_embedding", FIRST_TWO)
    yield Row(("image", "places"), "visual.positional_embedding", FIRST)
    yield Row(
        ("image", "patch_embedding", "kernel"),
        "visual.conv1.weight",
        tensor_rows.patches(clip.image.patch_size),
    )
    yield from layer(("image", "norm_in"), "visual.ln_pre", "norm")
    yield from _block_rows(("image", "encoder"), "visual.transformer", clip.image.depth)
    yield from layer(("image", "norm_out"), "visual.ln_post", "norm")
    yield Row(("image", "projection", "kernel"), "visual.proj", PLAIN)


def _block_rows(ours: Place, theirs: str, depth: int) -> Iterator[Row]:
    for k in range(depth):
        for name, torch_name, kind in _BLOCK:
            yield from layer(
                (*ours, f"block_{k}", name), f"{theirs}.resblocks.{k}.{torch_name}", kind
            )


def _resnet_rows(image: ModifiedResNet) -> Iterator[Row]:
    def pair(ours: Place, theirs: str, k: int) -> Iterator[Row]:
        yield from layer((*ours, f"conv_{k}"), f"{theirs}conv{k + 1}", "conv_alone")
        yield from layer((*ours, f"norm_{k}"), f"{theirs}bn{k + 1}", "batch_norm")

    for k in range(3):
        yield from pair(("image",), "visual.", k)
    for stage, blocks in enumerate(image.layers):
        for number in range(blocks):
            ours = ("image", f"stage_{stage}_block_{number}")
            theirs = f"visual.layer{stage + 1}.{number}."
            for k in range(3):
                yield from pair(ours, theirs, k)
            if number == 0:  # the only ones that widen
                yield from layer((*ours, "conv_shortcut"), f"{theirs}downsample.0", "conv_alone")
                yield from layer((*ours, "norm_shortcut"), f"{theirs}downsample.1", "batch_norm")
    yield Row(("image", "pool", "places"), "visual.attnpool.positional_embedding", FIRST)
    for name, torch_name in _POOL:
        yield from layer(("image", "pool", name), f"visual.attnpool.{torch_name}", "dense")


def _split(weights: dict[str, np.ndarray], file: Path) -> dict[str, np.ndarray]:
    """Queries, keys and values by names of their own; a CustomTextCLIP's names as a CLIP's."""
    split: dict[str, np.ndarray] = {}
    for name, tensor in weights.items():
        name = name.removeprefix("text.")
        stem, found, leaf = name.rpartition("in_proj_")
        if found and (tensor.ndim == 0 or len(tensor) % 3):
            raise ValueError(f"{file}: tensor {name} has shape {tensor.shape}; need three in one")
        if found:
            for part, own in zip(_PARTS, np.split(tensor, 3), strict=True):
                split[f"{stem}{part}.{leaf}"] = own
        else:
            split[name] = tensor
    return split


def _fused(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`_split` undone, and what torch counts of batches."""
    fused: dict[str, np.ndarray] = {}
    for name, tensor in weights.items():
        stem, found, leaf = name.rpartition("attn.query.")
        if found:
            parts = [weights[f"{stem}attn.{part}.{leaf}"] for part in _PARTS]
            fused[f"{stem}attn.in_proj_{leaf}"] = np.concatenate(parts)
        elif not any(f"attn.{part}." in name for part in _PARTS):
            fused[name] = tensor
        if name.endswith(".running_mean"):
            counted = name.removesuffix("running_mean") + "num_batches_tracked"
            fused[counted] = np.zeros((), np.int64)
    return fused


def _no_weight(name: str) -> bool:
    return name.endswith(".num_batches_tracked") or name in (
        "input_resolution",
        "context_length",
        "vocab_size",
    )


def _channels(weights: Mapping[str, np.ndarray]) -> int:
    first = weights.get("visual.conv1.weight")
    return 3 if first is None or first.ndim != 4 else first.shape[1]


def examples(clip: Any, channels: int) -> tuple[Any, Any]:
    """Images and tokens of shapes that a CLIP takes."""
    size = clip.image.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return jnp.zeros((1, height, width, channels)), jnp.zeros((1, 1), jnp.int32)
