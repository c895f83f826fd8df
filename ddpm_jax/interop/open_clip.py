"""CLIP to and from open_clip's safetensors: transformers of patches, and residual networks."""

# Over 300 lines: one library's config and names, in both directions.

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ddpm_jax.interop import tensor_rows
from ddpm_jax.interop.tensor_rows import FIRST, FIRST_TWO, PLAIN, Row, layer
from ddpm_jax.interop.tensor_rows import Path as Place
from ddpm_jax.interop.unet2d_config import read_json
from ddpm_jax.models import Clip
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.vision import ModifiedResNet, VisionTransformer
from ddpm_jax.runtime import files
from ddpm_jax.runtime.weight_files import PICKLES, pickle_error, read_tensors

CONFIG, MODEL, WEIGHTS = "open_clip_config.json", "model_cfg", "open_clip_model.safetensors"
SAVE_AGAIN = "safetensors.torch.save_file(model.state_dict(), 'clip.safetensors')"
HEAD_WIDTH = 64
# Where open_clip's configs have heads of another width than 64: H/14, g/14 and bigG/14, by width.
HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104}
# Of the image's places, one for each 32 pixels.
RESNET_PIXELS = 32
POOLINGS = {"argmax": "largest", "eos": "eos", "first": "first", "last": "last"}
# open_clip's defaults of what a config may say and this network does not have.
_VISION_DEFAULTS = {
    "ls_init_value": None,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pool_type": "tok",
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "timm_model_name": None,
}
_TEXT_DEFAULTS = {
    "ls_init_value": None,
    "embed_cls": False,
    "final_ln_after_pool": False,
    "proj_bias": False,
    "proj_type": "linear",
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "hf_model_name": None,
}
_MODEL_DEFAULTS = {"init_logit_bias": None, "nonscalar_logit_scale": False, "multimodal_cfg": None}
_VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type"}
_TEXT |= {"eos_id", "no_causal_mask"}
_KWARGS = {"act_kwargs", "norm_kwargs"}
# Of training, of tokenizers, and of what is given beside the embedding.
_NO_MEANING = {"patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_kwargs", "pad_id"}
_NO_MEANING |= {"tokenizer_mode", "attn_pooler_queries", "attn_pooler_heads", "custom_text"}
_NO_MEANING |= {"init_logit_scale"}
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
    clip = _clip_of(_of_shapes(weights, file, quick_gelu) if config is None else config)
    shapes = tensor_rows.shapes_of(clip, *examples(clip, _channels(weights)))
    return clip, tensor_rows.params_of(_rows(clip), shapes, weights, file)


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
    config = _config_of(clip)
    kernel = tensor_rows.flatten(params).get(("image", "patch_embedding", "kernel"))
    patch = getattr(clip.image, "patch_size", 0) ** 2
    channels = 3 if kernel is None or not patch else int(np.shape(kernel)[0]) // patch
    shapes = tensor_rows.shapes_of(clip, *examples(clip, channels))
    weights = _fused(tensor_rows.tensors_of(_rows(clip), shapes, params))
    directory.mkdir(parents=True, exist_ok=True)
    with files.whole(directory / WEIGHTS) as partial:
        safetensors.numpy.save_file(weights, partial, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, {MODEL: config, "preprocess_cfg": {}})


# The config.


def _clip_of(config: Mapping[str, Any]) -> Clip:
    for name in ("vision_cfg", "text_cfg"):
        if not isinstance(config.get(name), Mapping):
            raise _refuse(name, config.get(name), "an object")
    _check(config, {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}, _MODEL_DEFAULTS, "")
    vision, text = config["vision_cfg"], config["text_cfg"]
    _check(vision, _VISION | _KWARGS, _VISION_DEFAULTS, "vision_cfg.")
    _check(text, _TEXT | _KWARGS, _TEXT_DEFAULTS, "text_cfg.")
    embed_dim = _whole(config, "embed_dim", None, "")
    quick = bool(config.get("quick_gelu", False))
    pooling = text.get("pool_type", "argmax")
    if pooling not in POOLINGS:
        raise _refuse("text_cfg.pool_type", pooling, " or ".join(POOLINGS))
    width = _whole(text, "width", 512, "text_cfg.")
    reads = TextTransformer(
        vocab_size=_whole(text, "vocab_size", 49408, "text_cfg."),
        context_length=_whole(text, "context_length", 77, "text_cfg."),
        width=width,
        depth=_whole(text, "layers", 12, "text_cfg."),
        num_heads=_divisor(width, _whole(text, "heads", 8, "text_cfg."), "text_cfg.heads"),
        mlp_width=_mlp_width(text, width, "text_cfg."),
        causal=not text.get("no_causal_mask", False),
        pooling=POOLINGS[pooling],
        eos=text.get("eos_id", 2),
        embed_dim=embed_dim,
        **_kwargs(text, quick, "text_cfg."),
    )
    return Clip(_image_of(vision, embed_dim, quick), reads)


