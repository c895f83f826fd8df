"""open_clip's model configs: each field honoured, refused, or of no meaning here."""

# Over 300 lines: one library's config, in both directions and from shapes alone.

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.models import Clip
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.vision import ModifiedResNet, VisionTransformer

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


def clip_of(config: Mapping[str, Any]) -> Clip:
    """The network that one of open_clip's model configs describes.

    Raises:
      ValueError: for a field, or a value of one, that is not supported, naming it.
    """
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


def config_of(clip: Any) -> dict[str, Any]:
    """The model config that is this network.

    Raises:
      ValueError: for a network that open_clip cannot express.
    """
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
        if image.timed:
            raise ValueError("open_clip's CLIP is shown no time, which this tower is")
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


def of_shapes(weights: Mapping[str, np.ndarray], file: Path, quick_gelu: bool) -> dict[str, Any]:
    """A model config from the shapes of tensors, with open_clip's own heads.

    Raises:
      ValueError: for a tensor that every CLIP of open_clip's has, and that is not there.
    """

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
    return int(value)


def _divisor(width: int, heads: int, name: str) -> int:
    if heads < 1 or width % heads:
        raise _refuse(name, heads, f"what divides a width of {width} into heads")
    return heads


def _refuse(name: str, value: Any, supported: str) -> ValueError:
    return ValueError(f"open_clip's config: {name} is {json.dumps(value)}; supported: {supported}")
