"""The fields of config.json of diffusers' `UNet2DModel`: each one honoured or refused."""

# Over 300 lines: one table, the fields of another library's config with what each means here.

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.interop.config_fields import (
    BOOKKEEPING,
    COUNT,
    COUNT_OR_NULL,
    NUMBER,
    POSITIVE,
    RATE,
    SIZE,
    SWITCH,
    Field,
    is_int,
    list_of,
    one_of,
    refuse,
)
from ddpm_jax.models import UNet
from ddpm_jax.runtime import files

VERSION = "0.42.1"
# The defaults of UNet2DModel.__init__ in diffusers VERSION: what a field that config.json leaves
# out means. They are not the defaults of our UNet.
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
CLASS = "UNet2DModel"
CONFIG = "config.json"
_JSON_BYTES = 2**24  # an index of shards has a line a tensor


def read(path: Path) -> dict[str, Any]:
    """Every field of UNet2DModel: the file's value, checked, or diffusers' default."""
    fields = read_json(path)
    if fields.get("_class_name") != CLASS:
        raise refuse("_class_name", fields.get("_class_name"), f'"{CLASS}"')
    for name in fields:
        if name not in DEFAULTS and name not in BOOKKEEPING:
            raise refuse(
                name, fields[name], f"the fields of {CLASS} in diffusers {VERSION}; not this one"
            )
    config = {name: fields.get(name, default) for name, default in DEFAULTS.items()}
    for name, value in config.items():
        if not _FIELDS[name].holds(value):
            raise refuse(name, value, _FIELDS[name].supported)
    return config


