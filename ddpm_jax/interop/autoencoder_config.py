"""config.json of diffusers' `AutoencoderKL` and `VQModel`: each field honoured or refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm_jax.interop.config_fields import (
    COUNT,
    COUNT_OR_NULL,
    POSITIVE,
    SWITCH,
    Field,
    Known,
    checked,
    is_int,
    is_number,
    list_of,
    one_of,
    refuse,
)
from ddpm_jax.interop.unet2d_config import read_json
from ddpm_jax.models.autoencoder import NORMAL, QUANTISED, Autoencoder

KL, VQ = "AutoencoderKL", "VQModel"
DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
ATTENDING = {"AttnDownEncoderBlock2D": DOWN, "AttnUpDecoderBlock2D": UP}


def _kinds(plain: str) -> Field:
    names = [plain, *(name for name, of in ATTENDING.items() if of == plain)]
    return list_of(lambda value: value in names, " or ".join(names))


_LIST_OR_NULL = Field(
    lambda value: value is None or (isinstance(value, list) and all(map(is_number, value))),
    "null or a list of numbers",
)
_BOTH: dict[str, Known] = {
    "in_channels": Known(3, COUNT),
    "out_channels": Known(3, COUNT),
    "down_block_types": Known([DOWN], _kinds(DOWN)),
    "up_block_types": Known([UP], _kinds(UP)),
    "block_out_channels": Known([64], list_of(is_int, "whole numbers from 1")),
    "layers_per_block": Known(1, COUNT),
    "act_fn": Known("silu", one_of("silu", "swish")),
    "norm_num_groups": Known(32, COUNT),
    "mid_block_add_attention": Known(True, SWITCH),
    # Of no part in what the network computes.
    "sample_size": Known(32, COUNT_OR_NULL),
    "force_upcast": Known(True, SWITCH),
}
FIELDS: dict[str, dict[str, Known]] = {
    KL: {
        **_BOTH,
        "latent_channels": Known(4, COUNT),
        "scaling_factor": Known(0.18215, POSITIVE),
        "shift_factor": Known(None, Field(lambda v: v is None or is_number(v), "null or a number")),
        "latents_mean": Known(None, _LIST_OR_NULL),
        "latents_std": Known(None, _LIST_OR_NULL),
        "use_quant_conv": Known(True, SWITCH),
        "use_post_quant_conv": Known(True, SWITCH),
    },
    VQ: {
        **_BOTH,
        "latent_channels": Known(3, COUNT),
        "num_vq_embeddings": Known(256, COUNT),
        "vq_embed_dim": Known(None, COUNT_OR_NULL),
        "norm_type": Known("group", one_of("group")),
        "scaling_factor": Known(0.18215, POSITIVE),
        "lookup_from_codebook": Known(False, SWITCH),
    },
}


def read(path: Path) -> tuple[str, dict[str, Any]]:
    """The class, and every field of it: the file's value, checked, or diffusers' default.

    Raises:
      ValueError: for a class, field or value that is not supported.
    """
    fields = read_json(path)
    name = fields.get("_class_name")
    if name not in FIELDS:
        raise refuse("_class_name", name, " or ".join(FIELDS))
    private = [field for field in fields if field.startswith("_")]
    config = checked(fields, FIELDS[name], name, private)
    _check(name, config)
    return name, config


def _check(name: str, config: Mapping[str, Any]) -> None:
    """The fields go together, or ValueError."""
    channels, groups = config["block_out_channels"], config["norm_num_groups"]
    for field in ("down_block_types", "up_block_types"):
        if len(config[field]) != len(channels):
            raise refuse(field, config[field], f"one for each of the {len(channels)} channels")
    attends = [kind in ATTENDING for kind in config["down_block_types"]]
    if [kind in ATTENDING for kind in config["up_block_types"]] != attends[::-1]:
        raise refuse(
            "up_block_types",
            config["up_block_types"],
            "the mirror of down_block_types (attention at the same levels)",
        )
    for width in channels:
        if width % groups:
            raise refuse("norm_num_groups", groups, f"divisors of {width} of block_out_channels")
    if config["in_channels"] != config["out_channels"]:
        raise refuse(
            "out_channels", config["out_channels"], f"in_channels, {config['in_channels']}"
        )
    if name == KL and config["use_quant_conv"] != config["use_post_quant_conv"]:
        raise refuse(
            "use_post_quant_conv", config["use_post_quant_conv"], "the value of use_quant_conv"
        )
    for field in ("latents_mean", "latents_std"):
        values = config.get(field)
        if values is not None and len(values) != config["latent_channels"]:
            raise refuse(field, values, f"null or {config['latent_channels']} numbers")


def to_network(name: str, config: Mapping[str, Any]) -> Autoencoder:
    """The network of a checked config."""
    kl = name == KL
    return Autoencoder(
        bottleneck=NORMAL if kl else QUANTISED,
        block_channels=tuple(config["block_out_channels"]),
        num_blocks=config["layers_per_block"],
        attention_levels=tuple(
            k for k, kind in enumerate(config["down_block_types"]) if kind in ATTENDING
        ),
        mid_attention=config["mid_block_add_attention"],
        latent_channels=config["latent_channels"],
        channels=config["in_channels"],
        num_codes=0 if kl else config["num_vq_embeddings"],
        code_channels=None if kl else config["vq_embed_dim"],
        projected=config["use_quant_conv"] if kl else True,
        num_groups=config["norm_num_groups"],
    )


def of_network(
    network: Autoencoder, scaling_factor: float | None, shift_factor: float = 0.0
) -> dict[str, Any]:
    """The config.json of a network.

    Raises:
      ValueError: for one that neither class of diffusers is.
    """
    levels = len(network.block_channels)
    for what, value, need in (
        ("bottleneck", network.bottleneck in (NORMAL, QUANTISED), "a normal or a quantised one"),
        ("heads", not network.head_dim and network.num_heads == 1, "a single head of attention"),
        ("num_classes", network.num_classes == 0, "0: theirs are told no class"),
        ("norm_epsilon", network.norm_epsilon == 1e-6, "1e-6"),
        ("scale", network.scale == "none", "none: theirs have no variance of pixels"),
        (
            "projected",
            network.projected or network.bottleneck == NORMAL,
            "projections beside codes",
        ),
        (
            "shift_factor",
            not shift_factor or network.bottleneck == NORMAL,
            "0: of a codebook there is none",
        ),
    ):
        if not value:
            raise ValueError(f"diffusers has no autoencoder with this {what}: need {need}")
    attending = {of: name for name, of in ATTENDING.items()}
    kinds = {
        plain: [attending[plain] if k in network.attention_levels else plain for k in range(levels)]
        for plain in (DOWN, UP)
    }
    config: dict[str, Any] = {
        "in_channels": network.channels,
        "out_channels": network.channels,
        "down_block_types": kinds[DOWN],
        "up_block_types": kinds[UP][::-1],
        "block_out_channels": [*network.block_channels],
        "layers_per_block": network.num_blocks,
        "act_fn": "silu",
        "latent_channels": network.latent_channels,
        "norm_num_groups": network.num_groups,
        "mid_block_add_attention": network.mid_attention,
    }
    if scaling_factor is not None:
        config["scaling_factor"] = scaling_factor
    if network.bottleneck == NORMAL:
        projected = dict.fromkeys(("use_quant_conv", "use_post_quant_conv"), network.projected)
        shift = {"shift_factor": shift_factor} if shift_factor else {}
        return {"_class_name": KL, **config, **shift, **projected}
    codes = {"num_vq_embeddings": network.num_codes, "vq_embed_dim": network.code_channels}
    return {"_class_name": VQ, **config, **codes}
