"""How transformers prepares images for a CLIP: preprocessor_config.json."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.interop.config_fields import Field, Known, is_int, is_number, one_of, refuse
from ddpm_jax.interop.unet2d_config import read_json

CONFIG = "preprocessor_config.json"
_BICUBIC = 3  # of Pillow's numbers
_ON = one_of(True)


def _edge_of(value: Any) -> int | None:
    """A shortest edge, as a number or {"shortest_edge": number}; None for anything else."""
    edge = value.get("shortest_edge") if isinstance(value, dict) and len(value) == 1 else value
    return edge if is_int(edge) else None


def _size_of(value: Any) -> tuple[int, int] | None:
    """(height, width), as a number or {"height": , "width": }; None for anything else."""
    if is_int(value):
        return value, value
    if isinstance(value, dict) and {*value} == {"height", "width"}:
        return (value["height"], value["width"]) if all(map(is_int, value.values())) else None
    return None


def _channels(positive: bool) -> Field:
    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == 3
            and all(is_number(one) and (one > 0 or not positive) for one in value)
        )

    return Field(holds, f"three numbers{' above 0' * positive}")


_FIELDS: dict[str, Known] = {
    "size": Known(None, Field(lambda v: _edge_of(v) is not None, "a number or a shortest_edge")),
    "crop_size": Known(
        None, Field(lambda v: _size_of(v) is not None, "a number, or a height and a width")
    ),
    "image_mean": Known([0.48145466, 0.4578275, 0.40821073], _channels(False)),
    "image_std": Known([0.26862954, 0.26130258, 0.27577711], _channels(True)),
    "resample": Known(_BICUBIC, one_of(_BICUBIC)),
    "rescale_factor": Known(
        1 / 255, Field(lambda v: is_number(v) and abs(v * 255 - 1) < 1e-6, "1/255")
    ),
    "do_resize": Known(True, _ON),
    "do_center_crop": Known(True, _ON),
    "do_rescale": Known(True, _ON),
    "do_normalize": Known(True, _ON),
}


class Preprocessor(NamedTuple):
    """What is done to an image before a CLIP sees it, in this order.

    Attributes:
      shortest_edge: the image is resized to it, bicubic as Pillow does it, to whole grey levels.
      crop: (height, width) of its middle that is kept.
      mean, std: of each channel of pixels in [0, 1], which are taken out.
    """

    shortest_edge: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(directory: str | os.PathLike[str], size: tuple[int, int]) -> Preprocessor:
    """What preprocessor_config.json of a CLIP's folder says; OpenAI's where there is none.

    Args:
      directory: of the CLIP.
      size: (height, width) of the images that its network sees.

    Raises:
      ValueError: for a value that is not supported, or a crop of another size.
    """
    path = Path(directory) / CONFIG
    fields: dict[str, Any] = read_json(path) if path.is_file() else {}
    config: dict[str, Any] = {"size": min(size), "crop_size": {"height": size[0], "width": size[1]}}
    config |= {name: one.default for name, one in _FIELDS.items() if name not in config}
    config |= {name: value for name, value in fields.items() if name in _FIELDS}
    for name, value in config.items():
        if not _FIELDS[name].field.holds(value):
            raise refuse(name, value, _FIELDS[name].field.supported, CONFIG)
    edge, crop = _edge_of(config["size"]), _size_of(config["crop_size"])
    if edge is None or crop != size or edge < max(crop):
        raise refuse(
            "crop_size", config["crop_size"], f"{size[0]}x{size[1]}, within the resized", CONFIG
        )
    return Preprocessor(edge, crop, tuple(config["image_mean"]), tuple(config["image_std"]))
