"""What config.json says of diffusers' `UNet2DConditionModel` and of its `ControlNetModel` alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_jax.interop.config_fields import (
    COUNT,
    COUNT_OR_NULL,
    NUMBER,
    POSITIVE,
    SWITCH,
    Field,
    Known,
    is_int,
    list_of,
    one_of,
    refuse,
)
from ddpm_jax.models.latent_conditions import LINEAR, SUMMED, TABLE, VECTOR
from ddpm_jax.models.latent_conditions import NUMBER as LABEL_NUMBER
from ddpm_jax.models.latent_trunk import Trunk

DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
MID, CROSS_MID = "UNetMidBlock2D", "UNetMidBlock2DCrossAttn"
TEXT_TIME, TEXT_PROJECTION = "text_time", "text_proj"
# class_embed_type of each kind of label but a table's, which has none.
LABELS = {
    LABEL_NUMBER: "timestep",
    VECTOR: "projection",
    LINEAR: "simple_projection",
    SUMMED: "identity",
}
DEPTHS = "transformer_layers_per_block"


def one_or_each(field: Field, what: str) -> Field:
    """A field of a value, or of a list of such values, one for each level."""
    return Field(
        lambda value: field.holds(value) or list_of(field.holds, "").holds(value),
        f"{what}, or a list of them",
    )


def kinds(*names: str) -> Field:
    """A field of a list of these blocks."""
    return list_of(lambda value: block_kind(value) in names, " or ".join(names))


def block_kind(value: Any) -> str:
    """A block's type without the prefix of the first releases, which diffusers strips too."""
    return value.removeprefix("UNetRes") if isinstance(value, str) else ""


_DEPTH = Field(lambda value: is_int(value, 0), "a whole number")
DEPTH_OR_DEPTHS = one_or_each(one_or_each(_DEPTH, "whole numbers"), "a whole number")
COUNT_OR_EACH = one_or_each(COUNT, "a whole number from 1")
# What a field means that is left out, in diffusers 0.42.1.
TRUNK: dict[str, Known] = {
    "in_channels": Known(4, COUNT),
    "flip_sin_to_cos": Known(True, SWITCH),
    "freq_shift": Known(0, NUMBER),
    "down_block_types": Known([CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN], kinds(DOWN, CROSS_DOWN)),
    "mid_block_type": Known(CROSS_MID, one_of(CROSS_MID, MID)),
    "only_cross_attention": Known(False, one_or_each(SWITCH, "false or true")),
    "block_out_channels": Known([320, 640, 1280, 1280], list_of(is_int, "whole numbers from 1")),
    "layers_per_block": Known(2, COUNT),
    "downsample_padding": Known(1, one_of(0, 1)),
    "mid_block_scale_factor": Known(1, one_of(1)),
    "act_fn": Known("silu", one_of("silu", "swish")),
    "norm_num_groups": Known(32, COUNT),
    "norm_eps": Known(1e-5, POSITIVE),
    "cross_attention_dim": Known(1280, COUNT),
    DEPTHS: Known(1, DEPTH_OR_DEPTHS),
    "encoder_hid_dim": Known(None, COUNT_OR_NULL),
    "encoder_hid_dim_type": Known(None, one_of(None, TEXT_PROJECTION)),
    "attention_head_dim": Known(8, COUNT_OR_EACH),
    "use_linear_projection": Known(False, SWITCH),
    "class_embed_type": Known(None, one_of(None, *LABELS.values())),
    "addition_embed_type": Known(None, one_of(None, TEXT_TIME)),
    "addition_time_embed_dim": Known(None, COUNT_OR_NULL),
    "num_class_embeds": Known(None, COUNT_OR_NULL),
    "resnet_time_scale_shift": Known("default", one_of("default", "scale_shift")),
    "projection_class_embeddings_input_dim": Known(None, COUNT_OR_NULL),
    # Of no part in what these networks compute: attention runs in float32 here, and does so in
    # float32 there; the other is of an embedding that is refused above.
    "upcast_attention": Known(False, SWITCH),
    "addition_embed_type_num_heads": Known(64, COUNT),
}


def fields_of(config: Mapping[str, Any], heads_field: str) -> dict[str, Any]:
    """The fields of a `Trunk`, of a checked config.

    Args:
      config: every field of it.
      heads_field: which one says the number of heads.

    Raises:
      ValueError: for fields that do not go together.
    """
    channels = tuple(config["block_out_channels"])
    types = [block_kind(kind) for kind in config["down_block_types"]]
    if len(types) != len(channels):
        raise refuse(
            "down_block_types",
            config["down_block_types"],
            f"one for each of the {len(channels)} block_out_channels",
        )
    groups = config["norm_num_groups"]
    for width in channels:
        if width % groups:
            raise refuse("norm_num_groups", groups, f"divisors of {width} of block_out_channels")
    heads = each(config, heads_field)
    for width, count in zip(channels, heads, strict=True):
        if count > width:
            raise refuse(heads_field, config[heads_field], f"at most {width} heads, the channels")
    counts, depths = each(config, "layers_per_block"), each(config, DEPTHS)
    crossing = config["mid_block_type"] == CROSS_MID
    return {
        "in_channels": config["in_channels"],
        "block_channels": channels,
        "num_blocks": counts,
        "down_depths": tuple(
            depths_of(config, DEPTHS, depth, count) if kind == CROSS_DOWN else ()
            for kind, depth, count in zip(types, depths, counts, strict=True)
        ),
        "bottom": config["mid_block_type"] is not None,
        "mid_depth": depths_of(config, DEPTHS, depths[-1], 1)[0] if crossing else None,
        "num_heads": heads,
        "only_tokens": each(config, "only_cross_attention"),
        "scale_shift_norm": config["resnet_time_scale_shift"] == "scale_shift",
        "num_groups": groups,
        "norm_epsilon": float(config["norm_eps"]),
        "downsample_padding": config["downsample_padding"],
        "freq_shift": float(config["freq_shift"]),
        "flip_sin_to_cos": config["flip_sin_to_cos"],
        "linear_projection": config["use_linear_projection"],
        **_conditions_of(config),
    }


