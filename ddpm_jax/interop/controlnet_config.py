"""config.json of diffusers' `ControlNetModel`: each field honoured or refused."""

from pathlib import Path
from typing import Any

from ddpm_jax.interop import latent_trunk_config as trunk_config
from ddpm_jax.interop.config_fields import (
    BOOKKEEPING,
    COUNT,
    SWITCH,
    Field,
    Known,
    checked,
    is_int,
    list_of,
    one_of,
    refuse,
)
from ddpm_jax.interop.latent_trunk_config import COUNT_OR_EACH, DEPTHS, LABELS, TRUNK, as_one
from ddpm_jax.interop.unet2d_config import VERSION, read_json
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.latent_conditions import LINEAR

CLASS = "ControlNetModel"
FIELDS: dict[str, Known] = {
    **TRUNK,
    "conditioning_channels": Known(3, COUNT),
    "num_attention_heads": Known(
        None, Field(lambda v: v is None or COUNT_OR_EACH.holds(v), COUNT_OR_EACH.supported)
    ),
    # diffusers makes this layer here and then leaves it out of what it computes.
    "encoder_hid_dim": Known(None, one_of(None)),
    "encoder_hid_dim_type": Known(None, one_of(None)),
    # diffusers has no embedding of the one that is missing here, whatever its name says.
    "class_embed_type": Known(
        None, one_of(None, *(name for kind, name in LABELS.items() if kind != LINEAR))
    ),
    "controlnet_conditioning_channel_order": Known("rgb", one_of("rgb", "bgr")),
    "conditioning_embedding_out_channels": Known(
        [16, 32, 96, 256], list_of(is_int, "whole numbers from 1")
    ),
    "global_pool_conditions": Known(False, SWITCH),
}


def read(path: Path) -> dict[str, Any]:
    """Every field of the class: the file's value, checked, or diffusers' default."""
    fields = read_json(path)
    if fields.get("_class_name") != CLASS:
        raise refuse("_class_name", fields.get("_class_name"), f'"{CLASS}"')
    return checked(fields, FIELDS, CLASS, BOOKKEEPING)


def to_controlnet(config: dict[str, Any]) -> ControlNet:
    """The network of a checked config.

    Raises:
      ValueError: for fields that do not go together.
    """
    named = config["num_attention_heads"] is not None
    heads = "num_attention_heads" if named else "attention_head_dim"
    return ControlNet(
        **trunk_config.fields_of(config, heads),
        control_channels=config["conditioning_channels"],
        hint_channels=tuple(config["conditioning_embedding_out_channels"]),
        reversed_channels=config["controlnet_conditioning_channel_order"] == "bgr",
        pooled_globally=config["global_pool_conditions"],
    )


def of_controlnet(controlnet: ControlNet) -> dict[str, Any]:
    """What diffusers writes about this network; every field, so that no default can change.

    Raises:
      ValueError: for a network that diffusers cannot express.
    """
    own_width = controlnet.width != 4 * controlnet.block_channels[0]
    for name, held in (
        ("embedding_dim", own_width),
        ("guidance_channels", controlnet.guidance_channels),
        ("dropout", controlnet.dropout),
    ):
        if held:
            value = getattr(controlnet, name)
            raise ValueError(f"{name}={value} has no counterpart in diffusers' {CLASS}")
    depths = [1 if depth is None else depth for depth in trunk_config.of_depths(controlnet)]
    nested = any(isinstance(depth, list) for depth in depths)
    config = {
        **{field: known.default for field, known in FIELDS.items()},
        **trunk_config.of_fields(controlnet),
        DEPTHS: depths if nested else as_one(depths),
        "conditioning_channels": controlnet.control_channels,
        "conditioning_embedding_out_channels": [*controlnet.hint_channels],
        "controlnet_conditioning_channel_order": "bgr" if controlnet.reversed_channels else "rgb",
        "global_pool_conditions": controlnet.pooled_globally,
    }
    for name, value in config.items():
        if not FIELDS[name].field.holds(value):
            supported = FIELDS[name].field.supported
            raise ValueError(f"diffusers' {name} cannot be {value!r}: {supported}")
    return {"_class_name": CLASS, "_diffusers_version": VERSION, **config}