def _image_of(vision: Mapping[str, Any], embed_dim: int, quick: bool) -> Any:
    width = _whole(vision, "width", 768, "vision_cfg.")
    head = _whole(vision, "head_width", HEAD_WIDTH, "vision_cfg.")
    size = _size(vision)
    if isinstance(vision.get("layers"), list | tuple):
        if len(vision["layers"]) != 4 or not all(map(_is_whole, vision["layers"])):
            raise _refuse("vision_cfg.layers", vision["layers"], "a whole number, or four")
        wide = RESNET_PIXELS * width
        return ModifiedResNet(
            image_size=size,
            layers=tuple(vision["layers"]),
            width=width,
            num_heads=_divisor(wide, wide // head, "vision_cfg.head_width"),
            embed_dim=embed_dim,
        )
    return VisionTransformer(
        image_size=size,
        patch_size=_whole(vision, "patch_size", 16, "vision_cfg."),
        width=width,
        depth=_whole(vision, "layers", 12, "vision_cfg."),
        num_heads=_divisor(width, width // head, "vision_cfg.head_width"),
        mlp_width=_mlp_width(vision, width, "vision_cfg."),
        embed_dim=embed_dim,
        **_kwargs(vision, quick, "vision_cfg."),
    )


def _kwargs(part: Mapping[str, Any], quick: bool, where: str) -> dict[str, Any]:
    """The activation and the norms' epsilon of a tower."""
    act, norm = part.get("act_kwargs") or {}, part.get("norm_kwargs") or {}
    if act not in ({}, {"approximate": "tanh"}) or (act and quick):
        raise _refuse(where + "act_kwargs", act, 'none, or {"approximate": "tanh"} of a GELU')
    if not set(norm) <= {"eps"}:
        raise _refuse(where + "norm_kwargs", norm, "eps alone")
    activation = "quick_gelu" if quick else ("gelu_tanh" if act else "gelu")
    return {"activation": activation, "norm_epsilon": float(norm.get("eps", 1e-5))}


def _config_of(clip: Any) -> dict[str, Any]:
    """One of open_clip's model configs that is this network."""
    text, image = clip.text, clip.image
    if not isinstance(text, TextTransformer):
        raise ValueError(f"open_clip's CLIP has no text tower of {type(text).__name__}")
    poolings = {ours: theirs for theirs, ours in POOLINGS.items()}
    if text.pooling not in poolings or text.embed_dim is None:
        raise ValueError(
            f"open_clip has no text of pooling={text.pooling!r} and embed_dim={text.embed_dim}"
        )
    text_cfg = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": _ratio(text),
        "pool_type": poolings[text.pooling],
        "eos_id": text.eos,
        "no_causal_mask": not text.causal,
        **_kwargs_of(text),
    }
    if isinstance(image, ModifiedResNet):
        if image.norm != "batch":
            raise ValueError(f"open_clip's residual networks have batch norms, not {image.norm!r}")
        wide = RESNET_PIXELS * image.width
        vision_cfg: dict[str, Any] = {
            "layers": list(image.layers),
            "head_width": wide // image.num_heads,
            "patch_size": None,
        }
    elif isinstance(image, VisionTransformer):
        if image.activation != text.activation and "quick_gelu" in (
            image.activation,
            text.activation,
        ):
            raise ValueError("open_clip has quick_gelu in both towers or in none")
        vision_cfg = {
            "layers": image.depth,
            "head_width": image.width // image.num_heads,
            "patch_size": image.patch_size,
            "mlp_ratio": _ratio(image),
            **_kwargs_of(image),
        }
    else:
        raise ValueError(f"open_clip's CLIP has no image tower of {type(image).__name__}")
    if image.embed_dim != text.embed_dim:
        raise ValueError(
            f"embed_dim is {image.embed_dim} of images and {text.embed_dim} of texts; need one"
        )
    size = image.image_size
    vision_cfg |= {
        "image_size": size if isinstance(size, int) else list(size),
        "width": image.width,
    }
    return {
        "embed_dim": text.embed_dim,
        "quick_gelu": text.activation == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def _ratio(tower: Any) -> float:
    """Such that open_clip's int(width ratio) is the hidden layer's width."""
    wide = tower.mlp_width or 4 * tower.width
    ratio = wide / tower.width
    return ratio if int(tower.width * ratio) == wide else math.nextafter(ratio, math.inf)


def _kwargs_of(tower: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if tower.activation == "gelu_tanh":
        kwargs["act_kwargs"] = {"approximate": "tanh"}
    if tower.norm_epsilon != 1e-5:
        kwargs["norm_kwargs"] = {"eps": tower.norm_epsilon}
    return kwargs


def _of_shapes(weights: Mapping[str, np.ndarray], file: Path, quick_gelu: bool) -> dict[str, Any]:
    """A config from the shapes of tensors, with open_clip's own heads."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in weights or weights[name].ndim != axes or 0 in weights[name].shape:
            have = f"has shape {weights[name].shape}" if name in weights else "is missing"
            raise ValueError(f"{file}: tensor {name} {have}; a CLIP of open_clip's has one")
        return weights[name].shape

    def blocks(prefix: str) -> int:
        numbers = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
        return len(numbers)

    vocab_size, width = shape("token_embedding.weight", 2)
    text_cfg = {
        "vocab_size": vocab_size,
        "context_length": shape("positional_embedding", 2)[0],
        "width": width,
        "heads": max(1, width // HEAD_WIDTH),
        "layers": blocks("transformer.resblocks."),
        "mlp_ratio": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / width,
    }
    if "visual.layer1.0.conv1.weight" in weights:
        wide, grid = (
            shape("visual.conv3.weight", 4)[0],
            shape("visual.attnpool.positional_embedding", 2),
        )
        vision_cfg: dict[str, Any] = {
            "layers": [blocks(f"visual.layer{k}.") for k in range(1, 5)],
            "width": wide,
            "image_size": RESNET_PIXELS * math.isqrt(grid[0] - 1),
            "head_width": min(HEAD_WIDTH, RESNET_PIXELS * wide),
        }
    else:
        wide, _, patch, _ = shape("visual.conv1.weight", 4)
        grid = shape("visual.positional_embedding", 2)
        vision_cfg = {
            "layers": blocks("visual.transformer.resblocks."),
            "width": wide,
            "patch_size": patch,
            "image_size": patch * math.isqrt(grid[0] - 1),
            "head_width": min(HEAD_WIDTHS.get(wide, HEAD_WIDTH), wide),
            "mlp_ratio": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / wide,
        }
    return {
        "embed_dim": shape("text_projection", 2)[1],
        "quick_gelu": quick_gelu,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def _check(
    config: Mapping[str, Any], known: set[str], defaults: Mapping[str, Any], where: str
) -> None:
    for name, value in config.items():
        if name in defaults and value != defaults[name]:
            raise _refuse(where + name, value, json.dumps(defaults[name]))
        # Fields of towers that are refused by their names mean nothing without those.
        nothing = value is None or name in _NO_MEANING or name.startswith(("timm_", "hf_"))
        if not (name in known or name in defaults or nothing):
            raise _refuse(where + name, value, "the fields of open_clip; not this one")


def _size(vision: Mapping[str, Any]) -> Any:
    size = vision.get("image_size", 224)
    both = size if isinstance(size, list | tuple) else (size, size)
    if len(both) != 2 or not all(map(_is_whole, both)):
        raise _refuse("vision_cfg.image_size", size, "a whole number from 1, or two")
    return tuple(both) if both[0] != both[1] else both[0]


def _mlp_width(part: Mapping[str, Any], width: int, where: str) -> int:
    ratio = part.get("mlp_ratio", 4.0)
    if not isinstance(ratio, int | float) or not 1 <= width * ratio < math.inf:
        raise _refuse(where + "mlp_ratio", ratio, "a number above 0")
    return int(width * ratio)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _whole(config: Mapping[str, Any], name: str, default: int | None, where: str) -> int:
    value = config.get(name, default)
    if not _is_whole(value):
        raise _refuse(where + name, value, "a whole number from 1")
    return int(value)  # type: ignore[arg-type]


def _divisor(width: int, heads: int, name: str) -> int:
    if heads < 1 or width % heads:
        raise _refuse(name, heads, f"what divides a width of {width} into heads")
    return heads


def _refuse(name: str, value: Any, supported: str) -> ValueError:
    return ValueError(f"open_clip's config: {name} is {json.dumps(value)}; supported: {supported}")


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