def read_json(path: Path, constants: Sequence[str] = ()) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ValueError if it holds none.

    constants: as of `files.read_json`.
    """
    try:
        value = files.read_json(path, _JSON_BYTES, constants=constants)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def _block_kind(value: Any) -> str:
    # diffusers strips the prefix too: its first releases wrote "UNetResDownBlock2D".
    return value.removeprefix("UNetRes") if isinstance(value, str) else ""


_DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
_UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
_FIELDS: dict[str, Field] = {
    "sample_size": SIZE,
    "in_channels": COUNT,
    "out_channels": COUNT,
    "center_input_sample": one_of(False),
    "time_embedding_type": one_of("positional"),
    "time_embedding_dim": COUNT_OR_NULL,
    "freq_shift": NUMBER,
    "flip_sin_to_cos": SWITCH,
    "down_block_types": list_of(
        lambda v: _block_kind(v) in _DOWN_BLOCKS, " or ".join(_DOWN_BLOCKS)
    ),
    "mid_block_type": one_of("UNetMidBlock2D"),
    "up_block_types": list_of(lambda v: _block_kind(v) in _UP_BLOCKS, " or ".join(_UP_BLOCKS)),
    "block_out_channels": list_of(is_int, "whole numbers from 1"),
    "layers_per_block": COUNT,
    "mid_block_scale_factor": one_of(1),
    "downsample_padding": one_of(0, 1),
    "downsample_type": one_of("conv", "resnet"),
    "upsample_type": one_of("conv", "resnet"),
    "dropout": RATE,
    "act_fn": one_of("silu", "swish"),
    "attention_head_dim": COUNT_OR_NULL,
    "norm_num_groups": COUNT,
    "attn_norm_num_groups": COUNT_OR_NULL,
    "norm_eps": POSITIVE,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "add_attention": SWITCH,
    "class_embed_type": one_of(None),
    "num_class_embeds": COUNT_OR_NULL,
    # Only a learned time embedding, refused above, has a row per time step.
    "num_train_timesteps": COUNT_OR_NULL,
}


def to_unet(config: Mapping[str, Any]) -> UNet:
    """The U-Net that a checked config describes."""
    channels = tuple(config["block_out_channels"])
    down = [_block_kind(kind) for kind in config["down_block_types"]]
    up = [_block_kind(kind) for kind in config["up_block_types"]]
    for name in ("down_block_types", "up_block_types"):
        if len(config[name]) != len(channels):
            raise refuse(
                name, config[name], f"one for each of the {len(channels)} block_out_channels"
            )
    attends = [kind == "AttnDownBlock2D" for kind in down]
    if [kind == "AttnUpBlock2D" for kind in up] != attends[::-1]:
        mirror = [_UP_BLOCKS[_DOWN_BLOCKS.index(kind)] for kind in down[::-1]]
        raise refuse(
            "up_block_types",
            config["up_block_types"],
            f"{json.dumps(mirror)}, the mirror of down_block_types (attention at the same levels)",
        )
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    groups, mid_groups = config["norm_num_groups"], config["attn_norm_num_groups"]
    mid_attention = config["add_attention"]
    if mid_groups == groups or not mid_attention:
        mid_groups = None
    elif mid_groups is None and scale_shift:
        # diffusers builds this attention without a norm unless its groups are named.
        mid_groups = 0
    head_dim = config["attention_head_dim"]
    for width in channels:
        if width % groups:
            raise refuse("norm_num_groups", groups, f"divisors of {width} of block_out_channels")
    if mid_groups and channels[-1] % mid_groups:
        raise refuse("attn_norm_num_groups", mid_groups, f"divisors of {channels[-1]} channels")
    attending = [width for width, attention in zip(channels, attends, strict=True) if attention]
    for width in attending + [channels[-1]] * mid_attention:
        if head_dim and width % head_dim:
            raise refuse("attention_head_dim", head_dim, f"null or divisors of {width} channels")
    classes = config["num_class_embeds"]
    # The last block of either way does not resample.
    resampling = [
        kind.startswith("Resnet") or (kind.startswith("Attn") and config[field] == "resnet")
        for kinds, field in ((down, "downsample_type"), (up, "upsample_type"))
        for kind in kinds[:-1]
    ]
    if len(set(resampling)) > 1:
        raise refuse(
            "down_block_types",
            config["down_block_types"],
            "one way of resampling at every level: convolutions, or residual blocks "
            "(ResnetDownsampleBlock2D, ResnetUpsampleBlock2D, downsample_type and upsample_type)",
        )
    return UNet(
        block_channels=channels,
        num_blocks=config["layers_per_block"],
        attention_levels=tuple(level for level, attention in enumerate(attends) if attention),
        out_channels=config["out_channels"],
        num_classes=classes or 0,
        # diffusers has none; without classes the field means nothing and keeps its default.
        null_class=classes is None,
        dropout=float(config["dropout"]),
        head_dim=head_dim,
        mid_attention=mid_attention,
        num_groups=groups,
        norm_epsilon=float(config["norm_eps"]),
        mid_num_groups=mid_groups,
        embedding_dim=config["time_embedding_dim"],
        scale_shift_norm=scale_shift,
        resample_blocks=any(resampling),
        downsample_padding=config["downsample_padding"],
        freq_shift=float(config["freq_shift"]),
        flip_sin_to_cos=config["flip_sin_to_cos"],
    )


def from_unet(
    unet: UNet, in_channels: int, sample_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What diffusers writes about this U-Net; every field, so that no default of its can change."""
    mid_groups = unet.mid_num_groups if unet.mid_attention else None
    if mid_groups is None and unet.mid_attention and unet.scale_shift_norm:
        mid_groups = unet.num_groups
    elif mid_groups == 0:
        if not unet.scale_shift_norm:
            raise ValueError(
                "mid_num_groups=0 (attention without a norm) without scale_shift_norm has no "
                "counterpart in diffusers' UNet2DModel"
            )
        mid_groups = None
    levels = range(len(unet.block_channels))
    attends = [level in unet.attention_levels for level in levels]
    classes = unet.num_classes + int(unet.null_class) if unet.num_classes else None
    told = ("attributes", "images", "tokens_channels", "image_embedding", "fourier_features")
    for name in told:
        if getattr(unet, name):
            raise ValueError(f"{name}={getattr(unet, name)} has no counterpart in {CLASS}")
    if unet.captions is not None:
        raise ValueError(f"a network that reads text has no counterpart in {CLASS}")
    if unet.head_dim is None and unet.num_heads != 1:
        raise ValueError(f"num_heads={unet.num_heads} has no counterpart in {CLASS}: set head_dim")
    if unet.residual_scale != 1:
        raise ValueError(f"residual_scale={unet.residual_scale} has no counterpart in {CLASS}")
    shift = unet.freq_shift
    plain = 2 if unet.resample_blocks else 0
    config = {
        **DEFAULTS,
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": unet.out_channels,
        "time_embedding_dim": unet.embedding_dim,
        "freq_shift": int(shift) if shift == int(shift) else shift,
        "flip_sin_to_cos": unet.flip_sin_to_cos,
        "down_block_types": [_DOWN_BLOCKS[1 if attention else plain] for attention in attends],
        "up_block_types": [_UP_BLOCKS[1 if attention else plain] for attention in attends[::-1]],
        "downsample_type": "resnet" if unet.resample_blocks else "conv",
        "upsample_type": "resnet" if unet.resample_blocks else "conv",
        "block_out_channels": list(unet.block_channels),
        "layers_per_block": unet.num_blocks,
        "downsample_padding": int(bool(unet.downsample_padding)),
        "dropout": unet.dropout,
        "attention_head_dim": unet.head_dim,
        "norm_num_groups": unet.num_groups,
        "attn_norm_num_groups": mid_groups,
        "norm_eps": unet.norm_epsilon,
        "resnet_time_scale_shift": "scale_shift" if unet.scale_shift_norm else "default",
        "add_attention": unet.mid_attention,
        "num_class_embeds": classes,
    }
    for name, value in config.items():
        if not _FIELDS[name].holds(value):
            raise ValueError(f"diffusers' {name} cannot be {value!r}: {_FIELDS[name].supported}")
    return {"_class_name": CLASS, "_diffusers_version": VERSION, **config}