def each(config: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """A field's value for each level."""
    value, levels = config[name], len(config["block_out_channels"])
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * levels
    if len(values) != levels:
        raise refuse(name, value, f"one, or one for each of the {levels} block_out_channels")
    return values


def depths_of(config: Mapping[str, Any], name: str, depth: Any, count: int) -> tuple[int, ...]:
    """The depths of `count` transformers, by a member of a field: a number, or one for each."""
    depths = (depth,) * count if is_int(depth, 0) else tuple(depth)
    if len(depths) < count:
        raise refuse(name, config[name], f"{count} numbers where a block has so many transformers")
    return depths[:count]


def _conditions_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Trunk` that say which conditions there are."""

    def need(name: str, of: str) -> int:
        if config[name] is None:
            raise refuse(name, None, f"a whole number from 1, with {of} {config[of]}")
        return int(config[name])

    vector = "projection_class_embeddings_input_dim"
    labels = {name: kind for kind, name in LABELS.items()}
    label = labels.get(config["class_embed_type"])
    if label is None and config["num_class_embeds"] is not None:
        label = TABLE
    fields: dict[str, Any] = {"label": label, "tokens_channels": config["cross_attention_dim"]}
    if label == TABLE:
        fields["label_channels"] = config["num_class_embeds"]
    elif label in (VECTOR, LINEAR):
        fields["label_channels"] = need(vector, "class_embed_type")
    if config["addition_embed_type"] == TEXT_TIME:
        of = "addition_embed_type"
        fields["time_ids_channels"] = need("addition_time_embed_dim", of)
        fields["vector_channels"] = need(vector, of)
        if fields["vector_channels"] <= fields["time_ids_channels"]:
            raise refuse(vector, config[vector], "more than addition_time_embed_dim")
    if config["encoder_hid_dim_type"] is not None or config["encoder_hid_dim"] is not None:
        fields["tokens_projected_from"] = need("encoder_hid_dim", "encoder_hid_dim_type")
    return fields


def of_fields(trunk: Trunk) -> dict[str, Any]:
    """What config.json says of a network's `Trunk` fields, but for its heads and depths.

    Raises:
      ValueError: for what diffusers cannot express.
    """
    label, vector = trunk.label, trunk.vector_channels
    if label in (VECTOR, LINEAR):
        if vector not in (0, trunk.label_channels):
            raise ValueError(
                f"diffusers has one number for label_channels={trunk.label_channels} and "
                f"vector_channels={vector}: need equal ones"
            )
        vector = trunk.label_channels
    shift = trunk.freq_shift
    mid = MID if trunk.mid_depth is None else CROSS_MID
    return {
        "in_channels": trunk.in_channels,
        "flip_sin_to_cos": trunk.flip_sin_to_cos,
        "freq_shift": int(shift) if shift == int(shift) else shift,
        "down_block_types": [CROSS_DOWN if depths else DOWN for depths in trunk.down_depths],
        "mid_block_type": mid if trunk.bottom else None,
        "only_cross_attention": as_one(trunk.only_tokens),
        "block_out_channels": [*trunk.block_channels],
        "layers_per_block": as_one(trunk.num_blocks),
        "downsample_padding": trunk.downsample_padding,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": trunk.num_groups,
        "norm_eps": trunk.norm_epsilon,
        "cross_attention_dim": trunk.tokens_channels,
        "encoder_hid_dim": trunk.tokens_projected_from or None,
        "encoder_hid_dim_type": TEXT_PROJECTION if trunk.tokens_projected_from else None,
        "attention_head_dim": as_one(trunk.num_heads),
        "use_linear_projection": trunk.linear_projection,
        "class_embed_type": LABELS.get(label) if label else None,
        "addition_embed_type": TEXT_TIME if trunk.vector_channels else None,
        "addition_time_embed_dim": trunk.time_ids_channels or None,
        "num_class_embeds": trunk.label_channels if label == TABLE else None,
        "resnet_time_scale_shift": "scale_shift" if trunk.scale_shift_norm else "default",
        "projection_class_embeddings_input_dim": vector or None,
        "upcast_attention": False,
        "addition_embed_type_num_heads": 64,
    }


def as_one(values: Sequence[Any]) -> Any:
    """One value where all are equal, or a list of them."""
    return values[0] if len(set(values)) == 1 else [*values]


def of_depths(trunk: Trunk) -> list[Any]:
    """A depth, or a list of them, for each level on the way down and for the bottom.

    Raises:
      ValueError: where the bottom's is not the last level's first, as diffusers has it.
    """
    depths: list[Any] = [as_one(level) if level else None for level in trunk.down_depths]
    if trunk.mid_depth is None:
        return depths
    last = depths[-1]
    first = last[0] if isinstance(last, list) else last
    if first not in (None, trunk.mid_depth):
        raise ValueError(
            f"diffusers' bottom has the depth of the lowest level's first transformer, {first}; "
            f"need mid_depth={first}, got {trunk.mid_depth}"
        )
    return [*depths[:-1], trunk.mid_depth if last is None else last]
