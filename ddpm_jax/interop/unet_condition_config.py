"""config.json of diffusers' `UNet2DConditionModel`: each field honoured or refused."""

from pathlib import Path
from typing import Any

from ddpm_jax.interop import latent_trunk_config as trunk_config
from ddpm_jax.interop.config_fields import (
    BOOKKEEPING,
    COUNT,
    COUNT_OR_NULL,
    RATE,
    SIZE,
    SWITCH,
    Field,
    Known,
    checked,
    is_int,
    one_of,
    refuse,
)
from ddpm_jax.interop.latent_trunk_config import (
    COUNT_OR_EACH,
    CROSS_MID,
    DEPTH_OR_DEPTHS,
    DEPTHS,
    MID,
    TRUNK,
    as_one,
    block_kind,
    depths_of,
    each,
    kinds,
)
from ddpm_jax.interop.unet2d_config import VERSION, read_json
from ddpm_jax.models.unet_condition import UNet2DCondition

CLASS = "UNet2DConditionModel"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
UP_DEPTHS = "reverse_transformer_layers_per_block"
_ODD = Field(lambda value: is_int(value) and value % 2 == 1, "an odd whole number")
FIELDS: dict[str, Known] = {
    **TRUNK,
    "sample_size": Known(None, SIZE),
    "out_channels": Known(4, COUNT),
    "center_input_sample": Known(False, SWITCH),
    "mid_block_type": Known(CROSS_MID, one_of(CROSS_MID, MID, None)),
    "up_block_types": Known([UP, CROSS_UP, CROSS_UP, CROSS_UP], kinds(UP, CROSS_UP)),
    "layers_per_block": Known(2, COUNT_OR_EACH),
    "dropout": Known(0.0, RATE),
    "cross_attention_dim": Known(1280, COUNT_OR_EACH),
    UP_DEPTHS: Known(
        None,
        Field(
            lambda v: v is None or (isinstance(v, list) and DEPTH_OR_DEPTHS.holds(v)),
            "null, or a list of whole numbers or of lists of them",
        ),
    ),
    "num_attention_heads": Known(None, one_of(None)),  # diffusers refuses others itself
    "dual_cross_attention": Known(False, one_of(False)),
    "resnet_skip_time_act": Known(False, one_of(False)),
    "resnet_out_scale_factor": Known(1.0, one_of(1)),
    "time_embedding_type": Known("positional", one_of("positional")),
    "time_embedding_dim": Known(None, COUNT_OR_NULL),
    "time_embedding_act_fn": Known(None, one_of(None)),
    "timestep_post_act": Known(None, one_of(None)),
    "time_cond_proj_dim": Known(None, COUNT_OR_NULL),
    "conv_in_kernel": Known(3, _ODD),
    "conv_out_kernel": Known(3, _ODD),
    "attention_type": Known("default", one_of("default")),
    "class_embeddings_concat": Known(False, one_of(False)),
    "cross_attention_norm": Known(None, one_of(None)),
    # Of a block at the bottom that is refused above.
    "mid_block_only_cross_attention": Known(None, one_of(None, False, True)),
}


def read(path: Path) -> dict[str, Any]:
    """Every field of the class: the file's value, checked, or diffusers' default."""
    fields = read_json(path)
    if fields.get("_class_name") != CLASS:
        raise refuse("_class_name", fields.get("_class_name"), f'"{CLASS}"')
    return checked(fields, FIELDS, CLASS, BOOKKEEPING)


def to_unet(config: dict[str, Any]) -> UNet2DCondition:
    """The network of a checked config.

    Raises:
      ValueError: for fields that do not go together.
    """
    types = [block_kind(kind) for kind in config["up_block_types"]]
    levels = len(config["block_out_channels"])
    if len(types) != levels:
        need = f"one for each of the {levels} block_out_channels"
        raise refuse("up_block_types", config["up_block_types"], need)
    widths = each(config, "cross_attention_dim")
    if len(set(widths)) > 1:
        raise refuse(
            "cross_attention_dim", config["cross_attention_dim"], "one width for all levels"
        )
    fields = trunk_config.fields_of(
        {**config, "cross_attention_dim": widths[0]}, "attention_head_dim"
    )
    return UNet2DCondition(
        **fields,
        up_depths=tuple(
            depths_of(config, field, depth, count + 1) if kind == CROSS_UP else ()
            for (field, depth), kind, count in zip(
                _up_depths(config), types[::-1], fields["num_blocks"], strict=True
            )
        ),
        out_channels=config["out_channels"],
        in_window=config["conv_in_kernel"],
        out_window=config["conv_out_kernel"],
        centred=config["center_input_sample"],
        dropout=float(config["dropout"]),
        embedding_dim=config["time_embedding_dim"],
        guidance_channels=config["time_cond_proj_dim"] or 0,
    )


def _up_depths(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """(the field that says it, what it says) of the transformers of each level on the way up."""
    down, up = each(config, DEPTHS), config[UP_DEPTHS]
    if up is None:
        if any(isinstance(depth, list) for depth in down):
            raise refuse(UP_DEPTHS, up, f"a list for each block, where {DEPTHS} has lists")
        return [(DEPTHS, depth) for depth in down]
    if len(up) != len(down):
        raise refuse(UP_DEPTHS, up, f"null, or one for each of the {len(down)} block_out_channels")
    return [(UP_DEPTHS, depth) for depth in reversed(up)]


def of_unet(unet: UNet2DCondition, sample_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """What diffusers writes about this network; every field, so that no default can change.

    Raises:
      ValueError: for a network that diffusers cannot express.
    """
    config = {
        **{field: known.default for field, known in FIELDS.items()},
        **trunk_config.of_fields(unet),
        **_of_depths(unet),
        "sample_size": sample_size,
        "out_channels": unet.out_channels,
        "center_input_sample": unet.centred,
        "up_block_types": [CROSS_UP if depths else UP for depths in unet.up_depths[::-1]],
        "dropout": unet.dropout,
        "time_embedding_dim": unet.embedding_dim,
        "time_cond_proj_dim": unet.guidance_channels or None,
        "conv_in_kernel": unet.in_window,
        "conv_out_kernel": unet.out_window,
    }
    for name, value in config.items():
        if not FIELDS[name].field.holds(value):
            supported = FIELDS[name].field.supported
            raise ValueError(f"diffusers' {name} cannot be {value!r}: {supported}")
    return {"_class_name": CLASS, "_diffusers_version": VERSION, **config}


def _of_depths(unet: UNet2DCondition) -> dict[str, Any]:
    """Both fields of depths; the way up has one of its own where it is not as the way down."""
    down = trunk_config.of_depths(unet)
    up: list[Any] = [as_one(depths) if depths else None for depths in unet.up_depths]
    alike = [one if other is None else other for one, other in zip(up, down, strict=True)]
    mirrored = all(one in (None, other) for one, other in zip(up, alike, strict=True))
    if mirrored and not any(isinstance(depth, list) for depth in alike):
        return {DEPTHS: as_one([1 if depth is None else depth for depth in alike]), UP_DEPTHS: None}
    known = [1 if depth is None else depth for depth in down]
    return {DEPTHS: known, UP_DEPTHS: [1 if depth is None else depth for depth in up[::-1]]}
